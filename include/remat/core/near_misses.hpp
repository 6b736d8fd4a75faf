// Spelling help for error messages.
#pragma once

#include <algorithm>
#include <cstddef>
#include <numeric>
#include <remat/core/config.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace detail {

/// A name from a file, for an error: not endless, and no control characters.
template <class = void>
std::string quoted(std::string_view name) {
  constexpr std::size_t longest = 100;
  std::string text = '"' + std::string(name.substr(0, longest)) + (name.size() > longest ? "...\"" : "\"");
  std::replace_if(
      text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < ' ' || c == '\x7f'; }, '?');
  return text;
}

/// The least number of letters to insert, remove or replace to turn `a` into `b` (Levenshtein 1966).
template <class = void>
std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 0; i < a.size(); ++i) {
    std::size_t diagonal = std::exchange(row[0], i + 1);
    for (std::size_t j = 0; j < b.size(); ++j) {
      const std::size_t replaced = diagonal + (a[i] != b[j]);
      diagonal = row[j + 1];
      row[j + 1] = std::min({replaced, row[j] + 1, row[j + 1] + 1});
    }
  }
  return row.back();
}

/// Up to three of `candidates` that `word` may have meant, nearest first.
template <class = void>
std::vector<std::string> near_misses(std::string_view word, const std::vector<std::string>& candidates) {
  std::vector<std::pair<std::size_t, std::string>> found;
  const std::size_t most = 1 + word.size() / 4;
  for (const std::string& candidate : candidates) {
    const std::size_t longer = std::max(word.size(), candidate.size());
    if (longer - std::min(word.size(), candidate.size()) > most) continue;
    const std::size_t distance = edit_distance(word, candidate);
    if (distance <= most && distance < longer) found.emplace_back(distance, candidate);
  }
  std::stable_sort(found.begin(), found.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<std::string> nearest;
  for (std::size_t i = 0; i < std::min<std::size_t>(found.size(), 3); ++i) nearest.push_back(found[i].second);
  return nearest;
}

/// `; did you mean "dots"?`, or nothing when no candidate is near.
template <class = void>
std::string did_you_mean(std::string_view word, const std::vector<std::string>& candidates) {
  std::string text;
  for (const std::string& near : near_misses(word, candidates))
    text += (text.empty() ? "; did you mean \"" : " or \"") + near + "\"";
  return text.empty() ? text : text + "?";
}

/// The words with ", " between them.
template <class = void>
std::string joined(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : ", ") + word;
  return text;
}

/// `; the nearest names are ...`: up to three of `names`, those that share the longest beginning and end with `name`.
/// For paths, where a whole word more or less is a small mistake.
template <class = void>
std::string nearest_names(std::string_view name, std::vector<std::string> names) {
  const auto likeness = [name](std::string_view other) {
    const auto begins = std::mismatch(name.begin(), name.end(), other.begin(), other.end());
    const auto ends = std::mismatch(name.rbegin(), name.rend(), other.rbegin(), other.rend());
    return (begins.first - name.begin()) + (ends.first - name.rbegin());
  };
  std::stable_sort(names.begin(), names.end(), [&](const auto& a, const auto& b) { return likeness(a) > likeness(b); });
  std::string text;
  for (std::size_t i = 0; i < std::min<std::size_t>(3, names.size()); ++i)
    text += (i == 0 ? "; the nearest names are \"" : ", \"") + names[i] + '"';
  return text;
}

}}}  // namespace remat::detail
