// A name that matches nothing in a whole step is the commonest silent failure of remat policies: here is what the
// engine needs to refuse it.
#pragma once

#include <algorithm>
#include <remat/policy/near_misses.hpp>
#include <remat/policy/policy.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace remat::inline REMAT_ABI::policy {

namespace detail {

// Phrases are not entered: they name labels of layers that a model need not have.
inline void collect_names(const Node& node, std::vector<std::string>& names) {
  if (node.kind == Kind::phrase) return;
  if (node.kind == Kind::names)
    for (std::string_view word : node.words)
      if (word != any_label && std::find(names.begin(), names.end(), word) == names.end()) names.emplace_back(word);
  if (node.left) collect_names(*node.left, names);
  if (node.right) collect_names(*node.right, names);
}

}  // namespace detail

/// The labels that the user wrote into `policy`, each once, in the order written; without "*" and without those of
/// phrase-book constants.
inline std::vector<std::string> written_names(const Policy& policy) {
  std::vector<std::string> names;
  detail::collect_names(policy.node(), names);
  return names;
}

/// The error for a written name that no slot of the step carries: near misses, and the names that exist.
inline std::string unmatched_name_message(std::string_view name, std::vector<std::string> existing) {
  std::sort(existing.begin(), existing.end());
  existing.erase(std::unique(existing.begin(), existing.end()), existing.end());
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

}  // namespace remat::inline REMAT_ABI::policy
