// Regular expressions of tokenizer files, which are written for Oniguruma (Ruby's syntax), run by PCRE2.
#pragma once

#ifndef PCRE2_CODE_UNIT_WIDTH
/// PCRE2's functions for texts of bytes.
#define PCRE2_CODE_UNIT_WIDTH 8
#endif
#include <pcre2.h>

#include <cstddef>
#include <memory>
#include <remat/core/error.hpp>
#include <remat/core/utf8.hpp>
#include <string>
#include <string_view>
#include <utility>

namespace remat { inline namespace REMAT_ABI { namespace text::detail {

/// Rewrites a pattern where the two differ: `\s` has U+180E in PCRE2 alone, its `\w` fewer letters, `\v` is one
/// character in Ruby. What would mean something else, or what nobody checked, is an `Error`.
class RegexTranslation {
 public:
  explicit RegexTranslation(std::string_view pattern) : in_(pattern) {
    while (at_ < in_.size()) {
      if (in_[at_] == '\\') {
        escape();
      } else if (is_in_class_) {
        in_class();
      } else {
        outside();
      }
    }
  }
  std::string take() { return std::move(out_); }

 private:
  static constexpr std::string_view white_space =
      R"(\x{09}-\x{0d}\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";
  // Oniguruma's `\w` has ²³¹¼½¾ where it stands alone, not in a class.
  static constexpr std::string_view word_in_class = R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc})";
  static constexpr std::string_view word = R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\x{b2}\x{b3}\x{b9}\x{bc}-\x{be})";

  [[noreturn]] void refuse(std::string_view what) const {
    fail("the regular expression \"", in_.substr(0, 200), "\" has ", what, ", which is not supported");
  }
  void copy(std::size_t count) {
    out_ += in_.substr(at_, count);
    at_ += count;
  }
  bool follows(std::string_view text) const { return in_.substr(at_).substr(0, text.size()) == text; }

