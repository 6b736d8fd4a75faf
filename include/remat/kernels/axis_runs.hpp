// A tensor seen along one of its axes.
#pragma once

#include <algorithm>
#include <remat/core/parallel.hpp>

namespace remat { inline namespace REMAT_ABI { namespace kernels {

/// x [outer, length, inner]: elements of one line along the axis are `inner` apart.
struct AxisRuns {
  Index outer = 1, length, inner = 1;

  /// `axis` counted from the front.
  AxisRuns(const Shape& shape, int axis) : length(shape[axis]) {
    for (int i = 0; i < axis; ++i) outer *= shape[i];
    for (int i = axis + 1; i < shape.rank(); ++i) inner *= shape[i];
  }

  static constexpr Index width = 64;  // lines side by side that are worked on at a time: a few cache lines

  /// Calls `body(o, column, n)` in parallel for n <= width lines that lie side by side: those of the outer position o
  /// whose first elements are `column`, `column` + 1, ... `work` is the number of elements of one line.
  template <class F>
  void for_each_strip(Index work, F&& body) const {
    if (outer == 0 || inner == 0) return;
    const Index strips = (inner - 1) / width + 1;
    parallel_for(checked_mul(outer, strips), row_grain(checked_mul(work, std::min(inner, width))),
                 [&](Index begin, Index end) {
                   for (Index item = begin; item < end; ++item) {
                     const Index column = item % strips * width;
                     body(item / strips, column, std::min(width, inner - column));
                   }
                 });
  }
};

}}}  // namespace remat::kernels
