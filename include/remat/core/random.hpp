// Counter-based random numbers: Philox 4x32-10 (Salmon, Moraes, Dror, Shaw 2011). No state, hence nothing to
// save or restore when an op is replayed.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <remat/core/config.hpp>

namespace remat { inline namespace REMAT_ABI {

/// Four 32-bit random words, a pure function of a 128-bit counter and a 64-bit key.
inline std::array<std::uint32_t, 4> philox4x32(std::array<std::uint32_t, 4> counter, std::array<std::uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t low = std::uint64_t{0xD2511F53} * counter[0];
    const std::uint64_t high = std::uint64_t{0xCD9E8D57} * counter[2];
    counter = {static_cast<std::uint32_t>(high >> 32) ^ counter[1] ^ key[0], static_cast<std::uint32_t>(high),
               static_cast<std::uint32_t>(low >> 32) ^ counter[3] ^ key[1], static_cast<std::uint32_t>(low)};
    key[0] += 0x9E3779B9;
    key[1] += 0xBB67AE85;
  }
  return counter;
}

/// One stream of random words, named by (seed, step, site); word i of it depends on nothing else.
struct RandomStream {
  std::uint64_t seed = 0;  // of the run
  std::uint32_t step = 0;  // of training
  std::uint32_t site = 0;  // which random op of the step

  /// Words 4*block .. 4*block+3.
  std::array<std::uint32_t, 4> block(std::uint64_t block) const {
    return philox4x32({static_cast<std::uint32_t>(block), static_cast<std::uint32_t>(block >> 32), site, step},
                      {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)});
  }
  /// Word i: 32 random bits.
  std::uint32_t word(std::uint64_t i) const { return block(i / 4)[i % 4]; }
  /// Uniform in [0, 1) with 24 random bits.
  float uniform(std::uint64_t i) const { return static_cast<float>(word(i) >> 8) * 0x1p-24F; }
  /// Standard normal by Box and Muller (1958); one value for each i.
  double normal(std::uint64_t i) const {
    const auto words = block(i);
    const auto unit = [](std::uint32_t high, std::uint32_t low) {
      return (static_cast<double>((std::uint64_t{high} << 21) ^ (low >> 11)) + 0.5) * 0x1p-53;
    };
    return std::sqrt(-2 * std::log(unit(words[0], words[1]))) * std::cos(6.283185307179586 * unit(words[2], words[3]));
  }
};

/// Dropout as an integer test: an element stays when its random word is >= `threshold`; kept ones are scaled.
struct DropoutMask {
  RandomStream stream;  // whose words decide
  double rate = 0;      // probability of dropping, 0 <= rate < 1
  /// Of a slice: its runs of `run` elements lie `whole` apart in the tensor it was cut from, the first at `first`, and
  /// have the coordinates they have there. Run 0: all elements lie together.
  std::uint64_t run = 0, whole = 0, first = 0;
  std::uint64_t jump_at = ~std::uint64_t{0};  // within each run, elements from here on
  std::uint64_t jump = 0;                     // lie so much further: of a rank's two pieces of a sequence

  /// May it drop anything?
  bool active() const { return rate > 0; }
  /// The least word that keeps its element: 2^32 times the rate.
  std::uint32_t threshold() const { return static_cast<std::uint32_t>(rate * 4294967296.0); }
  /// What kept elements are multiplied by: 1 / (1 - rate).
  double scale() const { return 1 / (1 - rate); }
  /// Which word decides for element i.
  std::uint64_t coordinate(std::uint64_t i) const {
    if (run == 0) return first + i;
    const std::uint64_t within = i % run;
    return first + i / run * whole + within + (within < jump_at ? 0 : jump);
  }
  /// How many elements from i on have coordinates that follow each other, `most` at most.
  std::uint64_t together(std::uint64_t i, std::uint64_t most) const {
    if (run == 0) return most;
    const std::uint64_t within = i % run, end = within < jump_at && jump_at < run ? jump_at : run;
    return end - within < most ? end - within : most;
  }
  /// 0 or 1/(1-rate) for element i.
  template <class T>
  T factor(std::uint64_t i) const {
    return stream.word(coordinate(i)) >= threshold() ? static_cast<T>(scale()) : T{0};
  }
};

}}  // namespace remat
