// Integer operands are data: only `forward` can check them, before any thread starts.
#pragma once

#include <optional>
#include <remat/autodiff/op.hpp>

namespace remat::inline REMAT_ABI::ops {

/// An `Error` for the first of `ids` that is neither in [0, limit) nor `ignored`, saying where it lies:
/// "id 70 at [3, 5], but the table has 65 rows".
inline void check_ids(const View<const std::int32_t>& ids, Index limit, std::optional<std::int32_t> ignored,
                      const char* what, const char* holder, const char* parts) {
  const std::int32_t* data = ids.data();
  for (Index i = 0; i < ids.size(); ++i) {
    if ((data[i] >= 0 && data[i] < limit) || data[i] == ignored) continue;
    Shape place = ids.shape();
    Index rest = i;
    for (int axis = place.rank() - 1; axis >= 0; --axis) {
      const Index length = place[axis];
      place[axis] = rest % length;
      rest /= length;
    }
    fail(what, " ", data[i], " at ", place, ", but ", holder, " ", limit, " ", parts);
  }
}

}  // namespace remat::inline REMAT_ABI::ops
