// Transcendental functions without branches or tables: loops over them become vector code at -O3 by themselves.
// Always inlined: in a big program GCC would call them, one number at a time. Coefficients are minimax fits made for
// this file; errors are below 1.5 units in the last place.
#pragma once

#include <bit>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <limits>
#include <remat/core/numbers.hpp>
#include <type_traits>

namespace remat { inline namespace REMAT_ABI { namespace kernels {

namespace detail {

/// `condition ? yes : no` by bits: of a plain ?: GCC moves the arms into branches, and then vectorizes nothing.
template <class T>
[[gnu::always_inline]] inline T select(bool condition, T yes, T no) {
  using Bits = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;
  const Bits mask = Bits{0} - static_cast<Bits>(condition);
  return std::bit_cast<T>((std::bit_cast<Bits>(yes) & mask) | (std::bit_cast<Bits>(no) & ~mask));
}

/// e^x for x in [-87, 88], and nothing sensible elsewhere: x = n ln 2 + r with |r| <= ln(2) / 2.
[[gnu::always_inline]] inline float exp_within(float x) {
  constexpr float round = 0x1.8p23F;  // adding it leaves the nearest integer in the low bits
  const float shifted = as_written(x * 0x1.715476p0F + round);
  // Unsigned, because a NaN's n may overflow.
  const std::uint32_t n = std::bit_cast<std::uint32_t>(shifted) - std::bit_cast<std::uint32_t>(round);
  const float whole = shifted - round;
  // ln 2 in two parts, the first short enough for exact products.
  float r = as_written(x - whole * 0x1.62e4p-1F);
  r = r - whole * 0x1.7f7d1cp-20F;
  float p = 0x1.6d6bccp-10F;
  p = p * r + 0x1.123ab8p-7F;
  p = p * r + 0x1.5554cep-5F;
  p = p * r + 0x1.55549p-3F;
  p = p * r + 0.5F;
  const float mantissa = 1.0F + (p * (r * r) + r);
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(mantissa) + (n << 23));  // adds n to the exponent
}

}  // namespace detail

/// e^x. Results below the least normal number are 0; NaN stays NaN.
[[gnu::always_inline]] inline float fast_exp(float x) {
  const float inside = detail::exp_within(x);
  const float above = x + std::numeric_limits<float>::infinity();  // inf, or NaN for NaN
  return detail::select(x < -0x1.5d589ep6F, 0.0F, detail::select(x <= 0x1.62e42ep6F, inside, above));
}
inline double fast_exp(double x) { return std::exp(x); }

/// The hyperbolic tangent: an odd polynomial up to 0.6, and 1 - 2 / (e^2|x| + 1) beyond.
[[gnu::always_inline]] inline float fast_tanh(float x) {
  const float magnitude = std::fabs(x);
  const float square = x * x;
  float p = -0x1.825858p-8F;
  p = p * square + 0x1.54b8a0p-6F;
  p = p * square - 0x1.b898dep-5F;
  p = p * square + 0x1.1109aep-3F;
  p = p * square - 0x1.55553ep-2F;
  const float near = p * (square * magnitude) + magnitude;

  const float clamped = detail::select(magnitude > 10.0F, 10.0F, magnitude);  // tanh is 1 from 9.02 on
  const float far = 1.0F - 2.0F / (detail::exp_within(2.0F * clamped) + 1.0F);
  return std::copysign(detail::select(magnitude > 0.6F, far, near), x);
}
inline double fast_tanh(double x) { return std::tanh(x); }

/// The error function: an odd polynomial up to 1, and 1 - e^-q(x) beyond.
[[gnu::always_inline]] inline float fast_erf(float x) {
  const float magnitude = std::fabs(x);
  const float square = x * x;
  float p = 0x1.4771fcp-14F;
  p = p * square - 0x1.a3515ep-11F;
  p = p * square + 0x1.53f224p-8F;
  p = p * square - 0x1.b7f71ap-6F;
  p = p * square + 0x1.ce2ce6p-4F;
  p = p * square - 0x1.81273ep-2F;
  p = p * square + 0x1.06eba8p-3F;
  const float near = p * x + x;

  const float t = detail::select(magnitude > 4.0F, 4.0F, magnitude);  // erf is 1 from 3.92 on
  float q = -0x1.86dddcp-13F;
  q = q * t + 0x1.825ab2p-9F;
  q = q * t - 0x1.65cb36p-6F;
  q = q * t + 0x1.a6531ep-4F;
  q = q * t + 0x1.46baf0p-1F;
  q = q * t + 0x1.2088eap0F;
  q = q * t + 0x1.661ce4p-12F;
  const float far = std::copysign(1.0F - detail::exp_within(-q), x);
  return detail::select(magnitude > 1.0F, far, near);
}
inline double fast_erf(double x) { return std::erf(x); }

/// The standard normal distribution at x.
template <class T>
struct Normal {
  T below, density;  // the chance of less than x; the density there
};
/// Both of one exponential e: the chance of more than |x| is e t p(t), t = 1 / (1 + 0.3 |x|). Errors are below 2e-7.
[[gnu::always_inline]] inline Normal<float> fast_normal(float x) {
  const float e = fast_exp(-0.5F * x * x), t = 1.0F / (1.0F + 0x1.333334p-2F * std::fabs(x));
  float p = 0x1.2d1ebap-5F;
  p = p * t - 0x1.4ae5b6p-3F;
  p = p * t + 0x1.b57b22p-3F;
  p = p * t - 0x1.ec676ep-5F;
  p = p * t + 0x1.0df6fep-3F;
  p = p * t + 0x1.95616ep-4F;
  p = p * t + 0x1.ef3320p-4F;
  p = p * t + 0x1.e9f6fap-4F;
  const float above = e * (t * p);
  return {detail::select(x < 0.0F, above, 1.0F - above), 0.39894228040143268F * e};
}
inline Normal<double> fast_normal(double x) {
  return {0.5 * (1 + std::erf(x * 0.70710678118654752)), 0.39894228040143268 * std::exp(-0.5 * x * x)};
}

/// The square root of x >= 0, of denormal numbers and infinity too; NaN stays NaN. Compilers vectorize no loop over
/// std::sqrt unless they are told that nobody reads errno. A first guess from the exponent (Kadlec's constants), then
/// terms of the series of 1 / sqrt(1 - e).
template <std::floating_point T>
[[gnu::always_inline]] inline T fast_sqrt(T x) {
  using Bits = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;
  using Limits = std::numeric_limits<T>;
  constexpr int digits = Limits::digits - 1;  // of the mantissa as stored
  constexpr auto half = static_cast<T>(Bits{1} << (digits / 2 + 1)), whole = half * half;
  constexpr auto guess = static_cast<Bits>((1.5 * (Limits::max_exponent - 1) - 0.2500008) * (Bits{1} << digits));
  const bool is_tiny = x < Limits::min();
  const T scaled = x * detail::select(is_tiny, whole, T(1));
  T r = std::bit_cast<T>(guess - (std::bit_cast<Bits>(scaled) >> 1));
  r *= T(0.703952253) * (T(2.38924456) - scaled * r * r);  // 1 / sqrt to 1 part in 1500
  if constexpr (sizeof(T) == 8) {
    const T e = T(1) - scaled * r * r;
    r += r * e * (T(0.5) + T(0.375) * e);
  }
  const T root = scaled * r, e = T(1) - root * r;
  const T result = (root + root * e * (T(0.5) + T(0.375) * e)) * detail::select(is_tiny, T(1) / half, T(1));
  return detail::select(x <= Limits::max(), result, x);
}

/// The logarithm of a sum of exponentials: `value`, and in `rest` what rounding left out of it, which is all of a small
/// logarithm beside a large maximum. `value` is -infinity for a sum of nothing.
template <class T>
struct LogSumExp {
  T value, rest = 0;

  /// maximum + log_sum, exactly (Knuth's two-sum).
  static LogSumExp of(T maximum, T log_sum) {
    const T value = as_written(maximum + log_sum);
    if (!(std::fabs(value) <= std::numeric_limits<T>::max())) return {value};
    const T added = as_written(value - maximum);
    const T lost = as_written(maximum - as_written(value - added));
    return {value, lost + as_written(log_sum - added)};
  }
  /// The logarithm of e^x over the sum. In two steps, and the large numbers first: x lies near `value`.
  [[gnu::always_inline]] T exponent(T x) const { return as_written(x - value) - rest; }
  /// e^x over the sum.
  [[gnu::always_inline]] T share(T x) const { return fast_exp(exponent(x)); }
};

}}}  // namespace remat::kernels
