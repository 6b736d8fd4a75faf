// What optimizers keep for each element from step to step: numbers of the parameter's type, or of bfloat16.
#pragma once

#include <bit>
#include <cstdint>
#include <remat/core/shape.hpp>
#include <string_view>
#include <type_traits>

namespace remat { inline namespace REMAT_ABI { namespace optim::detail {

/// 32 well mixed bits of 32 (the finalizer of MurmurHash3).
constexpr std::uint32_t mixed(std::uint32_t x) {
  x = (x ^ (x >> 16)) * 0x85ebca6bU;
  x = (x ^ (x >> 13)) * 0xc2b2ae35U;
  return x ^ (x >> 16);
}

/// Chance for one parameter in one step: the same for the same path, step and element, whoever computes it.
struct Chance {
  std::uint32_t key = 0;

  Chance() = default;
  Chance(std::string_view path, double steps) {
    for (const char c : path) key = mixed(key + static_cast<unsigned char>(c) + 0x9e3779b9U);
    key = mixed(key + static_cast<std::uint32_t>(steps));
  }
  std::uint32_t of(Index element) const { return mixed(static_cast<std::uint32_t>(element) * 0x9e3779b1U + key); }
};

/// The upper half of a float, rounded up as often as the 16 bits of `chance` say: right on average, so that changes far
/// below bfloat16's last bit are not lost. Infinities and NaN stay what they are.
inline std::uint16_t rounded_by_chance(float value, std::uint32_t chance) {
  const auto bits = std::bit_cast<std::uint32_t>(value), size = bits & 0x7fffffffU;
  const std::uint32_t up = size < 0x7f800000U ? chance & 0xffffU : 0U, quiet = size > 0x7f800000U ? 0x00400000U : 0U;
  return static_cast<std::uint16_t>(((bits + up) | quiet) >> 16);
}

/// The numbers kept for the elements of a parameter of T: as T, or as the bits of bfloat16.
template <class T, class Stored>
struct KeptMeans {
  Stored* data = nullptr;

  T read(Index i) const {
    if constexpr (std::is_same_v<Stored, T>)
      return data[i];
    else
      return std::bit_cast<float>(static_cast<std::uint32_t>(data[i]) << 16);
  }
  void write(Index i, T value, [[maybe_unused]] std::uint32_t chance) const {
    if constexpr (std::is_same_v<Stored, T>)
      data[i] = value;
    else
      data[i] = rounded_by_chance(value, chance);
  }
};

}}}  // namespace remat::optim::detail
