// What a plan chose, as a policy: each value of one program, kept or not. It knows that program again and refuses any
// other; its text is short enough to print and to store, and brings the whole policy back.
#pragma once

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <remat/policy/policy.hpp>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace policy {

/// What a slot of a planned program looks like.
struct SlotFingerprint {
  std::string op;
  std::size_t bytes = 0;
  friend bool operator==(const SlotFingerprint&, const SlotFingerprint&) = default;
};

/// For each slot of a program, in the order of the tape, what it looks like and whether it stays until backward.
struct PlannedSlots {
  std::vector<SlotFingerprint> kinds{};  // each once
  std::vector<std::uint32_t> kind{};     // by slot: index into `kinds`
  std::vector<bool> kept{};              // by slot
  std::size_t peak_bytes = 0;            // of the step

  std::size_t size() const { return kind.size(); }
};

namespace detail {

struct PlanNode : FunctionNode {
  std::vector<std::string> text;
  std::vector<std::string_view> views;
};

/// An `Error` for a slot that the planned program does not have there.
inline Verdict ask(const PlannedSlots& plan, const SlotInfo& slot) {
  const auto at = static_cast<std::size_t>(slot.index);
  const SlotFingerprint* known = at < plan.size() ? &plan.kinds[plan.kind[at]] : nullptr;
  if (known == nullptr || known->op != slot.op || known->bytes != slot.bytes) [[unlikely]]
    fail("plan: value ", slot.index, " is ", slot.op, " of ", slot.bytes, " bytes; the plan was made for another ",
         known == nullptr ? "program, which has " + std::to_string(plan.size()) + " values"
                          : "program, where it is " + known->op + " of " + std::to_string(known->bytes) + " bytes",
         "; make a new plan for these shapes");
  return plan.kept[at] ? Verdict::save : Verdict::recompute;
}

/// A slot in the text: a letter for what it looks like, large where it is kept, after a number from the 27th on.
template <class = void>
void append_slot(std::string& text, std::uint32_t kind, bool is_kept) {
  if (kind >= 26) text += std::to_string(kind / 26);
  text += static_cast<char>((is_kept ? 'A' : 'a') + kind % 26);
}

template <class = void>
std::vector<std::string> words_of(const PlannedSlots& plan) {
  const auto kept = std::count(plan.kept.begin(), plan.kept.end(), true);
  std::vector<std::string> words{"kept:" + std::to_string(kept) + "/" + std::to_string(plan.size()),
                                 "peak:" + std::to_string(plan.peak_bytes)};
  for (const SlotFingerprint& kind : plan.kinds) words.push_back(kind.op + ":" + std::to_string(kind.bytes));
  std::string slots;
  for (std::size_t i = 0; i < plan.size(); ++i) append_slot(slots, plan.kind[i], plan.kept[i]);
  words.push_back(std::move(slots));
  return words;
}

/// The number that `text` is, whole.
template <class = void>
std::size_t number_in(std::string_view text, std::string_view word) {
  std::size_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  require(error == std::errc() && end == text.data() + text.size(), "policy: plan(...): \"", word,
          "\" does not end in a number");
  return number;
}
/// The number behind `before` in `word`, which begins with it.
template <class = void>
std::size_t number_behind(std::string_view before, std::string_view word) {
  require(word.substr(0, before.size()) == before, "policy: plan(...): found \"", word, "\", expected \"", before,
          "\" and a number");
  return number_in(word.substr(before.size()), word);
}

template <class = void>
void read_slots(PlannedSlots& plan, std::string_view text) {
  for (std::size_t at = 0; at < text.size(); ++at) {
    const std::size_t start = at;
    while (at < text.size() && text[at] >= '0' && text[at] <= '9') ++at;
    const std::string_view digits = text.substr(start, at - start);
    const char c = at < text.size() ? text[at] : '?';
    const bool is_kept = c >= 'A' && c <= 'Z';
    require(is_kept || (c >= 'a' && c <= 'z'), "policy: plan(...): value ", plan.size(), " has no letter");
    const std::size_t tens = digits.empty() ? 0 : number_in(digits, digits);
    const std::size_t kind = static_cast<std::size_t>(c - (is_kept ? 'A' : 'a'));
    require(tens < plan.kinds.size() && 26 * tens + kind < plan.kinds.size(), "policy: plan(...): value ", plan.size(),
            " is of kind ", digits, c, ", of ", plan.kinds.size(), " kinds");
    plan.kind.push_back(static_cast<std::uint32_t>(26 * tens + kind));
    plan.kept.push_back(is_kept);
  }
}

/// What `words_of` wrote.
template <class = void>
PlannedSlots slots_in(const std::vector<std::string>& words) {
  require(words.size() >= 4, "policy: plan(...) has ", words.size(), " parts, at least 4 are needed; its text is cut");
  PlannedSlots plan;
  plan.peak_bytes = number_behind("peak:", words[1]);
  for (std::size_t i = 2; i + 1 < words.size(); ++i) {
    const std::size_t colon = words[i].rfind(':');
    require(colon != std::string::npos && colon > 0, "policy: plan(...): found \"", words[i],
            "\", expected an op and its bytes, \"add:4096\"");
    plan.kinds.push_back({words[i].substr(0, colon), number_in(words[i].substr(colon + 1), words[i])});
  }
  read_slots(plan, words.back());
  const std::string counts = words_of(plan).front();
  require(counts == words[0], "policy: plan(...) says \"", words[0], "\", its values are \"", counts,
          "\"; its text is damaged");
  return plan;
}

inline bool is_planned(const Node& node) {
  return node.kind == Kind::plan || (node.left && is_planned(*node.left)) || (node.right && is_planned(*node.right));
}

}  // namespace detail

/// Keeps what the plan keeps; asked about a slot of another program it throws an `Error`. Prints as
/// `plan(kept:12/40, peak:1263616, ...)`, which `parse` reads back in any process: a plan can be stored.
template <class = void>
Policy planned(PlannedSlots plan) {
  auto node = std::make_shared<detail::PlanNode>();
  node->kind = detail::Kind::plan;
  node->text = detail::words_of(plan);
  node->views.assign(node->text.begin(), node->text.end());
  node->words = node->views;
  node->function = [plan = std::move(plan)](const SlotInfo& slot) { return detail::ask(plan, slot); };
  return Policy(std::shared_ptr<const detail::Node>(std::move(node)));
}

/// Does the expression name a plan's policy? Then it rules one program alone.
inline bool is_planned(const Policy& policy) { return detail::is_planned(policy.node()); }

}}}  // namespace remat::policy
