// Collective calls that do not match, found before they wait for each other.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <remat/distributed/pieces.hpp>
#include <remat/io/fingerprint.hpp>
#include <span>

namespace remat { inline namespace REMAT_ABI { namespace distributed { namespace detail {

/// One collective call, as ranks tell each other of it.
struct CollectiveCall {
  std::int64_t number, bytes, root;
  char op[24];
};

/// An `Error` on every rank unless all are about to make this call.
template <class = void>
void check_call(const Pieces& pieces, std::int64_t number, const char* op, std::size_t bytes, int root) {
  CollectiveCall mine{number, static_cast<std::int64_t>(bytes), root, {}};
  std::strncpy(mine.op, op, sizeof mine.op - 1);
  const auto all = pieces.gather(std::span<const CollectiveCall>(&mine, 1));
  const CollectiveCall& first = all.front().front();
  for (std::size_t r = 1; r < all.size(); ++r) {
    const CollectiveCall& other = all[r].front();
    require(std::memcmp(&first, &other, sizeof first) == 0, "group: collective call ", first.number, " of rank 0 is ",
            first.op, " of ", first.bytes, " bytes by rank ", first.root, ", but call ", other.number, " of rank ", r,
            " is ", other.op, " of ", other.bytes, " bytes by rank ", other.root,
            "; all ranks must make the same calls in the same order");
  }
}

/// An `Error` on every rank unless all have these bytes now.
template <class = void>
void check_result(const Pieces& pieces, std::int64_t number, const char* op, std::span<const std::byte> result) {
  io::Fingerprint hash;
  hash.add(result);
  const std::uint64_t mine = hash.value();
  const auto all = pieces.gather(std::span<const std::uint64_t>(&mine, 1));
  for (std::size_t r = 1; r < all.size(); ++r)
    require(all[r] == all.front(), "group: collective call ", number, ", ", op, ", gave rank ", r,
            " other bytes than rank 0; memory or network are broken, or a rank wrote meanwhile");
}

}}}}  // namespace remat::distributed::detail
