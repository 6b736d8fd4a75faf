// Bytes as printable characters, as GPT-2 writes its tokens: "Ġthe" is " the".
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <remat/core/utf8.hpp>
#include <string>
#include <string_view>

namespace remat { inline namespace REMAT_ABI { namespace text::detail {

/// The character of each byte: itself where it is printed in Latin-1, else the next free one from U+0100 on.
struct ByteAlphabet {
  std::array<char32_t, 256> character_of{};
  std::array<std::int16_t, 0x144> byte_of{};  // -1: none

  constexpr ByteAlphabet() {
    for (auto& byte : byte_of) byte = -1;
    char32_t next = 0x100;
    for (std::size_t b = 0; b < 256; ++b) {
      const bool is_printed = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
      character_of[b] = is_printed ? static_cast<char32_t>(b) : next++;
      byte_of[character_of[b]] = static_cast<std::int16_t>(b);
    }
  }
};
inline constexpr ByteAlphabet byte_alphabet;

/// The bytes as characters.
inline std::string to_byte_characters(std::string_view bytes) {
  std::string text;
  text.reserve(bytes.size() + bytes.size() / 4);
  for (const char byte : bytes) data::utf8::append(text, byte_alphabet.character_of[static_cast<unsigned char>(byte)]);
  return text;
}

/// The bytes that the characters stand for; nothing where one stands for none.
inline std::optional<std::string> from_byte_characters(std::string_view text) {
  std::string bytes;
  bytes.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) {
    const char32_t c = data::utf8::next(text, at);
    if (c >= byte_alphabet.byte_of.size() || byte_alphabet.byte_of[c] < 0) return std::nullopt;
    bytes += static_cast<char>(byte_alphabet.byte_of[c]);
  }
  return bytes;
}

}}}  // namespace remat::text::detail
