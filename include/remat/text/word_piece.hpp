// WordPiece: from left to right the longest token that fits (Devlin et al. 2018).
#pragma once

#include <algorithm>
#include <cstddef>
#include <remat/text/token_table.hpp>
#include <remat/text/trie.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace text::detail {

class WordPiece {
 public:
  /// `prefix`, "##", marks tokens that continue a word. A word of more characters than `longest` is unknown.
  WordPiece(const TokenTable& table, std::string_view prefix, TokenId unknown, std::size_t longest)
      : unknown_(unknown), longest_(longest) {
    for (const auto& [text, id] : table.ids()) {
      if (!text.empty()) begins_.add(text, id);
      if (text.size() > prefix.size() && text.compare(0, prefix.size(), prefix) == 0)
        continues_.add(std::string_view(text).substr(prefix.size()), id);
    }
  }

  /// Appends the tokens of a word.
  void operator()(std::string_view word, std::vector<TokenId>& out) const {
    const std::size_t before = out.size();
    const auto is_first_byte = [](char byte) { return (static_cast<unsigned char>(byte) & 0xC0U) != 0x80U; };
    bool is_known = static_cast<std::size_t>(std::count_if(word.begin(), word.end(), is_first_byte)) <= longest_;
    for (std::size_t at = 0; is_known && at < word.size();) {
      TokenId id = -1;
      std::size_t length = 0;
      (at == 0 ? begins_ : continues_).each_prefix(word.substr(at), [&](TokenId found, std::size_t of) {
        id = found;
        length = of;
      });
      is_known = id >= 0;
      out.push_back(id);
      at += length;
    }
    if (is_known) return;
    out.resize(before);
    out.push_back(unknown_);
  }

 private:
  Trie begins_{}, continues_{};
  TokenId unknown_;
  std::size_t longest_;
};

}}}  // namespace remat::text::detail
