// Promise: the plan is true. Plan mode predicts the peak, the held bytes and the replays of the real step.
#include <gtest/gtest.h>

#include <set>

#include "core/expect_error.hpp"
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

class PlannedGpt : public testing::Test {
 protected:
  PlannedGpt() : gpt_(parameters_ / "gpt", config()) {}
  static models::GptConfig config() {
    models::GptConfig config = remat_test::small_gpt();
    config.dropout = 0.1;
    return config;
  }
  Plan planned() {
    return plan([&](Tape& tape) { return gpt_.loss(tape, remat_test::tokens(2, 13, 29)); });
  }
  /// One real step under `policy`: its counts, and its gradients behind one another.
  std::pair<TapeStats, std::vector<float>> step(const Policy& policy, Index length = 13) {
    gpt_.decoder.remat = policy;
    parameters_.zero_grad();
    Tape tape({.seed = 11});
    tape.backward(gpt_.loss(tape, remat_test::tokens(2, length, 29)));
    std::vector<float> grads;
    for (const auto& entry : parameters_.entries()) {
      const auto grad = Parameter<float>(entry).grad();
      grads.insert(grads.end(), grad.span().begin(), grad.span().end());
    }
    return {tape.stats(), grads};
  }
  ParameterRegistry parameters_{5};
  models::Gpt<float> gpt_;
};

// One recording serves every policy: no user code runs again.
TEST_F(PlannedGpt, OneRecordingPredictsEveryPolicy) {
  const Plan plan = planned();
  ASSERT_EQ(plan.rows().size(), 1 + policy::phrase_book().size());
  for (std::size_t i = 1; i < plan.rows().size(); ++i) {
    const PlannedPolicy& row = plan.rows()[i];
    const TapeStats real = step(row.policy).first;
    EXPECT_EQ(row.stats.peak_bytes, real.peak_bytes) << row.name;
    EXPECT_EQ(row.stats.saved_bytes, real.saved_bytes) << row.name;
    EXPECT_EQ(row.stats.replayed_by_op, real.replayed_by_op) << row.name;
  }
}

// A budget is a bound, a smaller one never raises the peak, and no bit depends on it.
TEST_F(PlannedGpt, BudgetsAreKept) {
  const Plan plan = planned();
  const std::size_t least = plan.frontier().front().stats.peak_bytes, most = plan.frontier().back().stats.peak_bytes;
  ASSERT_LT(least, most);
  const auto [plain, plain_grads] = step(policy::everything);
  std::size_t last_peak = 0;
  std::set<std::size_t> peaks;
  for (int i = 0; i <= 30; ++i) {
    const std::size_t budget = least + (most - least) * static_cast<std::size_t>(i) / 30;
    const auto [stats, grads] = step(plan.within(budget));
    EXPECT_LE(stats.peak_bytes, budget);
    EXPECT_GE(stats.peak_bytes, last_peak);
    EXPECT_EQ(grads, plain_grads);
    last_peak = stats.peak_bytes;
    peaks.insert(stats.peak_bytes);
  }
  EXPECT_GT(peaks.size(), 8U);  // the budgets really choose
  EXPECT_EQ(step(plan.within(most)).first.ops_replayed, 0);
}

TEST_F(PlannedGpt, RefusesWhatCannotBe) {
  const Plan plan = planned();
  const std::size_t least = plan.frontier().front().stats.peak_bytes;
  remat_test::expect_error({"least possible is " + std::to_string(least)}, [&] { plan.within(least - 1); });
  // A plan belongs to its shapes.
  remat_test::expect_error({"another program", "make a new plan"}, [&] { step(plan.within(least), 9); });
  remat_test::expect_error({"plan mode"}, [] {
    remat::plan([](Tape& tape) {
      const auto x = tape.input(Tensor<float>({1}, 1.0F), {.wants_gradient = true});
      return x.value().item() > 0 ? sin(x) : x;
    });
  });
}

// The greedy planner against the best of all 2^16 choices of what to keep, under a fixed cost model.
class PlanIsGood : public testing::TestWithParam<int> {};

