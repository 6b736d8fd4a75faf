// Matrix products: one interface over the backend that the build chose. The backend multiplies tiles, one thread each;
// how a product is cut depends on its shape alone, so the number of threads changes no bit.
#pragma once

#include <omp.h>

#include <algorithm>
#include <limits>
#include <remat/core/parallel.hpp>
#include <remat/kernels/gemm/bfloat16.hpp>
#include <remat/kernels/gemm/few_rows.hpp>
#include <string>
#include <type_traits>

#if defined(REMAT_GEMM_ONEDNN)
#include <remat/kernels/gemm/eigen.hpp>  // for double, which oneDNN does not multiply
#include <remat/kernels/gemm/onednn.hpp>
#elif defined(REMAT_GEMM_BLAS)
#include <remat/kernels/gemm/blas.hpp>
#else
#include <remat/kernels/gemm/eigen.hpp>
#endif

namespace remat { inline namespace REMAT_ABI { namespace kernels {

/// The library behind float products, with its version: "oneDNN 2.6.3", "OpenBLAS 0.3.21", "Eigen 3.4.0".
inline const char* gemm_backend() {
#if defined(REMAT_GEMM_ONEDNN)
  static const std::string name = onednn::name();
#elif defined(REMAT_GEMM_BLAS)
  static const std::string name = blas::name();
#else
  static const std::string name = eigen::name();
#endif
  return name.c_str();
}

namespace detail {

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

template <class T>
void serial_product(const Gemm& shape, const T* a, const T* b, T* c) {
  const OneThread guard;
#if defined(REMAT_GEMM_ONEDNN)
  if constexpr (std::is_same_v<T, float>)
    onednn::sgemm(shape, a, b, c);
  else
    eigen::product(shape, a, b, c);
#elif defined(REMAT_GEMM_BLAS)
  blas::product(shape, a, b, c);
#else
  eigen::product(shape, a, b, c);
#endif
}
inline void serial_product(const Gemm& shape, const bfloat16* a, const bfloat16* b, float* c) {
  widened_product(shape, a, b, c, serial_product<float>);
}

/// A grid of equal tiles over C.
struct Tiling {
  Index rows, columns, grid_rows, grid_columns;

  /// Tiles that a cache holds with what they read, each of which packs its operands anew; smaller ones, by halves of
  /// the longer side, until there are enough for some threads or too small for one.
  explicit Tiling(const Gemm& shape) : rows(std::min<Index>(shape.m, 256)), columns(std::min<Index>(shape.n, 512)) {
    constexpr double least_flops = 16e6;
    constexpr Index enough = 8, least_side = 128;
    for (count_tiles(shape); count() > 0 && count() < enough; count_tiles(shape)) {
      Index& side = rows >= columns ? rows : columns;
      const double flops = 2.0 * static_cast<double>(rows) * static_cast<double>(columns);
      if (flops * static_cast<double>(shape.k) < least_flops || side < least_side) break;
      side = (side / 2 + 15) / 16 * 16;  // whole vectors
    }
  }
  Index count() const { return grid_rows * grid_columns; }

