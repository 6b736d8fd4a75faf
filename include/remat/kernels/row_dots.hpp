// Scalar products of one row with a few others, all in one pass over it.
#pragma once

#include <algorithm>
#include <cstring>
#include <remat/core/cascade_sum.hpp>
#include <remat/kernels/reduce.hpp>
#include <remat/kernels/vector.hpp>
#include <type_traits>

namespace remat { inline namespace REMAT_ABI { namespace kernels {

namespace detail {

/// As many numbers as a register has, floats widened where it has doubles.
template <class A, class T>
[[gnu::always_inline]] inline void load_lanes(const T* from, typename Vector<A>::type& to) {
  if constexpr (std::is_same_v<A, T>) {
    std::memcpy(&to, from, sizeof to);
  } else {
    A widened[Vector<A>::width];
    for (int lane = 0; lane < Vector<A>::width; ++lane) widened[lane] = from[lane];
    std::memcpy(&to, widened, sizeof to);
  }
}

template <int Count, class W, class A>
[[gnu::noinline]] void dot_rows(Index n, const W* w, const A* x, A* out) {
  using V = typename Vector<A>::type;
  constexpr int width = Vector<A>::width;
  constexpr int registers = Count == 1 ? 4 : 2;  // of sums of a row side by side: an addition waits for the last one
  CascadeSum<A, Count> total;
  for (Index begin = 0; begin < n; begin += sum_block) {
    const Index end = std::min(n, begin + sum_block);
    V sum[Count][registers];
#pragma GCC unroll 4
    for (int i = 0; i < Count; ++i) {
#pragma GCC unroll 4
      for (int r = 0; r < registers; ++r) sum[i][r] = V{};
    }
    Index j = begin;
    for (; j + registers * width <= end; j += registers * width) {
#pragma GCC unroll 4
      for (int r = 0; r < registers; ++r) {
        V right;
        load_lanes<A>(w + j + r * width, right);
#pragma GCC unroll 4
        for (int i = 0; i < Count; ++i) {
          V left;
          load_lanes<A>(x + i * n + j + r * width, left);
          sum[i][r] += left * right;
        }
      }
    }
    A part[Count];
    for (int i = 0; i < Count; ++i) {
      V folded = sum[i][0];
#pragma GCC unroll 4
      for (int r = 1; r < registers; ++r) folded += sum[i][r];
      part[i] = 0;
      for (int lane = 0; lane < width; ++lane) part[i] += folded[lane];
      for (Index k = j; k < end; ++k) part[i] += x[i * n + k] * static_cast<A>(w[k]);
    }
    total.add(part);
  }
  std::copy_n(total.total(), Count, out);
}

}  // namespace detail

/// The most rows that `row_dots` takes at once.
inline constexpr Index row_dots_most = 4;

/// out[i] = the sum over j < n of x[i][j] w[j], for the `count` <= `row_dots_most` rows of x [count, n].
template <class W, class A>
void row_dots(Index n, const W* w, Index count, const A* x, A* out) {
  switch (count) {
    case 1: return detail::dot_rows<1>(n, w, x, out);
    case 2: return detail::dot_rows<2>(n, w, x, out);
    case 3: return detail::dot_rows<3>(n, w, x, out);
    case 4: return detail::dot_rows<4>(n, w, x, out);
  }
}

}}}  // namespace remat::kernels
