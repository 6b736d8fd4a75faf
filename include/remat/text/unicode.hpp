// What tokenizers ask of Unicode: classes of characters, lower case, normal forms, repair. The tables are utf8proc's.
#pragma once

#include <utf8proc.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <remat/core/error.hpp>
#include <remat/core/utf8.hpp>
#include <string>
#include <string_view>

namespace remat { inline namespace REMAT_ABI { namespace text {

/// The normal forms of Unicode.
enum class NormalForm {
  nfc,   // composed
  nfd,   // decomposed
  nfkc,  // compatible, composed
  nfkd   // compatible, decomposed
};

namespace detail {

namespace utf8 = data::utf8;

inline bool is_ascii(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x80; });
}

inline utf8proc_category_t category(char32_t c) { return utf8proc_category(static_cast<utf8proc_int32_t>(c)); }

/// The property White_Space.
inline bool is_white_space(char32_t c) {
  return (c >= 9 && c <= 13) || c == ' ' || c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) ||
         c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

/// Decimal digits, letters that are numbers, other numbers.
inline bool is_numeric(char32_t c) {
  if (c < 0x80) return c >= '0' && c <= '9';
  const auto kind = category(c);
  return kind == UTF8PROC_CATEGORY_ND || kind == UTF8PROC_CATEGORY_NL || kind == UTF8PROC_CATEGORY_NO;
}

/// Punctuation, and what of ASCII is printed and neither letter nor digit nor space.
inline bool is_punctuation(char32_t c) {
  if (c < 0x80)
    return (c >= '!' && c <= '/') || (c >= ':' && c <= '@') || (c >= '[' && c <= '`') || (c >= '{' && c <= '~');
  const auto kind = category(c);
  return kind >= UTF8PROC_CATEGORY_PC && kind <= UTF8PROC_CATEGORY_PO;
}

inline bool is_mark(char32_t c) {
  const auto kind = category(c);
  return kind >= UTF8PROC_CATEGORY_MN && kind <= UTF8PROC_CATEGORY_ME;
}

/// `\w` of Unicode's rules for regular expressions: alphabetic, marks, decimal digits, connectors, joiners.
inline bool is_word(char32_t c) {
  if (c < 0x80) return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || c == '_' || (c >= 'a' && c <= 'z');
  const auto kind = category(c);
  return (kind >= UTF8PROC_CATEGORY_LU && kind <= UTF8PROC_CATEGORY_NL) || kind == UTF8PROC_CATEGORY_PC ||
         c == 0x200C || c == 0x200D || (c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) ||
         (c >= 0x1F150 && c <= 0x1F169) || (c >= 0x1F170 && c <= 0x1F189);
}

/// Appends the lower case of `c`, which is one character but for one.
inline void append_lower(std::string& text, char32_t c) {
  if (c == 0x130) {  // I with a dot: i and the dot
    text += "i\xCC\x87";
  } else {
    utf8::append(text, static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c))));
  }
}

/// `f(c)` for each code point of valid UTF-8.
template <class F>
void each_code_point(std::string_view text, F&& f) {
  for (std::size_t at = 0; at < text.size();) f(utf8::next(text, at));
}

/// The code points that `keep` keeps.
template <class F>
std::string filtered(std::string_view text, F&& keep) {
  std::string kept;
  kept.reserve(text.size());
  each_code_point(text, [&](char32_t c) {
    if (keep(c)) utf8::append(kept, c);
  });
  return kept;
}

inline std::string lower_case(std::string_view text) {
  std::string lower;
  lower.reserve(text.size());
  each_code_point(text, [&](char32_t c) { append_lower(lower, c); });
  return lower;
}

inline std::string normal_form(std::string_view text, NormalForm form) {
  if (is_ascii(text)) return std::string(text);
  const bool composes = form == NormalForm::nfc || form == NormalForm::nfkc;
  const bool is_compatible = form == NormalForm::nfkc || form == NormalForm::nfkd;
  const int options =
      UTF8PROC_STABLE | (composes ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE) | (is_compatible ? UTF8PROC_COMPAT : 0);
  utf8proc_uint8_t* made = nullptr;
  const auto length =
      utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()), static_cast<utf8proc_ssize_t>(text.size()),
                   &made, static_cast<utf8proc_option_t>(options));
  const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owner(made, &std::free);
  require(length >= 0, "text: cannot be normalized: ", utf8proc_errmsg(length));
  return std::string(reinterpret_cast<const char*>(made), static_cast<std::size_t>(length));
}

/// How many bytes from `at` on begin a code point that may still become whole: 0 to 3. At least 1 is never whole, so
/// that the longest such beginning is replaced by one U+FFFD, as Unicode recommends.
inline std::size_t unfinished_length(std::string_view bytes, std::size_t at) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(bytes[i]); };
  const unsigned first = byte(at);
  if (first < 0xC2 || first > 0xF4) return 0;
  const std::size_t whole = first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
  std::size_t length = 1;
  for (; length < whole && at + length < bytes.size(); ++length) {
    const unsigned low = length > 1 ? 0x80 : first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;
    const unsigned high = length > 1 ? 0xBF : first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;
    if (byte(at + length) < low || byte(at + length) > high) break;
  }
  return length;
}

/// The text with U+FFFD for what is no code point.
inline std::string repaired(std::string_view bytes) {
  std::string text;
  text.reserve(bytes.size());
  for (std::size_t at = 0; at < bytes.size();) {
    const std::size_t begin = at;
    if (utf8::next(bytes, at) != utf8::invalid) {
      text.append(bytes, begin, at - begin);
    } else {
      text += "\xEF\xBF\xBD";
      at = begin + std::max<std::size_t>(1, unfinished_length(bytes, begin));
    }
  }
  return text;
}

/// Where the first byte is that is no part of a code point; the size if there is none.
inline std::size_t first_invalid(std::string_view bytes) {
  for (std::size_t at = 0; at < bytes.size();) {
    const std::size_t begin = at;
    if (static_cast<unsigned char>(bytes[at]) < 0x80)
      ++at;
    else if (utf8::next(bytes, at) == utf8::invalid)
      return begin;
  }
  return bytes.size();
}

}  // namespace detail

}}}  // namespace remat::text
