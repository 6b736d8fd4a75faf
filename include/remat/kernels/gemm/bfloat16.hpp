// Products of bfloat16 by a backend that multiplies floats: correct on any machine. And results of bfloat16 by way of
// floats, rounded once.
#pragma once

#include <algorithm>
#include <remat/core/eigen.hpp>
#include <remat/core/numbers.hpp>
#include <remat/core/pool.hpp>
#include <remat/kernels/gemm/shape.hpp>

namespace remat { inline namespace REMAT_ABI { namespace kernels::detail {

inline float* floats(const Storage& storage) { return reinterpret_cast<float*>(storage->data()); }
inline Storage float_scratch(Index count) { return pool().allocate(static_cast<std::size_t>(count) * sizeof(float)); }

inline void widen_rows(const bfloat16* from, Index stride, Index rows, Index columns, float* to) {
  const auto source = numbers(from);
  for (Index i = 0; i < rows; ++i) {
#pragma omp simd
    for (Index j = 0; j < columns; ++j) to[i * columns + j] = source[i * stride + j];
  }
}

/// One product with k > 0, panels of A and B widened in turn for `product(shape, float*, float*, float*)`.
template <class Product>
void widened_product(const Gemm& shape, const bfloat16* a, const bfloat16* b, float* c, Product&& product) {
  constexpr Index depth = 256;  // of a panel
  const Index most = std::min(depth, shape.k);
  const Storage scratch = float_scratch((shape.m + shape.n) * most);
  float *const left = floats(scratch), *const right = left + shape.m * most;
  Gemm part = shape;
  for (Index p = 0; p < shape.k; p += depth) {
    part.k = std::min(depth, shape.k - p);
    const auto widen = [&](const bfloat16* from, Index stride, bool by_rows, Index width, float* to) {
      if (by_rows)
        widen_rows(from + p, stride, width, part.k, to);
      else
        widen_rows(from + p * stride, stride, part.k, width, to);
      return by_rows ? part.k : width;
    };
    part.lda = widen(a, shape.lda, shape.a == Trans::no, shape.m, left);
    part.ldb = widen(b, shape.ldb, shape.b == Trans::yes, shape.n, right);
    product(part, left, right, c);
    part.accumulate = true;
  }
}

/// `run(shape, floats)` computes C in floats, which are rounded when all is summed.
template <class Run>
void with_float_tile(const Gemm& shape, bfloat16* c, Run&& run) {
  if (shape.m == 0 || shape.n == 0) return;
  const Storage scratch = float_scratch(shape.m * shape.n);
  Gemm tile = shape;
  tile.ldc = shape.n;
  if (shape.accumulate) widen_rows(c, shape.ldc, shape.m, shape.n, floats(scratch));
  run(tile, floats(scratch));
  const float* from = floats(scratch);
  const auto to = numbers(c);
  for (Index i = 0; i < shape.m; ++i) {
#pragma omp simd
    for (Index j = 0; j < shape.n; ++j) to[i * shape.ldc + j] = from[i * shape.n + j];
  }
}

}}}  // namespace remat::kernels::detail
