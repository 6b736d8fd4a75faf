// Shuffled orders that need no table.
#pragma once

#include <cstdint>
#include <remat/core/random.hpp>
#include <remat/core/shape.hpp>
#include <utility>

namespace remat { inline namespace REMAT_ABI { namespace data::detail {

/// Where `i` goes in a permutation of [0, count) that the stream names: a Feistel network on the next power of 4,
/// walked until it is back in range.
inline Index shuffled(Index i, Index count, const RandomStream& stream) {
  int half = 1;
  while ((Index{1} << (2 * half)) < count) ++half;
  const std::uint64_t mask = (std::uint64_t{1} << half) - 1;
  auto x = static_cast<std::uint64_t>(i);
  do {
    std::uint64_t left = x >> half, right = x & mask;
    for (std::uint64_t round = 1; round <= 4; ++round) {
      const std::uint64_t mixed = stream.block((round << 40) | right)[0] & mask;
      left = std::exchange(right, left ^ mixed);
    }
    x = (left << half) | right;
  } while (x >= static_cast<std::uint64_t>(count));
  return static_cast<Index>(x);
}

}}}  // namespace remat::data::detail
