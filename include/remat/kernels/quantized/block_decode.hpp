// Blocks of quantized weights as floats.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <remat/core/numbers.hpp>
#include <remat/kernels/quantized/block_format.hpp>
#include <remat/kernels/quantized/half.hpp>

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

struct DecodeQ8 {
  void operator()(const Byte* __restrict block, float* __restrict out) const {
    const float scale = load_half(block);
    for (int i = 0; i < 32; ++i) out[i] = scale * static_cast<float>(static_cast<std::int8_t>(block[2 + i]));
  }
};

/// Q4_0, Q4_1, Q5_0, Q5_1: elements i and i + 16 share a byte; bit i of a word of 32 is the fifth of element i. Without
/// a least value elements are signed, stored with half their range added.
template <bool has_fifth, bool has_least>
struct DecodeNibbles {
  void operator()(const Byte* __restrict block, float* __restrict out) const {
    const float scale = load_half(block);
    float least = 0;
    if constexpr (has_least) least = load_half(block + 2);
    const Byte* const after = block + (has_least ? 4 : 2);
    const Byte* const nibbles = after + (has_fifth ? 4 : 0);
    const std::uint32_t fifth = has_fifth ? load<std::uint32_t>(after) : 0;
    const auto store = [&](int i, int number) {
      if constexpr (has_fifth) number |= static_cast<int>(((fifth >> i) & 1U) << 4);
      if constexpr (has_least)
        out[i] = scale * static_cast<float>(number) + least;
      else
        out[i] = scale * static_cast<float>(number - (has_fifth ? 16 : 8));
    };
    // GCC unrolls short loops whole, and then looks for results side by side; the longer loop it vectorizes as it is.
    if constexpr (has_fifth) {
      for (int i = 0; i < 16; ++i) store(i, nibbles[i] & 15), store(i + 16, nibbles[i] >> 4);
    } else {
      for (int i = 0; i < 16; ++i) store(i, nibbles[i] & 15);
      for (int i = 0; i < 16; ++i) store(i + 16, nibbles[i] >> 4);
    }
  }
};

/// Q4_K, Q5_K: 8 parts of 32 elements; two parts share 32 bytes of nibbles; bit p of 32 bytes is the fifth of part p.
/// 12 bytes hold 6 bits each of 8 scales and 8 leasts, those of parts 4 to 7 in two pieces.
template <bool has_fifth>
struct DecodeK {
  void operator()(const Byte* __restrict block, float* __restrict out) const {
    const float scale = load_half(block), least = load_half(block + 2);
    const Byte* const fifths = block + 16;
    const Byte* const nibbles = fifths + (has_fifth ? 32 : 0);
    for (int part = 0; part < 8; ++part) {
      const Byte* const pair = block + 4 + part % 4;  // byte 0 is of a scale, 4 of a least, 8 of both
      const int s = part < 4 ? pair[0] & 63 : (pair[8] & 15) | ((pair[0] >> 2) & 48);
      const int m = part < 4 ? pair[4] & 63 : (pair[8] >> 4) | ((pair[4] >> 2) & 48);
      const float part_scale = scale * static_cast<float>(s), part_least = least * static_cast<float>(m);
      const auto decode_part = part % 2 == 0 ? decode_half<0> : decode_half<4>;
      decode_part(nibbles + part / 2 * 32, fifths, 1 << part, part_scale, part_least, out + part * 32);
    }
  }
  // The shift is a constant, so that bytes are unpacked as bytes.
  template <int shift>
  static void decode_half(const Byte* __restrict nibbles, const Byte* __restrict fifths, int fifth_bit, float scale,
                          float least, float* __restrict out) {
    for (int i = 0; i < 32; ++i) {
      int number = (nibbles[i] >> shift) & 15;
      if constexpr (has_fifth) number |= (fifths[i] & fifth_bit) != 0 ? 16 : 0;
      out[i] = scale * static_cast<float>(number) - least;
    }
  }
};

/// Q6_K: 2 halves of 4 parts of 32 elements. A half has 64 bytes of nibbles, low ones for its first two parts, and 32
/// bytes of which part p has bits 2p and 2p + 1. 16 elements share a scale of 8 bits.
struct DecodeQ6K {
  void operator()(const Byte* __restrict block, float* __restrict out) const {
    const float scale = load_half(block + 208);
    for (int half = 0; half < 2; ++half) {
      const Byte* const nibbles = block + half * 64;
      const Byte* const high_bits = block + 128 + half * 32;
      const Byte* const scales = block + 192 + half * 8;
      decode_part<0>(nibbles, high_bits, scales, scale, out + half * 128);
      decode_part<1>(nibbles, high_bits, scales, scale, out + half * 128);
      decode_part<2>(nibbles, high_bits, scales, scale, out + half * 128);
      decode_part<3>(nibbles, high_bits, scales, scale, out + half * 128);
    }
  }
  template <int part>
  static void decode_part(const Byte* __restrict nibbles, const Byte* __restrict high_bits, const Byte* scales,
                          float scale, float* __restrict out) {
    const float first = scale * static_cast<float>(static_cast<std::int8_t>(scales[part * 2]));
    const float second = scale * static_cast<float>(static_cast<std::int8_t>(scales[part * 2 + 1]));
    for (int i = 0; i < 32; ++i) {
      const int low = (nibbles[part % 2 * 32 + i] >> (part / 2 * 4)) & 15;
      const int high = (high_bits[i] >> (2 * part)) & 3;
      out[part * 32 + i] = (i < 16 ? first : second) * static_cast<float>((low | (high << 4)) - 32);
    }
  }
};

template <BlockFormat format, class Decode>
void decode_each(Decode decode, const Byte* from, Index count, float* out) {
  constexpr BlockLayout layout = layout_of(format);
  for (Index i = 0; i < count; i += layout.elements, from += layout.bytes) decode(from, out + i);
}

}  // namespace detail

/// Elements [first, first + count) of `bytes`, which begin with element 0, as floats; both numbers are multiples of the
/// format's elements a block. Nothing is allocated, and the result does not depend on how a run is cut.
inline void decode_blocks(BlockFormat format, const std::byte* bytes, Index first, Index count, float* out) {
  using detail::Byte, detail::decode_each;
  using enum BlockFormat;
  if (count == 0) return;
  const BlockLayout layout = layout_of(format);
  const Byte* const __restrict from = reinterpret_cast<const Byte*>(bytes) + first / layout.elements * layout.bytes;
  float* const __restrict to = out;
  switch (format) {
    case f32: std::memcpy(to, from, static_cast<std::size_t>(count) * sizeof(float)); return;
    case f16:
      for (Index i = 0; i < count; ++i) to[i] = detail::load_half(from + 2 * i);
      return;
    case bf16:
      for (Index i = 0; i < count; ++i) to[i] = widen(detail::load<std::uint16_t>(from + 2 * i));
      return;
    case q8_0: return decode_each<q8_0>(detail::DecodeQ8{}, from, count, to);
    case q4_0: return decode_each<q4_0>(detail::DecodeNibbles<false, false>{}, from, count, to);
    case q4_1: return decode_each<q4_1>(detail::DecodeNibbles<false, true>{}, from, count, to);
    case q5_0: return decode_each<q5_0>(detail::DecodeNibbles<true, false>{}, from, count, to);
    case q5_1: return decode_each<q5_1>(detail::DecodeNibbles<true, true>{}, from, count, to);
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
