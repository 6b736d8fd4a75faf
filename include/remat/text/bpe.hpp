// Byte pair encoding: a word begins as characters or bytes, and the pair of neighbors that was learned first is joined
// until none is left.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <optional>
#include <remat/text/byte_alphabet.hpp>
#include <remat/text/flat_map.hpp>
#include <remat/text/token_table.hpp>
#include <remat/text/unicode.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace text::detail {

/// What a BPE model does beside joining.
struct BpeSettings {
  bool is_byte_level = false;  // words are bytes, and tokens are written in `byte_alphabet`
  bool byte_fallback = false;  // characters without a token become <0x..> tokens
  bool fuse_unknown = false;
  bool ignore_merges = false;  // a word that is a token is that token
  std::string continuing_prefix{}, end_suffix{};
  std::optional<TokenId> unknown{};
};

/// A pair that may be joined; the lowest rank goes first, among equals the leftmost.
struct Merge {
  TokenId left = 0, right = 0;
  std::int32_t rank = 0;
  TokenId joined = 0;
};

class Bpe {
 public:
  Bpe(const TokenTable& table, const std::vector<Merge>& merges, BpeSettings settings)
      : settings_(std::move(settings)), merges_(merges.size()) {
    for (const Merge& merge : merges) {
      bool is_new = false;
      Joined& joined = merges_.insert(key(merge.left, merge.right), is_new);
      joined = {merge.rank, merge.joined};  // as elsewhere, the last of several counts
    }
    is_cut_at_spaces_ =
        !settings_.is_byte_level && !settings_.ignore_merges && settings_.continuing_prefix.empty() &&
        settings_.end_suffix.empty() && table.find(space) &&
        std::none_of(merges.begin(), merges.end(), [&](const Merge& merge) {
          return !table.text_of(merge.left)->ends_with(space) && table.text_of(merge.right)->starts_with(space);
        });
    if (settings_.byte_fallback) bytes_ = byte_tokens(table);
    if (settings_.is_byte_level) {
      for (std::size_t b = 0; b < 256; ++b) {
        std::string character;
        utf8::append(character, byte_alphabet.character_of[b]);
        byte_ids_[b] = table.find(character).value_or(-1);
      }
      if (settings_.ignore_merges)
        for (const auto& [text, id] : table.ids())
          if (auto bytes = from_byte_characters(text)) words_.emplace(*std::move(bytes), id);
    } else {
      words_ = table.ids();
    }
  }

  /// `f(part)` for parts of a word that can be encoded one by one: SentencePiece's models get whole texts as words, but
  /// join nothing with a marker of spaces behind it.
  template <class F>
  void each_part(std::string_view word, F&& f) const {
    std::size_t begin = 0;
    for (std::size_t at = 1; is_cut_at_spaces_ && (at = word.find(space, at)) != std::string_view::npos;
         at += space.size()) {
      if (word.substr(0, at).ends_with(space)) continue;
      f(word.substr(begin, at - begin));
      begin = at;
    }
    f(word.substr(begin));
  }
  /// Appends the tokens of a word.
  void operator()(std::string_view word, std::vector<TokenId>& out) const {
    if (settings_.ignore_merges) {
      const auto found = words_.find(word);
      if (found != words_.end()) return out.push_back(found->second);
    }
    std::vector<TokenId> symbols;
    symbols.reserve(word.size());
    split(word, symbols);
    if (symbols.size() <= 48)
      merge_short(symbols);
    else
      merge_long(symbols);
    out.insert(out.end(), symbols.begin(), symbols.end());
  }

 private:
  struct Joined {
    std::int32_t rank = none;
    TokenId id = -1;
  };
  static constexpr std::string_view space = "\xE2\x96\x81";
  static constexpr std::int32_t none = std::numeric_limits<std::int32_t>::max();

  static std::uint64_t key(TokenId left, TokenId right) {
    return (static_cast<std::uint64_t>(left) << 32) | static_cast<std::uint32_t>(right);
  }
  Joined joined(TokenId left, TokenId right) const {
    const Joined* const found = merges_.find(key(left, right));
    return found ? *found : Joined{};
  }

