// Formats of quantized weights, as GGUF files store them: blocks of a few elements with scales of their own.
#pragma once

#include <cstdint>
#include <remat/core/shape.hpp>

namespace remat { inline namespace REMAT_ABI { namespace kernels {

/// How elements are stored. "q4": 4 bits each; "_0": one scale a block; "_1": a scale and a least value; "_k": blocks
/// of 256 whose parts have scales of a few bits.
enum class BlockFormat : std::uint8_t { f32, f16, bf16, q8_0, q4_0, q4_1, q5_0, q5_1, q4_k, q5_k, q6_k };

/// What all blocks of one format have in common.
struct BlockLayout {
  const char* name = nullptr;     // "Q4_K", as the program that made the format writes it
  Index elements = 0, bytes = 0;  // of one block
  friend bool operator==(const BlockLayout&, const BlockLayout&) = default;
};

/// The most elements that a block has; every other block's number of elements divides it.
inline constexpr Index max_block_elements = 256;

namespace detail {

/// Of all formats, in their order.
inline constexpr BlockLayout block_layouts[] = {
    {"F32", 1, 4},                         // a float
    {"F16", 1, 2},                         // a half
    {"BF16", 1, 2},                        // a bfloat16
    {"Q8_0", 32, 2 + 32},                  // scale; bytes
    {"Q4_0", 32, 2 + 16},                  // scale; 4 bits
    {"Q4_1", 32, 2 + 2 + 16},              // scale, least; 4 bits
    {"Q5_0", 32, 2 + 4 + 16},              // scale; fifth bits; 4 bits
    {"Q5_1", 32, 2 + 2 + 4 + 16},          // scale, least; fifth bits; 4 bits
    {"Q4_K", 256, 2 + 2 + 12 + 128},       // scales of scales and of leasts; these; 4 bits
    {"Q5_K", 256, 2 + 2 + 12 + 32 + 128},  // the same, with fifth bits
    {"Q6_K", 256, 128 + 64 + 16 + 2},      // 4 bits; 2 bits; scales; their scale
};
}  // namespace detail

/// Name, elements and bytes of the blocks of a format.
constexpr BlockLayout layout_of(BlockFormat format) { return detail::block_layouts[static_cast<int>(format)]; }
/// Its name: "Q4_K".
constexpr const char* name_of(BlockFormat format) { return layout_of(format).name; }

}}}  // namespace remat::kernels
