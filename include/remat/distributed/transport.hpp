// What carries bytes between processes: the few calls that a library other than MPI would have to give.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <memory>
#include <remat/core/error.hpp>
#include <span>

namespace remat { inline namespace REMAT_ABI { namespace distributed {

/// Blocking transfers of bytes between processes that are numbered from 0. One thread at a time calls it; spans are not
/// longer than the `piece_bytes` of the group that uses it.
class Transport {
 public:
  virtual ~Transport() = default;
  virtual int rank() const = 0;  // of this process
  virtual int size() const = 0;  // how many there are
  /// To rank `to`, whose `receive` has as many bytes.
  virtual void send(std::span<const std::byte> bytes, int to) = 0;
  /// From rank `from`, in the order in which it sends.
  virtual void receive(std::span<std::byte> bytes, int from) = 0;
  /// Both at one time, so that processes in a circle do not wait for each other; an empty span sends or receives
  /// nothing.
  virtual void exchange(std::span<const std::byte> out, int to, std::span<std::byte> in, int from) = 0;
  /// Gives all processes what `from` has in `bytes`.
  virtual void broadcast(std::span<std::byte> bytes, int from) = 0;
  /// Processes that call it with one `color` make a group, in order of rank.
  virtual std::shared_ptr<Transport> split(int color) = 0;
  /// Likewise those that run on one machine.
  virtual std::shared_ptr<Transport> on_one_machine() = 0;
  /// Ends all processes, wherever they are.
  [[noreturn]] virtual void stop_all(int code) = 0;
};

namespace detail {

/// One process by itself: nothing is ever carried.
class OneProcess final : public Transport {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  void send(std::span<const std::byte>, int) override { fail_alone(); }
  void receive(std::span<std::byte>, int) override { fail_alone(); }
  void exchange(std::span<const std::byte>, int, std::span<std::byte>, int) override { fail_alone(); }
  void broadcast(std::span<std::byte>, int) override {}
  std::shared_ptr<Transport> split(int) override { return std::make_shared<OneProcess>(); }
  std::shared_ptr<Transport> on_one_machine() override { return std::make_shared<OneProcess>(); }
  [[noreturn]] void stop_all(int code) override { std::exit(code); }

 private:
  [[noreturn]] static void fail_alone() { fail("group: there is no other process to send to or receive from"); }
};

/// Calls `transfer(begin, count)` for the pieces of at most `piece` bytes that `bytes` fall into: libraries count in
/// `int`.
template <class Transfer>
void for_pieces(std::size_t bytes, std::size_t piece, Transfer&& transfer) {
  for (std::size_t begin = 0; begin < bytes; begin += piece) transfer(begin, std::min(piece, bytes - begin));
}

}  // namespace detail

}}}  // namespace remat::distributed
