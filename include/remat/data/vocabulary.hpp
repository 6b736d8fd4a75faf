// Characters to tokens and back.
#pragma once

#include <algorithm>
#include <cstdint>
#include <iomanip>
#include <remat/core/shape.hpp>
#include <remat/data/utf8.hpp>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace data {

/// A sorted set of characters, each numbered by its rank. A character is a code point of UTF-8, or a byte.
class Vocabulary {
 public:
  /// The characters that `text` has: its code points if it is valid UTF-8, else its bytes.
  static Vocabulary of(std::string_view text) {
    const bool is_utf8 = utf8::valid(text);
    std::vector<bool> seen;  // up to the last character: short texts are many
    std::vector<char32_t> characters;
    each_character(text, is_utf8, [&](char32_t c) {
      if (c >= seen.size()) seen.resize(c + 1);
      if (!seen[c]) characters.push_back(c);
      seen[c] = true;
    });
    std::sort(characters.begin(), characters.end());
    return Vocabulary(std::move(characters), is_utf8);
  }
  /// All 256 bytes; a token is the byte's value.
  static Vocabulary bytes() {
    std::vector<char32_t> all(256);
    for (char32_t c = 0; c < 256; ++c) all[c] = c;
    return Vocabulary(std::move(all), false);
  }

  /// The number of characters.
  Index size() const { return static_cast<Index>(characters_.size()); }

  /// One token a character. An `Error` names the first character that the vocabulary lacks.
  std::vector<std::int32_t> encode(std::string_view text) const {
    require(!is_utf8_ || utf8::valid(text), "vocabulary: the text to encode is not valid UTF-8");
    std::vector<std::int32_t> tokens;
    tokens.reserve(text.size());
    each_character(text, is_utf8_, [&](char32_t c) {
      const std::int32_t token = c < tokens_.size() ? tokens_[c] : -1;
      if (token < 0) [[unlikely]]
        fail("vocabulary: ", name(c), " is not among the ", size(), " known characters; leave it out");
      tokens.push_back(token);
    });
    return tokens;
  }
  /// The text of the tokens. An `Error` names a token that is not in [0, size).
  std::string decode(std::span<const std::int32_t> tokens) const {
    std::string text;
    text.reserve(tokens.size());
    for (const std::int32_t token : tokens) {
      require(token >= 0 && token < size(), "vocabulary: token ", token, " is not in [0, ", size(), ")");
      append(text, characters_[static_cast<std::size_t>(token)]);
    }
    return text;
  }

 private:
  Vocabulary(std::vector<char32_t> characters, bool is_utf8) : is_utf8_(is_utf8), characters_(std::move(characters)) {
    if (!characters_.empty()) tokens_.assign(characters_.back() + 1, -1);
    for (std::size_t i = 0; i < characters_.size(); ++i) tokens_[characters_[i]] = static_cast<std::int32_t>(i);
  }

  template <class F>
  static void each_character(std::string_view text, bool is_utf8, F&& f) {
    for (std::size_t at = 0; at < text.size();)
      f(is_utf8 ? utf8::next(text, at) : static_cast<char32_t>(static_cast<unsigned char>(text[at++])));
  }
  void append(std::string& text, char32_t c) const {
    if (is_utf8_)
      utf8::append(text, c);
    else
      text += static_cast<char>(c);
  }
  // `character "é" (U+00E9)`; control characters by number only.
  std::string name(char32_t c) const {
    std::ostringstream text;
    text << (is_utf8_ ? "character " : "byte ");
    std::string shown;
    append(shown, c);
    if (c >= ' ' && c != 0x7F && (is_utf8_ || c < 0x7F)) text << '"' << shown << "\" ";
    text << (is_utf8_ ? "(U+" : "(0x") << std::hex << std::uppercase << std::setfill('0') << std::setw(is_utf8_ ? 4 : 2)
         << static_cast<std::uint32_t>(c) << ')';
    return text.str();
  }

  bool is_utf8_;
  std::vector<char32_t> characters_;    // by token
  std::vector<std::int32_t> tokens_{};  // by character, -1: none
};

}}}  // namespace remat::data
