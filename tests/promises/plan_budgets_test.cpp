// Promise: budgets are kept. Plans choose what stays so that a step keeps to a budget, as fast as can be.
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <remat/plan/plan_cache.hpp>
#include <string>

#include "core/expect_error.hpp"
#include "promises/plan_models.hpp"

namespace {

using namespace remat;
using remat_test::PlanModel;

class BudgetsAreKept : public testing::TestWithParam<PlanModel> {
 protected:
  BudgetsAreKept() : model_(GetParam()), plan_(model_.plan(policy::everything, CostModel())) {
    step(policy::everything);  // from here on parameters have a gradient, which no tape counts
  }
  struct Outcome {
    std::size_t peak;  // as the pool measured it
    TapeStats stats;
    std::vector<std::byte> gradients;
  };
  Outcome step(const Policy& policy) const {
    model_.parameters->zero_grad();
    Outcome outcome{};
    outcome.peak = remat_test::most_bytes_held([&] { outcome.stats = model_.step({.seed = 11, .step = 0}, policy); });
    for (const auto& entry : model_.parameters->entries()) {
      const AnyTensor& grad = entry->grad_or_zeros();
      outcome.gradients.insert(outcome.gradients.end(), grad.data(), grad.data() + grad.bytes());
    }
    return outcome;
  }
  std::size_t least() const { return plan_.frontier().front().stats.peak_bytes; }
  std::size_t most() const { return plan_.frontier().back().stats.peak_bytes; }

