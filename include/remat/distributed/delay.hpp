// A transport that is slower than its network.
#pragma once

#include <chrono>
#include <cstddef>
#include <memory>
#include <remat/distributed/transport.hpp>
#include <span>
#include <thread>
#include <utility>

namespace remat { inline namespace REMAT_ABI { namespace distributed { namespace detail {

/// Another transport, whose transfers wait for so many seconds before they begin, on odd ranks twice as long: ranks
/// that keep step on a fast network meet in other orders on it.
class Delayed final : public Transport {
 public:
  Delayed(std::shared_ptr<Transport> of, double seconds) : of_(std::move(of)), seconds_(seconds) {}
  int rank() const override { return of_->rank(); }
  int size() const override { return of_->size(); }
  void send(std::span<const std::byte> bytes, int to) override { wait(), of_->send(bytes, to); }
  void receive(std::span<std::byte> bytes, int from) override { wait(), of_->receive(bytes, from); }
  void exchange(std::span<const std::byte> out, int to, std::span<std::byte> in, int from) override {
    wait(), of_->exchange(out, to, in, from);
  }
  void broadcast(std::span<std::byte> bytes, int from) override { wait(), of_->broadcast(bytes, from); }
  std::shared_ptr<Transport> split(int color) override { return of_->split(color); }  // whose group delays it
  std::shared_ptr<Transport> on_one_machine() override { return of_->on_one_machine(); }
  [[noreturn]] void stop_all(int code) override {
    of_->stop_all(code);
    std::abort();
  }

 private:
  void wait() const { std::this_thread::sleep_for(std::chrono::duration<double>(seconds_ * (1 + rank() % 2))); }

  std::shared_ptr<Transport> of_;
  double seconds_;
};

}}}}  // namespace remat::distributed::detail
