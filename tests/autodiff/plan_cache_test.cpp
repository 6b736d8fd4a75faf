// Plans are made once for each shape, rates once for each machine.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <remat/autodiff/plan_cache.hpp>
#include <remat/ops/arithmetic.hpp>
#include <remat/ops/reduce.hpp>
#include <remat/ops/unary.hpp>

#include "core/expect_error.hpp"

namespace {

using namespace remat;
using remat_test::expect_error;

/// A region of sines of `size` values; counts how often it is entered.
struct Step {
  Index size;
  int* entered;
  Var<float> operator()(Tape& tape) const {
    ++*entered;
    const auto x = tape.input(Tensor<float>({size}, 0.5F), {.wants_gradient = true});
    return sum(tape.checkpoint(policy::nothing, [&] { return sin(sin(sin(x))); }));
  }
};

TEST(PlanCache, PlansEachShapeOnce) {
  PlanCache plans(2);
  int entered = 0;
  const auto peak = [&](Index size) { return plans({Shape{size}}, Step{size, &entered}).rows()[0].stats.peak_bytes; };
  const std::size_t small = peak(100), large = peak(1000);
  EXPECT_LT(small, large);
  EXPECT_EQ(peak(100), small);
  EXPECT_EQ(peak(1000), large);
  EXPECT_EQ(entered, 2);
  peak(10);    // the third: 100 was not asked for the longest
  peak(1000);  // still there
  EXPECT_EQ(entered, 3);
  EXPECT_EQ(plans.size(), 2U);
  peak(100);
  EXPECT_EQ(entered, 4);
  expect_error({"capacity of 0"}, [] { PlanCache none(0); });
}

TEST(PlanCache, TheSameSizesInAnotherOrderAreAnotherPlan) {
  PlanCache plans;
  int entered = 0;
  plans({Shape{2, 3}, Shape{3}}, Step{6, &entered});
  plans({Shape{3}, Shape{2, 3}}, Step{6, &entered});
  plans({Shape{3, 2}, Shape{3}}, Step{6, &entered});
  EXPECT_EQ(entered, 3);
}

TEST(Within, RefusesWhatIsNoBudget) {
  int entered = 0;
  const Plan plan = remat::plan(Step{1000, &entered});
  for (const double budget : {std::nan(""), 0.0, -1.0, std::numeric_limits<double>::infinity(), 1e30})
    expect_error({"budget", "above 0"}, [&] { plan.within(budget); });
  expect_error({"budget of -5 bytes"}, [&] { plan.within(-5); });
  expect_error({"budget of 0 bytes"}, [&] { plan.within(std::size_t{0}); });
  const std::size_t least = plan.frontier().front().stats.peak_bytes;
  expect_error({"the least possible is " + std::to_string(least)}, [&] { plan.within(least - 1); });
  EXPECT_NO_THROW(plan.within(least));
  EXPECT_NO_THROW(plan.within(1e9));
}

class Rates : public testing::Test {
 protected:
  void SetUp() override { std::filesystem::remove_all(folder_); }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::filesystem::path only_file() const { return std::filesystem::directory_iterator(folder_)->path(); }
  std::filesystem::path folder_ = testing::TempDir() + "remat_rates_" + std::to_string(getpid());
};

TEST_F(Rates, AreMeasuredOnceAndReadAgain) {
  const CostModel first = detail::calibrated(folder_), second = detail::calibrated(folder_);
  EXPECT_EQ(first.flops_per_second, second.flops_per_second);
  EXPECT_EQ(first.bytes_per_second, second.bytes_per_second);
  EXPECT_GT(first.flops_per_second, 1e8);
}

TEST_F(Rates, ADamagedFileOrAnotherMachineIsMeasuredAnew) {
  detail::calibrated(folder_);
  std::string machine;
  std::getline(std::ifstream(only_file()) >> std::ws, machine);
  for (const std::string& text :
       {std::string(), machine + "\nnan 1e10", machine + "\n1e11", std::string("another\n1e11 1e10")}) {
    std::ofstream(only_file()) << text;
    CostModel model{.flops_per_second = 1};
    EXPECT_FALSE(detail::read_rates(only_file(), machine, model)) << text;
    EXPECT_EQ(model.flops_per_second, 1);
    EXPECT_GT(detail::calibrated(folder_).flops_per_second, 1e8);
    EXPECT_TRUE(detail::read_rates(only_file(), machine, model));
  }
}

TEST_F(Rates, AFolderThatCannotBeWrittenIsNoError) {
  EXPECT_GT(detail::calibrated("/proc/remat").bytes_per_second, 1e6);
  EXPECT_GT(detail::calibrated({}).bytes_per_second, 1e6);
}

}  // namespace
