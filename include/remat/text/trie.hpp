// Which tokens a text begins with.
#pragma once

#include <cstdint>
#include <remat/text/flat_map.hpp>
#include <remat/text/token_table.hpp>
#include <string_view>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace text::detail {

/// Strings to numbers, found as beginnings of a text.
class Trie {
 public:
  /// A string that is there already gets the new number.
  void add(std::string_view text, TokenId id) {
    std::uint32_t node = 0;
    for (const char byte : text) {
      bool is_new = false;
      std::uint32_t& next = children_.insert(key(node, byte), is_new);
      if (is_new) {
        next = static_cast<std::uint32_t>(ids_.size());
        ids_.push_back(-1);
      }
      node = next;
    }
    ids_[node] = id;
  }
  /// `f(id, length)` for each string that `text` begins with, the shortest first.
  template <class F>
  void each_prefix(std::string_view text, F&& f) const {
    std::uint32_t node = 0;
    for (std::size_t i = 0; i < text.size(); ++i) {
      const std::uint32_t* const next = children_.find(key(node, text[i]));
      if (!next) return;
      node = *next;
      if (ids_[node] >= 0) f(ids_[node], i + 1);
    }
  }

 private:
  static std::uint64_t key(std::uint32_t node, char byte) {
    return (static_cast<std::uint64_t>(node) << 8) | static_cast<unsigned char>(byte);
  }

  FlatMap<std::uint32_t> children_{};
  std::vector<TokenId> ids_{-1};  // by node, -1: no string ends there
};

}}}  // namespace remat::text::detail
