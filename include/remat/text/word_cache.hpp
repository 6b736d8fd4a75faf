// Words that were encoded before, since texts are made of few.
#pragma once

#include <cstdint>
#include <functional>
#include <remat/text/token_table.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace text::detail {

/// Short words and their tokens, in arrays that are emptied when they are full: some 10 MB at most.
class WordCache {
 public:
  /// Appends the tokens of `word`, made by `encode(word, out)` where they are not known.
  template <class Encode>
  void append(std::string_view word, std::vector<TokenId>& out, Encode&& encode) {
    if (word.size() > longest) return encode(word, out);
    if (slots_.empty()) slots_.resize(2 * most);
    const std::size_t hash = std::hash<std::string_view>()(word);
    std::size_t at = hash & (slots_.size() - 1);
    for (; slots_[at].is_used; at = (at + 1) & (slots_.size() - 1)) {
      const Slot& slot = slots_[at];
      if (slot.hash != static_cast<std::uint32_t>(hash >> 32) || text(slot) != word) continue;
      const auto first = ids_.begin() + slot.first_id;
      out.insert(out.end(), first, first + slot.ids);
      return;
    }
    const std::size_t before = out.size();
    encode(word, out);
    if (count_ == most) {
      slots_.assign(slots_.size(), {});
      texts_.clear();
      ids_.clear();
      count_ = 0;
      at = hash & (slots_.size() - 1);
    }
    slots_[at] = {true,
                  static_cast<std::uint8_t>(word.size()),
                  static_cast<std::uint8_t>(out.size() - before),
                  static_cast<std::uint32_t>(hash >> 32),
                  static_cast<std::uint32_t>(texts_.size()),
                  static_cast<std::uint32_t>(ids_.size())};
    texts_ += word;
    ids_.insert(ids_.end(), out.begin() + static_cast<std::ptrdiff_t>(before), out.end());
    ++count_;
  }

 private:
  static constexpr std::size_t longest = 64;  // bytes, and so tokens
  static constexpr std::size_t most = std::size_t{1} << 16;
  struct Slot {
    bool is_used = false;
    std::uint8_t length = 0, ids = 0;
    std::uint32_t hash = 0, begin = 0, first_id = 0;
  };
  std::string_view text(const Slot& slot) const { return std::string_view(texts_).substr(slot.begin, slot.length); }

  std::vector<Slot> slots_{};
  std::string texts_{};
  std::vector<TokenId> ids_{};
  std::size_t count_ = 0;
};

}}}  // namespace remat::text::detail
