// Reads a policy from its own language, so that it can be a flag, a config field, a line of a saved run.
#pragma once

#include <cstddef>
#include <remat/policy/near_misses.hpp>
#include <remat/policy/phrase_book.hpp>
#include <remat/policy/planned.hpp>
#include <remat/policy/policy.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace policy {

namespace detail {

/// Recursive descent over
///   expression := factor { ('&' | '|') factor }             '&' binds tighter than '|', both to the left
///   factor     := '!' factor | '(' expression ')' | word | call
class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) { skip_space(); }

  Policy whole() {
    const Policy policy = expression(1);
    if (at_ < text_.size()) unexpected("\"&\", \"|\" or the end");
    return policy;
  }

 private:
  Policy expression(int least) {
    Policy left = factor();
    for (;;) {
      if (peek() == '&') {
        take('&');
        left = left & factor();
      } else if (least == 1 && peek() == '|') {
        take('|');
        left = left | expression(2);
      } else {
        return left;
      }
    }
  }

  Policy factor() {
    const Nesting nesting(*this);
    if (peek() == '!') {
      take('!');
      return !factor();
    }
    if (peek() == '(') return group();
    const std::size_t start = at_;
    const std::string word(bare_run());
    if (word.empty()) unexpected("a policy such as dots or names(ffn1)");
    skip_space();
    if (word == "everything") return everything;
    if (word == "nothing") return nothing;
    if (word == "dots") return dots;
    if (word == "batched") return batched;
    if (word == "any_name") return any_name;
    if (const Entry* entry = find_entry(word)) return Policy(&entry->node);
    if (word == "offload") return offload(group());
    if (word == "lossy::bfloat16") return peek() == '(' ? lossy::bfloat16(group()) : lossy::bfloat16;
    if (word == "lossy::int8") return peek() == '(' ? lossy::int8(group()) : lossy::int8;
    if (word == "ops") return ops(words('(', ')'));
    if (word == "plan") return planned(slots_in(words('(', ')')));
    if (word == "names" || word == "save_only_these_names") return names(words('(', ')'));
    if (word == "save_any_names_but_these") return save_any_names_but_these(words('(', ')'));
    if (word == "save_anything_except_these_names") return save_anything_except_these_names(words('(', ')'));
    if (word == "save_from_both_policies") return two_policies();
    if (word == "save_and_offload_only_these_names") return two_lists();
    unknown(word, start);
  }

  Policy group() {
    take('(');
    const Policy inside = expression(1);
    take(')');
    return inside;
  }

  Policy two_policies() {
    take('(');
    const Policy a = expression(1);
    take(',');
    const Policy b = expression(1);
    take(')');
    return save_from_both_policies(a, b);
  }

  Policy two_lists() {
    take('(');
    std::vector<std::string> save_labels = words('[', ']');
    take(',');
    std::vector<std::string> offload_labels = words('[', ']');
    take(')');
    return save_and_offload_only_these_names(std::move(save_labels), std::move(offload_labels));
  }

  std::vector<std::string> words(char open, char close) {
    std::vector<std::string> list;
    take(open);
    while (peek() != close || !list.empty()) {
      list.push_back(peek() == '"' ? quoted() : std::string(bare_run()));
      if (list.back().empty()) unexpected("a name");
      skip_space();
      if (peek() == close) break;
      if (peek() != ',') unexpected(std::string("\",\" or \"") + close + '"');
      take(',');
    }
    take(close);
    return list;
  }

  std::string quoted() {
    const std::size_t start = at_++;
    std::string name;
    for (; at_ < text_.size() && text_[at_] != '"'; ++at_) {
      if (text_[at_] == '\\' && at_ + 1 < text_.size()) ++at_;
      name += text_[at_];
    }
    require(at_ < text_.size(), "policy: the quote at column ", start + 1, " is not closed");
    ++at_;
    require(!name.empty(), "policy: the name at column ", start + 1, " is empty");
    return name;
  }

  std::string_view bare_run() {
    const std::size_t start = at_;
    while (at_ < text_.size() && is_bare(text_[at_])) ++at_;
    return text_.substr(start, at_ - start);
  }

  char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }
  void take(char c) {
    if (at_ >= text_.size() || text_[at_] != c) unexpected(std::string{'"', c, '"'});
    ++at_;
    skip_space();
  }
  void skip_space() {
    while (at_ < text_.size() && std::string_view(" \t\r\n").find(text_[at_]) != std::string_view::npos) ++at_;
  }

  [[noreturn]] void unexpected(std::string_view expected) {
    const std::size_t start = at_;
    std::string found(bare_run());
    if (found.empty() && start < text_.size()) found = is_control(text_[start]) ? '?' : text_[start];
    fail("policy: found ", start < text_.size() ? '"' + found + '"' : "the end", " at column ", start + 1,
         ", expected ", expected);
  }

  [[noreturn]] static void unknown(const std::string& word, std::size_t start) {
    require(word != "<function>", "policy: <function> at column ", start + 1,
            " stands for code, which text cannot bring back; expected a policy such as dots or names(ffn1)");
    std::vector<std::string> known{"everything", "nothing", "dots",    "batched",         "any_name",   "names",
                                   "ops",        "plan",    "offload", "lossy::bfloat16", "lossy::int8"};
    for (const Entry& entry : entries) known.emplace_back(entry.node.phrase);
    for (const char* call : {"save_only_these_names", "save_any_names_but_these", "save_anything_except_these_names",
                             "save_from_both_policies", "save_and_offload_only_these_names"})
      known.emplace_back(call);
    const std::string hint = did_you_mean(word, known);
    fail("policy: unknown word \"", word, "\" at column ", start + 1,
         hint.empty() ? "; a label is written names(" + word + ")." : hint, " Words: ", joined(known), '.');
  }

  static bool is_control(char c) { return static_cast<unsigned char>(c) < ' ' || c == '\x7f'; }

  struct Nesting {
    explicit Nesting(Parser& p) : parser(p) {
      require(++parser.depth_ <= max_parts, "policy: nested more than ", max_parts, " deep at column ", parser.at_ + 1);
    }
    ~Nesting() { --parser.depth_; }
    Nesting(const Nesting&) = delete;
    Nesting& operator=(const Nesting&) = delete;
    Parser& parser;
  };

  std::string_view text_;
  std::size_t at_ = 0;
  int depth_ = 0;
};

}  // namespace detail

/// The policy written in `text`: the words `everything nothing dots batched names(...) ops(...)`, `offload(...)`,
/// `lossy::bfloat16(...)`, `lossy::int8(...)`, a plan's `plan(...)`, the
/// operators `! & |` (in that order of binding), parentheses, and the phrase book (functions as calls,
/// `save_and_offload_only_these_names([a], [b])` with two lists in brackets). A name with odd characters goes in double
/// quotes. `parse(to_string(p)) == p`. An `Error` says the column, what was found and what was expected.
inline Policy parse(std::string_view text) { return detail::Parser(text).whole(); }

}}}  // namespace remat::policy