  void in_class() {
    const bool is_first = at_ == class_begin_;
    if (in_[at_] == ']' && !is_first) is_in_class_ = false;
    if (in_[at_] == '[') refuse("a class in a class");
    if (follows("&&")) refuse("the operator &&");
    copy(1);
  }
  void outside() {
    if (in_[at_] == '[') {
      is_in_class_ = true;
      copy(follows("[^") ? 2 : 1);
      class_begin_ = at_;
    } else if (in_[at_] == '(') {
      if (follows("(?")) {
        bool is_known = false;
        for (const std::string_view known : {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:", "(?i)", "(?-i:"})
          if (follows(known)) is_known = true;
        if (!is_known) refuse("the group " + std::string(in_.substr(at_, 4)));
        return copy(2);
      }
      copy(1);
    } else if (in_[at_] == '{') {
      std::size_t end = at_ + 1;
      while (end < in_.size() && ((in_[end] >= '0' && in_[end] <= '9') || in_[end] == ',')) ++end;
      const bool is_interval = end > at_ + 1 && end < in_.size() && in_[end] == '}';
      if (is_interval && end + 1 < in_.size() && in_[end + 1] == '+') refuse("an interval with + behind it");
      if (is_interval && in_[at_ + 1] == ',') refuse("an interval without its first number");
      copy(1);
    } else {
      copy(1);
    }
  }
  void put(std::string_view set, bool is_negated) {
    if (is_in_class_ && is_negated) refuse("a negated class in a class");
    if (!is_in_class_) out_ += is_negated ? "[^" : "[";
    out_ += set;
    if (!is_in_class_) out_ += ']';
    at_ += 2;
  }
  void escape() {
    if (at_ + 1 >= in_.size()) refuse("a single \\ at its end");
    const char c = in_[at_ + 1];
    const bool is_letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    if (!is_letter || std::string_view("nrtfeadDAzZ").find(c) != std::string_view::npos) return copy(2);
    if (c == 's') return put(white_space, false);
    if (c == 'S' && is_in_class_) return copy(2);  // U+180E alone is judged otherwise
    if (c == 'S') return put(white_space, true);
    if (c == 'w' || c == 'W') return put(is_in_class_ ? word_in_class : word, c == 'W');
    if (c == 'v') return put("\\x{0b}", false);
    if ((c == 'b' || c == 'B') && !is_in_class_) {
      const std::string is_word = "[" + std::string(word) + "]";
      const std::string is_edge = "(?:(?<=" + is_word + ")(?!" + is_word + ")|(?<!" + is_word + ")(?=" + is_word + "))";
      out_ += c == 'b' ? is_edge : "(?!" + is_edge + ")";
      at_ += 2;
      return;
    }
    if (c == 'p' || c == 'P') return property();
    if (c == 'x') return copy(2);
    if (c == 'u' && at_ + 6 <= in_.size()) {
      out_ += "\\x{" + std::string(in_.substr(at_ + 2, 4)) + "}";
      at_ += 6;
      return;
    }
    refuse("the escape " + std::string(in_.substr(at_, 2)));
  }
  // PCRE2 10.42 knows general categories by their short names only, and takes a script's name for all characters that
  // are used with it, such as Chinese commas.
  void property() {
    static constexpr std::pair<std::string_view, std::string_view> short_names[] = {
        {"Letter", "L"}, {"Mark", "M"}, {"Number", "N"}, {"Punctuation", "P"}, {"Symbol", "S"}, {"Separator", "Z"}};
    const std::size_t end = in_.find('}', at_);
    if (at_ + 2 >= in_.size() || in_[at_ + 2] != '{' || end == std::string_view::npos) refuse("\\p without {name}");
    std::string_view name = in_.substr(at_ + 3, end - at_ - 3);
    const bool is_negated = name.substr(0, 1) == "^";
    if (is_negated) name.remove_prefix(1);
    for (const auto& [full, brief] : short_names)
      if (name == full) name = brief;
    const bool is_script = name.size() > 2 && name != "Any" && name != "Alphabetic";
    out_ += (in_[at_ + 1] == 'p') != is_negated ? "\\p{" : "\\P{";
    out_ += (is_script ? "sc:" : "") + std::string(name) + "}";
    at_ = end + 1;
  }

  std::string_view in_;
  std::string out_{};
  std::size_t at_ = 0, class_begin_ = 0;
  bool is_in_class_ = false;
};

/// A compiled pattern. Copies share it; several threads may match at a time.
class Regex {
 public:
  /// An `Error` tells what is wrong with the pattern.
  explicit Regex(std::string_view pattern) {
    const std::string translated = RegexTranslation(pattern).take();
    const std::unique_ptr<pcre2_compile_context, decltype(&pcre2_compile_context_free)> context(
        pcre2_compile_context_create(nullptr), &pcre2_compile_context_free);
    pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
    int error = 0;
    PCRE2_SIZE where = 0;
    code_.reset(
        pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                      PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error, &where, context.get()),
        &pcre2_code_free);
    if (code_ == nullptr) {
      unsigned char message[200] = {};
      pcre2_get_error_message(error, static_cast<PCRE2_UCHAR*>(message), sizeof message);
      fail("the regular expression \"", pattern.substr(0, 200),
           "\" cannot be compiled: ", reinterpret_cast<const char*>(static_cast<unsigned char*>(message)));
    }
    has_jit_ = pcre2_jit_compile(code_.get(), PCRE2_JIT_COMPLETE) == 0;
  }

  /// `f(begin, end)` for each match in valid UTF-8, from left to right. An empty match right behind another is none.
  template <class F>
  void each_match(std::string_view text, F&& f) const {
    const std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)> data(pcre2_match_data_create(1, nullptr),
                                                                                   &pcre2_match_data_free);
    const PCRE2_SIZE* const found = pcre2_get_ovector_pointer(data.get());
    const auto* const bytes = reinterpret_cast<PCRE2_SPTR>(text.data());
    std::size_t from = 0, last_end = std::string_view::npos;
    while (from <= text.size()) {
      int result = PCRE2_ERROR_JIT_STACKLIMIT;
      if (has_jit_) result = pcre2_jit_match(code_.get(), bytes, text.size(), from, 0, data.get(), nullptr);
      if (result == PCRE2_ERROR_JIT_STACKLIMIT)
        result =
            pcre2_match(code_.get(), bytes, text.size(), from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, data.get(), nullptr);
      if (result == PCRE2_ERROR_NOMATCH) return;
      require(result >= 0, "text: a regular expression of the tokenizer gave up at byte ", from, " of ", text.size(),
              " (PCRE2 error ", result, "); cut the text into shorter parts");
      const std::size_t begin = found[0], end = found[1];
      if (begin == end && end == last_end) {
        if (from >= text.size()) return;
        data::utf8::next(text, from);
        continue;
      }
      f(begin, end);
      from = last_end = end;
    }
  }

 private:
  std::shared_ptr<pcre2_code> code_{};
  bool has_jit_ = false;
};

}}}  // namespace remat::text::detail
