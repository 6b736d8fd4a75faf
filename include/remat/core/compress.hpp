// Lossy storage of values that wait for backward: half or a quarter of the bytes, each with a bound on its error.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <remat/core/numbers.hpp>
#include <remat/core/parallel.hpp>
#include <remat/core/shape.hpp>

namespace remat { inline namespace REMAT_ABI {

/// How a compressed value is stored.
///  * bfloat16: 8 significant bits, rounded to nearest: |error| <= 2^-8 |x|; 2 bytes an element.
///  * int8: each run of 64 elements is scaled by its greatest magnitude m: |error| <= m / 250; 1 byte an element and
///    one scale a run. A run with NaN or infinity comes back as NaN.
/// Both bounds are for normal numbers; smaller ones may become 0.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wshadow"  // g++ takes the enumerator for the type of that name
enum class Compression { bfloat16, int8 };
#pragma GCC diagnostic pop

namespace detail {

inline constexpr Index run_length = 64;  // elements that share one scale

template <class T>
void compress_run(const T* x, Index count, std::int8_t* codes, T& scale) {
  T top = 0;
  bool finite = true;
  for (Index i = 0; i < count; ++i) {
    const T size = std::abs(x[i]);
    finite = finite && size <= std::numeric_limits<T>::max();
    top = size > top ? size : top;
  }
  // A subnormal scale has no inverse.
  scale = !finite ? std::numeric_limits<T>::quiet_NaN() : top < 128 * std::numeric_limits<T>::min() ? T{0} : top / 127;
  const T inverse = finite && scale > 0 ? 1 / scale : T{0};
  for (Index i = 0; i < count; ++i)
    codes[i] = finite ? static_cast<std::int8_t>(std::lrint(std::clamp<T>(x[i] * inverse, -127, 127))) : std::int8_t{1};
}

template <class T>
void compress(Compression how, const T* x, Index count, std::byte* to) {
  if (how == Compression::bfloat16) {
    auto* halves = reinterpret_cast<std::uint16_t*>(to);
    parallel_for(count, 16384, [=](Index begin, Index end) {
      for (Index i = begin; i < end; ++i) halves[i] = narrow(static_cast<float>(x[i]));
    });
    return;
  }
  auto* scales = reinterpret_cast<T*>(to);
  const Index runs = (count + run_length - 1) / run_length;
  auto* codes = reinterpret_cast<std::int8_t*>(scales + runs);
  parallel_for(runs, 256, [=](Index begin, Index end) {
    for (Index r = begin; r < end; ++r) {
      const Index at = r * run_length;
      compress_run(x + at, std::min(run_length, count - at), codes + at, scales[r]);
    }
  });
}

template <class T>
void decompress(Compression how, const std::byte* from, Index count, T* x) {
  if (how == Compression::bfloat16) {
    const auto* halves = reinterpret_cast<const std::uint16_t*>(from);
    parallel_for(count, 16384, [=](Index begin, Index end) {
      for (Index i = begin; i < end; ++i) x[i] = static_cast<T>(widen(halves[i]));
    });
    return;
  }
  const auto* scales = reinterpret_cast<const T*>(from);
  const Index runs = (count + run_length - 1) / run_length;
  const auto* codes = reinterpret_cast<const std::int8_t*>(scales + runs);
  parallel_for(runs, 256, [=](Index begin, Index end) {
    for (Index r = begin; r < end; ++r)
      for (Index i = r * run_length; i < std::min(count, (r + 1) * run_length); ++i)
        x[i] = static_cast<T>(codes[i]) * scales[r];
  });
}

}  // namespace detail

/// Bytes that `count` elements take when compressed.
constexpr std::size_t compressed_bytes(Compression how, DType dtype, Index count) {
  const auto n = static_cast<std::size_t>(count);
  if (how == Compression::bfloat16) return 2 * n;
  return (n + detail::run_length - 1) / detail::run_length * size_of(dtype) + n;
}
/// float32 and float64 only.
constexpr bool is_compressible(DType dtype) { return dtype == DType::float32 || dtype == DType::float64; }

template <class = void>
void compress(Compression how, DType dtype, const std::byte* from, Index count, std::byte* to) {
  if (dtype == DType::float32) detail::compress(how, reinterpret_cast<const float*>(from), count, to);
  if (dtype == DType::float64) detail::compress(how, reinterpret_cast<const double*>(from), count, to);
}
template <class = void>
void decompress(Compression how, DType dtype, const std::byte* from, Index count, std::byte* to) {
  if (dtype == DType::float32) detail::decompress(how, from, count, reinterpret_cast<float*>(to));
  if (dtype == DType::float64) detail::decompress(how, from, count, reinterpret_cast<double*>(to));
}

}}  // namespace remat
