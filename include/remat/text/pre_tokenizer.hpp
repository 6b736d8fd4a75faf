// The second stage of a tokenizer: the text is cut into words, which the model looks at one by one.
#pragma once

#include <remat/text/byte_alphabet.hpp>
#include <remat/text/pattern.hpp>
#include <remat/text/unicode.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace text::detail {

/// Matches of one character each, of those that `is_wanted` likes.
template <class IsWanted>
auto each_character(IsWanted is_wanted) {
  return [is_wanted](std::string_view text, auto&& f) {
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t begin = at;
      if (is_wanted(utf8::next(text, at))) f(begin, at);
    }
  };
}

/// Replaces each piece by its parts.
template <class EachMatch>
void split_all(Pieces& pieces, Splitter splitter, EachMatch&& each_match) {
  std::vector<Piece> parts;
  for (const Piece& piece : pieces.all) splitter.split(piece, parts, each_match);
  pieces.all = std::move(parts);
}

struct SplitAt {
  Pattern pattern;
  SplitBehavior behavior = SplitBehavior::isolated;
  bool is_inverted = false;
  void operator()(Pieces& pieces) const {
    split_all(pieces, Splitter(behavior, is_inverted),
              [&](std::string_view text, auto&& f) { pattern.each_match(text, f); });
  }
};
struct Digits {
  bool individual = false;
  void operator()(Pieces& pieces) const {
    split_all(pieces, individual ? SplitBehavior::isolated : SplitBehavior::contiguous, each_character(is_numeric));
  }
};
struct Punctuation {
  SplitBehavior behavior = SplitBehavior::isolated;
  void operator()(Pieces& pieces) const { split_all(pieces, behavior, each_character(is_punctuation)); }
};
struct WhitespaceSplit {
  void operator()(Pieces& pieces) const { split_all(pieces, SplitBehavior::removed, each_character(is_white_space)); }
};
struct BertPreTokenizer {
  void operator()(Pieces& pieces) const {
    WhitespaceSplit()(pieces);
    Punctuation()(pieces);
  }
};
/// Runs of word characters, and runs of others, without white space: `\w+|[^\w\s]+`.
struct Whitespace {
  void operator()(Pieces& pieces) const {
    const auto kind = [](char32_t c) { return is_word(c) ? 1 : is_white_space(c) ? 0 : 2; };
    split_all(pieces, Splitter(SplitBehavior::removed, true), [&](std::string_view text, auto&& f) {
      std::size_t run = 0;
      int kind_of_run = 0;
      for (std::size_t at = 0; at < text.size();) {
        const std::size_t begin = at;
        const int kind_here = kind(utf8::next(text, at));
        if (kind_here == kind_of_run) continue;
        if (kind_of_run != 0) f(run, begin);
        run = begin;
        kind_of_run = kind_here;
      }
      if (kind_of_run != 0) f(run, text.size());
    });
  }
};
/// SentencePiece's: spaces are a visible character, which begins a word.
struct Metaspace {
  enum class Prepend { always, first, never };
  std::string replacement = "\xE2\x96\x81";
  Prepend prepend = Prepend::always;
  bool splits = true;
  void operator()(Pieces& pieces) const {
    const Pattern space = Pattern::literal(" "), marker = Pattern::literal(replacement);
    for (Piece& piece : pieces.all) {
      std::string text = space.replaced(piece.text, replacement);
      const bool asks = prepend == Prepend::always || (prepend == Prepend::first && piece.is_first);
      if (asks && text.compare(0, replacement.size(), replacement) != 0) text.insert(0, replacement);
      piece.text = pieces.keep(std::move(text));
    }
    if (splits)
      split_all(pieces, SplitBehavior::merged_with_next,
                [&](std::string_view text, auto&& f) { marker.each_match(text, f); });
  }
};

/// GPT-2's words. Oniguruma takes the alternatives in their order, as PCRE2 does.
inline constexpr std::string_view gpt2_words =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

/// Each byte is a character, see `ByteAlphabet`. Where it is the last step, bytes stay what they are: the model reads
/// its tokens as bytes, too.
struct ByteLevel {
  bool add_prefix_space = false;
  bool writes_characters = false;
  std::optional<Pattern> words{};
  void operator()(Pieces& pieces) const {
    if (add_prefix_space)
      for (Piece& piece : pieces.all)
        if (piece.text.empty() || piece.text.front() != ' ') piece.text = pieces.keep(' ' + std::string(piece.text));
    if (words)
      split_all(pieces, SplitBehavior::isolated, [&](std::string_view text, auto&& f) { words->each_match(text, f); });
    if (writes_characters)
      for (Piece& piece : pieces.all) piece.text = pieces.keep(to_byte_characters(piece.text));
  }
};

/// Steps, one after another.
class PreTokenizer {
 public:
  using Step =
      std::variant<SplitAt, Digits, Punctuation, WhitespaceSplit, BertPreTokenizer, Whitespace, Metaspace, ByteLevel>;
  /// How bytes reach the model.
  enum class Bytes { as_text, as_bytes, as_characters };

  void add(Step step) { steps_.push_back(std::move(step)); }
  /// To be called when all steps are there: a ByteLevel that is not the last one writes characters, which those
  /// behind it look at.
  void finish() {
    for (std::size_t i = 0; i < steps_.size(); ++i)
      if (auto* const level = std::get_if<ByteLevel>(&steps_[i])) {
        level->writes_characters = i + 1 < steps_.size();
        require(bytes_ == Bytes::as_text, "two ByteLevel pre-tokenizers are not supported");
        bytes_ = level->writes_characters ? Bytes::as_characters : Bytes::as_bytes;
      }
  }
  Bytes bytes() const { return bytes_; }
  void operator()(Pieces& pieces) const {
    for (const Step& step : steps_) std::visit([&](const auto& cut) { cut(pieces); }, step);
  }

 private:
  std::vector<Step> steps_{};
  Bytes bytes_ = Bytes::as_text;
};

}}}  // namespace remat::text::detail
