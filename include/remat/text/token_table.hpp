// Tokens by number and by text.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <remat/core/error.hpp>
#include <remat/text/tokenizer_tables.hpp>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace text::detail {

struct StringHash {
  using is_transparent = void;
  std::size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
};
using StringMap = std::unordered_map<std::string, TokenId, StringHash, std::equal_to<>>;

/// Each token has one number and one text; numbers may be left out.
class TokenTable {
 public:
  /// An `Error` where the number is taken, or the text unless `again`: then the first number stays that of the text.
  /// Numbers are bounded by the caller, who knows the file.
  void add(std::string_view text, TokenId id, bool again = false) {
    const auto at = static_cast<std::size_t>(id);
    if (at >= texts_.size()) texts_.resize(at + 1);
    require(!texts_[at].has_value(), "the tokens \"", texts_[at].value_or(""), "\" and \"", text,
            "\" have the same id ", id);
    const auto [entry, is_new] = ids_.try_emplace(std::string(text), id);
    require(is_new || again, "the token \"", text, "\" appears twice, with the ids ", entry->second, " and ", id);
    texts_[at] = text;
  }
  /// One above the largest number.
  TokenId size() const { return static_cast<TokenId>(texts_.size()); }
  /// How many tokens there are.
  std::size_t count() const { return ids_.size(); }
  std::optional<TokenId> find(std::string_view text) const {
    const auto found = ids_.find(text);
    return found == ids_.end() ? std::nullopt : std::optional(found->second);
  }
  /// The text of `id`, null where no token has that number.
  const std::string* text_of(TokenId id) const {
    if (id < 0 || id >= size() || !texts_[static_cast<std::size_t>(id)]) return nullptr;
    return &*texts_[static_cast<std::size_t>(id)];
  }
  const StringMap& ids() const { return ids_; }

 private:
  std::vector<std::optional<std::string>> texts_{};
  StringMap ids_{};
};

/// The tokens `<0x00>` to `<0xFF>`, -1 where there is none.
inline std::vector<TokenId> byte_tokens(const TokenTable& table) {
  static constexpr char digits[] = "0123456789ABCDEF";
  std::vector<TokenId> ids;
  for (unsigned byte = 0; byte < 256; ++byte)
    ids.push_back(table.find(std::string("<0x") + digits[byte >> 4] + digits[byte & 15] + '>').value_or(-1));
  return ids;
}

}}}  // namespace remat::text::detail