  // The word's characters as tokens.
  void split(std::string_view word, std::vector<TokenId>& symbols) const {
    const bool is_plain = settings_.continuing_prefix.empty() && settings_.end_suffix.empty();
    bool has_unknown = false;  // one that is not in `symbols` yet
    const auto put = [&](TokenId id) {
      if (std::exchange(has_unknown, false)) symbols.push_back(*settings_.unknown);
      symbols.push_back(id);
    };
    std::string decorated;
    for (std::size_t at = 0; at < word.size();) {
      const std::size_t begin = at;
      TokenId id = -1;
      std::string_view character;
      if (settings_.is_byte_level) {
        id = byte_ids_[static_cast<unsigned char>(word[at++])];
      } else {
        utf8::next(word, at);
        character = word.substr(begin, at - begin);
        if (!is_plain) {
          decorated = (begin > 0 ? settings_.continuing_prefix : "") + std::string(character);
          if (at == word.size()) decorated += settings_.end_suffix;
          character = decorated;
        }
        const auto found = words_.find(character);
        if (found != words_.end()) id = found->second;
      }
      if (id >= 0) {
        put(id);
      } else if (has_all_bytes(character)) {
        for (const char byte : character) symbols.push_back(bytes_[static_cast<unsigned char>(byte)]);
      } else if (settings_.unknown) {
        if (has_unknown && !settings_.fuse_unknown) symbols.push_back(*settings_.unknown);
        has_unknown = true;
      }
    }
    if (has_unknown) symbols.push_back(*settings_.unknown);
  }
  bool has_all_bytes(std::string_view character) const {
    return settings_.byte_fallback && std::all_of(character.begin(), character.end(), [&](char byte) {
             return bytes_[static_cast<unsigned char>(byte)] >= 0;
           });
  }

  // Looks at all pairs for each join: the fastest way for words.
  void merge_short(std::vector<TokenId>& symbols) const {
    std::array<Joined, 48> pairs;
    std::size_t count = symbols.size();
    for (std::size_t i = 0; i + 1 < count; ++i) pairs[i] = joined(symbols[i], symbols[i + 1]);
    while (count > 1) {
      std::size_t best = 0;
      for (std::size_t i = 1; i + 1 < count; ++i)
        if (pairs[i].rank < pairs[best].rank) best = i;
      if (pairs[best].rank == none) break;
      symbols[best] = pairs[best].id;
      for (std::size_t i = best + 1; i + 1 < count; ++i) symbols[i] = symbols[i + 1], pairs[i] = pairs[i + 1];
      --count;
      if (best + 1 < count) pairs[best] = joined(symbols[best], symbols[best + 1]);
      if (best > 0) pairs[best - 1] = joined(symbols[best - 1], symbols[best]);
    }
    symbols.resize(count);
  }

  // A heap of pairs by (rank, position): n log n. A pair that is gone meanwhile has another rank, or none.
  void merge_long(std::vector<TokenId>& symbols) const {
    using At = std::uint32_t;
    constexpr At end = std::numeric_limits<At>::max();
    require(symbols.size() < end, "text: a word of ", symbols.size(), " bytes is too long to encode");
    struct Symbol {
      At previous, next;
      Joined pair;
    };
    const auto count = static_cast<At>(symbols.size());
    std::vector<Symbol> list(count);
    std::vector<std::uint64_t> heap;
    const auto push = [&](At at) {
      list[at].pair = list[at].next == end ? Joined{} : joined(symbols[at], symbols[list[at].next]);
      if (list[at].pair.rank == none) return false;
      heap.push_back((static_cast<std::uint64_t>(list[at].pair.rank) << 32) | at);
      return true;
    };
    for (At i = 0; i < count; ++i) {
      list[i].previous = i == 0 ? end : i - 1;
      list[i].next = i + 1 == count ? end : i + 1;
      push(i);
    }
    std::make_heap(heap.begin(), heap.end(), std::greater<>());
    while (!heap.empty()) {
      std::pop_heap(heap.begin(), heap.end(), std::greater<>());
      const auto at = static_cast<At>(heap.back());
      const auto rank = static_cast<std::int32_t>(heap.back() >> 32);
      heap.pop_back();
      if (list[at].pair.rank != rank) continue;
      const At gone = list[at].next;
      symbols[at] = list[at].pair.id;
      list[at].next = list[gone].next;
      if (list[at].next != end) list[list[at].next].previous = at;
      symbols[gone] = -1;
      list[gone].pair = {};
      if (push(at)) std::push_heap(heap.begin(), heap.end(), std::greater<>());
      if (list[at].previous != end && push(list[at].previous))
        std::push_heap(heap.begin(), heap.end(), std::greater<>());
    }
    symbols.erase(std::remove(symbols.begin(), symbols.end(), -1), symbols.end());
  }

  BpeSettings settings_;
  FlatMap<Joined> merges_;
  bool is_cut_at_spaces_ = false;
  StringMap words_{};
  std::array<TokenId, 256> byte_ids_{};
  std::vector<TokenId> bytes_{};
};

}}}  // namespace remat::text::detail
