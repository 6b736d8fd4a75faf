// Bits of 16 bytes as numbers side by side, in vectors: compilers unpack bytes in more steps, or one by one.
#pragma once

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#include <cstdint>
#include <cstring>
#include <remat/core/config.hpp>

namespace remat { inline namespace REMAT_ABI { namespace kernels::detail {

#if defined(__AVX512F__)
/// A mask for instructions without one, of whose undefined lanes, that there are none of, GCC warns.
inline constexpr __mmask16 all_lanes = 0xffff;
#endif

/// 16 bytes, of which some bits are taken as numbers, a register of them at a time.
class Spread {
 public:
#if defined(__AVX512F__)
  static constexpr int width = 16;  // numbers to a register
#elif defined(__AVX2__)
  static constexpr int width = 8;
#else
  static constexpr int width = 4;
#endif
  static constexpr int count = 16 / width;  // registers for all 16
  typedef std::uint32_t Words __attribute__((vector_size(4 * width)));

  ///@{
  /// `get`: numbers[j] = byte width * g + j, shifted to the right, & mask.
#if defined(__AVX512F__)
  [[gnu::always_inline]] explicit Spread(const std::uint8_t* bytes) {
    __m128i all;
    std::memcpy(&all, bytes, sizeof all);
    words_ = reinterpret_cast<Words>(_mm512_maskz_cvtepu8_epi32(all_lanes, all));
  }
  [[gnu::always_inline]] void get(int, int shift, std::uint8_t mask, Words& numbers) const {
    numbers = words_ >> static_cast<std::uint32_t>(shift) & mask;
  }
#elif defined(__AVX2__)
  [[gnu::always_inline]] explicit Spread(const std::uint8_t* bytes) {
    typedef std::uint32_t Four __attribute__((vector_size(16)));
    Four four;
    std::memcpy(&four, bytes, sizeof four);
    words_[0] = __builtin_shufflevector(four, four, 0, 0, 0, 0, 1, 1, 1, 1);
    words_[1] = __builtin_shufflevector(four, four, 2, 2, 2, 2, 3, 3, 3, 3);
  }
  [[gnu::always_inline]] void get(int g, int shift, std::uint8_t mask, Words& numbers) const {
    numbers = words_[g] >> (Words{0, 8, 16, 24, 0, 8, 16, 24} + static_cast<std::uint32_t>(shift)) & mask;
  }
#else
  [[gnu::always_inline]] explicit Spread(const std::uint8_t* bytes) { std::memcpy(&bytes_, bytes, sizeof bytes_); }
  [[gnu::always_inline]] void get(int g, int shift, std::uint8_t mask, Words& numbers) const {
    const Bytes bytes = bytes_ >> static_cast<std::uint8_t>(shift) & mask, none{};
    const Bytes half =
        g < 2 ? __builtin_shufflevector(bytes, none, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
              : __builtin_shufflevector(bytes, none, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    const auto pairs = reinterpret_cast<Pairs>(half);
    const Pairs quarter = g % 2 == 0 ? __builtin_shufflevector(pairs, Pairs{}, 0, 8, 1, 9, 2, 10, 3, 11)
                                     : __builtin_shufflevector(pairs, Pairs{}, 4, 12, 5, 13, 6, 14, 7, 15);
    numbers = reinterpret_cast<Words>(quarter);
  }
#endif
  ///@}
  /// out[j] = scale * numbers[j] + least
  [[gnu::always_inline]] static void store(const Words& numbers, float scale, float least, float* out) {
    const Floats floats = __builtin_convertvector(reinterpret_cast<Numbers>(numbers), Floats) * scale + least;
    std::memcpy(out, &floats, sizeof floats);
  }
  /// out[j] = scale * numbers[j]; these may be negative.
  [[gnu::always_inline]] static void store(const Words& numbers, float scale, float* out) {
    const Floats floats = __builtin_convertvector(reinterpret_cast<Numbers>(numbers), Floats) * scale;
    std::memcpy(out, &floats, sizeof floats);
  }

 private:
  typedef std::int32_t Numbers __attribute__((vector_size(4 * width)));
  typedef float Floats __attribute__((vector_size(4 * width)));
#if defined(__AVX512F__)
  Words words_;
#elif defined(__AVX2__)
  Words words_[count];  // words of 4 bytes, each once for every one of its bytes
#else
  typedef std::uint8_t Bytes __attribute__((vector_size(16)));
  typedef std::uint16_t Pairs __attribute__((vector_size(16)));
  Bytes bytes_;
#endif
};

}}}  // namespace remat::kernels::detail
