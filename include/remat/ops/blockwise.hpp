// A sequence in chunks, each its own checkpoint region (Blockwise Parallel Transformer, Liu and Abbeel 2023).
#pragma once

#include <algorithm>
#include <optional>
#include <remat/autodiff/tape.hpp>
#include <remat/ops/concat.hpp>
#include <remat/ops/slice.hpp>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI {

namespace detail {

/// Tells the tape which chunk is worked on. Every chunk numbers its random ops alike: their masks go by the place of an
/// element in the whole sequence.
class ChunkGuard {
 public:
  ChunkGuard(Program& program, int axis, Index offset, Index length, Index whole)
      : program_(program), before_(program.chunk) {
    ChunkPlace place{axis, offset, length, whole, false};
    if (before_ && before_->axis == axis && before_->length == whole)
      place.offset += before_->offset, place.whole = before_->whole;
    else
      place.is_cut_elsewhere = before_.has_value();
    program_.chunk = place;
  }
  ChunkGuard(const ChunkGuard&) = delete;
  ChunkGuard& operator=(const ChunkGuard&) = delete;
  ~ChunkGuard() { program_.chunk = before_; }

 private:
  Program& program_;
  std::optional<ChunkPlace> before_;
};

/// Elements [begin, end) of an axis: a view where they lie together.
template <class T>
Var<T> chunk_of(const Var<T>& x, int axis, Index begin, Index end) {
  Shape part = x.shape();
  const Shape rows(part.begin() + axis, part.end());
  if (rows.size() != part.size()) return slice(x, axis, begin, end);
  part[axis] = end - begin;
  return x.reshape(rows).slice(begin, end).reshape(part);
}

/// The I-th results of all chunks in one; each goes as soon as it is copied.
template <std::size_t I, class Results>
auto joined(std::vector<Results>& results, int axis) {
  std::vector<std::tuple_element_t<I, Results>> parts;
  for (Results& each : results) parts.push_back(std::move(std::get<I>(each)));
  return parts.size() == 1 ? parts.front() : concat(parts, axis);
}

}  // namespace detail

/// Maps `fn(slice, offset)` over slices of at most `chunk` elements of one axis of x, and joins what it gives along
/// that axis: the same as fn(x, 0) wherever fn treats the elements of the axis apart. Each call is a checkpoint region
/// under `policy`, so at most one chunk's inner values live at a time. `fn` returns a Var, or a tuple of Vars, with the
/// slice's length along the axis. It may read other Vars: their gradients are summed from the last chunk to the first.
/// Dropout inside draws the masks that it would draw for the whole x. Any length, any chunk > 0; an axis below 0 counts
/// from the end.
template <class T, class Fn>
auto blockwise(const Var<T>& x, int axis, Index chunk, const Policy& policy, Fn&& fn) {
  require(chunk > 0, "blockwise: chunk ", chunk, " must be > 0");
  axis = x.shape().axis(axis, "blockwise: axis");
  const Index length = x.shape()[axis];
  Program& program = x.program();
  const std::uint32_t first_site = program.next_site;
  std::uint32_t end_site = first_site;  // of the chunk that drew most: what comes later repeats none of its masks
  const auto part = [&](Index begin) {
    const Index end = std::min(length, begin + chunk);
    program.next_site = first_site;
    const detail::ChunkGuard guard(program, axis, begin, end - begin, length);
    auto result = x.tape().checkpoint(policy, [&] { return fn(detail::chunk_of(x, axis, begin, end), begin); });
    end_site = std::max(end_site, program.next_site);
    detail::for_each_var(result, [&](const AnyVar& y) {
      require(axis < y.shape().rank() && y.shape()[axis] == end - begin, "blockwise: fn gave shape ", y.shape(),
              " for a slice of ", end - begin, " elements of axis ", axis);
    });
    return result;
  };
  using Result = decltype(part(0));
  constexpr bool is_tuple = detail::TupleLike<Result>;
  std::vector<std::conditional_t<is_tuple, Result, std::tuple<Result>>> results;
  for (Index begin = 0; begin < std::max<Index>(1, length); begin += chunk) results.emplace_back(part(begin));
  program.next_site = end_site;
  if constexpr (is_tuple) return [&]<std::size_t... I>(std::index_sequence<I...>) {
      return std::tuple{detail::joined<I>(results, axis)...};  // in braces: from left to right
    }
  (std::make_index_sequence<std::tuple_size_v<Result>>());
  else return detail::joined<0>(results, axis);
}

}}  // namespace remat
