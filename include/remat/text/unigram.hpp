// A unigram model: of all ways to cut a word into tokens, the most likely (Viterbi 1967; Kudo 2018).
#pragma once

#include <algorithm>
#include <cstddef>
#include <limits>
#include <optional>
#include <remat/text/token_table.hpp>
#include <remat/text/trie.hpp>
#include <remat/text/unicode.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace text::detail {

class Unigram {
 public:
  /// `scores` by id, logarithms of probabilities.
  Unigram(const TokenTable& table, std::vector<double> scores, std::optional<TokenId> unknown, bool byte_fallback)
      : scores_(std::move(scores)), unknown_(unknown), words_(table.ids()) {
    for (const auto& [text, id] : table.ids())
      if (!text.empty()) trie_.add(text, id);
    // As in SentencePiece, a character without a token costs 10 more than the least likely token.
    if (!scores_.empty()) unknown_score_ = *std::min_element(scores_.begin(), scores_.end()) - 10;
    if (byte_fallback) bytes_ = byte_tokens(table);
  }

  /// Appends the tokens of a word.
  void operator()(std::string_view word, std::vector<TokenId>& out) const {
    struct Node {
      double score = 0;
      std::size_t begin = nowhere;
      TokenId id = -1;
    };
    std::vector<Node> best(word.size() + 1);  // ways to the byte before this one
    const auto offer = [&](std::size_t begin, std::size_t end, TokenId id, double score) {
      score += best[begin].score;
      if (best[end].begin == nowhere || score > best[end].score) best[end] = {score, begin, id};
    };
    for (std::size_t at = 0; at < word.size();) {
      const std::size_t begin = at;
      utf8::next(word, at);
      bool has_character = false;
      trie_.each_prefix(word.substr(begin), [&](TokenId id, std::size_t length) {
        offer(begin, begin + length, id, scores_[static_cast<std::size_t>(id)]);
        has_character |= length == at - begin;
      });
      if (has_character) continue;
      require(unknown_.has_value(), "text: \"", word.substr(begin, at - begin),
              "\" has no token, and the tokenizer names none for unknown characters");
      offer(begin, at, *unknown_, unknown_score_);
    }
    std::vector<std::pair<std::size_t, TokenId>> path;  // beginnings, from the last token to the first
    for (std::size_t end = word.size(); end > 0; end = best[end].begin)
      path.emplace_back(best[end].begin, best[end].id);
    for (auto step = path.rbegin(); step != path.rend();) {
      const auto [begin, id] = *step;
      if (unknown_ && id == *unknown_) {
        while (step != path.rend() && step->second == id) ++step;
        const std::size_t end = step == path.rend() ? word.size() : step->first;
        put_unknown(word.substr(begin, end - begin), out);
      } else {
        out.push_back(id);
        ++step;
      }
    }
  }

 private:
  static constexpr std::size_t nowhere = std::numeric_limits<std::size_t>::max();

  // A run of unknown characters is one token, or its bytes.
  void put_unknown(std::string_view run, std::vector<TokenId>& out) const {
    const auto found = words_.find(run);
    if (found != words_.end()) return out.push_back(found->second);
    const bool has_bytes = !bytes_.empty() && std::all_of(run.begin(), run.end(), [&](char byte) {
      return bytes_[static_cast<unsigned char>(byte)] >= 0;
    });
    if (!has_bytes) return out.push_back(*unknown_);
    for (const char byte : run) out.push_back(bytes_[static_cast<unsigned char>(byte)]);
  }

  Trie trie_{};
  std::vector<double> scores_;
  double unknown_score_ = 0;
  std::optional<TokenId> unknown_;
  StringMap words_;
  std::vector<TokenId> bytes_{};
};

}}}  // namespace remat::text::detail
