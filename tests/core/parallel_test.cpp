// Parallel loops: blocks that no number of threads moves.
#include <gtest/gtest.h>
#include <omp.h>

#include <atomic>
#include <core/expect_error.hpp>
#include <mutex>
#include <remat/core/parallel.hpp>
#include <set>
#include <vector>

namespace {

using namespace remat;

class Parallel : public testing::Test {
 protected:
  ~Parallel() override { omp_set_num_threads(threads_); }

 private:
  int threads_ = omp_get_max_threads();
};

// Protects "the same bits for any number of threads": the blocks are a function of count and grain.
TEST_F(Parallel, BlocksDoNotDependOnThreads) {
  using Blocks = std::set<std::pair<Index, Index>>;
  for (const Index count : {-1, 0, 1, 7, 8, 9, 100})
    for (const Index grain : {1, 8, 1000}) {
      Blocks expected;
      for (Index begin = 0; begin < count; begin += grain) expected.insert({begin, std::min(count, begin + grain)});
      for (const int threads : {1, 2, 5}) {
        omp_set_num_threads(threads);
        Blocks seen;
        std::mutex mutex;
        parallel_for(count, grain, [&](Index begin, Index end) {
          const std::lock_guard lock(mutex);
          EXPECT_TRUE(seen.insert({begin, end}).second);
        });
        EXPECT_EQ(seen, expected) << count << " in blocks of " << grain << " by " << threads;
      }
    }
}

// Protects speed on a machine that others use too: a block that takes long holds up no other block.
TEST_F(Parallel, ThreadsThatAreDoneHelpTheOthers) {
  omp_set_num_threads(2);
  constexpr Index blocks = 20;
  bool is_helped = true;
  std::atomic<Index> done = 0;
  parallel_for(blocks, 1, [&](Index block, Index) {
    const double start = omp_get_wtime();
    while (block == 0 && done < blocks - 1 && is_helped) is_helped = omp_get_wtime() - start < 20;
    ++done;
  });
  EXPECT_TRUE(is_helped) << "blocks waited for the first";
}

// Protects reductions: sums of numbers of very different size, bit for bit.
TEST_F(Parallel, SumsDoNotDependOnThreads) {
  const auto sum = [] {
    return parallel_sum<double>(100000, 777, [](Index begin, Index end) {
      double part = 0;
      for (Index i = begin; i < end; ++i) part += 1.0 / static_cast<double>(1 + i * i);
      return part;
    });
  };
  omp_set_num_threads(1);
  const double expected = sum();
  for (const int threads : {2, 3, 7}) {
    omp_set_num_threads(threads);
    EXPECT_EQ(sum(), expected);
  }
  EXPECT_EQ(parallel_sum<double>(0, 8, [](Index, Index) { return 1.0; }), 0);
}

// Protects a program from ending when a body throws: the error arrives where the loop was called.
TEST_F(Parallel, CarriesErrorsOut) {
  for (const int threads : {1, 2}) {
    omp_set_num_threads(threads);
    remat_test::expect_error(
        {"block 30"}, [] { parallel_for(100, 10, [](Index begin, Index) { require(begin != 30, "block ", begin); }); });
  }
  remat_test::expect_error({"grain 0"}, [] { parallel_for(1, 0, [](Index, Index) {}); });
}

// Protects sums from reordering: partial sums are added block after block, the first one first.
TEST_F(Parallel, SumsKeepTheOrderOfBlocks) {
  const std::vector<float> terms = {1e8F, 1.0F, -1e8F, 1.0F, 3.0F, 1e-3F};  // in another order the sum is another
  float expected = 0;
  for (const float term : terms) expected += term;
  for (const int threads : {1, 2, 6}) {
    omp_set_num_threads(threads);
    const float sum = parallel_sum<float>(static_cast<Index>(terms.size()), 1,
                                          [&](Index begin, Index) { return terms[static_cast<std::size_t>(begin)]; });
    EXPECT_EQ(sum, expected);
  }
}

// Protects the machine from threads squared: a loop inside a parallel region runs on the thread that called it.
TEST_F(Parallel, IsSerialInsideARegion) {
  omp_set_num_threads(2);
  std::atomic<int> strangers = 0, blocks = 0;
#pragma omp parallel num_threads(2)
  {
    const int caller = omp_get_thread_num();
    parallel_for(40, 10, [&](Index, Index) {
      ++blocks;
      strangers += omp_get_level() != 1 || omp_get_thread_num() != caller;
    });
  }
  EXPECT_EQ(strangers, 0);
  EXPECT_EQ(blocks % 4, 0);
  EXPECT_GE(blocks, 4);
}

// Protects small ops from the cost of threads: a block holds about 16k elements, and never less than one row.
TEST_F(Parallel, RowGrainHoldsWorkConstant) {
  EXPECT_EQ(row_grain(1), 16384);
  EXPECT_EQ(row_grain(128), 128);
  EXPECT_EQ(row_grain(16384), 1);
  EXPECT_EQ(row_grain(1 << 20), 1);
  EXPECT_EQ(row_grain(0), 16384);
  remat_test::expect_error({"parallel_sum: grain 0"},
                           [] { (void)parallel_sum<float>(5, 0, [](Index, Index) { return 1.0F; }); });
}

}  // namespace