 private:
  void count_tiles(const Gemm& shape) {
    grid_rows = rows == 0 ? 0 : (shape.m - 1) / rows + 1;
    grid_columns = columns == 0 ? 0 : (shape.n - 1) / columns + 1;
  }
};

/// Puts into C what the product is then added to; false when that is nothing, and C unwritten.
template <class T>
bool write_start(const Gemm& shape, const T* bias, T* c) {
  if (bias == nullptr && (shape.accumulate || shape.k > 0)) return shape.accumulate;
  for (Index i = 0; i < shape.m; ++i) {
    T* row = c + i * shape.ldc;
    for (Index j = 0; j < shape.n; ++j)
      row[j] = (shape.accumulate ? row[j] : T{0}) + (bias == nullptr ? T{0} : bias[j]);
  }
  return true;
}

}  // namespace detail

/// Distances in elements between the operands of `count` products; 0 reuses an A or B.
struct Batch {
  Index count = 1;
  Index stride_a = 0, stride_b = 0, stride_c = 0;
};

/// `batch.count` products of one shape, the i-th on `a + i * stride_a` and so on; `bias` [n], if any, is added to every
/// row of each. Products of bfloat16 are summed in float, to a C of float or, rounded once, of bfloat16. The results
/// must overlap nothing. Runs on all threads, or serially inside a parallel region; same bits
/// either way. Errors: a negative extent, one of 2^31 or more, a leading dimension below the width of its matrix.
template <class T, class C>
void gemm_batched(Gemm shape, const Batch& batch, const T* a, const T* b, C* c,
                  const std::type_identity_t<Accum<T>>* bias = nullptr) {
  static_assert(std::is_same_v<Accum<T>, float> || std::is_same_v<T, double>);
  static_assert(std::is_same_v<C, T> || std::is_same_v<C, Accum<T>>);
  const auto set_leading = [](Index& leading, Index width, const char* name) {
    require(leading == 0 || leading >= width, "gemm: rows of ", name, " have ", width, " elements but are ", leading,
            " apart");
    if (leading == 0) leading = width;
  };
  constexpr Index limit = std::numeric_limits<int>::max();  // CBLAS counts in int
  require(std::min({shape.m, shape.n, shape.k, batch.count}) >= 0 && std::max({shape.m, shape.n, shape.k}) <= limit,
          "gemm: a product ", shape.m, " x ", shape.n, " x ", shape.k, " is out of range");
  set_leading(shape.lda, shape.a == Trans::no ? shape.k : shape.m, "A");
  set_leading(shape.ldb, shape.b == Trans::no ? shape.n : shape.k, "B");
  set_leading(shape.ldc, shape.n, "C");
  require(std::max({shape.lda, shape.ldb, shape.ldc}) <= limit, "gemm: a leading dimension is out of range");

  if constexpr (std::is_same_v<T, Accum<T>>) {
    if (detail::has_few_rows(shape)) {
      for (Index i = 0; i < batch.count; ++i)
        detail::few_rows_product(shape, a + i * batch.stride_a, b + i * batch.stride_b, bias, c + i * batch.stride_c);
      return;
    }
  }
  const detail::Tiling tiling(shape);
  const auto run_tile = [&](Index item) {
    const Index product = item / tiling.count(), tile = item % tiling.count();
    const Index row = tile / tiling.grid_columns * tiling.rows, column = tile % tiling.grid_columns * tiling.columns;
    Gemm part = shape;
    part.m = std::min(tiling.rows, shape.m - row);
    part.n = std::min(tiling.columns, shape.n - column);
    const T* part_a = a + product * batch.stride_a + offset(shape.a, row, 0, shape.lda);
    const T* part_b = b + product * batch.stride_b + offset(shape.b, 0, column, shape.ldb);
    C* part_c = c + product * batch.stride_c + row * shape.ldc + column;
    const Accum<T>* part_bias = bias == nullptr ? nullptr : bias + column;
#if defined(REMAT_GEMM_ONEDNN)
    if constexpr (std::is_same_v<Accum<T>, float>) {
      if (part.k > 0 && onednn::has_matmul<T>(part)) {
        const detail::OneThread guard;
        return onednn::product(part, part_a, part_b, part_bias, part_c);
      }
    }
#endif
    const auto run = [&](const Gemm& whole, auto* to) {
      Gemm rest = whole;
      rest.accumulate = detail::write_start(whole, part_bias, to);
      if (whole.k > 0) detail::serial_product(rest, part_a, part_b, to);
    };
    if constexpr (std::is_same_v<C, Accum<T>>)
      run(part, part_c);
    else
      detail::with_float_tile(part, part_c, run);
  };
  // Small products share a block, or waking the threads would cost more than they save.
  const Index block = row_grain(checked_mul(tiling.rows, checked_mul(tiling.columns, shape.k / 16 + 1)));
  parallel_for(checked_mul(batch.count, tiling.count()), block, [&](Index begin, Index end) {
    for (Index item = begin; item < end; ++item) run_tile(item);
  });
}

/// One product; see `gemm_batched`.
template <class T, class C>
void gemm(const Gemm& shape, const T* a, const T* b, C* c, const std::type_identity_t<Accum<T>>* bias = nullptr) {
  gemm_batched(shape, Batch{}, a, b, c, bias);
}

}}}  // namespace remat::kernels
