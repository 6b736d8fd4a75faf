// A group of processes: transfers of numbers, texts and tensors, and sums in the order of ranks.
#pragma once

#include <cstdint>
#include <memory>
#include <remat/core/tensor.hpp>
#include <remat/distributed/call_check.hpp>
#include <remat/distributed/delay.hpp>
#include <remat/distributed/group_options.hpp>
#include <remat/distributed/pieces.hpp>
#include <remat/distributed/tensor_header.hpp>
#include <remat/distributed/timed.hpp>
#include <remat/distributed/transport.hpp>
#include <remat/distributed/watch.hpp>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace distributed {

/// Processes that work together, numbered from 0 by rank. All of them make the same collective calls (`sum`, `gather`,
/// `broadcast`, `scatter`, `barrier`, `sub`) in the same order. Nothing here adds floats in an order that depends on
/// the length of a message or on the network. Copies are the same group; one thread at a time uses it.
class Group {
 public:
  /// Of this process alone.
  Group() : Group(std::make_shared<detail::OneProcess>()) {}
  /// Over processes that `transport` connects; `distributed::init` makes one over MPI.
  explicit Group(std::shared_ptr<Transport> transport, const GroupOptions& options = {})
      : state_(std::make_shared<State>(State{std::move(transport), detail::checked(options)})) {
    if (const double delay = state_->options.delay; delay > 0 && size() > 1)
      state_->transport = std::make_shared<detail::Delayed>(std::move(state_->transport), delay);
    if (const double patience = state_->options.patience; patience > 0 && size() > 1)
      state_->transport = std::make_shared<detail::Watched>(std::move(state_->transport), patience);
    if (size() == 1) return;
    state_->timed = std::make_shared<detail::Timed>(std::move(state_->transport));
    state_->transport = state_->timed;
  }

  /// The number of this process, from 0.
  int rank() const { return transport().rank(); }
  /// How many processes there are.
  int size() const { return transport().size(); }
  /// Is this rank 0, which prints and writes for all?
  bool is_first() const { return rank() == 0; }
  /// As it was given, with what the environment says.
  const GroupOptions& options() const { return state_->options; }
  /// What its transfers, and those of copies, came to so far.
  Transfers transfers() const { return state_->timed ? state_->timed->sums() : Transfers{}; }
  /// What carries the bytes.
  Transport& transport() const { return *state_->transport; }

  /// The processes that call it with one `color`, numbered in order of rank. Collective.
  Group sub(int color) const {
    enter("sub", 0);
    return size() == 1 ? Group() : Group(transport().split(color), options());
  }
  /// The processes of this group that run on the machine of this one. Collective.
  Group on_one_machine() const {
    enter("on_one_machine", 0);
    return size() == 1 ? Group() : Group(transport().on_one_machine(), options());
  }
  /// Waits until all ranks are here. Collective.
  void barrier() const {
    enter("barrier", 0);
    each_other([&](int to, int from) {
      const std::byte mine{};
      std::byte theirs{};
      transport().exchange({&mine, 1}, to, {&theirs, 1}, from);
    });
  }

  /// Gives every rank what rank `from` has; all have room for as much. Collective.
  template <class T>
  void broadcast(std::span<T> values, int from = 0) const {
    static_assert(std::is_trivially_copyable_v<T>);
    const auto bytes = std::as_writable_bytes(values);
    enter("broadcast", bytes.size(), from);
    require(from >= 0 && from < size(), "group: rank ", from, " of ", size(), " cannot broadcast");
    pieces().broadcast(bytes, from);
    agree("broadcast", bytes);
  }
  /// A number, as rank `from` has it. Collective.
  template <class T>
  requires std::is_arithmetic_v<T> T broadcast(T value, int from = 0)
  const {
    broadcast(std::span(&value, 1), from);
    return value;
  }
  /// A text, as rank `from` has it. Collective.
  std::string broadcast(std::string text, int from = 0) const {
    text.resize(static_cast<std::size_t>(broadcast(static_cast<std::uint64_t>(text.size()), from)));
    broadcast(std::span(text.data(), text.size()), from);
    return text;
  }
  /// A tensor, as rank `from` has it, whatever the others give. Collective.
  template <class = void>
  AnyTensor broadcast(const AnyTensor& tensor, int from = 0) const;
  /// The same, typed.
  template <class T>
  Tensor<T> broadcast(const Tensor<T>& tensor, int from = 0) const {
    return Tensor<T>(broadcast(tensor.any(), from));
  }

