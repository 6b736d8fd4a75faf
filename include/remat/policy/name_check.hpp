// A label or an op's name that matches nothing in a whole step is the commonest silent failure of remat policies: here
// is what the engine needs to refuse it.
#pragma once

#include <algorithm>
#include <remat/policy/near_misses.hpp>
#include <remat/policy/policy.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace policy {

namespace detail {

// Phrases are not entered: they name labels of layers that a model need not have.
template <class = void>
void collect_words(const Node& node, Kind kind, std::vector<std::string>& words) {
  if (node.kind == Kind::phrase) return;
  if (node.kind == kind)
    for (std::string_view word : node.words)
      if ((kind != Kind::names || word != any_label) && std::find(words.begin(), words.end(), word) == words.end())
        words.emplace_back(word);
  if (node.left) collect_words(*node.left, kind, words);
  if (node.right) collect_words(*node.right, kind, words);
}
template <class = void>
void sort_once(std::vector<std::string>& words) {
  std::sort(words.begin(), words.end());
  words.erase(std::unique(words.begin(), words.end()), words.end());
}

}  // namespace detail

/// The labels that the user wrote into `policy`, each once, in the order written; without "*" and without those of
/// phrase-book constants.
template <class = void>
std::vector<std::string> written_names(const Policy& policy) {
  std::vector<std::string> names;
  detail::collect_words(policy.node(), detail::Kind::names, names);
  return names;
}
/// The same of the names of ops.
template <class = void>
std::vector<std::string> written_ops(const Policy& policy) {
  std::vector<std::string> ops;
  detail::collect_words(policy.node(), detail::Kind::ops, ops);
  return ops;
}

/// The error for a written name that no slot of the step carries: near misses, and the names that exist.
template <class = void>
std::string unmatched_name_message(std::string_view name, std::vector<std::string> existing) {
  detail::sort_once(existing);
  std::string text = "policy: no value of this step is named \"" + std::string(name) + '"';
  if (name == "logits")
    text +=
        ": logits never exist: those of attention (\"context\" is its output) and those of the head stay inside fused "
        "ops.";
  else if (const std::string hint = did_you_mean(name, existing); !hint.empty())
    text += hint;
  else
    text += '.';
  if (existing.empty()) return text + " No value has a name: give one with checkpoint_name(x, \"name\").";
  return text + " Names that exist: " + joined(existing) + '.';
}
/// The error for a written op that the step does not have: near misses, and the ops that it has.
template <class = void>
std::string unmatched_op_message(std::string_view op, std::vector<std::string> existing) {
  detail::sort_once(existing);
  const std::string hint = did_you_mean(op, existing);
  return "policy: no op of this step is named \"" + std::string(op) + '"' + (hint.empty() ? "." : hint) +
         " Ops of this step: " + joined(existing) + '.';
}

}}}  // namespace remat::policy
