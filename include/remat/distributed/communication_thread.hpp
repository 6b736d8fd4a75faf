// A thread that communicates while others compute.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <remat/core/config.hpp>
#include <thread>
#include <utility>

namespace remat { inline namespace REMAT_ABI { namespace distributed { namespace detail {

/// Does this thread sleep between looks at a transfer? On others, which have nothing to do meanwhile, MPI spins.
inline bool& waits_asleep() {
  static thread_local bool is_so = false;
  return is_so;
}

/// A thread that runs tasks in the order in which they come, while its owner goes on. Tasks hold all that they work on:
/// an owner that goes by an exception waits for none of them, whose ranks may wait for that owner.
class CommunicationThread {
 public:
  CommunicationThread() : state_(std::make_shared<State>()), thread_([state = state_] { work(*state); }) {}
  CommunicationThread(const CommunicationThread&) = delete;
  CommunicationThread& operator=(const CommunicationThread&) = delete;
  ~CommunicationThread() {
    std::unique_lock lock(state_->mutex);
    state_->is_over = true;
    const bool is_idle = state_->unfinished == 0;
    lock.unlock();
    state_->changed.notify_all();
    is_idle ? thread_.join() : thread_.detach();
  }

  /// Waits until fewer than `most` tasks are unfinished, then adds one.
  void post(std::function<void()> task, std::size_t most) {
    wait_until_below(most);
    const std::lock_guard lock(state_->mutex);
    state_->tasks.push_back(std::move(task));
    ++state_->unfinished;
    state_->changed.notify_all();
  }
  /// Waits for all tasks.
  void wait() { wait_until_below(1); }
  /// Tasks that wait, or run; the others have ended, and what they wrote may be read. Throws what a task has thrown, as
  /// do all calls from then on.
  std::size_t unfinished() const {
    const std::lock_guard lock(state_->mutex);
    if (state_->error) std::rethrow_exception(state_->error);
    return state_->unfinished;
  }

 private:
  struct State {
    std::mutex mutex{};
    std::condition_variable changed{};
    std::deque<std::function<void()>> tasks{};
    std::size_t unfinished = 0;
    std::exception_ptr error{};  // of the first task that failed, behind which none runs
    bool is_over = false;
  };

  void wait_until_below(std::size_t most) const {
    std::unique_lock lock(state_->mutex);
    state_->changed.wait(lock, [&] { return state_->error || state_->unfinished < most; });
    if (state_->error) std::rethrow_exception(state_->error);
  }
  static void work(State& state) {
    waits_asleep() = true;
    std::unique_lock lock(state.mutex);
    for (;;) {
      state.changed.wait(lock, [&] { return state.is_over || (!state.tasks.empty() && !state.error); });
      if (state.is_over) return;
      std::function<void()> task = std::move(state.tasks.front());
      state.tasks.pop_front();
      lock.unlock();
      std::exception_ptr error;
      try {
        task();
      } catch (...) {
        error = std::current_exception();
      }
      task = nullptr;  // what it holds is freed before others are told
      lock.lock();
      state.error = error;
      --state.unfinished;
      state.changed.notify_all();
    }
  }

  std::shared_ptr<State> state_;
  std::thread thread_;  // last: it sees the state
};

}}}}  // namespace remat::distributed::detail