  /// What every rank gives, on every rank, in order of rank; lengths may differ. Collective.
  template <class T>
  std::vector<std::vector<T>> gather(std::span<const T> mine) const;
  /// One value of every rank. Collective.
  template <class T>
  requires std::is_arithmetic_v<T> std::vector<T> gather(T mine)
  const {
    std::vector<T> all;
    for (const auto& one : gather(std::span<const T>(&mine, 1))) all.push_back(one.front());
    return all;
  }
  /// Row r of what rank `from` has goes to rank r; the others' `rows` are not read. Collective.
  template <class T>
  std::vector<T> scatter(const std::vector<std::vector<T>>& rows, int from = 0) const;

  /// Each value becomes its sum over all ranks, added in order of rank. All give as many. Collective.
  template <class T>
  void sum(std::span<T> values) const;
  /// The sum of one number over all ranks, added in order of rank. Collective.
  template <class T>
  requires std::is_arithmetic_v<T> T sum(T value)
  const {
    sum(std::span(&value, 1));
    return value;
  }

  /// To rank `to`, which receives as many.
  template <class T>
  void send(std::span<const T> values, int to) const {
    static_assert(std::is_trivially_copyable_v<T>);
    check_other(to);
    pieces().send(std::as_bytes(values), to);
  }
  /// What rank `from` sends.
  template <class T>
  void receive(std::span<T> values, int from) const {
    static_assert(std::is_trivially_copyable_v<T>);
    check_other(from);
    pieces().receive(std::as_writable_bytes(values), from);
  }
  /// A tensor, its shape and type with it.
  template <class T>
  void send(const Tensor<T>& tensor, int to) const {
    check_other(to);
    const auto header = detail::header_of(tensor.any());
    pieces().send(std::as_bytes(std::span(header)), to);
    pieces().send({tensor.any().data(), tensor.any().bytes()}, to);
  }
  /// A tensor that rank `from` sends; an `Error` where its type is another.
  template <class T>
  Tensor<T> receive(int from) const {
    check_other(from);
    detail::TensorHeader header{};
    pieces().receive(std::as_writable_bytes(std::span(header)), from);
    AnyTensor tensor = detail::made_of(header);
    pieces().receive({tensor.storage->data(), tensor.bytes()}, from);
    return Tensor<T>(std::move(tensor));
  }
  /// Sends to one rank while it receives from another, each with its own length.
  void exchange(std::span<const std::byte> out, int to, std::span<std::byte> in, int from) const {
    pieces().exchange(out, to, in, from);
  }
  /// Calls `step(to, from)` once for every other rank, so that every `to` meets its `from`.
  template <class Step>
  void each_other(Step&& step) const {
    pieces().each_other(std::forward<Step>(step));
  }

  /// An `Error` on every rank, which names `what` and the ranks that differ, unless `value` is the same on all.
  /// Collective.
  template <class = void>
  void require_equal(const std::string& what, const std::string& value) const;

  ///@{
  /// In check mode: compares what the ranks are about to do, and what they have then. What makes collective calls of
  /// its own from `exchange` calls them.
  template <class = void>
  void enter(const char* op, std::size_t bytes, int root = 0) const;
  template <class = void>
  void agree(const char* op, std::span<const std::byte> result) const;
  ///@}

 private:
  struct State {
    std::shared_ptr<Transport> transport;
    GroupOptions options;
    std::int64_t calls = 0;
    std::shared_ptr<detail::Timed> timed{};
  };
  void check_other(int other) const {
    require(other >= 0 && other < size() && other != rank(), "group: rank ", rank(), " of ", size(),
            " cannot send to or receive from rank ", other);
  }
  detail::Pieces pieces() const { return {transport(), options().piece_bytes}; }

