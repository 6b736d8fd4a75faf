// Blocks of quantized weights as floats.
#pragma once

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <remat/core/numbers.hpp>
#include <remat/kernels/quantized/block_format.hpp>
#include <remat/kernels/quantized/half.hpp>
#include <remat/kernels/quantized/spread_bytes.hpp>

namespace remat { inline namespace REMAT_ABI { namespace kernels {

namespace detail {

// Every product below is exact: of 11 bits of a half, at most 7 of a scale and 6 of an element. So results are those of
// the format's definition bit for bit, whether or not a compiler fuses a product with the sum after it.

using Byte = std::uint8_t;

template <class T>
[[gnu::always_inline]] inline T load(const Byte* from) {
  T value{};
  std::memcpy(&value, from, sizeof value);  // blocks lie anywhere
  return value;
}
[[gnu::always_inline]] inline float load_half(const Byte* from) { return widen_half(load<std::uint16_t>(from)); }
/// A scale, whose NaN a product with it makes quiet anyway.
[[gnu::always_inline]] inline float load_scale(const Byte* from) {
#if defined(__AVX2__) && defined(__F16C__)
  return _cvtsh_ss(load<std::uint16_t>(from));
#else
  return load_half(from);
#endif
}

inline void decode_halves(const Byte* __restrict from, Index count, float* __restrict out) {
  Index i = 0;
#if defined(__AVX2__) && defined(__F16C__)
  for (; i + 8 <= count; i += 8) {
    const __m256 floats = _mm256_cvtph_ps(load<__m128i>(from + 2 * i));
    _mm256_storeu_ps(out + i, floats);
    if (_mm256_movemask_ps(_mm256_cmp_ps(floats, floats, _CMP_UNORD_Q)) != 0)  // the instruction makes NaN quiet
      for (Index j = i; j < i + 8; ++j) out[j] = load_half(from + 2 * j);
  }
#endif
  for (; i < count; ++i) out[i] = load_half(from + 2 * i);
}

struct DecodeQ8 {
  static constexpr int halves = 1;
  void operator()(const Byte* __restrict block, const float* halves_of_block, float* __restrict out) const {
    const float scale = halves_of_block[0];
#if defined(__AVX512F__)
    for (int i = 0; i < 32; i += 16) {
      const __m512i numbers = _mm512_maskz_cvtepi8_epi32(all_lanes, load<__m128i>(block + 2 + i));
      Spread::store(reinterpret_cast<Spread::Words>(numbers), scale, out + i);
    }
#else
    for (int i = 0; i < 32; ++i) out[i] = scale * static_cast<float>(static_cast<std::int8_t>(block[2 + i]));
#endif
  }
};

/// Q4_0, Q4_1, Q5_0, Q5_1: elements i and i + 16 share a byte; bit i of a word of 32 is the fifth of element i. Without
/// a least value elements are signed, stored with half their range added.
template <bool has_fifth, bool has_least>
struct DecodeNibbles {
  static constexpr int halves = has_least ? 2 : 1;
  void operator()(const Byte* __restrict block, const float* halves_of_block, float* __restrict out) const {
    const float scale = halves_of_block[0];
    const Byte* const after = block + 2 * halves;
    const Spread nibbles(after + (has_fifth ? 4 : 0));
    std::uint32_t fifths = 0;
    if constexpr (has_fifth) fifths = load<std::uint32_t>(after);
    const auto store = [&](int i, Spread::Words& numbers) {
      if constexpr (has_fifth) {
        Spread::Words bits;
        for (int j = 0; j < Spread::width; ++j) bits[j] = 1U << (i + j);
        numbers |= reinterpret_cast<Spread::Words>((fifths & bits) == bits) & 16U;
      }
      if constexpr (has_least)
        Spread::store(numbers, scale, halves_of_block[1], out + i);
      else
        Spread::store(numbers - (has_fifth ? 16U : 8U), scale, out + i);
    };
#pragma GCC unroll 4
    for (int g = 0; g < Spread::count; ++g) {
      Spread::Words low, high;
      nibbles.get(g, 0, 15, low);
      nibbles.get(g, 4, 15, high);
      store(g * Spread::width, low);
      store(g * Spread::width + 16, high);
    }
  }
};

/// Q4_K, Q5_K: 8 parts of 32 elements; two parts share 32 bytes of nibbles; bit p of 32 bytes is the fifth of part p.
/// 12 bytes hold 6 bits each of 8 scales and 8 leasts, those of parts 4 to 7 in two pieces.
template <bool has_fifth>
struct DecodeK {
  void operator()(const Byte* __restrict block, float* __restrict out) const {
    const float scale = load_scale(block), least = load_scale(block + 2);
    const Byte* const fifths = block + 16;
    const Byte* const nibbles = fifths + (has_fifth ? 32 : 0);
    // Four bytes at a time: 6 bits of a scale and 6 of a least, whose upper 2 belong to parts 4 to 7; 4 + 4 bits more.
    const auto low = load<std::uint32_t>(block + 4), low_least = load<std::uint32_t>(block + 8);
    const auto both = load<std::uint32_t>(block + 12);
    constexpr std::uint32_t six = 0x3f3f3f3f, four = 0x0f0f0f0f, two = 0x30303030;
    const std::uint32_t words[4] = {low & six, (both & four) | (low >> 2 & two), low_least & six,
                                    (both >> 4 & four) | (low_least >> 2 & two)};
    Byte numbers[16];
    std::memcpy(numbers, words, sizeof numbers);
    float floats[16], scales[8], leasts[8];
    const Spread all(numbers);
#pragma GCC unroll 4
    for (int g = 0; g < Spread::count; ++g) {
      Spread::Words some;
      all.get(g, 0, 255, some);
      Spread::store(some, 1, floats + g * Spread::width);
    }
    for (int part = 0; part < 8; ++part) scales[part] = scale * floats[part];
    for (int part = 0; part < 8; ++part) leasts[part] = least * floats[8 + part];
    for (int at = 0; at < 32; at += 16) {
      const Spread fifth(has_fifth ? fifths + at : block);
#pragma GCC unroll 4
      for (int part = 0; part < 8; part += 2) {
        const Spread pair(nibbles + part * 16 + at);
#pragma GCC unroll 4
        for (int g = 0; g < Spread::count; ++g) {
#pragma GCC unroll 2
          for (int p = part; p < part + 2; ++p) {
            Spread::Words elements, fifth_bits;
            pair.get(g, p % 2 * 4, 15, elements);
            if constexpr (has_fifth) {
              fifth.get(g, p, 1, fifth_bits);
              elements |= fifth_bits << 4;
            }
            Spread::store(elements, scales[p], -leasts[p], out + p * 32 + at + g * Spread::width);
          }
        }
      }
    }
  }
};

/// Q6_K: 2 halves of 4 parts of 32 elements. A half has 64 bytes of nibbles, low ones for its first two parts, and 32
/// bytes of which part p has bits 2p and 2p + 1. 16 elements share a scale of 8 bits.
struct DecodeQ6K {
  void operator()(const Byte* __restrict block, float* __restrict out) const {
    const float scale = load_scale(block + 208);
    for (int half = 0; half < 2; ++half) {
      const Byte* const nibbles = block + half * 64;
      const Byte* const high_bits = block + 128 + half * 32;
      const Byte* const scales = block + 192 + half * 8;
      for (int at = 0; at < 32; at += 16) {
        const Spread high(high_bits + at), even(nibbles + at), odd(nibbles + 32 + at);
#pragma GCC unroll 4
        for (int part = 0; part < 4; ++part) {
          const float part_scale = scale * static_cast<float>(static_cast<std::int8_t>(scales[part * 2 + at / 16]));
#pragma GCC unroll 4
          for (int g = 0; g < Spread::count; ++g) {
            Spread::Words low_bits, two_bits;
            (part % 2 == 0 ? even : odd).get(g, part / 2 * 4, 15, low_bits);
            high.get(g, part * 2, 3, two_bits);
            Spread::store((low_bits | two_bits << 4) - 32U, part_scale,
                          out + half * 128 + part * 32 + at + g * Spread::width);
          }
        }
      }
    }
  }
};

template <BlockFormat format, class Decode>
void decode_each(Decode decode, const Byte* from, Index count, float* out) {
  constexpr BlockLayout layout = layout_of(format);
  for (Index i = 0; i < count; i += layout.elements, from += layout.bytes) decode(from, out + i);
}
/// Small blocks. Without an instruction for it the halves that they begin with are widened side by side, or that would
/// take longer than the rest.
template <BlockFormat format, class Decode>
void decode_small(Decode decode, const Byte* from, Index count, float* out) {
  constexpr BlockLayout layout = layout_of(format);
  constexpr int halves = Decode::halves;
#if defined(__AVX2__) && defined(__F16C__)
  for (Index i = 0; i < count; i += layout.elements, from += layout.bytes) {
    float widened[halves];
    for (int h = 0; h < halves; ++h) widened[h] = load_scale(from + 2 * h);
    decode(from, widened, out + i);
  }
#else
  constexpr int side_by_side = 16;
  while (count > 0) {
    const int blocks = static_cast<int>(std::min<Index>(side_by_side, count / layout.elements));
    std::uint16_t stored[side_by_side * halves] = {};
    for (int b = 0; b < blocks; ++b) std::memcpy(stored + b * halves, from + b * layout.bytes, 2 * halves);
    float widened[side_by_side * halves];
    for (int h = 0; h < side_by_side * halves; ++h) widened[h] = widen_half(stored[h]);
    for (int b = 0; b < blocks; ++b, from += layout.bytes, out += layout.elements)
      decode(from, widened + b * halves, out);
    count -= blocks * layout.elements;
  }
#endif
}

}  // namespace detail

/// Elements [first, first + count) of `bytes`, which begin with element 0, as floats; both numbers are multiples of the
/// format's elements a block. Nothing is allocated, and the result does not depend on how a run is cut.
inline void decode_blocks(BlockFormat format, const std::byte* bytes, Index first, Index count, float* out) {
  using detail::Byte, detail::decode_each, detail::decode_small;
  using enum BlockFormat;
  if (count == 0) return;
  const BlockLayout layout = layout_of(format);
  const Byte* const __restrict from = reinterpret_cast<const Byte*>(bytes) + first / layout.elements * layout.bytes;
  float* const __restrict to = out;
  switch (format) {
    case f32: std::memcpy(to, from, static_cast<std::size_t>(count) * sizeof(float)); return;
    case f16: return detail::decode_halves(from, count, to);
    case bf16:
      for (Index i = 0; i < count; ++i) to[i] = widen(detail::load<std::uint16_t>(from + 2 * i));
      return;
    case q8_0: return decode_small<q8_0>(detail::DecodeQ8{}, from, count, to);
    case q4_0: return decode_small<q4_0>(detail::DecodeNibbles<false, false>{}, from, count, to);
    case q4_1: return decode_small<q4_1>(detail::DecodeNibbles<false, true>{}, from, count, to);
    case q5_0: return decode_small<q5_0>(detail::DecodeNibbles<true, false>{}, from, count, to);
    case q5_1: return decode_small<q5_1>(detail::DecodeNibbles<true, true>{}, from, count, to);
    case q4_k: return decode_each<q4_k>(detail::DecodeK<false>{}, from, count, to);
    case q5_k: return decode_each<q5_k>(detail::DecodeK<true>{}, from, count, to);
    case q6_k: return decode_each<q6_k>(detail::DecodeQ6K{}, from, count, to);
  }
}

/// The same as another floating type, double or bfloat16.
template <class T>
void decode_blocks(BlockFormat format, const std::byte* bytes, Index first, Index count, T* out) {
  const auto elements = numbers(out);
  float tile[max_block_elements];
  for (Index at = 0; at < count; at += max_block_elements) {
    const Index n = std::min(max_block_elements, count - at);
    decode_blocks(format, bytes, first + at, n, tile);
    for (Index i = 0; i < n; ++i) elements[at + i] = static_cast<Accum<T>>(tile[i]);
  }
}

}}}  // namespace remat::kernels