  PlanModel model_;
  Plan plan_;
};

// 30 budgets from below the least possible to above all: never exceeded, a smaller one never gives a higher peak, and
// no bit depends on it.
TEST_P(BudgetsAreKept, AndMeasured) {
  const std::size_t from = least() * 3 / 4, to = most() * 5 / 4;
  const std::vector<std::byte> plain = step(policy::everything).gradients;
  std::size_t last_peak = 0;
  int refused = 0;
  for (std::size_t i = 0; i < 30; ++i) {
    const std::size_t budget = from + (to - from) * i / 29;
    if (budget < least()) {
      EXPECT_THROW(plan_.within(budget), Error) << budget;
      ++refused;
      continue;
    }
    const Policy policy = plan_.within(budget);
    const Outcome real = step(policy);
    EXPECT_LE(real.peak, budget);
    EXPECT_EQ(real.peak, plan_.under(policy).stats.peak_bytes);
    EXPECT_GE(real.peak, last_peak);
    EXPECT_EQ(real.gradients, plain);
    last_peak = real.peak;
  }
  EXPECT_GE(refused, 1);
  EXPECT_LE(refused, 15);
  EXPECT_EQ(step(plan_.within(to)).stats.ops_replayed, 0);
}

// Budgets just at and just below each point where the choice changes.
TEST_P(BudgetsAreKept, ToTheByte) {
  ASSERT_GE(plan_.frontier().size(), 3U);
  double slower = std::numeric_limits<double>::infinity();
  for (const PlannedPolicy& point : plan_.frontier()) {
    EXPECT_EQ(step(plan_.within(point.stats.peak_bytes)).peak, point.stats.peak_bytes);
    EXPECT_LT(point.seconds, slower);  // more memory is only spent on time
    slower = point.seconds;
    if (point.stats.peak_bytes == least()) continue;
    EXPECT_LT(plan_.under(plan_.within(point.stats.peak_bytes - 1)).stats.peak_bytes, point.stats.peak_bytes);
  }
}

// The number that the refusal names works as a budget, and nothing below it does.
TEST_P(BudgetsAreKept, BelowTheLeastTheErrorNamesIt) {
  for (const std::size_t budget : {std::size_t{1}, least() / 2, least() - 1}) {
    const std::string text = remat_test::error_of([&] { plan_.within(budget); });
    const std::string phrase = "least possible is ";
    const std::size_t at = text.find(phrase);
    ASSERT_NE(at, std::string::npos) << text;
    EXPECT_NE(text.find(std::to_string(budget) + " bytes"), std::string::npos) << text;
    const std::size_t named = std::stoull(text.substr(at + phrase.size()));
    EXPECT_EQ(named, least());
    EXPECT_LE(step(plan_.within(named)).peak, named);
  }
}

// No policy of the phrase book is both smaller and faster than what the planner gives for its peak.
TEST_P(BudgetsAreKept, NoPhraseBeatsThePlan) {
  for (const PlannedPolicy& row : plan_.rows()) {
    if (row.stats.offloaded_bytes > 0) continue;  // budgets are kept without a disk
    EXPECT_GE(row.stats.peak_bytes, least()) << row.name;
    if (row.stats.peak_bytes < least()) continue;
    EXPECT_LE(plan_.under(plan_.within(row.stats.peak_bytes)).seconds, 1.03 * row.seconds) << row.name;
  }
}

std::vector<PlanModel> budget_models() {
  const auto gpts = remat_test::gpt_models();
  const auto stacks = remat_test::stack_models();
  const auto named = [](const std::vector<PlanModel>& models, const std::string& name) {
    return *std::find_if(models.begin(), models.end(), [&](const PlanModel& model) { return model.name == name; });
  };
  return {named(gpts, "dropout"), named(stacks, "gated, double, dropout"), named(stacks, "recursion")};
}
INSTANTIATE_TEST_SUITE_P(Models, BudgetsAreKept, testing::ValuesIn(budget_models()), remat_test::test_name);

TEST(Plans, BelongToTheirProgram) {
  const auto gpt = [](Index batch) { return remat_test::gpt_model("gpt", batch, [](models::GptConfig&) {}); };
  const Policy policy = gpt(2).plan(policy::everything, CostModel()).within(std::size_t{1} << 30);
  EXPECT_NO_THROW(gpt(2).step({}, policy));
  remat_test::expect_error({"another program", "make a new plan"}, [&] { gpt(3).step({}, policy); });
}

// The loop of the README, on a GPT: shapes come and go, each step carries the plan of the one before.
TEST(Plans, KeepBatchesOfManyShapesToOneBudget) {
  models::GptConfig config = remat_test::small_gpt();
  config.dropout = 0.1;
  ParameterRegistry parameters(5);
  models::Gpt<float> gpt(parameters / "gpt", config);
  const auto batch_of = [&](int step) { return remat_test::tokens(3 - step % 3, config.context, config.vocabulary); };
  const auto largest = batch_of(0);
  const Plan first = plan([&](Tape& tape) { return gpt.loss(tape, largest); }, CostModel());
  const std::size_t budget = first.frontier()[first.frontier().size() / 3].stats.peak_bytes;
  ASSERT_LT(budget, first.rows()[0].stats.peak_bytes);
  PlanCache plans;
  optim::AdamW adamw(parameters);
  for (int step = 0; step < 6; ++step) {
    const auto batch = batch_of(step);
    const auto gradients = [&] {
      parameters.zero_grad();
      Tape tape({.seed = 1, .step = step});
      tape.backward(gpt.loss(tape, batch));
      EXPECT_TRUE(gpt.decoder.remat == policy::everything || tape.stats().peak_bytes <= budget);
      std::vector<std::byte> bytes;
      for (const auto& entry : parameters.entries()) {
        const AnyTensor& grad = entry->grad_or_zeros();
        bytes.insert(bytes.end(), grad.data(), grad.data() + grad.bytes());
      }
      return bytes;
    };
    const Policy chosen =
        plans({batch.inputs.shape()}, [&](Tape& tape) { return gpt.loss(tape, batch); }).within(budget);
    gpt.decoder.remat = policy::everything;
    const auto plain = gradients();
    gpt.decoder.remat = chosen;  // and stays while the next shape is planned
    EXPECT_EQ(gradients(), plain) << step;
    adamw.step(1e-3);
  }
  EXPECT_EQ(plans.size(), 3U);
}

TEST(Plans, AreOfALoss) {
  remat_test::expect_error({"plan: the step must return its loss, one number; it returned shape [2]"}, [] {
    plan([](Tape& tape) { return sin(tape.input(Tensor<float>({2}, 1.0F), {.wants_gradient = true})); });
  });
  // Whose backward there is none of: it would be looked for behind the end of what was recorded.
  const auto one = [](Tape& tape) { return tape.input(Tensor<float>({1}, 1.0F), {.wants_gradient = true}); };
  remat_test::expect_error({"plan: the step returned an input or a parameter"}, [&] { plan(one); });
  remat_test::expect_error({"plan: the loss is a slice"}, [] {
    plan([](Tape& tape) { return sin(tape.input(Tensor<float>({2}, 1.0F), {.wants_gradient = true})).slice(0, 1); });
  });
  Tape other({.mode = Mode::plan});
  remat_test::expect_error({"plan: the step returned a loss that lies on another tape"},
                           [&] { plan([&](Tape& tape) { return sin(one(tape)), sin(one(other)); }); });
}

TEST(Plans, CannotReadValues) {
  remat_test::expect_error({"plan mode"}, [] {
    plan([](Tape& tape) {
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

}  // namespace
