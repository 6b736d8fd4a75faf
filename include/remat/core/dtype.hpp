// Element types.
#pragma once

#include <cstddef>
#include <cstdint>
#include <remat/core/config.hpp>
#include <type_traits>

namespace Eigen {
struct bfloat16;
}

namespace remat { inline namespace REMAT_ABI {

// Before the alias below, of which g++ would say that it is shadowed.
/// The type of a tensor's elements.
enum class DType : std::uint8_t { float32, float64, bfloat16, int8, uint8, int32, int64 };

/// Eigen's bfloat16; complete once <remat/core/eigen.hpp> is included.
using bfloat16 = Eigen::bfloat16;

/// The type in which a `T` is summed, normalized and averaged: float for bfloat16, else T.
template <class T>
using Accum = std::conditional_t<std::is_same_v<T, bfloat16>, float, T>;

/// The `DType` of `T`; only the seven above have one.
template <class T>
constexpr DType dtype_of() {
  if constexpr (std::is_same_v<T, float>) return DType::float32;
  if constexpr (std::is_same_v<T, double>) return DType::float64;
  if constexpr (std::is_same_v<T, bfloat16>) return DType::bfloat16;
  if constexpr (std::is_same_v<T, std::int8_t>) return DType::int8;
  if constexpr (std::is_same_v<T, std::uint8_t>) return DType::uint8;
  if constexpr (std::is_same_v<T, std::int32_t>) return DType::int32;
  if constexpr (std::is_same_v<T, std::int64_t>) return DType::int64;
}

/// Bytes of one element.
constexpr std::size_t size_of(DType dtype) {
  constexpr std::size_t bytes[] = {4, 8, 2, 1, 1, 4, 8};
  return bytes[static_cast<int>(dtype)];
}
/// Its name in errors and reports: "float32".
constexpr const char* name_of(DType dtype) {
  constexpr const char* names[] = {"float32", "float64", "bfloat16", "int8", "uint8", "int32", "int64"};
  return names[static_cast<int>(dtype)];
}
/// May it have a gradient? float32, float64 and bfloat16 may.
constexpr bool is_floating(DType dtype) { return dtype <= DType::bfloat16; }

}}  // namespace remat
