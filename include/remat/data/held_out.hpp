// Samples that are kept from training, to see what it is worth.
#pragma once

#include <cstdint>
#include <remat/core/error.hpp>
#include <remat/core/random.hpp>
#include <remat/core/shape.hpp>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace data {

/// Which samples are for what: their numbers, ascending.
struct HeldOutSplit {
  std::vector<Index> train;     // to learn
  std::vector<Index> held_out;  // to evaluate
};

/// Splits the samples [0, count): each is held out with probability `fraction`, in [0, 1), by a hash of its number and
/// the seed alone, so that samples which are added later move none of those before. An `Error` where this leaves one of
/// the two parts empty, unless `fraction` is 0: then nothing is held out.
inline HeldOutSplit split_held_out(Index count, double fraction, std::uint64_t seed) {
  require(fraction >= 0 && fraction < 1, "held-out split: the fraction ", fraction, " is not in [0, 1)");
  const RandomStream stream{seed, 0, 0xFFFFFFFD};
  HeldOutSplit split;
  for (Index i = 0; i < count; ++i) {
    const double number = stream.word(static_cast<std::uint64_t>(i)) * 0x1p-32;  // in [0, 1)
    (number < fraction ? split.held_out : split.train).push_back(i);
  }
  require(!split.train.empty() && (fraction == 0 || !split.held_out.empty()), "held-out split: of ", count,
          " samples a fraction of ", fraction, " holds out ", split.held_out.size(),
          "; use another fraction, another seed or more samples");
  return split;
}

}}}  // namespace remat::data
