// Random numbers: the published generator, and the promise that a number depends on its coordinates alone.
#include <gtest/gtest.h>

#include <cmath>
#include <remat/core/random.hpp>
#include <set>

namespace {

using namespace remat;
using Words = std::array<std::uint32_t, 4>;

// Protects the generator: the known-answer vectors published with Random123 for Philox 4x32-10.
TEST(Philox, PublishedVectors) {
  EXPECT_EQ(philox4x32({0, 0, 0, 0}, {0, 0}), (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  constexpr std::uint32_t ones = 0xffffffff;
  EXPECT_EQ(philox4x32({ones, ones, ones, ones}, {ones, ones}),
            (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

// Protects dropout masks from repeating: seed, step, site and element each change the word.
TEST(RandomStream, EveryCoordinateCounts) {
  std::set<std::uint32_t> words;
  const std::uint64_t far = std::uint64_t{1} << 40;
  for (const RandomStream stream : {RandomStream{1, 0, 0}, {2, 0, 0}, {far, 0, 0}, {1, 1, 0}, {1, 0, 1}})
    for (const std::uint64_t i : {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{5}, far})
      words.insert(stream.word(i));
  EXPECT_EQ(words.size(), 20U);
  const RandomStream stream{9, 8, 7};
  for (std::uint64_t i = 0; i < 8; ++i) EXPECT_EQ(stream.word(i), stream.block(i / 4)[i % 4]);
}

// Protects initial values and masks: the right range, mean and spread.
TEST(RandomStream, Moments) {
  const RandomStream stream{3, 0, 0};
  constexpr int n = 100000;
  double uniform = 0, normal = 0, square = 0, fourth = 0;
  for (std::uint64_t i = 0; i < n; ++i) {
    const float u = stream.uniform(i);
    ASSERT_TRUE(u >= 0 && u < 1);
    const double z = stream.normal(i);
    uniform += u, normal += z, square += z * z, fourth += z * z * z * z;
  }
  EXPECT_NEAR(uniform / n, 0.5, 4 * 0.289 / std::sqrt(n));
  EXPECT_NEAR(normal / n, 0, 4 / std::sqrt(n));
  EXPECT_NEAR(square / n, 1, 4 * std::sqrt(2.0 / n));
  EXPECT_NEAR(fourth / n, 3, 4 * std::sqrt(96.0 / n));
}

// Protects dropout: the mean stays, and the rate is the rate.
TEST(DropoutMask, DropsAtItsRate) {
  for (const double rate : {0.1, 0.5, 0.9}) {
    const DropoutMask mask{{1, 2, 3}, rate};
    int dropped = 0;
    constexpr int n = 50000;
    for (std::uint64_t i = 0; i < n; ++i) {
      const double factor = mask.factor<double>(i);
      ASSERT_TRUE(factor == 0 || factor == 1 / (1 - rate));
      dropped += factor == 0;
    }
    EXPECT_NEAR(dropped / double{n}, rate, 4 * std::sqrt(rate * (1 - rate) / n));
  }
  EXPECT_FALSE((DropoutMask{{1, 2, 3}, 0}).active());
}

}  // namespace
