// Policy: which values of a region survive until backward, as a value that combines, prints and compares.
#pragma once

#include <concepts>
#include <memory>
#include <ostream>
#include <remat/policy/expression.hpp>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace policy {

class Policy;
namespace lossy {
struct Word;
}

namespace detail {

template <class Result>
concept Answer = std::same_as<Result, bool> || std::same_as<Result, Verdict>;

template <class Function>
concept Decides = !std::same_as<Function, Policy> && !std::same_as<Function, lossy::Word> &&
                  std::copy_constructible<Function> && std::invocable<Function&, const SlotInfo&> &&
                  Answer<std::remove_cvref_t<std::invoke_result_t<Function&, const SlotInfo&>>>;

template <Kind kind>
inline constexpr Node leaf{.kind = kind};

/// A node made at run time, with what it keeps alive.
struct Branch : Node {
  std::shared_ptr<const Node> left_owner, right_owner;
};
struct WordList : Node {
  std::vector<std::string> text;
  std::vector<std::string_view> views;
};

}  // namespace detail

/// A rematerialization policy: answers with a `Verdict` for every slot. Cheap to copy, immutable;
/// asking allocates nothing. By default it saves everything, which is no remat at all. Combine with `|` (the greater of
/// recompute < offload < save), `&` (the lesser), `!` (recompute becomes save, the others recompute); print with `<<`,
/// read back with `parse`. An `Error` when an expression grows beyond 500 parts. Write
/// `(!p) | q` in C++: g++ warns of `!p | q`.
class Policy {
 public:
  constexpr Policy() = default;
  // Copies only: a moved-from policy would keep a pointer to what it no longer owns.
  Policy(const Policy&) = default;
  Policy& operator=(const Policy&) = default;

  /// From any callable `bool(const SlotInfo&)` (true: save) or `Verdict(const SlotInfo&)`. It prints as `<function>`,
  /// which cannot be parsed back. It must answer alike whenever it is asked about the same slot.
  template <detail::Decides Function>
  Policy(Function function) {
    if constexpr (requires { function == nullptr; })
      require(!(function == nullptr), "policy: the function given as a policy is empty");
    auto node = std::make_shared<detail::FunctionNode>();
    node->kind = detail::Kind::function;
    node->function = [function = std::move(function)](const SlotInfo& slot) mutable -> Verdict {
      if constexpr (std::is_same_v<std::remove_cvref_t<decltype(function(slot))>, bool>)
        return function(slot) ? Verdict::save : Verdict::recompute;
      else
        return function(slot);
    };
    *this = Policy(std::shared_ptr<const detail::Node>(std::move(node)));
  }

  /// A node of static storage: the words and the phrase book.
  explicit constexpr Policy(const detail::Node* fixed) : node_(fixed) {}
  /// A node made at run time, which the policy keeps alive.
  explicit Policy(std::shared_ptr<const detail::Node> owned) : node_(owned.get()), owner_(std::move(owned)) {}

  /// What becomes of the value.
  Verdict operator()(const SlotInfo& slot) const { return detail::ask(*node_, slot); }

  /// The expression, for readers of this room.
  const detail::Node& node() const { return *node_; }

  /// The greater verdict of the two.
  friend Policy operator|(const Policy& a, const Policy& b) { return combine(detail::Kind::either, a, &b); }
  /// The lesser verdict of the two.
  friend Policy operator&(const Policy& a, const Policy& b) { return combine(detail::Kind::both, a, &b); }
  /// Saves what the other recomputes, and recomputes the rest.
  friend Policy operator!(const Policy& a) { return combine(detail::Kind::negation, a); }
  friend Policy offload(const Policy& policy);
  friend struct lossy::Word;

  /// Is it `everything`: a region under it recomputes nothing, and is as good as none?
  bool keeps_everything() const { return node_->kind == detail::Kind::everything; }
  /// The same expression; `dots` and `save_dot_only` answer alike and are not equal.
  friend bool operator==(const Policy& a, const Policy& b) { return detail::equal(*a.node_, *b.node_); }

 private:
  static Policy combine(detail::Kind kind, const Policy& a, const Policy* b = nullptr) {
    auto node = std::make_shared<detail::Branch>();
    node->kind = kind;
    node->left = a.node_;
    node->left_owner = a.owner_;
    node->parts += a.node_->parts;
    if (b) {
      node->right = b->node_;
      node->right_owner = b->owner_;
      node->parts += b->node_->parts;
    }
    require(node->parts <= detail::max_parts, "policy: an expression of ", node->parts, " parts, at most ",
            detail::max_parts, " are allowed; write many names as one names(...)");
    return Policy(std::shared_ptr<const detail::Node>(std::move(node)));
  }

