#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <remat/core/parallel.hpp>
#include <set>
#include <stdexcept>
#include <utility>

namespace {

using remat::Index;

class ParallelTest : public testing::TestWithParam<int> {
 protected:
  void SetUp() override { omp_set_num_threads(GetParam()); }
  void TearDown() override { omp_set_num_threads(before_); }

 private:
  int before_ = omp_get_max_threads();
};
INSTANTIATE_TEST_SUITE_P(Threads, ParallelTest, testing::Values(1, 2, 3));

std::set<std::pair<Index, Index>> blocks_of(Index count, Index grain) {
  std::set<std::pair<Index, Index>> blocks;
  std::mutex mutex;
  remat::parallel_for(count, grain, [&](Index begin, Index end) {
    const std::lock_guard lock(mutex);
    EXPECT_TRUE(blocks.emplace(begin, end).second);
  });
  return blocks;
}

TEST_P(ParallelTest, BlocksAreFixed) {
  EXPECT_EQ(blocks_of(10, 4), (std::set<std::pair<Index, Index>>{{0, 4}, {4, 8}, {8, 10}}));
  EXPECT_EQ(blocks_of(8, 4), (std::set<std::pair<Index, Index>>{{0, 4}, {4, 8}}));
  EXPECT_EQ(blocks_of(3, 4), (std::set<std::pair<Index, Index>>{{0, 3}}));
  EXPECT_TRUE(blocks_of(0, 4).empty());
  EXPECT_THROW(blocks_of(3, 0), remat::Error);
}

TEST_P(ParallelTest, ExceptionsReachTheCaller) {
  for (int repeat = 0; repeat < 20; ++repeat) {
    EXPECT_THROW(remat::parallel_for(100, 1,
                                     [](Index begin, Index) {
                                       if (begin % 7 == 3) throw std::out_of_range("block");
                                     }),
                 std::out_of_range);
  }
}

TEST_P(ParallelTest, IsSerialInsideARegion) {
  std::atomic<int> wrong = 0;
#pragma omp parallel num_threads(2)
  {
    const int self = omp_get_thread_num();
    remat::parallel_for(10, 1, [&](Index, Index) { wrong += omp_get_thread_num() != self || omp_get_level() != 1; });
  }
  EXPECT_EQ(wrong, 0);
}

TEST_P(ParallelTest, SumKeepsTheOrderOfBlocks) {
  const auto value = [](Index i) { return 1.0F / static_cast<float>(i + 1); };
  const auto block_sum = [&](Index begin, Index end) {
    float sum = 0;
    for (Index i = begin; i < end; ++i) sum += value(i);
    return sum;
  };
  float expected = 0;
  for (Index begin = 0; begin < 10000; begin += 64) expected += block_sum(begin, std::min<Index>(10000, begin + 64));
  EXPECT_EQ(remat::parallel_sum<float>(10000, 64, block_sum), expected);
  EXPECT_EQ(remat::parallel_sum<float>(0, 64, block_sum), 0.0F);
}

TEST(Parallel, RowGrainHoldsWorkConstant) {
  EXPECT_EQ(remat::row_grain(128), 128);
  EXPECT_EQ(remat::row_grain(1 << 20), 1);
  EXPECT_EQ(remat::row_grain(0), 16384);
}

}  // namespace
