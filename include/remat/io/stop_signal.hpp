// Ctrl-C that lets a loop end its step.
#pragma once

#include <signal.h>

#include <atomic>
#include <remat/core/config.hpp>

namespace remat { inline namespace REMAT_ABI { namespace io {

namespace detail {
inline std::atomic<int> received_signal{0};
static_assert(std::atomic<int>::is_always_lock_free, "a signal handler may write to it");
inline void receive_signal(int signal) {
  received_signal = signal;
  for (const int next : {SIGINT, SIGTERM}) ::signal(next, SIG_DFL);
}
}  // namespace detail

/// While it lives, the first SIGINT or SIGTERM ends nothing: `received()` tells of it, so that a loop can finish its
/// step and save. The second ends the program at once. One at a time.
class StopSignal {
 public:
  StopSignal() {
    detail::received_signal = 0;
    struct sigaction action {};
    action.sa_handler = detail::receive_signal;
    action.sa_flags = SA_RESTART;  // a write that is going on is not disturbed
    ::sigaction(SIGINT, &action, &before_[0]);
    ::sigaction(SIGTERM, &action, &before_[1]);
  }
  StopSignal(const StopSignal&) = delete;
  StopSignal& operator=(const StopSignal&) = delete;
  ~StopSignal() {
    ::sigaction(SIGINT, &before_[0], nullptr);
    ::sigaction(SIGTERM, &before_[1], nullptr);
  }

  /// Has one come?
  bool received() const { return detail::received_signal != 0; }

 private:
  struct sigaction before_[2]{};
};

}}}  // namespace remat::io
