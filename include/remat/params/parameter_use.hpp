// Who uses a parameter now: several threads on one registry get an Error by name where they would race.
#pragma once

#include <cstdint>
#include <mutex>
#include <remat/core/error.hpp>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI {

/// read: of the value; train: a tape may add to the gradient, or somebody reads or sets it; write: the value changes.
enum class ParameterUse : std::uint8_t { read, train, write };

/// The threads that use one parameter. Any number may read its value at one time; one of them may train it meanwhile;
/// while one writes, no other uses it. Uses of one thread never stand in each other's way.
class ParameterUses {
 public:
  /// An `Error` names the parameter where another thread uses it in a way that excludes this one.
  template <class = void>
  void begin(ParameterUse use, const std::string& path);
  /// The end of a use that `thread` began.
  template <class = void>
  void end(ParameterUse use, std::thread::id thread);

 private:
  struct Thread {
    std::thread::id id;
    int counts[3]{};
    int& count(ParameterUse use) { return counts[static_cast<int>(use)]; }
  };
  static std::mutex& mutex() {  // one for all: it is held for nanoseconds
    static std::mutex mutex;
    return mutex;
  }
  std::vector<Thread> threads_;
};

template <class>
void ParameterUses::begin(ParameterUse use, const std::string& path) {
  const std::lock_guard lock(mutex());
  Thread* mine = nullptr;
  for (Thread& thread : threads_) {
    if (thread.id == std::this_thread::get_id()) {
      mine = &thread;
      continue;
    }
    const bool is_written = thread.count(ParameterUse::write) > 0, is_trained = thread.count(ParameterUse::train) > 0;
    require(!is_written && (use == ParameterUse::read || (use == ParameterUse::train && !is_trained)), path, ": ",
            is_written   ? "another thread is changing it"
            : is_trained ? "another thread is training it"
                         : "a tape of another thread reads it",
            "; one thread at a time trains a registry, and none evaluates while values change: take turns, or give "
            "each thread a registry of its own");
  }
  if (mine == nullptr) mine = &threads_.emplace_back(Thread{std::this_thread::get_id()});
  ++mine->count(use);
}

template <class>
void ParameterUses::end(ParameterUse use, std::thread::id thread) {
  const std::lock_guard lock(mutex());
  for (Thread& each : threads_)
    if (each.id == thread) --each.count(use);
  std::erase_if(threads_, [](const Thread& t) { return t.counts[0] + t.counts[1] + t.counts[2] == 0; });
}

/// A use for as long as the guard lives.
class ParameterUseGuard {
 public:
  ParameterUseGuard(ParameterUses& uses, ParameterUse use, const std::string& path)
      : uses_(&uses), use_(use), thread_(std::this_thread::get_id()) {
    uses.begin(use, path);
  }
  ParameterUseGuard(ParameterUseGuard&& other) noexcept
      : uses_(std::exchange(other.uses_, nullptr)), use_(other.use_), thread_(other.thread_) {}
  ParameterUseGuard& operator=(ParameterUseGuard&&) = delete;
  ~ParameterUseGuard() {
    if (uses_ != nullptr) uses_->end(use_, thread_);
  }

 private:
  ParameterUses* uses_;
  ParameterUse use_;
  std::thread::id thread_;
};

}}  // namespace remat
