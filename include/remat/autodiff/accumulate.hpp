// Sums of gradients, the one place where two of them meet.
#pragma once

#include <remat/core/numbers.hpp>
#include <remat/core/parallel.hpp>
#include <remat/core/shape.hpp>

namespace remat { inline namespace REMAT_ABI { namespace detail {

/// sum[i] = a[i] + b[i]; `sum` may be `a`.
template <class T, class U>
void add_arrays(T* sum, const T* a, const U* b, Index count) {
  parallel_for(count, 16384, [to = numbers(sum), from = numbers(a), terms = numbers(b)](Index begin, Index end) {
#pragma omp simd
    for (Index i = begin; i < end; ++i) to[i] = from[i] + terms[i];
  });
}

/// The same for a sum of type `dtype` and terms of type `term`: equal ones, or one float32 and the other bfloat16.
template <class = void>
void add_arrays(DType dtype, void* sum, const void* a, DType term, const void* b, Index count) {
  const auto add = [&]<class T, class U>(T* to, const U* from) {
    add_arrays(to, static_cast<const T*>(a), from, count);
  };
  auto* const floats = static_cast<float*>(sum);
  auto* const halves = static_cast<bfloat16*>(sum);
  if (dtype == DType::float64)
    add(static_cast<double*>(sum), static_cast<const double*>(b));
  else if (dtype == DType::float32 && term == DType::float32)
    add(floats, static_cast<const float*>(b));
  else if (dtype == DType::float32)
    add(floats, static_cast<const bfloat16*>(b));
  else if (term == DType::float32)
    add(halves, static_cast<const float*>(b));
  else
    add(halves, static_cast<const bfloat16*>(b));
}

}}}  // namespace remat::detail
