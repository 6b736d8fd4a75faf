// Transfers of any length: libraries that carry bytes count them in `int`.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <remat/distributed/transport.hpp>
#include <span>
#include <type_traits>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace distributed { namespace detail {

/// A transport whose messages have at most `size` bytes; longer spans go in several.
struct Pieces {
  Transport& transport;
  std::size_t size;

  void send(std::span<const std::byte> bytes, int to) const {
    for_pieces(bytes.size(), size,
               [&](std::size_t begin, std::size_t n) { transport.send(bytes.subspan(begin, n), to); });
  }
  void receive(std::span<std::byte> bytes, int from) const {
    for_pieces(bytes.size(), size,
               [&](std::size_t begin, std::size_t n) { transport.receive(bytes.subspan(begin, n), from); });
  }
  void broadcast(std::span<std::byte> bytes, int from) const {
    for_pieces(bytes.size(), size,
               [&](std::size_t begin, std::size_t n) { transport.broadcast(bytes.subspan(begin, n), from); });
  }
  /// Each with its own length.
  void exchange(std::span<const std::byte> out, int to, std::span<std::byte> in, int from) const {
    const auto part = [this](auto bytes, std::size_t begin) {
      return begin < bytes.size() ? bytes.subspan(begin, std::min(size, bytes.size() - begin)) : bytes.first(0);
    };
    for_pieces(std::max(out.size(), in.size()), size, [&](std::size_t begin, std::size_t) {
      transport.exchange(part(out, begin), to, part(in, begin), from);
    });
  }
  /// Calls `step(to, from)` once for every other rank, so that every `to` meets its `from`.
  template <class Step>
  void each_other(Step&& step) const {
    const int rank = transport.rank(), ranks = transport.size();
    for (int k = 1; k < ranks; ++k) step((rank + k) % ranks, (rank - k + ranks) % ranks);
  }
  /// What every rank gives, on every rank, in order of rank.
  template <class T>
  std::vector<std::vector<T>> gather(std::span<const T> mine) const {
    static_assert(std::is_trivially_copyable_v<T>);
    std::vector<std::vector<T>> all(static_cast<std::size_t>(transport.size()));
    all[static_cast<std::size_t>(transport.rank())].assign(mine.begin(), mine.end());
    // Length and beginning together: most of what is gathered is short, and a message costs more than its bytes.
    struct Begin {
      std::uint64_t length;
      std::byte bytes[504];
    };
    const auto bytes = std::as_bytes(mine);
    const auto rest = [](auto all_bytes) { return all_bytes.subspan(std::min(all_bytes.size(), sizeof Begin::bytes)); };
    Begin own{mine.size(), {}};
    std::copy_n(bytes.begin(), bytes.size() - rest(bytes).size(), own.bytes);
    each_other([&](int to, int from) {
      Begin other{};
      transport.exchange(std::as_bytes(std::span(&own, 1)), to, std::as_writable_bytes(std::span(&other, 1)), from);
      auto& theirs = all[static_cast<std::size_t>(from)];
      theirs.resize(static_cast<std::size_t>(other.length));
      const auto place = std::as_writable_bytes(std::span(theirs));
      std::copy_n(other.bytes, place.size() - rest(place).size(), place.begin());
      exchange(rest(bytes), to, rest(place), from);
    });
    return all;
  }
};

}}}}  // namespace remat::distributed::detail