  std::shared_ptr<State> state_;
};

/// @cond inside
template <class>
AnyTensor Group::broadcast(const AnyTensor& tensor, int from) const {
  detail::TensorHeader header = rank() == from ? detail::header_of(tensor) : detail::TensorHeader{};
  broadcast(std::span<std::int64_t>(header), from);
  AnyTensor made = rank() == from ? tensor : detail::made_of(header);
  std::byte* const bytes = const_cast<std::byte*>(made.data());  // of `from` only read
  broadcast(std::span(bytes, made.bytes()), from);
  return made;
}

template <class T>
std::vector<std::vector<T>> Group::gather(std::span<const T> mine) const {
  enter("gather", 0);  // lengths may differ
  auto all = pieces().gather(mine);
  if (options().check) {
    std::vector<T> joined;
    for (const auto& one : all) joined.insert(joined.end(), one.begin(), one.end());
    agree("gather", std::as_bytes(std::span(joined)));
  }
  return all;
}

template <class T>
std::vector<T> Group::scatter(const std::vector<std::vector<T>>& rows, int from) const {
  static_assert(std::is_trivially_copyable_v<T>);
  enter("scatter", 0, from);
  if (rank() != from) {
    std::uint64_t length = 0;
    receive(std::span(&length, 1), from);
    std::vector<T> mine(static_cast<std::size_t>(length));
    receive(std::span(mine), from);
    return mine;
  }
  require(static_cast<int>(rows.size()) == size(), "group: scatter of ", rows.size(), " rows to ", size(), " ranks");
  for (int to = 0; to < size(); ++to) {
    if (to == from) continue;
    const auto& row = rows[static_cast<std::size_t>(to)];
    const std::uint64_t length = row.size();
    send(std::span(&length, 1), to);
    send(std::span<const T>(row), to);
  }
  return rows[static_cast<std::size_t>(from)];
}

template <class T>
void Group::sum(std::span<T> values) const {
  static_assert(std::is_arithmetic_v<T>);
  enter("sum", values.size_bytes());
  const auto ranks = static_cast<std::size_t>(size());
  const auto share = [&](int of) {
    const auto begin = values.size() * static_cast<std::size_t>(of) / ranks;
    return values.subspan(begin, values.size() * static_cast<std::size_t>(of + 1) / ranks - begin);
  };
  const std::span<T> own = share(rank());
  std::vector<std::vector<T>> parts(ranks);
  parts[static_cast<std::size_t>(rank())].assign(own.begin(), own.end());
  each_other([&](int to, int from) {
    auto& part = parts[static_cast<std::size_t>(from)];
    part.resize(own.size());
    exchange(std::as_bytes(share(to)), to, std::as_writable_bytes(std::span(part)), from);
  });
  for (std::size_t i = 0; i < own.size(); ++i) {
    own[i] = parts[0][i];
    for (std::size_t r = 1; r < ranks; ++r) own[i] = static_cast<T>(own[i] + parts[r][i]);
  }
  each_other([&](int to, int from) { exchange(std::as_bytes(own), to, std::as_writable_bytes(share(from)), from); });
  agree("sum", std::as_bytes(values));
}

template <class>
void Group::require_equal(const std::string& what, const std::string& value) const {
  const auto all = gather(std::span<const char>(value.data(), value.size()));
  for (int r = 1; r < size(); ++r) {
    const auto &first = all.front(), &other = all[static_cast<std::size_t>(r)];
    require(first == other, "group: ", what, " is ", std::string(first.begin(), first.end()), " on rank 0 and ",
            std::string(other.begin(), other.end()), " on rank ", r, "; give all ranks the same");
  }
}

template <class>
void Group::enter(const char* op, std::size_t bytes, int root) const {
  const std::int64_t number = ++state_->calls;
  if (options().check && size() > 1) detail::check_call(pieces(), number, op, bytes, root);
}

template <class>
void Group::agree(const char* op, std::span<const std::byte> result) const {
  if (options().check && size() > 1) detail::check_result(pieces(), state_->calls, op, result);
}
/// @endcond

}}}  // namespace remat::distributed
