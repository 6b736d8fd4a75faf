// The order in which micro-batches are added depends on their number alone.
#include <gtest/gtest.h>

#include <remat/distributed/tree.hpp>
#include <string>
#include <vector>

namespace {

using namespace remat;
using namespace remat::distributed;

/// The rule as one would say it: cut at the greatest power of two that is less than the length.
std::string by_definition(Index begin, Index end) {
  if (end - begin == 1) return std::to_string(begin);
  Index cut = 1;
  while (2 * cut < end - begin) cut *= 2;
  return "(" + by_definition(begin, begin + cut) + "+" + by_definition(begin + cut, end) + ")";
}

/// What ranks do: each adds up its own run, then all that is left is joined.
std::string by_ranks(Index count, int ranks) {
  std::vector<Range> nodes;
  std::vector<std::string> sums;
  for (int r = 0; r < ranks; ++r) {
    const Range run = range_of(count, r, ranks);
    std::vector<Range> stack;
    std::vector<std::string> held;
    for (Index i = run.begin; i < run.end; ++i) {
      held.push_back(std::to_string(i));
      distributed::detail::push_node(stack, {i, i + 1}, count, [&] {
        const std::string right = held.back();
        held.pop_back();
        held.back() = "(" + held.back() + "+" + right + ")";
      });
    }
    EXPECT_EQ(stack, distributed::detail::nodes_of(run, count));
    nodes.insert(nodes.end(), stack.begin(), stack.end());
    sums.insert(sums.end(), held.begin(), held.end());
  }
  for (const auto& [left, right] : distributed::detail::joins_of(nodes, count))
    sums[left] = "(" + sums[left] + "+" + sums[right] + ")";
  return sums.front();
}

TEST(MicroBatchTree, IsTheSameForAnyNumberOfRanks) {
  for (Index count = 1; count <= 33; ++count)
    for (const int ranks : {1, 2, 3, 4, 5, 7, 40})
      EXPECT_EQ(by_ranks(count, ranks), by_definition(0, count)) << count << " by " << ranks;
}

TEST(MicroBatchTree, HoldsAtMostLog2OfItsLengthBesideTheNewest) {
  for (Index count = 1; count <= 64; ++count) {
    std::vector<Range> stack;
    std::size_t most = 0;
    for (Index i = 0; i < count; ++i) {
      most = std::max(most, stack.size());
      distributed::detail::push_node(stack, {i, i + 1}, count, [] {});
    }
    std::size_t log2 = 0;
    while (Index{1} << (log2 + 1) <= count) ++log2;
    EXPECT_LE(most, log2) << count;
    EXPECT_EQ(stack, (std::vector<Range>{{0, count}}));
  }
}

TEST(MicroBatchTree, RunsCoverAllMicroBatchesOnce) {
  for (const int ranks : {1, 2, 3, 5}) {
    Index next = 0;
    for (int r = 0; r < ranks; ++r) {
      const Range run = range_of(7, r, ranks);
      EXPECT_EQ(run.begin, next);
      EXPECT_GE(run.size(), 7 / ranks);
      EXPECT_LE(run.size(), 7 / ranks + 1);
      next = run.end;
    }
    EXPECT_EQ(next, 7);
  }
}

}  // namespace
