// Promise: the same run gives the same bits; our own kernels for any number of threads.
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "promises/small_models.hpp"

namespace {

using namespace remat;
using remat_test::differing;
using remat_test::gpt_step;

models::GptConfig config() {
  models::GptConfig config = remat_test::small_gpt();
  config.dropout = 0.1;
  return config;
}

TEST(SameRunSameBits, OnTheSameThreads) {
  for (const int count : {1, 2}) {
    const remat_test::Threads threads(count);
    EXPECT_EQ(differing(gpt_step<float>(config()), gpt_step<float>(config())), std::vector<std::string>{});
  }
}

TEST(SameRunSameBits, ForAnyNumberOfThreads) {
  const auto run = [](int count) {
    const remat_test::Threads threads(count);
    return gpt_step<float>(config());
  };
  const auto one = run(1);
  for (const int count : {2, 3, 4}) EXPECT_EQ(differing(one, run(count)), std::vector<std::string>{}) << count;
}

// Fifty steps of training, with all that they pass on, on any number of threads, and beside another that takes a core.
TEST(SameRunSameBits, InFiftyStepsWhateverElseRuns) {
  const auto run = [](int count) {
    const remat_test::Threads threads(count);
    return remat_test::train<remat_test::SmallGpt>({.dropout = 0.1}, 50);
  };
  const auto first = run(2);
  EXPECT_LT(first.losses.back(), first.losses.front());
  for (const int count : {2, 1, 3, 4}) EXPECT_EQ(remat_test::count_differences(first, run(count)), 0) << count;
  std::atomic<bool> is_done{false};
  std::thread other([&] {
    while (!is_done) {
    }
  });
  const auto disturbed = run(2);
  is_done = true;
  other.join();
  EXPECT_EQ(remat_test::count_differences(first, disturbed), 0);
}

// Each step's values come from its own seed and step number, whatever ran before on the machine.
TEST(SameRunSameBits, WhateverRanBefore) {
  const auto first = gpt_step<float>(config(), 3);
  gpt_step<float>(config(), 9);
  const Tensor<float> dirt({100000}, 1e30F);
  EXPECT_EQ(differing(first, gpt_step<float>(config(), 3)), std::vector<std::string>{});
}

}  // namespace
