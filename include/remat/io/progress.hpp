// The progress line of a training loop, and its advice when steps are slowed down.
#pragma once

#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdio>
#include <optional>
#include <remat/core/shape.hpp>
#include <string>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace io {

/// "1.2 MiB"; below 10 of a unit with one decimal.
inline std::string readable_bytes(double bytes) {
  static constexpr const char* units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  int unit = 0;
  for (; bytes >= 1024 && unit < 4; ++unit) bytes /= 1024;
  char text[32];
  std::snprintf(text, sizeof text, bytes < 10 && unit > 0 ? "%.1f %s" : "%.0f %s", bytes, units[unit]);
  return text;
}

/// "3m05s"
inline std::string readable_seconds(double seconds) {
  const auto whole = static_cast<long>(seconds + 0.5);
  char text[32];
  if (whole < 60)
    std::snprintf(text, sizeof text, "%lds", whole);
  else if (whole < 3600)
    std::snprintf(text, sizeof text, "%ldm%02lds", whole / 60, whole % 60);
  else
    std::snprintf(text, sizeof text, "%ldh%02ldm", whole / 3600, whole / 60 % 60);
  return text;
}

/// The median time of `count` calls of `step()` after `warm_up` others: one that was held up does not decide. Where
/// they take more than `patience` seconds together, it is that of the calls so far, of one at least.
template <class Step>
double median_seconds(Step&& step, int count = 5, int warm_up = 2, double patience = 10) {
  using Clock = std::chrono::steady_clock;
  const auto since = [](Clock::time_point then) { return std::chrono::duration<double>(Clock::now() - then).count(); };
  const Clock::time_point start = Clock::now();
  std::vector<double> seconds;
  for (int i = -warm_up; i < count; ++i) {
    const Clock::time_point before = Clock::now();
    step();
    const bool is_late = since(start) > patience;
    if (i >= 0 || is_late) seconds.push_back(since(before));
    if (is_late) break;
  }
  const auto middle = seconds.begin() + static_cast<std::ptrdiff_t>(seconds.size() / 2);
  std::nth_element(seconds.begin(), middle, seconds.end());
  return *middle;
}

/// How many steps of `seconds_each` take `seconds`: from `least` to `most`.
inline Index steps_within(double seconds, double seconds_each, Index least, Index most) {
  if (!(seconds_each * static_cast<double>(most) > seconds)) return most;
  return std::clamp(static_cast<Index>(seconds / seconds_each), least, most);
}

/// Watches the time of steps that do equal work, and says once that they are slowed down from outside.
class StepTimes {
 public:
  /// `seconds` is the time of the next step. A line of advice when the slower of the last 16 steps took more than 3
  /// times as long as the faster (two of each, so that a single one is no reason), else nothing.
  std::string advice(double seconds) {
    if (is_given_) return {};
    recent_[count_++ % recent_.size()] = seconds;
    if (count_ < recent_.size()) return {};
    auto sorted = recent_;
    std::sort(sorted.begin(), sorted.end());
    const double fast = sorted[1], slow = sorted[sorted.size() - 2];
    if (!(slow > 3 * fast)) return {};
    is_given_ = true;
    char text[200];
    std::snprintf(text, sizeof text,
                  "steps take from %.1f to %.1f ms: others use these cores; OMP_WAIT_POLICY=passive in the environment "
                  "or fewer threads help",
                  1e3 * fast, 1e3 * slow);
    return text;
  }

 private:
  std::array<double, 16> recent_{};
  std::size_t count_ = 0;
  bool is_given_ = false;
};

/// One line on standard output that is rewritten at most ten times a second; where the output is no terminal, a plain
/// line every few seconds, or every few steps.
class ProgressLine {
 public:
  using Clock = std::chrono::steady_clock;  // never set back

  /// Without a terminal a line for the first step, the last, and others `plain_every` apart.
  explicit ProgressLine(Index steps, std::chrono::milliseconds plain_every = std::chrono::seconds(5))
      : steps_(steps), between_(is_terminal_ ? std::chrono::milliseconds(100) : plain_every) {}
  /// Without a terminal a line every `plain_every` steps.
  ProgressLine(Index steps, Index plain_every) : ProgressLine(steps) { plain_steps_ = plain_every; }
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;
  ~ProgressLine() { finish(); }  // an error's text begins on a line of its own

  /// Shows `text` for step `step`, counted from 0, with the time left behind it.
  void show(Index step, const std::string& text) {
    const Clock::time_point now = Clock::now();
    const double elapsed = std::chrono::duration<double>(now - start_).count();
    const double left = elapsed / static_cast<double>(step + 1) * static_cast<double>(steps_ - step - 1);
    const std::string line = text + "  ETA " + readable_seconds(left);
    const bool is_due =
        plain_steps_ > 0 && !is_terminal_ ? step % plain_steps_ == 0 : !shown_ || now - *shown_ >= between_;
    if (!is_due && step + 1 != steps_) return;
    shown_ = now;
    print(is_terminal_ ? "\r\033[K" + line : line + "\n");
    is_open_ = is_terminal_;
  }
  /// A line that stays; the progress line goes on below it.
  void note(const std::string& text) {
    print((is_open_ ? "\r\033[K" : "") + text + "\n");
    is_open_ = false;
  }
  /// Leaves the last progress line standing.
  void finish() {
    if (is_open_) print("\n");
    is_open_ = false;
  }

 private:
  static void print(const std::string& text) {
    std::fputs(text.c_str(), stdout);
    std::fflush(stdout);
  }

  Index steps_, plain_steps_ = 0;
  bool is_terminal_ = isatty(STDOUT_FILENO) == 1;
  std::chrono::milliseconds between_;
  bool is_open_ = false;
  Clock::time_point start_ = Clock::now();
  std::optional<Clock::time_point> shown_{};  // last, if ever
};

}}}  // namespace remat::io
