// Promise: the plan is true. Plan mode predicts the peak, the held bytes and the replays of the real step.
#include <gtest/gtest.h>

#include "promises/small_gpt.hpp"

namespace {

using namespace remat;

TEST(PlanIsTrue, ForEveryPolicyOfThePhraseBook) {
  for (const double dropout : {0.0, 0.1}) {
    for (const policy::Phrase& phrase : policy::phrase_book()) {
      models::GptConfig config = remat_test::small_gpt();
      config.remat = phrase.policy;
      config.dropout = dropout;
      ParameterRegistry parameters(5);
      const models::Gpt<float> gpt(parameters / "gpt", config);
      const auto step = [&](Mode mode) {
        Tape tape({.seed = 11, .mode = mode});
        tape.backward(gpt.loss(tape, remat_test::tokens(2, config.context, config.vocabulary)));
        return tape.stats();
      };
      const TapeStats plan = step(Mode::plan), real = step(Mode::train);
      EXPECT_EQ(plan.peak_bytes, real.peak_bytes) << phrase.name;
      EXPECT_EQ(plan.saved_bytes, real.saved_bytes) << phrase.name;
      EXPECT_EQ(plan.ops_recorded, real.ops_recorded) << phrase.name;
      EXPECT_EQ(plan.replayed_by_op, real.replayed_by_op) << phrase.name;
      EXPECT_EQ(plan.backward_flops, real.backward_flops) << phrase.name;
    }
  }
}

TEST(PlanIsTrue, LiveBytesReturnToTheSameNumberAfterEachStep) {
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
      EXPECT_EQ(pool().system_allocations(), system) << i;  // blocks are used again
    }
  }
}

}  // namespace
