// Texts at which generation ends.
#pragma once

#include <algorithm>
#include <cstddef>
#include <remat/core/error.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace text {

/// Looks for the first of some texts in a text that comes in pieces, and holds back what may yet become one of them.
class StopStrings {
 public:
  /// An `Error` for one that is empty, since every text has it.
  explicit StopStrings(std::vector<std::string> stops) : stops_(std::move(stops)) {
    for (const std::string& stop : stops_) require(!stop.empty(), "stop strings: one is empty; leave it out");
  }

  /// What can be shown of the text so far, with `piece` behind it: up to the stop string that begins first, or to where
  /// one may have begun. Nothing more comes once one was found.
  std::string push(std::string_view piece) {
    if (found_) return {};
    held_ += piece;
    std::size_t first = std::string::npos;
    for (const std::string& stop : stops_) first = std::min(first, held_.find(stop));
    found_ = first != std::string::npos;
    const std::size_t shown = found_ ? first : held_.size() - possible();
    std::string text = held_.substr(0, shown);
    held_.erase(0, shown);
    return text;
  }
  /// Has one been found?
  bool found() const { return found_; }
  /// What was held back, when nothing follows; nothing where a stop string was found.
  std::string finish() { return found_ ? std::string() : std::exchange(held_, {}); }

 private:
  /// The length of the longest end of the text that a stop string begins with.
  std::size_t possible() const {
    std::size_t longest = 0;
    for (const std::string& stop : stops_)
      for (std::size_t n = std::min(stop.size() - 1, held_.size()); n > longest; --n)
        if (std::string_view(held_).substr(held_.size() - n) == std::string_view(stop).substr(0, n)) longest = n;
    return longest;
  }

  std::vector<std::string> stops_;
  std::string held_{};
  bool found_ = false;
};

}}}  // namespace remat::text
