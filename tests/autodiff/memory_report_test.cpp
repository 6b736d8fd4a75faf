// Who was alive at the peak, and live bytes by class over time, add up to what the tape counted.
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <remat/autodiff/tape.hpp>
#include <remat/core/memory_log.hpp>
#include <remat/core/random.hpp>
#include <remat/ops/arithmetic.hpp>
#include <remat/ops/reduce.hpp>
#include <remat/ops/unary.hpp>
#include <sstream>

namespace {

using namespace remat;

std::size_t total(const std::vector<LiveBlock>& live_blocks) {
  return std::accumulate(live_blocks.begin(), live_blocks.end(), std::size_t{0},
                         [](std::size_t sum, const LiveBlock& who) { return sum + who.bytes; });
}

Var<float> regions(Tape& tape, const Policy& policy, int count) {
  auto y = tape.input(Tensor<float>({1000}, 0.4F), {.wants_gradient = true});
  for (int i = 0; i < count; ++i)
    y = tape.checkpoint(policy, [&] {
      const auto here = tape.layer("net/layer_" + std::to_string(i));
      return sin(sin(sin(sin(y))));
    });
  return sum(y * y);
}

TEST(PeakInhabitants, AddUpToThePeak) {
  for (const Policy& policy : {policy::everything, policy::nothing, Policy(policy::lossy::int8)}) {
    Tape tape;
    tape.backward(regions(tape, policy, 4));
    const TapeStats stats = tape.stats();
    EXPECT_EQ(total(stats.at_peak), stats.peak_bytes) << policy;
    EXPECT_TRUE(std::is_sorted(stats.at_peak.begin(), stats.at_peak.end(),
                               [](const LiveBlock& a, const LiveBlock& b) { return a.bytes > b.bytes; }));
  }
}

TEST(PeakInhabitants, SayWhatTheyAreAndWhere) {
  Tape tape;
  tape.backward(regions(tape, policy::nothing, 2));
  const auto at_peak = tape.stats().at_peak;
  const auto count = [&](MemoryClass kind, const std::string& layer) {
    return std::count_if(at_peak.begin(), at_peak.end(),
                         [&](const LiveBlock& who) { return who.kind == kind && who.layer_path == layer; });
  };
  // The peak: the second region has just been replayed, from the value between the regions.
  EXPECT_EQ(count(MemoryClass::saved, "net/layer_0"), 1);
  EXPECT_EQ(count(MemoryClass::replayed, "net/layer_1"), 3);
  EXPECT_GE(std::count_if(at_peak.begin(), at_peak.end(),
                          [](const LiveBlock& who) { return who.kind == MemoryClass::gradient; }),
            1);
  std::ostringstream text;
  text << at_peak;
  EXPECT_NE(text.str().find("replayed"), std::string::npos);
  EXPECT_NE(text.str().find(std::to_string(total(at_peak)) + " B"), std::string::npos);
}

TEST(MemoryTimeline, ReachesThePeakAndReturnsToNothing) {
  Tape tape({.timeline = true});
  tape.backward(regions(tape, policy::nothing, 3000));  // more events than a log keeps on its own
  const auto samples = tape.memory_timeline();
  const auto peak = std::max_element(samples.begin(), samples.end(), [](const MemorySample& a, const MemorySample& b) {
    return a.total() < b.total();
  });
  EXPECT_EQ(peak->total(), tape.stats().peak_bytes);
  EXPECT_EQ(total(tape.stats().at_peak), tape.stats().peak_bytes);
  EXPECT_EQ(samples.back()[MemoryClass::saved], 0U);
  EXPECT_EQ(samples.back()[MemoryClass::replayed], 0U);
  std::size_t most_saved = 0;
  for (const MemorySample& sample : samples) most_saved = std::max(most_saved, sample[MemoryClass::saved]);
  EXPECT_EQ(most_saved, 3000 * 4032U);  // what lies between the regions
  EXPECT_TRUE(std::is_sorted(samples.begin(), samples.end(),
                             [](const MemorySample& a, const MemorySample& b) { return a.seconds < b.seconds; }));
}

// The log throws events away; what it answers must not depend on that.
TEST(MemoryLog, KnowsThePeakHoweverMuchItForgets) {
  Account short_memory, long_memory;
  long_memory.log.keep_all();
  std::vector<std::pair<std::uint32_t, std::size_t>> living;
  const RandomStream random{3, 0, 0};
  for (std::uint64_t i = 0; i < 200000; ++i) {
    const bool grow = random.uniform(i) < (i / 20000 % 2 == 0 ? 0.6 : 0.4);
    if (grow || living.empty()) {
      const std::size_t bytes = 64 * (1 + random.word(i) % 9);
      short_memory.tag = long_memory.tag = {MemoryUse::value, static_cast<std::int32_t>(i)};
      const auto number = short_memory.charge(bytes);
      ASSERT_EQ(number, long_memory.charge(bytes));
      living.emplace_back(number, bytes);
    } else {
      const std::size_t at = random.word(i) % living.size();
      short_memory.refund(living[at].first, living[at].second);
      long_memory.refund(living[at].first, living[at].second);
      living[at] = living.back();
      living.pop_back();
    }
  }
  const auto a = short_memory.log.at_peak(), b = long_memory.log.at_peak();
  ASSERT_EQ(a.size(), b.size());
  std::size_t bytes = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(a[i].number, b[i].number);
    bytes += a[i].bytes;
  }
  EXPECT_EQ(bytes, short_memory.peak_bytes);
  EXPECT_LT(short_memory.log.events().size(), 8U * living.size() + 4096);
}

}  // namespace
