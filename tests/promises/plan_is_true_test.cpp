// Promise: the plan is true. What plan mode predicts of a step, its peak to the byte, is what the step does.
#include <gtest/gtest.h>

#include <set>

#include "promises/plan_models.hpp"

namespace {

using namespace remat;
using remat_test::PlanModel;

class PlanIsTrue : public testing::TestWithParam<PlanModel> {};

// Two predictions, the step recorded under the policy and one recording for all policies, against the real step.
TEST_P(PlanIsTrue, UnderEveryPolicy) {
  const PlanModel& model = GetParam();
  const Plan plan = model.plan(policy::everything, CostModel());
  model.step({.seed = 11, .step = 0},
             policy::everything);  // from here on parameters have a gradient, which no tape counts
  for (const Policy& policy : remat_test::plan_policies()) {
    SCOPED_TRACE(policy::to_string(policy));
    TapeStats real;
    const std::size_t measured =
        remat_test::most_bytes_held([&] { real = model.step({.seed = 11, .step = 0}, policy); });
    for (const TapeStats& predicted : {plan.under(policy).stats, model.step({.mode = Mode::plan}, policy)}) {
      EXPECT_LE(predicted.peak_bytes, measured);
      EXPECT_GE(predicted.peak_bytes + alignment, measured);  // a number in a formula is an input, which no tape counts
      EXPECT_EQ(predicted.peak_bytes, real.peak_bytes);
      EXPECT_EQ(predicted.saved_bytes, real.saved_bytes);
      EXPECT_EQ(predicted.offloaded_bytes, real.offloaded_bytes);
      EXPECT_EQ(predicted.ops_recorded, real.ops_recorded);
      EXPECT_EQ(predicted.replayed_by_op, real.replayed_by_op);
      EXPECT_EQ(predicted.forward_flops, real.forward_flops);
      EXPECT_EQ(predicted.backward_flops, real.backward_flops);
      EXPECT_EQ(predicted.moved_bytes, real.moved_bytes);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Gpt, PlanIsTrue, testing::ValuesIn(remat_test::gpt_models()), remat_test::test_name);
INSTANTIATE_TEST_SUITE_P(Other, PlanIsTrue, testing::ValuesIn(remat_test::other_models()), remat_test::test_name);
INSTANTIATE_TEST_SUITE_P(Stack, PlanIsTrue, testing::ValuesIn(remat_test::stack_models()), remat_test::test_name);

// The policies above really differ, or the equalities would say little.
TEST(PlansTell, PoliciesApart) {
  for (const PlanModel& model : remat_test::stack_models()) {
    const Plan plan = model.plan(policy::everything, CostModel());
    std::set<std::size_t> peaks, saved;
    for (const Policy& policy : remat_test::plan_policies()) {
      const TapeStats stats = plan.under(policy).stats;
      peaks.insert(stats.peak_bytes), saved.insert(stats.saved_bytes);
    }
    EXPECT_GE(peaks.size(), 3U) << model.name;  // a lone region is entered at once, so few
    EXPECT_GE(saved.size(), 10U) << model.name;
  }
}

TEST(PlansTell, RowsAreThePhraseBookBehindTheStepAsWritten) {
  const PlanModel model = remat_test::stack_models().front();
  const Plan plan = model.plan(policy::save_out_proj, CostModel());
  ASSERT_EQ(plan.rows().size(), 1 + policy::phrase_book().size());
  EXPECT_EQ(plan.rows()[0].stats.peak_bytes, model.step({}, policy::save_out_proj).peak_bytes);
  for (std::size_t i = 1; i < plan.rows().size(); ++i) {
    const PlannedPolicy& row = plan.rows()[i];
    EXPECT_EQ(row.name, policy::phrase_book()[i - 1].name);
    EXPECT_EQ(row.stats.peak_bytes, model.step({}, row.policy).peak_bytes) << row.name;
  }
}

TEST(PlansTell, OfAThousandLayersWithoutComputing) {
  models::GptConfig config = remat_test::small_gpt();
  config.num_layers = 1000;
  config.remat = policy::nothing;
  ParameterRegistry parameters(5);
  const models::Gpt<float> gpt(parameters / "gpt", config);
  const auto data = remat_test::tokens(64, 13, 29);
  const std::size_t before = pool().live_bytes(), blocks = pool().system_allocations();
  EXPECT_EQ(remat_test::most_bytes_held([&] {
              const Plan plan = remat::plan([&](Tape& tape) { return gpt.loss(tape, data); }, CostModel());
              EXPECT_GT(plan.rows()[0].stats.peak_bytes, std::size_t{100} << 20);
              EXPECT_GT(plan.under(policy::everything).stats.peak_bytes, std::size_t{1000} << 20);
            }),
            0U);
  EXPECT_EQ(pool().live_bytes(), before);
  EXPECT_EQ(pool().system_allocations(), blocks);
}

TEST(PlansTell, LiveBytesReturnToTheSameNumberAfterEachStep) {
  models::GptConfig config = remat_test::small_gpt();
  config.dropout = 0.1;
  config.remat = policy::save_dot_except_logits;
  ParameterRegistry parameters(5);
  const models::Gpt<float> gpt(parameters / "gpt", config);
  optim::AdamW adamw(parameters);
  std::size_t live = 0, system = 0;
  for (int i = 0; i < 6; ++i) {
    {
      Tape tape({.seed = 11, .step = i});
      tape.backward(gpt.loss(tape, remat_test::tokens(2, config.context, config.vocabulary)));
    }
    adamw.step(1e-3);
    if (i == 1) live = pool().live_bytes(), system = pool().system_allocations();
    if (i > 1) {
      EXPECT_EQ(pool().live_bytes(), live) << i;
      if (detail::blocks_are_used_again) {
        EXPECT_EQ(pool().system_allocations(), system) << i;
      }
    }
  }
}

}  // namespace
