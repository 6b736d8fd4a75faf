// UTF-8, as RFC 3629 has it: shortest forms only, no surrogates, nothing above U+10FFFF. In core, since texts and
// tokenizers read it.
#pragma once

#include <cstddef>
#include <remat/core/config.hpp>
#include <string>
#include <string_view>

namespace remat { inline namespace REMAT_ABI { namespace data::utf8 {

/// One behind the last, U+10FFFF.
inline constexpr char32_t end_of_code_points = 0x110000;
/// What `next` gives for bytes that are no code point.
inline constexpr char32_t invalid = 0xFFFFFFFF;

/// The code point at `at`, which moves behind it; `invalid`, and one byte further, where there is none.
inline char32_t next(std::string_view text, std::size_t& at) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned first = byte(at);
  const std::size_t length = first < 0x80   ? 1
                             : first < 0xC2 ? 0
                             : first < 0xE0 ? 2
                             : first < 0xF0 ? 3
                             : first < 0xF5 ? 4
                                            : 0;
  const std::size_t begin = at++;
  if (length == 1) return first;
  if (length == 0 || text.size() - begin < length) return invalid;
  char32_t c = first & (0x7FU >> length);
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte(begin + i) & 0xC0U) != 0x80U) return invalid;
    c = (c << 6) | (byte(begin + i) & 0x3FU);
  }
  constexpr char32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
  if (c < least[length] || c >= end_of_code_points || (c >= 0xD800 && c < 0xE000)) return invalid;
  at = begin + length;
  return c;
}

/// Is every byte part of a code point?
inline bool valid(std::string_view text) {
  for (std::size_t at = 0; at < text.size();)
    if (next(text, at) == invalid) return false;
  return true;
}

/// Appends a valid code point.
inline void append(std::string& text, char32_t c) {
  const auto put = [&](char32_t byte) { text += static_cast<char>(byte); };
  if (c < 0x80) return put(c);
  if (c < 0x800) {
    put(0xC0 | (c >> 6));
  } else {
    if (c < 0x10000) {
      put(0xE0 | (c >> 12));
    } else {
      put(0xF0 | (c >> 18));
      put(0x80 | ((c >> 12) & 0x3F));
    }
    put(0x80 | ((c >> 6) & 0x3F));
  }
  put(0x80 | (c & 0x3F));
}

}}}  // namespace remat::data::utf8
