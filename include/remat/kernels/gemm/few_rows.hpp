// Products of very few rows, as when tokens are decoded one by one: they take as long as reading B does.
#pragma once

#include <algorithm>
#include <remat/core/parallel.hpp>
#include <remat/kernels/gemm/shape.hpp>
#include <remat/kernels/row_dots.hpp>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace kernels { namespace detail {

/// Is it a product that `few_rows_product` makes? B must be large enough for its reading to matter.
inline bool has_few_rows(const Gemm& shape) {
  return shape.m > 0 && shape.m <= row_dots_most && shape.a == Trans::no && shape.lda == shape.k && shape.k > 0 &&
         shape.n * shape.k >= 65536 && shape.n <= 65536;
}

/// sums [Count, n] += a [Count, rows of B] times rows [0, count) of B, which lie `ldb` apart.
template <int Count, class T>
[[gnu::noinline]] void add_rows(Index count, Index n, const T* a, Index lda, const T* b, Index ldb, T* sums) {
  constexpr Index strip = 1024;  // of sums that stay in the first cache
  for (Index at = 0; at < n; at += strip) {
    const Index width = std::min(strip, n - at);
    Index k = 0;
    for (; k + 4 <= count; k += 4) {
      const T *const b0 = b + k * ldb + at, *const b1 = b0 + ldb, *const b2 = b1 + ldb, *const b3 = b2 + ldb;
      for (int i = 0; i < Count; ++i) {
        const T *const x = a + i * lda + k, x0 = x[0], x1 = x[1], x2 = x[2], x3 = x[3];
        T* const to = sums + i * n + at;
#pragma omp simd
        for (Index j = 0; j < width; ++j) to[j] += (x0 * b0[j] + x1 * b1[j]) + (x2 * b2[j] + x3 * b3[j]);
      }
    }
    for (; k < count; ++k)
      for (int i = 0; i < Count; ++i) {
        const T x = a[i * lda + k];
        T* const to = sums + i * n + at;
#pragma omp simd
        for (Index j = 0; j < width; ++j) to[j] += x * b[k * ldb + at + j];
      }
  }
}

/// C = (or +=) A B + bias, or without it if null. B is read once, in the order in which it lies, by all threads; how it
/// is cut depends on shapes alone.
template <class T>
void few_rows_product(const Gemm& shape, const T* a, const T* b, const T* bias, T* c) {
  const Index m = shape.m, n = shape.n, k = shape.k;
  const auto write = [&](Index i, Index j, T sum) {
    T& to = c[i * shape.ldc + j];
    to = (shape.accumulate ? to : T{0}) + (bias == nullptr ? T{0} : bias[j]) + sum;
  };
  if (shape.b == Trans::yes) {
    parallel_for(n, row_grain(k), [&](Index begin, Index end) {
      for (Index j = begin; j < end; ++j) {
        T sums[row_dots_most];
        row_dots(k, b + j * shape.ldb, m, a, sums);
        for (Index i = 0; i < m; ++i) write(i, j, sums[i]);
      }
    });
    return;
  }
  // Rows of B by blocks, each with sums of its own that are then added in order.
  const Index grain = std::max<Index>(row_grain(n), (k + 15) / 16), blocks = (k + grain - 1) / grain;
  std::vector<T> sums(static_cast<std::size_t>(blocks * m * n));
  parallel_for(k, grain, [&](Index begin, Index end) {
    T* const to = sums.data() + begin / grain * m * n;
    const T *const from = a + begin, *const rows = b + begin * shape.ldb;
    switch (m) {
      case 1: return add_rows<1>(end - begin, n, from, k, rows, shape.ldb, to);
      case 2: return add_rows<2>(end - begin, n, from, k, rows, shape.ldb, to);
      case 3: return add_rows<3>(end - begin, n, from, k, rows, shape.ldb, to);
      case 4: return add_rows<4>(end - begin, n, from, k, rows, shape.ldb, to);
    }
  });
  parallel_for(n, row_grain(blocks * m), [&](Index begin, Index end) {
    for (Index i = 0; i < m; ++i)
      for (Index j = begin; j < end; ++j) {
        T sum = sums[static_cast<std::size_t>(i * n + j)];
        for (Index block = 1; block < blocks; ++block) sum += sums[static_cast<std::size_t>((block * m + i) * n + j)];
        write(i, j, sum);
      }
  });
}

}}}}  // namespace remat::kernels::detail
