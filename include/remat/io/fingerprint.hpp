// A number that tells bytes from other bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <remat/core/config.hpp>
#include <span>
#include <string_view>

namespace remat { inline namespace REMAT_ABI { namespace io {

/// 64 bits of all that is added, in this order. Against accidents, not against people.
class Fingerprint {
 public:
  /// Bytes and how many they are.
  void add(std::span<const std::byte> bytes) {
    add_word(bytes.size());
    for (; bytes.size() >= sizeof(std::uint64_t); bytes = bytes.subspan(sizeof(std::uint64_t))) {
      std::uint64_t word = 0;
      std::memcpy(&word, bytes.data(), sizeof word);
      add_word(word);
    }
    std::uint64_t word = 0;
    for (const std::byte byte : bytes) word = word << 8 | std::to_integer<std::uint64_t>(byte);
    add_word(word);
  }
  /// Text and how long it is.
  void add(std::string_view text) { add(std::as_bytes(std::span(text.data(), text.size()))); }
  /// A number.
  void add(std::uint64_t number) { add_word(number); }
  /// What was added so far.
  std::uint64_t value() const { return value_; }

 private:
  // FNV-1a by words; its product moves bits up only, so that the upper ones are brought down.
  void add_word(std::uint64_t word) {
    value_ = (value_ ^ word) * 0x9E3779B97F4A7C15U;
    value_ ^= value_ >> 32;
  }

  std::uint64_t value_ = 0xCBF29CE484222325U;
};

}}}  // namespace remat::io
