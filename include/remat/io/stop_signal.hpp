// Ctrl-C, or a terminal that is closed, that lets a loop end its step.
#pragma once

#include <signal.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <remat/core/config.hpp>

namespace remat { inline namespace REMAT_ABI { namespace io {

namespace detail {
inline std::atomic<int> received_signal{0};
static_assert(std::atomic<int>::is_always_lock_free, "a signal handler may write to it");
inline void receive_signal(int signal) {
  received_signal = signal;
  for (const int next : {SIGINT, SIGTERM})
    if (::signal(next, SIG_DFL) == SIG_IGN) ::signal(next, SIG_IGN);
  ::signal(SIGHUP, SIG_IGN);  // of a terminal that is closed, by its shell and by the system: two that mean one
}
}  // namespace detail

/// While it lives, the first SIGINT, SIGTERM or SIGHUP ends nothing: `received()` tells of it, so that a loop can
/// finish its step and save. The second ends the program at once, unless it is a SIGHUP. What was ignored, as `nohup`
/// has it, stays ignored. One at a time.
class StopSignal {
 public:
  StopSignal() {
    detail::received_signal = 0;
    struct sigaction action {};
    action.sa_handler = detail::receive_signal;
    action.sa_flags = SA_RESTART;  // a write that is going on is not disturbed
    for (std::size_t i = 0; i < signals.size(); ++i) {
      ::sigaction(signals[i], nullptr, &before_[i]);
      if (before_[i].sa_handler != SIG_IGN) ::sigaction(signals[i], &action, nullptr);
    }
  }
  StopSignal(const StopSignal&) = delete;
  StopSignal& operator=(const StopSignal&) = delete;
  ~StopSignal() {
    for (std::size_t i = 0; i < signals.size(); ++i) ::sigaction(signals[i], &before_[i], nullptr);
  }

  /// Has one come?
  bool received() const { return detail::received_signal != 0; }

 private:
  static constexpr std::array signals = {SIGINT, SIGTERM, SIGHUP};
  std::array<struct sigaction, signals.size()> before_{};
};

}}}  // namespace remat::io
