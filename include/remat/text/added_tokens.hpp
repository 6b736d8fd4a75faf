// Tokens that are found in the text before anything else, such as <|endoftext|>.
#pragma once

#include <algorithm>
#include <cstddef>
#include <remat/text/normalizer.hpp>
#include <remat/text/token_table.hpp>
#include <remat/text/trie.hpp>
#include <remat/text/unicode.hpp>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace text {

/// A token that is looked for in the text as a whole.
struct AddedToken {
  std::string content{};     // its text
  TokenId id = 0;            // its number
  bool special = false;      // for the model, not for readers: `skip_special_tokens` leaves it out
  bool single_word = false;  // only where no word character is beside it
  bool lstrip = false;       // takes the white space before it
  bool rstrip = false;       // takes the white space behind it
  bool normalized = false;   // looked for in the normalized text, itself normalized
};

namespace detail {

/// A part of the text: an added token, or text between them (-1).
struct AddedPart {
  std::size_t begin = 0, end = 0;
  TokenId id = -1;
};

class AddedTokens {
 public:
  AddedTokens() = default;
  AddedTokens(const std::vector<AddedToken>& tokens, const Normalizer& normalizer) {
    for (const AddedToken& token : tokens) {
      const std::string shape = token.normalized ? normalizer(token.content) : token.content;
      if (shape.empty()) continue;
      Finder& finder = token.normalized ? in_normalized_ : in_raw_;
      finder.trie.add(shape, token.id);
      finder.can_begin[static_cast<unsigned char>(shape.front())] = true;
      finder.is_empty = false;
      by_id_[token.id] = token;
      if (shape != token.content) shapes_[token.id] = shape;
    }
  }

  bool is_special(TokenId id) const {
    const auto found = by_id_.find(id);
    return found != by_id_.end() && found->second.special;
  }
  /// How a token is written that is looked for in another shape than its own; null for all others.
  const std::string* shape_of(TokenId id) const {
    const auto found = shapes_.find(id);
    return found == shapes_.end() ? nullptr : &found->second;
  }
  std::vector<AddedPart> in_raw(std::string_view text, bool with_special) const {
    return parts(in_raw_, text, with_special);
  }
  std::vector<AddedPart> in_normalized(std::string_view text, bool with_special) const {
    return parts(in_normalized_, text, with_special);
  }

 private:
  struct Finder {
    Trie trie{};
    std::vector<bool> can_begin = std::vector<bool>(256);
    bool is_empty = true;
  };

  // From left to right the longest token at the first place that has one. Parts cover the text in order.
  std::vector<AddedPart> parts(const Finder& finder, std::string_view text, bool with_special) const {
    if (finder.is_empty) return {{0, text.size(), -1}};
    std::vector<AddedPart> found;
    std::size_t done = 0;
    for (std::size_t at = 0; at < text.size();) {
      AddedPart match{at, at, -1};
      if (finder.can_begin[static_cast<unsigned char>(text[at])])
        finder.trie.each_prefix(text.substr(at), [&](TokenId id, std::size_t length) {
          match.id = id;
          match.end = at + length;
        });
      if (match.id < 0) {
        ++at;
        continue;
      }
      at = match.end;
      const AddedToken& token = by_id_.at(match.id);
      if (token.special && !with_special) continue;
      if (token.single_word && (word_before(text, match.begin) || word_behind(text, match.end))) continue;
      if (token.lstrip) match.begin = std::max(done, spaces_before(text, match.begin));
      if (token.rstrip) match.end = spaces_behind(text, match.end);
      if (done < match.begin) found.push_back({done, match.begin, -1});
      found.push_back(match);
      done = match.end;
    }
    if (done < text.size()) found.push_back({done, text.size(), -1});
    return found;
  }

  // Where the code point in front of `at` begins.
  static std::size_t step_back(std::string_view text, std::size_t at) {
    do --at;
    while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xC0U) == 0x80U);
    return at;
  }
  static bool word_before(std::string_view text, std::size_t at) {
    if (at == 0) return false;
    std::size_t begin = step_back(text, at);
    return is_word(utf8::next(text, begin));
  }
  static bool word_behind(std::string_view text, std::size_t at) {
    return at < text.size() && is_word(utf8::next(text, at));
  }
  static std::size_t spaces_before(std::string_view text, std::size_t at) {
    while (at > 0) {
      const std::size_t begin = step_back(text, at);
      std::size_t end = begin;
      if (!is_white_space(utf8::next(text, end))) break;
      at = begin;
    }
    return at;
  }
  static std::size_t spaces_behind(std::string_view text, std::size_t at) {
    for (std::size_t end = at; end < text.size() && is_white_space(utf8::next(text, end));) at = end;
    return at;
  }

  Finder in_raw_{}, in_normalized_{};
  std::unordered_map<TokenId, AddedToken> by_id_{};
  std::unordered_map<TokenId, std::string> shapes_{};
};

}  // namespace detail

}}}  // namespace remat::text
