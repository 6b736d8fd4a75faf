// Greatest and least elements over axes. A NaN is beyond both.
#pragma once

#include <algorithm>
#include <limits>
#include <numeric>
#include <remat/kernels/broadcast.hpp>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace kernels {

/// Is b beyond a: greater (or less), or a NaN where a is none?
template <bool is_greatest, class T>
[[gnu::always_inline]] inline bool is_beyond(T b, T a) {
  return (is_greatest ? b > a : b < a) || (b != b && a == a);
}

/// y[k] = the greatest (or least) element of x [full] along the axes along which `target`, the shape of y, is
/// stretched. Along axes of no elements it is -infinity (or infinity).
template <bool is_greatest, class T>
void extremum_to(const Shape& full, const T* data, const Shape& target, T* result) {
  if (target.size() == 0) return;
  using A = Accum<T>;
  constexpr A first = (is_greatest ? A{-1} : A{1}) * std::numeric_limits<A>::infinity();
  const auto x = numbers(data);
  const auto y = numbers(result);
  // NaN stays: nothing is beyond it.
  const auto further = [](A a, A b) { return (is_greatest ? b > a : b < a) || b != b ? b : a; };
  const auto of_run = [=](Index begin, Index length) {
    return detail::fold<A>(
        length, first, [=](Index j) { return static_cast<A>(x[begin + j]); }, further);
  };
  const Broadcast walk(full, full, target);
  const auto inner = walk.inner();
  if (inner.b == 0 && walk.rank() == 1) {
    constexpr Index block = 16384;
    std::vector<A> of_blocks(static_cast<std::size_t>((inner.length + block - 1) / block), first);
    parallel_for(inner.length, block, [&](Index begin, Index end) {
      of_blocks[static_cast<std::size_t>(begin / block)] = of_run(begin, end - begin);
    });
    y[0] = std::accumulate(of_blocks.begin(), of_blocks.end(), first, further);
    return;
  }
  const Index rows = walk.count(true), kept = walk.count(false);
  if (inner.b == 0) {
    parallel_for(kept, row_grain(checked_mul(rows, inner.length)), [&](Index begin, Index end) {
      for (Index k = begin; k < end; ++k) {
        A found = first;
        for (Index r = 0; r < rows; ++r)
          found = further(found, of_run(walk.offset(false, k) + walk.offset(true, r), inner.length));
        y[k] = found;
      }
    });
    return;
  }
  constexpr Index width = 64;  // columns, a few cache lines
  const Index strips = (inner.length - 1) / width + 1;
  parallel_for(kept * strips, row_grain(rows * width), [&](Index begin, Index end) {
    for (Index item = begin; item < end; ++item) {
      const Index column = item % strips * width, n = std::min(width, inner.length - column);
      A found[width];
      std::fill_n(found, n, first);
      for (Index r = 0; r < rows; ++r) {
        const auto row = x + (walk.offset(false, item / strips) + column + walk.offset(true, r));
        for (Index j = 0; j < n; ++j) found[j] = further(found[j], row[j]);
      }
      const auto to = y + (item / strips * inner.length + column);
      for (Index j = 0; j < n; ++j) to[j] = found[j];
    }
  });
}

}}}  // namespace remat::kernels
