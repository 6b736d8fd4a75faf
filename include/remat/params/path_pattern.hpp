// Patterns over parameter paths: `*` stands for any run of characters, '/' among them, `?` for one.
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

/// The least number of letters to insert, remove or replace in `path` so that the pattern fits it: 0 where it does.
inline std::size_t letters_off(std::string_view pattern, std::string_view path) {
  std::vector<std::size_t> row(path.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (const char c : pattern) {
    const bool is_run = c == '*';
    std::size_t diagonal = row[0];
    if (!is_run) ++row[0];
    for (std::size_t j = 0; j < path.size(); ++j) {
      const std::size_t replaced = diagonal + (c != '?' && c != path[j]);
      diagonal = row[j + 1];
      row[j + 1] = is_run ? std::min(row[j + 1], row[j]) : std::min({replaced, row[j] + 1, row[j + 1] + 1});
    }
  }
  return row.back();
}

/// Does the pattern fit the whole path?
inline bool fits(std::string_view pattern, std::string_view path) { return letters_off(pattern, path) == 0; }

/// `; the nearest paths are ...`: up to three that the pattern nearly fits, for errors.
template <class = void>
std::string nearest_paths(std::string_view pattern, const std::vector<std::string>& paths) {
  if (paths.empty()) return "; none has been made yet";
  std::vector<std::pair<std::size_t, std::string>> all;
  for (const std::string& path : paths) all.emplace_back(letters_off(pattern, path), path);
  std::stable_sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  std::string text;
  for (std::size_t i = 0; i < std::min<std::size_t>(3, all.size()); ++i)
    text += (i == 0 ? "; the nearest paths are \"" : ", \"") + all[i].second + '"';
  return text;
}

}}}  // namespace remat::detail
