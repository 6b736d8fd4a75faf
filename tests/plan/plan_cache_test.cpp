// Plans are made once for each shape, rates once for each machine.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <limits>
#include <remat/ops/arithmetic.hpp>
#include <remat/ops/reduce.hpp>
#include <remat/ops/unary.hpp>
#include <remat/optim/adamw.hpp>
#include <remat/params/registry.hpp>
#include <remat/plan/plan_cache.hpp>
#include <remat/policy/parse.hpp>
#include <utility>

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

/// Layers as a model has them: places where nothing is asked for, regions under a policy.
struct Layers {
  Policy remat = policy::everything;
  Parameter<float> w;
  explicit Layers(ParameterRegistry& parameters)
      : w((parameters / "layers").parameter<float>("w", {8}, init::normal(0.5))) {}
  Var<float> loss(Tape& tape, const Tensor<float>& batch) const {
    Var<float> h = tape.input(batch);
    for (int layer = 0; layer < 4; ++layer) {
      const auto body = [&] { return sin(exp(sin(h * w))); };
      h = tape.region(remat, body);
    }
    return sum(h);
  }
};

// The loop of the README: a model that carries the plan of the batch before is planned anew for the next shape.
TEST(PlanCache, PlansAModelThatCarriesThePlanOfAnotherShape) {
  ParameterRegistry parameters(3);
  Layers model(parameters);
  optim::AdamW adamw(parameters);
  PlanCache plans;
  for (int step = 0; step < 6; ++step) {
    const Tensor<float> batch({4 + 3 * (step % 3), 8}, 0.5F);
    const std::size_t value = static_cast<std::size_t>(batch.size()) * sizeof(float);
    const std::size_t budget = 9 * value;
    const auto loss = [&](Tape& tape) { return model.loss(tape, batch); };
    const auto gradient = [&] {
      parameters.zero_grad();
      Tape tape;
      tape.backward(loss(tape));
      EXPECT_TRUE(model.remat == policy::everything || tape.stats().peak_bytes <= budget) << tape.stats().peak_bytes;
      return std::pair(model.w.grad().copy(), tape.stats().peak_bytes);
    };
    model.remat = plans({batch.shape()}, loss).within(budget);
    EXPECT_TRUE(policy::is_planned(model.remat));
    const auto planned = gradient();
    EXPECT_EQ(planned_step(loss).stats.peak_bytes, planned.second);
    const Policy chosen = std::exchange(model.remat, policy::everything);
    const auto plain = gradient();
    EXPECT_TRUE(same_bits(planned.first, plain.first)) << step;
    EXPECT_GT(plain.second, budget);
    model.remat = chosen;
    adamw.step(1e-2);
  }
  EXPECT_EQ(plans.size(), 3U);
  // What the first row says of a step under an older plan, it says of the step without it.
  const Tensor<float> batch({40, 8}, 0.5F);
  const auto loss = [&](Tape& tape) { return model.loss(tape, batch); };
  const Plan replanned = plan(loss);
  model.remat = policy::everything;
  const Plan anew = plan(loss);
  EXPECT_EQ(replanned.rows()[0].name, "(without its plan)");
  EXPECT_EQ(anew.rows()[0].name, "(as written)");
  ASSERT_EQ(replanned.frontier().size(), anew.frontier().size());
  for (std::size_t i = 0; i < anew.frontier().size(); ++i)
    EXPECT_EQ(replanned.frontier()[i].policy, anew.frontier()[i].policy);
}

Policy middle_of(const Plan& plan) { return plan.frontier()[plan.frontier().size() / 2].policy; }

