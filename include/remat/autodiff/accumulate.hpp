// Sums of gradients, the one place where two of them meet.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <remat/core/dtype.hpp>
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

// bfloat16 by its bits, so that the engine needs no Eigen: the upper half of a float, rounded to nearest even.
inline float widen(std::uint16_t half) { return std::bit_cast<float>(std::uint32_t{half} << 16); }
inline std::uint16_t narrow(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7fffffffU) > 0x7f800000U) return static_cast<std::uint16_t>((bits >> 16) | 0x40U);  // NaN stays NaN
  return static_cast<std::uint16_t>((bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16);
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
