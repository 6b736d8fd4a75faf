// Text from tokens that come one by one.
#pragma once

#include <algorithm>
#include <cstddef>
#include <remat/text/tokenizer.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace text {

/// Is fed tokens and gives the text that each adds, never half a character: bytes of one that may still become whole
/// are held back. All texts together are what `Tokenizer::decode` makes of all tokens.
class StreamDecoder {
 public:
  /// Keeps a copy of the tokenizer, which shares what was loaded.
  explicit StreamDecoder(Tokenizer tokenizer, const DecodeOptions& options = {})
      : tokenizer_(std::move(tokenizer)), options_(options) {}

  /// The text that is certain now and was not before; often empty. An `Error` where `id` is no token.
  std::string push(TokenId id) {
    tokenizer_.token_of(id);
    window_.push_back(id);
    std::string text = tokenizer_.decode(window_, options_);
    // A character has 4 bytes at most: after 8 tokens nothing is going to become whole.
    const bool may_grow = text.size() >= 3 && text.compare(text.size() - 3, 3, "\xEF\xBF\xBD") == 0;
    if (may_grow && window_.size() - given_ < 8) return {};
    if (text.size() <= shown_.size()) return {};
    std::string fresh = behind_shown(text);
    // What was given last stays as the beginning of the next: whether a token follows another may change its text.
    window_.erase(window_.begin(), window_.begin() + static_cast<std::ptrdiff_t>(given_));
    given_ = window_.size();
    shown_ = tokenizer_.decode(window_, options_);
    return fresh;
  }
  /// What was held back, as it is. Then another text may begin.
  std::string finish() {
    std::string fresh = behind_shown(tokenizer_.decode(window_, options_));
    window_.clear();
    shown_.clear();
    given_ = 0;
    return fresh;
  }

 private:
  std::string behind_shown(std::string_view text) const {
    const auto differs = std::mismatch(shown_.begin(), shown_.end(), text.begin(), text.end()).first;
    auto same = static_cast<std::size_t>(differs - shown_.begin());
    while (same > 0 && same < text.size() && (static_cast<unsigned char>(text[same]) & 0xC0U) == 0x80U) --same;
    return std::string(text.substr(same));
  }

  Tokenizer tokenizer_;
  DecodeOptions options_;
  std::vector<TokenId> window_{};  // the last tokens
  std::size_t given_ = 0;          // of the window: those whose text was given
  std::string shown_{};            // their text
};

}}}  // namespace remat::text