  const detail::Node* node_ = &detail::leaf<detail::Kind::everything>;
  std::shared_ptr<const detail::Node> owner_;  // empty for static nodes
};

/// What `policy` saves is offloaded instead.
inline Policy offload(const Policy& policy) { return Policy::combine(detail::Kind::offload, policy); }

/// Opt-in and outside the promise that remat changes no bit: `lossy::int8(p)` keeps compressed what `p` saves, alone it
/// stands for `lossy::int8(everything)`. A value is compressed once only the backward of one region will read it, so
/// the forward stays exact; so do values that several readers wait for, integers, an op's statistics (any result but
/// the first), and every value of a tape that verifies.
namespace lossy {
/// A lossy verdict as a word of the language: alone, or around a policy.
struct Word {
  ///@{
  /// `lossy::int8(p)`, or `lossy::int8` where a policy is asked for.
  detail::Kind kind;
  Policy operator()(const Policy& policy) const { return Policy::combine(kind, policy); }
  operator Policy() const { return (*this)(Policy()); }
  ///@}
};
/// 8 significant bits: |error| <= 2^-8 |x| for each element; half the bytes of float.
inline constexpr Word bfloat16{detail::Kind::lossy_bfloat16};
/// |error| <= m / 250, m the greatest magnitude of a run of 64 elements; 17/64 of the bytes of float.
inline constexpr Word int8{detail::Kind::lossy_int8};
}  // namespace lossy
/// Does the expression name a lossy policy? Then gradients are near those without remat, not equal. (What a function
/// answers is not known.)
inline bool is_lossy(const Policy& policy) { return detail::is_lossy(policy.node()); }

/// The policy in its language: "dots & !batched".
inline std::string to_string(const Policy& policy) {
  std::string text;
  detail::print(text, policy.node());
  return text;
}
/// Prints `to_string(policy)`.
inline std::ostream& operator<<(std::ostream& out, const Policy& policy) { return out << to_string(policy); }

/// Saves every value: no remat.
inline constinit const Policy everything{&detail::leaf<detail::Kind::everything>};
/// Saves no value: the region is recomputed from what enters it.
inline constinit const Policy nothing{&detail::leaf<detail::Kind::nothing>};
/// Saves the outputs of contractions (linear, matmul, attention).
inline constinit const Policy dots{&detail::leaf<detail::Kind::dots>};
/// Saves the outputs of contractions with batch axes (attention, batched matmul).
inline constinit const Policy batched{&detail::leaf<detail::Kind::batched>};

namespace detail {

inline Policy word_list(Kind kind, std::vector<std::string> words) {
  const char* what = kind == Kind::names ? "names" : "ops";
  for (const std::string& word : words) {
    require(!word.empty(), "policy: ", what, "(...) was given an empty name");
    require(std::none_of(word.begin(), word.end(),
                         [](char c) { return static_cast<unsigned char>(c) < ' ' || c == '\x7f'; }),
            "policy: ", what, "(...) was given a name with a control character");
  }
  auto node = std::make_shared<WordList>();
  node->kind = kind;
  node->text = std::move(words);
  node->views.assign(node->text.begin(), node->text.end());
  node->words = node->views;
  return Policy(std::shared_ptr<const Node>(std::move(node)));
}

template <class... Words>
concept Texts = (std::convertible_to<const Words&, std::string_view> && ...);

template <class... Words>
std::vector<std::string> strings(const Words&... words) {
  return {std::string(std::string_view(words))...};
}

inline constexpr Node any_name_node{.kind = Kind::names, .words = {&any_label, 1}};

}  // namespace detail

///@{
/// Saves values that carry one of these labels (see `checkpoint_name`); "*" stands for any label.
inline Policy names(std::vector<std::string> labels) {
  return detail::word_list(detail::Kind::names, std::move(labels));
}
template <class... Labels>
requires detail::Texts<Labels...> Policy names(const Labels&... labels) { return names(detail::strings(labels...)); }
///@}
/// Saves values that carry any label: `names("*")`.
inline constinit const Policy any_name{&detail::any_name_node};

///@{
/// Saves the outputs of the ops with these names: `ops("sin", "linear")`.
inline Policy ops(std::vector<std::string> ops) { return detail::word_list(detail::Kind::ops, std::move(ops)); }
template <class... Ops>
requires detail::Texts<Ops...> Policy ops(const Ops&... words) { return ops(detail::strings(words...)); }
///@}

/// Does the expression ask for labels by name? What a function looks at, nobody knows.
inline bool reads_labels(const Policy& policy) { return detail::reads_labels(policy.node()); }

}}}  // namespace remat::policy

namespace remat { inline namespace REMAT_ABI {

using policy::Policy;
using policy::SlotInfo;
using policy::Verdict;

}}  // namespace remat
