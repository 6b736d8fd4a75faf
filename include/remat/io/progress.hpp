// The progress line of a training loop.
#pragma once

#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <remat/core/shape.hpp>
#include <string>

namespace remat::inline REMAT_ABI::io {

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

/// One line on standard output that is rewritten at most ten times a second; where the output is no terminal, a plain
/// line every `plain_every` steps.
class ProgressLine {
 public:
  using Clock = std::chrono::steady_clock;

  ProgressLine(Index steps, Index plain_every)
      : steps_(steps), plain_every_(plain_every), is_terminal_(isatty(STDOUT_FILENO) == 1) {}
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;
  ~ProgressLine() { finish(); }  // an error's text begins on a line of its own

  /// Shows `text` for step `step`, counted from 0, with the time left behind it.
  void show(Index step, const std::string& text) {
    const Clock::time_point now = Clock::now();
    const double elapsed = std::chrono::duration<double>(now - start_).count();
    const double left = elapsed / static_cast<double>(step + 1) * static_cast<double>(steps_ - step - 1);
    const std::string line = text + "  ETA " + readable_seconds(left);
    if (!is_terminal_) {
      if (step % plain_every_ == 0 || step + 1 == steps_) print(line + "\n");
    } else if (now - shown_ >= std::chrono::milliseconds(100) || step + 1 == steps_) {
      shown_ = now;
      print("\r\033[K" + line);
      is_open_ = true;
    }
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

  Index steps_, plain_every_;
  bool is_terminal_;
  bool is_open_ = false;
  Clock::time_point start_ = Clock::now(), shown_{};
};

}  // namespace remat::inline REMAT_ABI::io
