// A transport that notes what its transfers take.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <remat/distributed/communication_thread.hpp>
#include <remat/distributed/transport.hpp>
#include <span>
#include <utility>

namespace remat { inline namespace REMAT_ABI { namespace distributed {

/// What the transfers of a group came to so far.
struct Transfers {
  double seconds = 0;     // waiting for other ranks included
  double beside = 0;      // of it, by a thread beside that which computes
  std::size_t bytes = 0;  // sent; of a broadcast once
};

namespace detail {

/// Another transport, timed.
class Timed final : public Transport {
 public:
  explicit Timed(std::shared_ptr<Transport> of) : of_(std::move(of)) {}
  int rank() const override { return of_->rank(); }
  int size() const override { return of_->size(); }
  void send(std::span<const std::byte> bytes, int to) override {
    timed(bytes.size(), [&] { of_->send(bytes, to); });
  }
  void receive(std::span<std::byte> bytes, int from) override {
    timed(0, [&] { of_->receive(bytes, from); });
  }
  void exchange(std::span<const std::byte> out, int to, std::span<std::byte> in, int from) override {
    timed(out.size(), [&] { of_->exchange(out, to, in, from); });
  }
  void broadcast(std::span<std::byte> bytes, int from) override {
    timed(from == rank() ? bytes.size() : 0, [&] { of_->broadcast(bytes, from); });
  }
  std::shared_ptr<Transport> split(int color) override { return of_->split(color); }  // whose group times it
  std::shared_ptr<Transport> on_one_machine() override { return of_->on_one_machine(); }
  [[noreturn]] void stop_all(int code) override {
    of_->stop_all(code);
    std::abort();
  }
  Transfers sums() const {
    return {1e-9 * static_cast<double>(nanoseconds_), 1e-9 * static_cast<double>(beside_), bytes_};
  }

 private:
  template <class Call>
  void timed(std::size_t sent, Call&& call) {
    const auto start = std::chrono::steady_clock::now();
    call();
    const std::int64_t took = std::chrono::nanoseconds(std::chrono::steady_clock::now() - start).count();
    nanoseconds_ += took, bytes_ += sent;
    if (waits_asleep()) beside_ += took;
  }

  std::shared_ptr<Transport> of_;
  std::atomic<std::int64_t> nanoseconds_{0}, beside_{0};
  std::atomic<std::size_t> bytes_{0};
};

}  // namespace detail

}}}  // namespace remat::distributed
