// Buckets of gradients on their way, by this thread or by one beside it.
#pragma once

#include <chrono>
#include <cstddef>
#include <deque>
#include <memory>
#include <remat/distributed/bucket_task.hpp>
#include <remat/distributed/communication_thread.hpp>
#include <utility>

namespace remat { inline namespace REMAT_ABI { namespace distributed { namespace detail {

/// Runs buckets in the order in which they come.
class BucketQueue {
 public:
  explicit BucketQueue(bool overlap) : thread_(overlap ? std::make_unique<CommunicationThread>() : nullptr) {}

  /// Nothing of a step yet.
  void begin() { underway_.clear(), waited_ = 0; }
  /// Runs one, or gives it to the thread, where no more than two wait: what is sent is to be freed, also where the
  /// network is slow.
  void put(std::shared_ptr<BucketTask> task) {
    underway_.push_back(std::move(task));
    if (thread_)
      timed([&] { thread_->post([of = underway_.back()] { of->run(); }, 2); });
    else
      underway_.back()->run();
  }
  /// Until all have run.
  void wait() {
    if (thread_) timed([&] { thread_->wait(); });
  }
  /// Calls `use(bucket)` for those that have run by now, once.
  template <class Use>
  void take(Use&& use) {
    for (const std::size_t left = thread_ ? thread_->unfinished() : 0; underway_.size() > left; underway_.pop_front())
      use(*underway_.front());
  }
  /// Of what was taken out of the nodes and has no sums yet.
  std::size_t bytes() const {
    std::size_t bytes = 0;
    for (const auto& task : underway_) bytes += task->bytes();
    return bytes;
  }
  /// Seconds of the step in which its caller waited for the thread.
  double waited_seconds() const { return waited_; }

 private:
  template <class Wait>
  void timed(Wait&& wait) {
    const auto start = std::chrono::steady_clock::now();
    wait();
    waited_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }

  double waited_ = 0;
  std::deque<std::shared_ptr<BucketTask>> underway_{};
  std::unique_ptr<CommunicationThread> thread_;
};

}}}}  // namespace remat::distributed::detail