TEST_P(PlanIsGood, WithinThreePercentOfTheBest) {
  ParameterRegistry parameters(1);
  const auto weight = [&](const char* name, Index from, Index to) {
    return (parameters / name).parameter<float>("w", {from, to}, init::normal(0.02));
  };
  const auto wide = weight("wide", 64, 256), narrow = weight("narrow", 256, 64), square_ = weight("square", 64, 64);
  const auto body = [&](const Var<float>& x, int region) -> Var<float> {
    if (GetParam() == 0) {  // feed-forwards with and without a skip connection: 4 regions
      const auto y = linear<float>(activate(linear<float>(x, wide), Activation::gelu), narrow);
      return region % 2 == 0 ? tanh(y) : y + x;
    }
    if (GetParam() == 1)  // cheap and dear ops by turns: 2 regions of 8
      return sin(linear<float>(exp(sin(linear<float>(tanh(sin(linear<float>(x, square_))), square_))), square_));
    const auto y = linear<float>(rms_norm<float>(x, Parameter<float>()), wide);  // a norm, a gate: 2 regions
    return linear<float>(softmax(y) * silu(y), narrow) + x * sin(x);
  };
  const int regions = GetParam() == 0 ? 4 : 2;
  const auto step = [&](Tape& tape) {
    Var<float> h = tape.input(Tensor<float>({128, 64}, 0.5F), {.wants_gradient = true});
    for (int region = 0; region < regions; ++region)
      h = tape.checkpoint(policy::nothing, [&] { return body(h, region); });
    return sum(square(h));
  };
  const CostModel model;
  const Plan plan = remat::plan(step, model);
  Tape tape({.mode = Mode::plan});
  const auto loss = step(tape);
  Program& program = tape.program();
  const SlotId loss_slot = loss.where().slot;
  program.finished = true;
  std::vector<SlotId> candidates;
  for (SlotId slot = 0; slot < static_cast<SlotId>(program.slots.size()); ++slot)
    if (!program.slot(slot).is_leaf() && program.node(program.slot(slot).node).region >= 0) candidates.push_back(slot);
  ASSERT_LE(candidates.size(), 20U);
  candidates.resize(std::min<std::size_t>(candidates.size(), 16));
  struct Point {
    std::size_t peak;
    double seconds;
  };
  std::vector<Point> all;
  for (unsigned choice = 0; choice < 1U << candidates.size(); ++choice) {
    std::vector<bool> kept(program.slots.size());
    for (std::size_t k = 0; k < candidates.size(); ++k)
      kept[static_cast<std::size_t>(candidates[k])] = choice >> k & 1U;
    const auto policy = [&](const SlotInfo& slot) { return bool(kept[static_cast<std::size_t>(slot.index)]); };
    const TapeStats stats = detail::simulate(program, loss_slot, Policy(policy));
    all.push_back({stats.peak_bytes, model.seconds(stats)});
  }
  const std::size_t least =
      std::min_element(all.begin(), all.end(), [](auto a, auto b) { return a.peak < b.peak; })->peak;
  EXPECT_LE(plan.frontier().front().stats.peak_bytes, least);
  const std::size_t most = plan.frontier().back().stats.peak_bytes;
  for (int i = 0; i <= 20; ++i) {
    const std::size_t budget = least + (most - least) * static_cast<std::size_t>(i) / 20;
    double best = 1e9;
    for (const Point& point : all)
      if (point.peak <= budget) best = std::min(best, point.seconds);
    EXPECT_LE(plan.under(plan.within(budget)).seconds, 1.03 * best)
        << "budget " << budget << " of " << least << " to " << most;
  }
}

INSTANTIATE_TEST_SUITE_P(Models, PlanIsGood, testing::Values(0, 1, 2));

TEST(PlanIsTrue, AThousandLayersCostNoComputing) {
  models::GptConfig config = remat_test::small_gpt();
  config.num_layers = 1000;
  config.remat = policy::nothing;
  ParameterRegistry parameters(5);
  const models::Gpt<float> gpt(parameters / "gpt", config);
  const std::size_t before = pool().live_bytes();
  pool().reset_peak();
  const Plan plan = remat::plan([&](Tape& tape) { return gpt.loss(tape, remat_test::tokens(64, 13, 29)); });
  EXPECT_LT(pool().peak_bytes() - before, std::size_t{32} << 20);  // the cost model's probe; a step needs 300 MB
  EXPECT_GT(plan.rows()[0].stats.peak_bytes, std::size_t{100} << 20);
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
