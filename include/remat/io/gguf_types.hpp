// The types that a GGUF file names by numbers: those of values in its metadata, and those of tensors.
#pragma once

#include <cstdint>
#include <optional>
#include <remat/core/shape.hpp>
#include <remat/kernels/quantized/block_format.hpp>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace io {

/// How the elements of a stored tensor are encoded: `BlockFormat::q8_0`.
using BlockFormat = kernels::BlockFormat;

/// The type of a value in the metadata of a GGUF file; the numbers are the file's.
enum class GgufType : std::uint32_t {
  uint8,
  int8,
  uint16,
  int16,
  uint32,
  int32,
  float32,
  boolean,
  string,
  array,
  uint64,
  int64,
  float64
};
/// How many there are: a number from this on is none.
inline constexpr std::uint32_t gguf_types = 13;

/// Its name in errors: "uint32".
constexpr const char* name_of(GgufType type) {
  constexpr const char* names[] = {"uint8", "int8",   "uint16", "int16",  "uint32", "int32",  "float32",
                                   "bool",  "string", "array",  "uint64", "int64",  "float64"};
  return names[static_cast<int>(type)];
}
/// The least number of bytes that a value takes: all, but of a string and an array what comes before their contents.
constexpr std::size_t least_bytes_of(GgufType type) {
  constexpr std::size_t bytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 8, 12, 8, 8, 8};
  return bytes[static_cast<int>(type)];
}

/// The `GgufType` of a number, of bool, and of text.
template <class T>
constexpr GgufType gguf_type_of() {
  if constexpr (std::is_same_v<T, bool>) return GgufType::boolean;
  if constexpr (std::is_same_v<T, std::uint8_t>) return GgufType::uint8;
  if constexpr (std::is_same_v<T, std::int8_t>) return GgufType::int8;
  if constexpr (std::is_same_v<T, std::uint16_t>) return GgufType::uint16;
  if constexpr (std::is_same_v<T, std::int16_t>) return GgufType::int16;
  if constexpr (std::is_same_v<T, std::uint32_t>) return GgufType::uint32;
  if constexpr (std::is_same_v<T, std::int32_t>) return GgufType::int32;
  if constexpr (std::is_same_v<T, std::uint64_t>) return GgufType::uint64;
  if constexpr (std::is_same_v<T, std::int64_t>) return GgufType::int64;
  if constexpr (std::is_same_v<T, float>) return GgufType::float32;
  if constexpr (std::is_same_v<T, double>) return GgufType::float64;
  if constexpr (std::is_same_v<T, std::string> || std::is_same_v<T, std::string_view>) return GgufType::string;
}

/// The type of a stored tensor.
struct GgufTensorType {
  std::uint32_t code = 0;               // its number in the file
  std::string_view name = "F32";        // "Q4_K"
  Index block_elements = 1;             // elements of one block; a row is whole blocks
  Index block_bytes = 4;                // bytes of one block
  std::optional<BlockFormat> format{};  // how it is decoded; none where the library cannot
};

namespace detail {

constexpr GgufTensorType decoded_type(std::uint32_t code, BlockFormat format) {
  const kernels::BlockLayout layout = kernels::layout_of(format);
  return {code, layout.name, layout.elements, layout.bytes, format};
}

}  // namespace detail

/// All types that the format has today.
inline constexpr GgufTensorType gguf_tensor_types[] = {
    detail::decoded_type(0, BlockFormat::f32),
    detail::decoded_type(1, BlockFormat::f16),
    detail::decoded_type(2, BlockFormat::q4_0),
    detail::decoded_type(3, BlockFormat::q4_1),
    detail::decoded_type(6, BlockFormat::q5_0),
    detail::decoded_type(7, BlockFormat::q5_1),
    detail::decoded_type(8, BlockFormat::q8_0),
    {9, "Q8_1", 32, 40},
    {10, "Q2_K", 256, 84},
    {11, "Q3_K", 256, 110},
    detail::decoded_type(12, BlockFormat::q4_k),
    detail::decoded_type(13, BlockFormat::q5_k),
    detail::decoded_type(14, BlockFormat::q6_k),
    {15, "Q8_K", 256, 292},
    {16, "IQ2_XXS", 256, 66},
    {17, "IQ2_XS", 256, 74},
    {18, "IQ3_XXS", 256, 98},
    {19, "IQ1_S", 256, 50},
    {20, "IQ4_NL", 32, 18},
    {21, "IQ3_S", 256, 110},
    {22, "IQ2_S", 256, 82},
    {23, "IQ4_XS", 256, 136},
    {24, "I8", 1, 1},
    {25, "I16", 1, 2},
    {26, "I32", 1, 4},
    {27, "I64", 1, 8},
    {28, "F64", 1, 8},
    {29, "IQ1_M", 256, 56},
    detail::decoded_type(30, BlockFormat::bf16),
    {34, "TQ1_0", 256, 54},
    {35, "TQ2_0", 256, 66},
    {39, "MXFP4", 32, 17},
    {40, "NVFP4", 64, 36},
    {41, "Q1_0", 128, 18},
};

/// The type with this number in the file; null when there is none.
constexpr const GgufTensorType* find_gguf_tensor_type(std::uint32_t code) {
  for (const GgufTensorType& type : gguf_tensor_types)
    if (type.code == code) return &type;
  return nullptr;
}
/// The type whose blocks have this format.
constexpr const GgufTensorType& gguf_tensor_type_of(BlockFormat format) {
  const GgufTensorType* found = gguf_tensor_types;
  while (found->format != format) ++found;
  return *found;
}

}}}  // namespace remat::io
