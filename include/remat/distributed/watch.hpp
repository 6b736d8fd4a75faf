// A transport that is not waited for without end.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <remat/distributed/transport.hpp>
#include <span>
#include <string>
#include <thread>
#include <utility>

namespace remat { inline namespace REMAT_ABI { namespace distributed { namespace detail {

/// Another transport, whose calls may take `patience` seconds each. A thread of its own watches them: where one takes
/// longer, it says which ranks are waited for, and ends this process, after which `mpirun` ends the others.
class Watched final : public Transport {
 public:
  Watched(std::shared_ptr<Transport> of, double patience)
      : of_(std::move(of)), patience_(patience), watcher_([this] { watch(); }) {}
  Watched(const Watched&) = delete;
  Watched& operator=(const Watched&) = delete;
  ~Watched() override {
    {
      const std::lock_guard lock(mutex_);
      is_over_ = true;
    }
    changed_.notify_one();
    watcher_.join();
  }
  int rank() const override { return of_->rank(); }
  int size() const override { return of_->size(); }
  void send(std::span<const std::byte> bytes, int to) override {
    const Call call(*this, "send to", to, to);
    of_->send(bytes, to);
  }
  void receive(std::span<std::byte> bytes, int from) override {
    const Call call(*this, "receive from", from, from);
    of_->receive(bytes, from);
  }
  void exchange(std::span<const std::byte> out, int to, std::span<std::byte> in, int from) override {
    const Call call(*this, "exchange with", to, from);
    of_->exchange(out, to, in, from);
  }
  void broadcast(std::span<std::byte> bytes, int from) override {
    const Call call(*this, "get a broadcast of", from, from);
    of_->broadcast(bytes, from);
  }
  std::shared_ptr<Transport> split(int color) override {
    const Call call(*this, "form a group with", -1, -1);
    return of_->split(color);  // whose group watches it
  }
  std::shared_ptr<Transport> on_one_machine() override {
    const Call call(*this, "form a group with", -1, -1);
    return of_->on_one_machine();
  }
  [[noreturn]] void stop_all(int code) override {
    of_->stop_all(code);
    std::abort();
  }

 private:
  using Clock = std::chrono::steady_clock;

  /// One call, from its beginning to its end.
  class Call {
   public:
    Call(Watched& watched, const char* what, int first, int second) : watched_(watched) {
      const std::lock_guard lock(watched_.mutex_);
      watched_.what_ = what, watched_.first_ = first, watched_.second_ = second;
      watched_.begun_ = Clock::now();
      watched_.is_busy_ = true;
    }
    Call(const Call&) = delete;
    Call& operator=(const Call&) = delete;
    ~Call() {
      const std::lock_guard lock(watched_.mutex_);
      watched_.is_busy_ = false;
    }

   private:
    Watched& watched_;
  };

  void watch() {
    std::unique_lock lock(mutex_);
    // Calls are many and short: they do not wake this thread, which looks ten times in the time it allows.
    while (!changed_.wait_for(lock, std::chrono::duration<double>(patience_ / 10), [this] { return is_over_; })) {
      const double seconds = std::chrono::duration<double>(Clock::now() - begun_).count();
      if (!is_busy_ || seconds < patience_) continue;
      const std::string whom = first_ < 0 ? "all ranks"
                               : first_ == second_
                                   ? "rank " + std::to_string(first_)
                                   : "ranks " + std::to_string(first_) + " and " + std::to_string(second_);
      std::fprintf(stderr,
                   "rank %d of %d: waited %.1f s to %s %s, which must be gone or very slow; all ranks are stopped\n",
                   rank(), size(), seconds, what_, whom.c_str());
      std::fflush(stderr);
      std::_Exit(1);
    }
  }

  std::shared_ptr<Transport> of_;
  double patience_;
  std::mutex mutex_{};
  std::condition_variable changed_{};
  bool is_over_ = false, is_busy_ = false;
  const char* what_ = "";
  int first_ = -1, second_ = -1;
  Clock::time_point begun_{};
  std::thread watcher_;  // last: it sees all the others
};

}}}}  // namespace remat::distributed::detail
