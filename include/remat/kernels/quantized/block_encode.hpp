// Floats as blocks: the formats that files are written in.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <remat/core/numbers.hpp>
#include <remat/kernels/quantized/block_format.hpp>
#include <remat/kernels/quantized/half.hpp>

namespace remat { inline namespace REMAT_ABI { namespace kernels {

namespace detail {

/// The scale is the greatest magnitude / 127 as a half; elements are divided by it as a float and rounded, halves away
/// from zero. What is then no number of 8 bits, since a value or the scale is beyond measure, becomes 0.
inline void encode_q8_0(const float* __restrict x, std::uint8_t* __restrict block) {
  std::uint32_t greatest = 0;  // by bits, where a NaN is above all
  for (int i = 0; i < 32; ++i) greatest = std::max(greatest, std::bit_cast<std::uint32_t>(x[i]) & 0x7fffffffU);
  const float scale = std::bit_cast<float>(greatest) / 127.0F;
  const float inverse = scale == 0 ? 0.0F : 1.0F / scale;
  const std::uint16_t half = narrow_half(scale);
  std::memcpy(block, &half, sizeof half);
  for (int i = 0; i < 32; ++i) {
    const auto product = std::bit_cast<std::uint32_t>(x[i] * inverse);
    // The magnitude by its bits: no compiler fuses the product with the difference below, so a half stays a half.
    const std::uint32_t bits = product & 0x7fffffffU;
    const float magnitude = std::bit_cast<float>(select(bits < 0x43000000U, bits, 0U));  // below 128, or 0
    const int whole = static_cast<int>(magnitude);
    const int rounded = whole + static_cast<int>(magnitude - static_cast<float>(whole) >= 0.5F);
    const int sign = -static_cast<int>(product >> 31);
    block[2 + i] = static_cast<std::uint8_t>((rounded ^ sign) - sign);
  }
}

}  // namespace detail

/// Can `encode_blocks` write the format?
constexpr bool can_encode(BlockFormat format) { return format <= BlockFormat::q8_0; }

/// x[0 .. count) in the format, which is one that can be encoded, at `out`; `count` is a multiple of its elements a
/// block. F16 and BF16 are rounded to nearest even, Q8_0 as the format's reference does.
inline void encode_blocks(BlockFormat format, const float* x, Index count, std::byte* out) {
  const auto store_each = [=](auto&& convert) {
    for (Index i = 0; i < count; ++i) {
      const std::uint16_t bits = convert(x[i]);
      std::memcpy(out + 2 * i, &bits, sizeof bits);
    }
  };
  if (count == 0) return;
  switch (format) {
    case BlockFormat::f32: std::memcpy(out, x, static_cast<std::size_t>(count) * sizeof(float)); return;
    case BlockFormat::f16: return store_each([](float value) { return narrow_half(value); });
    case BlockFormat::bf16: return store_each([](float value) { return narrow(value); });
    case BlockFormat::q8_0: {
      constexpr BlockLayout layout = layout_of(BlockFormat::q8_0);
      for (Index i = 0; i < count; i += layout.elements)
        detail::encode_q8_0(x + i, reinterpret_cast<std::uint8_t*>(out + i / layout.elements * layout.bytes));
      return;
    }
    default: return;
  }
}

}}}  // namespace remat::kernels
