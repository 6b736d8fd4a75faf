// IEEE half precision by its bits: _Float16 is missing in some compilers.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <remat/kernels/vector_math.hpp>

namespace remat { inline namespace REMAT_ABI { namespace kernels {

/// A half, given by its bits, as a float: exactly, subnormals and infinities too. A NaN keeps its sign and payload. No
/// float in it is subnormal, so that it works where these are flushed to 0.
[[gnu::always_inline]] inline float widen_half(std::uint16_t half) {
  const std::uint32_t sign = (std::uint32_t{half} & 0x8000U) << 16, magnitude = (std::uint32_t{half} & 0x7fffU) << 13;
  constexpr std::uint32_t rebias = 112U << 23, infinity = 31U << 23;
  const std::uint32_t normal = magnitude + rebias;
  // With an exponent of their own the mantissa counts 2^-24; what that exponent added is taken away again.
  const auto subnormal = std::bit_cast<std::uint32_t>(std::bit_cast<float>(normal + (1U << 23)) - 0x1p-14F);
  const std::uint32_t finite = detail::select(magnitude < (1U << 23), subnormal, normal);
  return std::bit_cast<float>(sign | detail::select(magnitude >= infinity, normal + rebias, finite));
}

/// The bits of the half nearest to `value`, of two equally near ones the even; an infinity from 65520 on. A NaN is
/// quiet.
[[gnu::always_inline]] inline std::uint16_t narrow_half(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = (bits >> 16) & 0x8000U, magnitude = bits & 0x7fffffffU;
  constexpr std::uint32_t rebias = 112U << 23;
  const std::uint32_t rounded = (magnitude - rebias + 0xfffU + ((magnitude >> 13) & 1U)) >> 13;
  // Beside 1/2 a float's last place is 2^-24, a subnormal half's too: the sum is rounded as it should be.
  const std::uint32_t subnormal = std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) + 0.5F) - 0x3f000000U;
  const std::uint32_t finite =
      detail::select(magnitude < rebias + (1U << 23), subnormal, std::min(rounded, std::uint32_t{0x7c00}));
  const std::uint32_t nan = 0x7e00U | ((magnitude >> 13) & 0x3ffU);
  return static_cast<std::uint16_t>(sign | detail::select(magnitude > 0x7f800000U, nan, finite));
}

}}}  // namespace remat::kernels
