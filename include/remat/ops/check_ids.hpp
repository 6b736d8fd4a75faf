// Integer operands are data: only `forward` can check them, before any thread starts.
#pragma once

#include <optional>
#include <remat/autodiff/op.hpp>

namespace remat { inline namespace REMAT_ABI { namespace ops {

/// Beyond any position, within any sum of some.
inline constexpr Index most_position = Index{1} << 48;

/// An `Error` for a position that is not within 2^48 of 0: sums with it would overflow.
inline void check_position(Index position, const char* what) {
  require(position >= -most_position && position <= most_position, what, " ", position, " is not within 2^48 of 0");
}

/// Where element i of an array of `shape` lies.
inline Shape place_of(Index i, const Shape& shape) {
  Shape place = shape;
  for (int axis = place.rank() - 1; axis >= 0; --axis) {
    const Index length = place[axis];
    place[axis] = i % length;
    i /= length;
  }
  return place;
}

/// An `Error`, saying where it lies, for the first of `values` of which `fits` does not hold.
template <class Fits>
void check_each(const View<const std::int32_t>& values, Fits&& fits, const char* what, const char* holder, Index limit,
                const char* parts) {
  const std::int32_t* data = values.data();
  for (Index i = 0; i < values.size(); ++i) {
    if (!fits(data[i]))
      fail(what, " ", data[i], " at ", place_of(i, values.shape()), ", but ", holder, " ", limit, " ", parts);
  }
}

/// An `Error` for the first of `ids` that is neither in [0, limit) nor `ignored`, saying where it lies:
/// "id 70 at [3, 5], but the table has 65 rows".
inline void check_ids(const View<const std::int32_t>& ids, Index limit, std::optional<std::int32_t> ignored,
                      const char* what, const char* holder, const char* parts) {
  check_each(
      ids, [=](std::int32_t id) { return (id >= 0 && id < limit) || id == ignored; }, what, holder, limit, parts);
}

/// An `Error` for the first of `lengths` that is not in [0, most]: "key length 70 at [3], but there are 65 keys".
inline void check_lengths(const View<const std::int32_t>& lengths, Index most, const char* what, const char* parts) {
  check_each(
      lengths, [=](std::int32_t length) { return length >= 0 && length <= most; }, what, "there are", most, parts);
}

}}}  // namespace remat::ops
