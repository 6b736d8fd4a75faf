// What is looked for in a text, a string or a regular expression, and the ways to cut the text at what is found.
#pragma once

#include <cstddef>
#include <deque>
#include <optional>
#include <remat/core/error.hpp>
#include <remat/text/regex.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace text::detail {

/// What a tokenizer makes of a text has a bound, whatever its file says.
inline void require_bounded(std::size_t made, std::size_t from) {
  require(made <= 64 * from + (std::size_t{1} << 20), "tokenizer: it makes more than ", made, " bytes of a text of ",
          from, "; its file is hardly one of a model");
}

/// A string as it is, or a regular expression.
class Pattern {
 public:
  static Pattern literal(std::string text) {
    require(!text.empty(), "an empty string is nothing to look for");
    Pattern pattern;
    pattern.literal_ = std::move(text);
    return pattern;
  }
  static Pattern regex(std::string_view text) {
    Pattern pattern;
    pattern.regex_.emplace(text);
    return pattern;
  }
  /// `f(begin, end)` for each place in valid UTF-8.
  template <class F>
  void each_match(std::string_view text, F&& f) const {
    if (regex_) return regex_->each_match(text, f);
    for (std::size_t at = 0; (at = text.find(literal_, at)) != std::string_view::npos; at += literal_.size())
      f(at, at + literal_.size());
  }
  std::string replaced(std::string_view text, std::string_view by) const {
    std::string result;
    std::size_t done = 0;
    each_match(text, [&](std::size_t begin, std::size_t end) {
      result.append(text, done, begin - done).append(by);
      require_bounded(result.size(), text.size());
      done = end;
    });
    return result.append(text, done);
  }

 private:
  Pattern() = default;
  std::string literal_{};
  std::optional<Regex> regex_{};
};

/// A part of the text on its way to the model.
struct Piece {
  std::string_view text{};
  bool is_first = false;  // does it begin where the whole text begins?
};

/// The parts, and the strings that were made for some of them.
struct Pieces {
  std::vector<Piece> all{};
  std::deque<std::string> made{};  // which never move

  std::string_view keep(std::string text) { return made.emplace_back(std::move(text)); }
};

/// What becomes of the places that a pattern matches.
enum class SplitBehavior { removed, isolated, merged_with_previous, merged_with_next, contiguous };

/// Collects a piece's parts, matched or not, in order, and cuts it there.
class Splitter {
 public:
  Splitter(SplitBehavior behavior, bool is_inverted = false) : behavior_(behavior), is_inverted_(is_inverted) {}

  /// Appends the parts of `piece`, without empty ones. `each_match(text, f)` calls f(begin, end).
  template <class EachMatch>
  void split(const Piece& piece, std::vector<Piece>& out, EachMatch&& each_match) {
    out_ = &out;
    piece_ = piece;
    begin_ = end_ = 0;
    was_match_ = false;
    has_open_ = false;
    std::size_t done = 0;
    each_match(piece.text, [&](std::size_t begin, std::size_t end) {
      if (begin > done) part(done, begin, is_inverted_);
      part(begin, end, !is_inverted_);
      done = end;
    });
    if (done < piece.text.size()) part(done, piece.text.size(), is_inverted_);
    close();
  }

 private:
  void part(std::size_t begin, std::size_t end, bool is_match) {
    switch (behavior_) {
      case SplitBehavior::removed:
        if (!is_match) open(begin, end);
        break;
      case SplitBehavior::isolated: open(begin, end); break;
      case SplitBehavior::contiguous:
        if (is_match == was_match_ && has_open_)
          end_ = end;
        else
          open(begin, end);
        break;
      case SplitBehavior::merged_with_previous:
        if (is_match && !was_match_ && has_open_)
          end_ = end;
        else
          open(begin, end);
        break;
      case SplitBehavior::merged_with_next:
        // From right to left a match opens, or joins what is open unless that is a match itself: so of a run of
        // matches the last one joins what follows.
        if (has_open_ && was_match_ && !is_match)
          end_ = end;
        else
          open(begin, end);
        break;
    }
    was_match_ = is_match;
  }
  void open(std::size_t begin, std::size_t end) {
    close();
    has_open_ = true;
    begin_ = begin;
    end_ = end;
  }
  void close() {
    if (has_open_ && end_ > begin_)
      out_->push_back({piece_.text.substr(begin_, end_ - begin_), piece_.is_first && begin_ == 0});
    has_open_ = false;
  }

  SplitBehavior behavior_;
  bool is_inverted_;
  std::vector<Piece>* out_ = nullptr;
  Piece piece_{};
  std::size_t begin_ = 0, end_ = 0;
  bool was_match_ = false, has_open_ = false;
};

}}}  // namespace remat::text::detail