TEST(PlannedPolicies, AreTextThatAnyProcessReadsBack) {
  ParameterRegistry parameters(3);
  Layers model(parameters);
  const Tensor<float> batch({5, 8}, 0.5F);
  const auto gradient = [&] {
    parameters.zero_grad();
    Tape tape;
    tape.backward(model.loss(tape, batch));
    return std::pair(model.w.grad().copy(), tape.stats().peak_bytes);
  };
  const std::string file = testing::TempDir() + "remat_plan_" + std::to_string(getpid());
  testing::GTEST_FLAG(death_test_style) = "threadsafe";  // another process, not a fork of this one
  setenv("REMAT_PLAN_FILE", file.c_str(), 0);            // the other process has this one's
  EXPECT_EXIT(
      {
        const Plan made = plan([&](Tape& tape) { return model.loss(tape, batch); }, CostModel());
        std::ofstream(std::getenv("REMAT_PLAN_FILE")) << middle_of(made);
        std::exit(0);
      },
      testing::ExitedWithCode(0), "");
  std::string text;
  std::getline(std::ifstream(file), text);
  unlink(file.c_str());
  unsetenv("REMAT_PLAN_FILE");
  const Plan plan = remat::plan([&](Tape& tape) { return model.loss(tape, batch); }, CostModel());
  const auto plain = gradient();
  model.remat = policy::parse(text);
  EXPECT_EQ(model.remat, middle_of(plan)) << text;
  EXPECT_EQ(policy::to_string(model.remat), text);
  const auto planned = gradient();
  EXPECT_TRUE(same_bits(planned.first, plain.first));
  EXPECT_EQ(planned.second, plan.under(middle_of(plan)).stats.peak_bytes);
  EXPECT_LT(planned.second, plain.second);
}

// Another length, another op at some place, more values: each is refused by name, whatever the process.
TEST(PlannedPolicies, ReadBackRefuseAnotherProgram) {
  ParameterRegistry parameters(3);
  Layers model(parameters);
  const auto step = [&](Index rows, Mode mode = Mode::train) {
    Tape tape({.mode = mode});
    const auto loss = model.loss(tape, Tensor<float>({rows, 8}, 0.5F));
    if (mode != Mode::evaluate) tape.backward(loss);
  };
  const auto planned = [&](Index rows) {
    return middle_of(plan([&](Tape& tape) { return model.loss(tape, Tensor<float>({rows, 8}, 0.5F)); }, CostModel()));
  };
  const Policy five = policy::parse(policy::to_string(planned(5)));
  model.remat = five;
  EXPECT_NO_THROW(step(5));
  EXPECT_NO_THROW(step(5, Mode::plan));
  EXPECT_NO_THROW(step(6, Mode::evaluate));  // keeps nothing, so nothing is asked
  expect_error({"plan: value", "bytes", "another program", "make a new plan"}, [&] { step(6); });
  expect_error({"another program"}, [&] { step(6, Mode::plan); });
  model.remat = five | policy::names("*");
  EXPECT_TRUE(policy::is_planned(model.remat));
  EXPECT_NO_THROW(planned(6));
  expect_error({"another program"}, [&] {
    Tape tape({.mode = Mode::train});
    const auto x = tape.input(Tensor<float>({5, 8}, 0.5F), {.wants_gradient = true});
    tape.backward(sum(tape.checkpoint(five, [&] { return cos(cos(cos(cos(x)))); })));
  });
  expect_error({"another program", "values"}, [&] {
    Tape tape;
    auto x = tape.input(Tensor<float>({5, 8}, 0.5F), {.wants_gradient = true});
    for (int i = 0; i < 40; ++i) x = sin(x);
    tape.backward(sum(tape.checkpoint(five, [&] { return sin(sin(x)); })));
  });
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
  std::filesystem::path folder_ = testing::TempDir() + "remat_rates_" + std::to_string(getpid());
};

TEST_F(Rates, AreMeasuredOnceAndReadAgain) {
  const CostModel first = detail::calibrated(folder_), second = detail::calibrated(folder_);
  EXPECT_EQ(first.flops_per_second, second.flops_per_second);
  EXPECT_EQ(first.bytes_per_second, second.bytes_per_second);
  EXPECT_GT(first.flops_per_second, 1e8);
}

TEST_F(Rates, ADamagedTextGivesNone) {
  for (const char* text : {"", "nan 1e10 1 1e9", "1e11", "1e11 1e10", "1e11 1e10 1", "1e11 1e10 1e5 1e9",
                           "-1 1e10 1 1e9", "1e99 1e10 1 1e9", "1e11 1e10 1 0"})
    EXPECT_FALSE(detail::parsed_rates(text)) << text;
  const CostModel model = CostModel::measured();
  const auto again = detail::parsed_rates(detail::text_of_rates(model));
  ASSERT_TRUE(again);
  EXPECT_EQ(again->batched_factor, model.batched_factor);
  EXPECT_EQ(again->offload_bytes_per_second, model.offload_bytes_per_second);
}

TEST_F(Rates, AFolderThatCannotBeWrittenIsNoError) {
  EXPECT_GT(detail::calibrated("/proc/remat").bytes_per_second, 1e6);
  EXPECT_GT(detail::calibrated({}).bytes_per_second, 1e6);
}

}  // namespace
