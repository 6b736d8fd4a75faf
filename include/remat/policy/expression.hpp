// The expression behind a policy: an immutable tree of plain nodes, and the three things done with it - ask, compare,
// print. Users see it only as `Policy`.
#pragma once

#include <algorithm>
#include <functional>
#include <remat/policy/slot_info.hpp>
#include <span>
#include <string>
#include <string_view>

namespace remat { inline namespace REMAT_ABI { namespace policy::detail {

/// Leaves, up to plan; a phrase, whose `left` is what the named constant stands for; operators of `left`; operators
/// of `left` and `right`.
enum class Kind : unsigned char {
  everything,
  nothing,
  dots,
  batched,
  names,
  ops,
  function,
  plan,
  phrase,
  offload,
  lossy_int8,
  lossy_bfloat16,
  negation,
  both,
  either
};

/// A literal type, so that the words and the phrase book are built by the compiler: a global of any translation unit
/// may use them in its own initializer.
struct Node {
  Kind kind = Kind::everything;
  const Node* left = nullptr;
  const Node* right = nullptr;
  std::span<const std::string_view> words{};  // of names, ops and plan
  std::string_view phrase{};
  int parts = 1;  // nodes of the tree below, itself included; a phrase is one
};

/// Bounds the depth of every recursion below, and the work of a policy shared with itself over and over.
inline constexpr int max_parts = 500;

struct FunctionNode : Node {
  std::function<Verdict(const SlotInfo&)> function;
};

inline constexpr std::string_view any_label = "*";

inline bool matches_label(const Node& node, const SlotInfo& slot) {
  return std::any_of(node.words.begin(), node.words.end(), [&](std::string_view word) {
    return word == any_label ? !slot.labels.empty() : slot.has_label(word);
  });
}

inline bool reads_labels(const Node& node) {
  return node.kind == Kind::names || (node.left && reads_labels(*node.left)) ||
         (node.right && reads_labels(*node.right));
}

inline Verdict ask(const Node& node, const SlotInfo& slot) {
  const auto saved = [](bool yes) { return yes ? Verdict::save : Verdict::recompute; };
  switch (node.kind) {
    case Kind::everything: return Verdict::save;
    case Kind::nothing: return Verdict::recompute;
    case Kind::dots: return saved(slot.dot);
    case Kind::batched: return saved(slot.batched);
    case Kind::names: return saved(matches_label(node, slot));
    case Kind::ops: return saved(std::find(node.words.begin(), node.words.end(), slot.op) != node.words.end());
    case Kind::function:
    case Kind::plan: return static_cast<const FunctionNode&>(node).function(slot);
    case Kind::phrase: return ask(*node.left, slot);
    case Kind::offload: return ask(*node.left, slot) & Verdict::offload;
    case Kind::lossy_int8: return ask(*node.left, slot) & Verdict::int8;
    case Kind::lossy_bfloat16: return ask(*node.left, slot) & Verdict::bfloat16;
    case Kind::negation: return !ask(*node.left, slot);
    case Kind::both: {
      const Verdict left = ask(*node.left, slot);
      return left == Verdict::recompute ? left : left & ask(*node.right, slot);
    }
    case Kind::either: {
      const Verdict left = ask(*node.left, slot);
      return left == Verdict::save ? left : left | ask(*node.right, slot);
    }
  }
  return Verdict::save;
}

/// Same expression. Two functions are equal only when they are one object.
inline bool equal(const Node& a, const Node& b) {
  if (&a == &b) return true;
  if (a.kind != b.kind || a.kind == Kind::function || a.phrase != b.phrase || a.parts != b.parts) return false;
  if (!std::equal(a.words.begin(), a.words.end(), b.words.begin(), b.words.end())) return false;
  return (!a.left || equal(*a.left, *b.left)) && (!a.right || equal(*a.right, *b.right));
}

inline bool is_lossy(const Node& node) {
  return node.kind == Kind::lossy_int8 || node.kind == Kind::lossy_bfloat16 || (node.left && is_lossy(*node.left)) ||
         (node.right && is_lossy(*node.right));
}

/// The characters that a name may have unquoted.
constexpr bool is_bare(char c) {
  return static_cast<unsigned char>(c) > ' ' && c != '\x7f' &&
         std::string_view(",()[]\"\\&|!").find(c) == std::string_view::npos;
}

template <class = void>
void print_words(std::string& out, const Node& node) {
  const char* separator = "(";
  for (std::string_view word : node.words) {
    out += separator;
    separator = ", ";
    if (std::all_of(word.begin(), word.end(), is_bare)) {
      out += word;
      continue;
    }
    out += '"';
    for (char c : word) out += c == '"' || c == '\\' ? std::string{'\\', c} : std::string{c};
    out += '"';
  }
  out += node.words.empty() ? "()" : ")";
}

constexpr int precedence(Kind kind) {
  return kind == Kind::either ? 1 : kind == Kind::both ? 2 : kind == Kind::negation ? 3 : 4;
}

/// Appends the expression, in parentheses when it binds more loosely than `least`. Chains associate to the left.
template <class = void>
void print(std::string& out, const Node& node, int least = 1) {
  const int own = precedence(node.kind);
  if (own < least) out += '(';
  switch (node.kind) {
    case Kind::everything: out += "everything"; break;
    case Kind::nothing: out += "nothing"; break;
    case Kind::dots: out += "dots"; break;
    case Kind::batched: out += "batched"; break;
    case Kind::function: out += "<function>"; break;
    case Kind::phrase: out += node.phrase; break;
    case Kind::names:
    case Kind::ops:
    case Kind::plan:
      out += node.kind == Kind::names ? "names" : node.kind == Kind::ops ? "ops" : "plan";
      print_words(out, node);
      break;
    case Kind::offload:
    case Kind::lossy_int8:
    case Kind::lossy_bfloat16:
      out += node.kind == Kind::offload      ? "offload("
             : node.kind == Kind::lossy_int8 ? "lossy::int8("
                                             : "lossy::bfloat16(";
      print(out, *node.left);
      out += ')';
      break;
    case Kind::negation: print(out += '!', *node.left, own); break;
    case Kind::both:
    case Kind::either:
      print(out, *node.left, own);
      print(out += node.kind == Kind::both ? " & " : " | ", *node.right, own + 1);
      break;
  }
  if (own < least) out += ')';
}

}}}  // namespace remat::policy::detail
