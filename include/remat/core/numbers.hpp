// Arrays of any element type as numbers to compute with: kernels read and write bfloat16 and compute in float.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <remat/core/dtype.hpp>

namespace remat { inline namespace REMAT_ABI {

/// x, rounded as it is written. Of GCC nothing more is needed; in clang some flags that set no macro
/// (-fassociative-math, -funsafe-math-optimizations) would otherwise join the operations around it.
template <class T>
[[gnu::always_inline]] inline T as_written(const T& x) {
#if defined(__clang__) && defined(__x86_64__)
  return __arithmetic_fence(x);
#else
  return x;
#endif
}

///@{
/// bfloat16 by its bits, so that no library is needed: the upper half of a float, rounded to nearest even.
[[gnu::always_inline]] inline float widen(std::uint16_t half) {
  return std::bit_cast<float>(std::uint32_t{half} << 16);
}
[[gnu::always_inline]] inline std::uint16_t narrow(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t rounded = (bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16, quiet = (bits >> 16) | 0x40U;
  const std::uint32_t nan = 0U - static_cast<std::uint32_t>((bits & 0x7fffffffU) > 0x7f800000U);
  return static_cast<std::uint16_t>((quiet & nan) | (rounded & ~nan));  // by bits: a branch would not vectorize
}
///@}

/// An array of bfloat16 as floats, for reading.
class WidenedArray {
 public:
  ///@{
  /// As of a `const float*`.
  explicit WidenedArray(const bfloat16* data) : halves_(reinterpret_cast<const std::uint16_t*>(data)) {}
  float operator[](std::ptrdiff_t i) const { return widen(halves_[i]); }
  WidenedArray operator+(std::ptrdiff_t i) const { return WidenedArray(halves_ + i); }
  friend bool operator==(const WidenedArray&, const WidenedArray&) = default;
  ///@}

 private:
  explicit WidenedArray(const std::uint16_t* halves) : halves_(halves) {}
  const std::uint16_t* halves_;
};

/// An array of bfloat16 as floats; what is written is rounded.
class RoundedArray {
 public:
  /// One element: read it as a float, assign it one.
  class Element {
   public:
    ///@{
    /// What is assigned is rounded to nearest even.
    explicit Element(std::uint16_t& half) : half_(half) {}
    operator float() const { return widen(half_); }
    const Element& operator=(float value) const {
      half_ = narrow(value);
      return *this;
    }
    const Element& operator=(const Element& other) const { return *this = static_cast<float>(other); }
    ///@}

   private:
    std::uint16_t& half_;
  };
  ///@{
  /// As of a `float*`.
  explicit RoundedArray(bfloat16* data) : halves_(reinterpret_cast<std::uint16_t*>(data)) {}
  Element operator[](std::ptrdiff_t i) const { return Element(halves_[i]); }
  RoundedArray operator+(std::ptrdiff_t i) const { return RoundedArray(halves_ + i); }
  ///@}

 private:
  explicit RoundedArray(std::uint16_t* halves) : halves_(halves) {}
  std::uint16_t* halves_;
};

///@{
/// The array as `Accum<T>`: itself, or for bfloat16 a view.
template <class T>
T* numbers(T* data) {
  return data;
}
inline WidenedArray numbers(const bfloat16* data) { return WidenedArray(data); }
inline RoundedArray numbers(bfloat16* data) { return RoundedArray(data); }
///@}

}}  // namespace remat
