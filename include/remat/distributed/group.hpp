// A group of processes: transfers of numbers, texts and tensors, and sums in the order of ranks.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <remat/core/tensor.hpp>
#include <remat/distributed/transport.hpp>
#include <remat/distributed/watch.hpp>
#include <remat/io/fingerprint.hpp>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace distributed {

/// How a `Group` transfers.
struct GroupOptions {
  std::size_t piece_bytes = std::size_t{1} << 30;  // of one message at most; longer ones go in several
  bool check = false;   // compare number, name, bytes and result of every collective call between all ranks; also by
                        // REMAT_CHECK_COLLECTIVES=1 in the environment
  double patience = 0;  // seconds that a transfer may take, waiting for its rank included, before all ranks are
                        // stopped; 0: without end; also by REMAT_RANK_PATIENCE in the environment
};

namespace detail {

/// With what the environment says.
template <class = void>
GroupOptions checked(GroupOptions options) {
  require(options.piece_bytes > 0 && options.piece_bytes <= (std::size_t{1} << 30), "group: piece_bytes is ",
          options.piece_bytes, ", must be from 1 to 2^30");
  const char* const check = std::getenv("REMAT_CHECK_COLLECTIVES");
  if (check != nullptr && std::string_view(check) == "1") options.check = true;
  if (const char* const seconds = std::getenv("REMAT_RANK_PATIENCE"); seconds != nullptr && *seconds != '\0') {
    char* end = nullptr;
    options.patience = std::strtod(seconds, &end);
    require(*end == '\0', "group: REMAT_RANK_PATIENCE is \"", seconds, "\", must be seconds");
  }
  require(options.patience >= 0 && options.patience <= 1e6, "group: patience is ", options.patience,
          ", must be from 0 to 1e6 seconds");
  return options;
}

}  // namespace detail

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
    if (const double patience = state_->options.patience; patience > 0 && size() > 1)
      state_->transport = std::make_shared<detail::Watched>(std::move(state_->transport), patience);
  }

  /// The number of this process, from 0.
  int rank() const { return transport().rank(); }
  /// How many processes there are.
  int size() const { return transport().size(); }
  /// Is this rank 0, which prints and writes for all?
  bool is_first() const { return rank() == 0; }
  /// As it was given, with what the environment says.
  const GroupOptions& options() const { return state_->options; }
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
    broadcast_bytes(bytes, from);
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
    send_bytes(std::as_bytes(values), to);
  }
  /// What rank `from` sends.
  template <class T>
  void receive(std::span<T> values, int from) const {
    static_assert(std::is_trivially_copyable_v<T>);
    check_other(from);
    receive_bytes(std::as_writable_bytes(values), from);
  }
  /// A tensor, its shape and type with it.
  template <class T>
  void send(const Tensor<T>& tensor, int to) const {
    check_other(to);
    const Header header = header_of(tensor.any());
    send_bytes(std::as_bytes(std::span(header)), to);
    send_bytes({tensor.any().data(), tensor.any().bytes()}, to);
  }
  /// A tensor that rank `from` sends; an `Error` where its type is another.
  template <class T>
  Tensor<T> receive(int from) const {
    check_other(from);
    Header header{};
    receive_bytes(std::as_writable_bytes(std::span(header)), from);
    AnyTensor tensor = made_of(header);
    receive_bytes({tensor.storage->data(), tensor.bytes()}, from);
    return Tensor<T>(std::move(tensor));
  }
  /// Sends to one rank while it receives from another, each with its own length.
  void exchange(std::span<const std::byte> out, int to, std::span<std::byte> in, int from) const {
    const std::size_t piece = options().piece_bytes;
    const auto part = [piece](auto bytes, std::size_t begin) {
      return begin < bytes.size() ? bytes.subspan(begin, std::min(piece, bytes.size() - begin)) : bytes.first(0);
    };
    detail::for_pieces(std::max(out.size(), in.size()), piece, [&](std::size_t begin, std::size_t) {
      transport().exchange(part(out, begin), to, part(in, begin), from);
    });
  }
  /// Calls `step(to, from)` once for every other rank, so that every `to` meets its `from`.
  template <class Step>
  void each_other(Step&& step) const {
    for (int k = 1; k < size(); ++k) step((rank() + k) % size(), (rank() - k + size()) % size());
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
  using Header = std::array<std::int64_t, 2 + Shape::max_rank>;
  struct State {
    std::shared_ptr<Transport> transport;
    GroupOptions options;
    std::int64_t calls = 0;
  };
  struct Call {
    std::int64_t number, bytes, root;
    char op[24];
  };

  static Header header_of(const AnyTensor& tensor) {
    Header header{static_cast<std::int64_t>(tensor.dtype), tensor.shape.rank()};
    std::copy(tensor.shape.begin(), tensor.shape.end(), header.begin() + 2);
    return header;
  }
  static AnyTensor made_of(const Header& header) {
    AnyTensor tensor{static_cast<DType>(header[0]), Shape(header.begin() + 2, header.begin() + 2 + header[1]), {}, 0};
    tensor.storage = pool().allocate(tensor.bytes());
    return tensor;
  }
  void check_other(int other) const {
    require(other >= 0 && other < size() && other != rank(), "group: rank ", rank(), " of ", size(),
            " cannot send to or receive from rank ", other);
  }
  void send_bytes(std::span<const std::byte> bytes, int to) const {
    detail::for_pieces(bytes.size(), options().piece_bytes,
                       [&](std::size_t begin, std::size_t n) { transport().send(bytes.subspan(begin, n), to); });
  }
  void receive_bytes(std::span<std::byte> bytes, int from) const {
    detail::for_pieces(bytes.size(), options().piece_bytes,
                       [&](std::size_t begin, std::size_t n) { transport().receive(bytes.subspan(begin, n), from); });
  }
  void broadcast_bytes(std::span<std::byte> bytes, int from) const {
    require(from >= 0 && from < size(), "group: rank ", from, " of ", size(), " cannot broadcast");
    detail::for_pieces(bytes.size(), options().piece_bytes,
                       [&](std::size_t begin, std::size_t n) { transport().broadcast(bytes.subspan(begin, n), from); });
  }
  /// `gather` without checks, for the checks themselves.
  template <class T>
  std::vector<std::vector<T>> gathered(std::span<const T> mine) const;

  std::shared_ptr<State> state_;
};

