// Products by a library: tiles, one thread each, each packed by the library anew.
#pragma once

#include <omp.h>

#include <algorithm>
#include <remat/core/parallel.hpp>
#include <remat/kernels/gemm/backend.hpp>
#include <remat/kernels/gemm/packed.hpp>
#include <type_traits>

namespace remat { inline namespace REMAT_ABI { namespace kernels { namespace detail {

/// The backends count threads by OpenMP's limit: it is 1 while a tile is multiplied.
class OneThread {
 public:
  OneThread() { omp_set_num_threads(1); }
  ~OneThread() { omp_set_num_threads(before_); }
  OneThread(const OneThread&) = delete;
  OneThread& operator=(const OneThread&) = delete;

 private:
  int before_ = omp_get_max_threads();
};

/// A grid of equal tiles over C.
struct Tiling {
  Index rows, columns, grid_rows, grid_columns;

  /// Tiles that a cache holds with what they read, each of which packs its operands anew; smaller ones, by halves of
  /// the longer side, until there are enough for some threads or too small for one; then as many for each of two
  /// threads, all of one size.
  explicit Tiling(const Gemm& shape) : rows(std::min<Index>(shape.m, 256)), columns(std::min<Index>(shape.n, 512)) {
    constexpr double least_flops = 16e6;
    constexpr Index enough = 8, least_side = 128;
    for (count_tiles(shape); count() > 0 && count() < enough; count_tiles(shape)) {
      Index& side = rows >= columns ? rows : columns;
      const double flops = 2.0 * static_cast<double>(rows) * static_cast<double>(columns);
      if (flops * static_cast<double>(shape.k) < least_flops || side < least_side) break;
      side = whole_vectors(side / 2);
    }
    if (grid_rows > 1)
      rows = even_part(shape.m, grid_rows);
    else if (grid_columns > 1)
      columns = even_part(shape.n, grid_columns);
    count_tiles(shape);
  }
  Index count() const { return grid_rows * grid_columns; }

 private:
  static Index whole_vectors(Index size) { return (size + 15) / 16 * 16; }
  static Index even_part(Index size, Index parts) { return whole_vectors((size - 1) / (parts + parts % 2) + 1); }
  void count_tiles(const Gemm& shape) {
    grid_rows = rows == 0 ? 0 : (shape.m - 1) / rows + 1;
    grid_columns = columns == 0 ? 0 : (shape.n - 1) / columns + 1;
  }
};

/// Puts into C what the product is then added to; false when that is nothing, and C unwritten.
inline bool write_start(const Gemm& shape, const float* bias, float* c) {
  if (bias == nullptr) return shape.accumulate;
  for (Index i = 0; i < shape.m; ++i) {
    float* const row = c + i * shape.ldc;
    for (Index j = 0; j < shape.n; ++j) row[j] = (shape.accumulate ? row[j] : 0.0F) + bias[j];
  }
  return true;
}

/// A product of floats with k > 0 in the calling thread, all leading dimensions given.
inline void serial_product(Backend backend, const Gemm& shape, const float* a, const float* b, const float* bias,
                           float* c) {
  const OneThread guard;
#if defined(REMAT_GEMM_ONEDNN)
  if (backend == Backend::onednn && onednn::has_matmul<float>(shape)) return onednn::product(shape, a, b, bias, c);
#endif
  if (backend == Backend::own) return packed::Product<float, float>(shape, a, b, bias, c).run();
  [[maybe_unused]] Gemm rest = shape;
  rest.accumulate = write_start(shape, bias, c);
#if defined(REMAT_GEMM_ONEDNN)
  if (backend == Backend::onednn) onednn::sgemm(rest, a, b, c);
#endif
#if defined(REMAT_GEMM_BLAS)
  if (backend == Backend::blas) blas::product(rest, a, b, c);
#endif
#if defined(REMAT_GEMM_EIGEN)
  if (backend == Backend::eigen) eigen::product(rest, a, b, c);
#endif
}

/// Products of floats, or of bfloat16 by oneDNN, with k > 0: see `gemm_batched`.
template <class T, class C>
void library_products(Backend backend, const Gemm& shape, const Batch& batch, const T* a, const T* b, const float* bias,
                      C* c) {
  const Tiling tiling(shape);
  const auto run_tile = [&](Index item) {
    const Index product = item / tiling.count(), tile = item % tiling.count();
    const Index row = tile / tiling.grid_columns * tiling.rows, column = tile % tiling.grid_columns * tiling.columns;
    Gemm part = shape;
    part.m = std::min(tiling.rows, shape.m - row);
    part.n = std::min(tiling.columns, shape.n - column);
    const T* part_a = a + product * batch.stride_a + offset(shape.a, row, 0, shape.lda);
    const T* part_b = b + product * batch.stride_b + offset(shape.b, 0, column, shape.ldb);
    C* part_c = c + product * batch.stride_c + row * shape.ldc + column;
    const float* part_bias = bias == nullptr ? nullptr : bias + column;
    if constexpr (std::is_same_v<T, float>) {
      serial_product(backend, part, part_a, part_b, part_bias, part_c);
    } else {
#if defined(REMAT_GEMM_ONEDNN)
      const OneThread guard;
      onednn::product(part, part_a, part_b, part_bias, part_c);
#endif
    }
  };
  // Small products share a block, or waking the threads would cost more than they save.
  const Index block = row_grain(checked_mul(tiling.rows, checked_mul(tiling.columns, shape.k / 16 + 1)));
  parallel_for(checked_mul(batch.count, tiling.count()), block, [&](Index begin, Index end) {
    for (Index item = begin; item < end; ++item) run_tile(item);
  });
}

}}}}  // namespace remat::kernels::detail
