// Sums of gradients, the one place where two of them meet.
#pragma once

#include <cstdint>
#include <cstring>
#include <remat/core/compress.hpp>
#include <remat/core/parallel.hpp>
#include <remat/core/shape.hpp>

namespace remat::inline REMAT_ABI::detail {

/// sum[i] = a[i] + b[i]; `sum` may be `a`.
template <class T>
void add_arrays(T* sum, const T* a, const T* b, Index count) {
  parallel_for(count, 16384, [=](Index begin, Index end) {
#pragma omp simd
    for (Index i = begin; i < end; ++i) sum[i] = a[i] + b[i];
  });
}

inline void add_arrays(DType dtype, void* sum, const void* a, const void* b, Index count) {
  if (dtype == DType::float32)
    add_arrays(static_cast<float*>(sum), static_cast<const float*>(a), static_cast<const float*>(b), count);
  else if (dtype == DType::float64)
    add_arrays(static_cast<double*>(sum), static_cast<const double*>(a), static_cast<const double*>(b), count);
  else
    parallel_for(count, 16384, [=](Index begin, Index end) {
      for (Index i = begin; i < end; ++i)
        static_cast<std::uint16_t*>(sum)[i] =
            narrow(widen(static_cast<const std::uint16_t*>(a)[i]) + widen(static_cast<const std::uint16_t*>(b)[i]));
    });
}

}  // namespace remat::inline REMAT_ABI::detail
