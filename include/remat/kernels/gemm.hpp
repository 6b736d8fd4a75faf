// Matrix products: one interface over our own and those of libraries. A library multiplies tiles, one thread each. How
// a product is cut depends on its shape alone, or changes nothing, so that the number of threads changes no bit.
#pragma once

#include <algorithm>
#include <limits>
#include <remat/core/parallel.hpp>
#include <remat/kernels/gemm/choice.hpp>
#include <remat/kernels/gemm/few_rows.hpp>
#include <remat/kernels/gemm/library.hpp>
#include <type_traits>

namespace remat { inline namespace REMAT_ABI { namespace kernels {

namespace detail {

/// bfloat16 is oneDNN's where the processor multiplies it; the choice is about floats.
template <class T>
Backend backend_of([[maybe_unused]] const Gemm& shape) {
  if (shape.k == 0) return Backend::own;  // C is what it starts from
  if constexpr (std::is_same_v<T, float>) return gemm_choice().of(shape);
#if defined(REMAT_GEMM_ONEDNN)
  if constexpr (std::is_same_v<T, bfloat16>)
    if (onednn::has_matmul<bfloat16>(shape)) return Backend::onednn;
#endif
  return Backend::own;
}

/// Products that are worth all threads have them one after the other; the others are dealt out.
template <class T, class C>
void own_products(const Gemm& shape, const Batch& batch, const T* a, const T* b, const Accum<T>* bias, C* c) {
  const auto run = [&](Index i) {
    packed::Product<T, C>(shape, a + i * batch.stride_a, b + i * batch.stride_b, bias, c + i * batch.stride_c).run();
  };
  const Index work = checked_mul(shape.m, checked_mul(shape.n, shape.k / 16 + 1));
  constexpr Index large = Index{1} << 22;
  if (batch.count == 1 || work >= large)
    for (Index i = 0; i < batch.count; ++i) run(i);
  else
    parallel_for(batch.count, row_grain(work), [&](Index begin, Index end) {
      for (Index i = begin; i < end; ++i) run(i);
    });
}

}  // namespace detail

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
  const Backend backend = detail::backend_of<T>(shape);
  if (backend == Backend::own) return detail::own_products(shape, batch, a, b, bias, c);
  if constexpr (std::is_same_v<Accum<T>, float>) detail::library_products(backend, shape, batch, a, b, bias, c);
}

/// One product; see `gemm_batched`.
template <class T, class C>
void gemm(const Gemm& shape, const T* a, const T* b, C* c, const std::type_identity_t<Accum<T>>* bias = nullptr) {
  gemm_batched(shape, Batch{}, a, b, c, bias);
}

}}}  // namespace remat::kernels
