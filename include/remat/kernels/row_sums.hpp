// Sums of rows that are named by number, some of them perhaps often.
#pragma once

#include <algorithm>
#include <remat/core/numbers.hpp>
#include <remat/core/parallel.hpp>
#include <type_traits>

namespace remat { inline namespace REMAT_ABI { namespace kernels {

/// sum[j] += weight * row[j] for j < width.
template <class A, class Row>
void add_scaled(Index width, A weight, Row row, A* sum) {
#pragma omp simd
  for (Index j = 0; j < width; ++j) sum[j] += weight * row[j];
}

/// Rows [count, width] that others are added to. Of bfloat16 they are summed in a float `scratch` and rounded once.
template <class T>
struct RowSums {
  static constexpr bool is_rounded = !std::is_same_v<T, Accum<T>>;
  Index count, width;
  T* to;
  Accum<T>* scratch;

  /// Bytes of scratch for `size` elements.
  static std::size_t bytes(Index size) { return is_rounded ? static_cast<std::size_t>(size) * sizeof(Accum<T>) : 0; }

  /// to[target(i)] = (or +=, if `accumulate`) the sum of weight(i) * rows[i / share] over i < terms, in this order; a
  /// negative target is passed over.
  template <class Target, class Weight>
  void add(bool accumulate, Index terms, Target target, const T* rows, Index share, Weight weight) const {
    // Each task owns some columns: no two write one element, and every sum has one order.
    parallel_for(width, 64, [&](Index begin, Index end) {
      Accum<T>* const sums = [&] {
        if constexpr (is_rounded)
          return scratch;
        else
          return to;
      }();
      const auto each_row = [&](auto&& body) {
        for (Index i = 0; i < count; ++i)
          for (Index j = i * width + begin; j < i * width + end; ++j) body(j);
      };
      if (!accumulate)
        each_row([=](Index j) { sums[j] = 0; });
      else if (is_rounded)
        each_row([=, before = numbers(to)](Index j) { sums[j] = before[j]; });
      for (Index i = 0; i < terms; ++i)
        if (const Index row = target(i); row >= 0)
          add_scaled(end - begin, weight(i), numbers(rows) + (i / share * width + begin), sums + row * width + begin);
      if (is_rounded) each_row([=, rounded = numbers(to)](Index j) { rounded[j] = sums[j]; });
    });
  }
};

}}}  // namespace remat::kernels