/// @cond inside
template <class>
AnyTensor Group::broadcast(const AnyTensor& tensor, int from) const {
  Header header = rank() == from ? header_of(tensor) : Header{};
  broadcast(std::span<std::int64_t>(header), from);
  AnyTensor made = rank() == from ? tensor : made_of(header);
  std::byte* const bytes = const_cast<std::byte*>(made.data());  // of `from` only read
  broadcast(std::span(bytes, made.bytes()), from);
  return made;
}

template <class T>
std::vector<std::vector<T>> Group::gathered(std::span<const T> mine) const {
  static_assert(std::is_trivially_copyable_v<T>);
  std::vector<std::vector<T>> all(static_cast<std::size_t>(size()));
  all[static_cast<std::size_t>(rank())].assign(mine.begin(), mine.end());
  each_other([&](int to, int from) {
    const std::uint64_t own = mine.size();
    std::uint64_t other = 0;
    transport().exchange(std::as_bytes(std::span(&own, 1)), to, std::as_writable_bytes(std::span(&other, 1)), from);
    auto& theirs = all[static_cast<std::size_t>(from)];
    theirs.resize(static_cast<std::size_t>(other));
    exchange(std::as_bytes(mine), to, std::as_writable_bytes(std::span(theirs)), from);
  });
  return all;
}

template <class T>
std::vector<std::vector<T>> Group::gather(std::span<const T> mine) const {
  enter("gather", 0);  // lengths may differ
  auto all = gathered(mine);
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
  if (!options().check || size() == 1) return;
  Call mine{number, static_cast<std::int64_t>(bytes), root, {}};
  std::strncpy(mine.op, op, sizeof mine.op - 1);
  const auto all = gathered(std::span<const Call>(&mine, 1));
  const Call& first = all.front().front();
  for (int r = 1; r < size(); ++r) {
    const Call& other = all[static_cast<std::size_t>(r)].front();
    require(std::memcmp(&first, &other, sizeof first) == 0, "group: collective call ", first.number, " of rank 0 is ",
            first.op, " of ", first.bytes, " bytes by rank ", first.root, ", but call ", other.number, " of rank ", r,
            " is ", other.op, " of ", other.bytes, " bytes by rank ", other.root,
            "; all ranks must make the same calls in the same order");
  }
}

template <class>
void Group::agree(const char* op, std::span<const std::byte> result) const {
  if (!options().check || size() == 1) return;
  io::Fingerprint hash;
  hash.add(result);
  const std::uint64_t mine = hash.value();
  const auto all = gathered(std::span<const std::uint64_t>(&mine, 1));
  for (int r = 1; r < size(); ++r)
    require(all[static_cast<std::size_t>(r)] == all.front(), "group: collective call ", state_->calls, ", ", op,
            ", gave rank ", r, " other bytes than rank 0; memory or network are broken, or a rank wrote meanwhile");
}
/// @endcond

}}}  // namespace remat::distributed
