// Promises on random programs: what remat may not change, what a plan must foretell, what may not be left behind.
//
// Seeds are fixed; RC_PARAMS="seed=... max_success=..." overrides them.
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <set>
#include <utility>

#include "promises/random_program.hpp"

namespace {

using namespace remat;
using remat_test::Interpreter;
using remat_test::Kind;
using remat_test::RandomProgram;
using remat_test::Regions;
using remat_test::World;

// Before rapidcheck first reads it.
const int default_parameters = setenv("RC_PARAMS", "seed=20 max_success=2000 max_size=200", 0);

/// All that a step shows to the outside.
struct Outcome {
  std::vector<double> numbers{};  // loss, gradients of inputs and parameters, kept values
  TapeStats stats{};
  int deepest = 0;
  bool has_dead_ends = false;  // ops that the loss does not reach
  friend bool same_bits(const Outcome& a, const Outcome& b) {
    return a.numbers.size() == b.numbers.size() &&
           std::memcmp(a.numbers.data(), b.numbers.data(), a.numbers.size() * sizeof(double)) == 0;
  }
};

/// saved_bytes is what saved_residuals lists, and kept values that nobody reads.
void check_report(Tape& tape, SlotId loss) {
  std::size_t bytes = 0;
  std::set<Index> listed;
  for (const SavedResidual& saved : saved_residuals(tape)) {
    RC_ASSERT(listed.insert(saved.slot).second);
    RC_ASSERT(saved.slot != loss);
    bytes += saved.bytes;
  }
  const Program& p = tape.program();
  for (SlotId id = 0; id < static_cast<SlotId>(p.slots.size()); ++id)
    if (p.slot(id).keep && !p.slot(id).is_leaf() && id != loss && listed.count(id) == 0)
      bytes += p.slot(id).spec.bytes();
  // What was offloaded is listed and not held.
  RC_ASSERT(tape.stats().saved_bytes <= bytes);
  RC_ASSERT(tape.stats().saved_bytes + tape.stats().offloaded_bytes >= bytes);
}

/// After backward a tape holds the loss, what was kept, and the gradients of inputs; each block once.
void check_holdings(const Program& p) {
  std::set<const Block*> blocks;
  for (const Slot& s : p.slots) {
    RC_ASSERT(!s.value || s.keep);
    RC_ASSERT(s.value || !s.keep);
    RC_ASSERT(!s.grad || (s.is_leaf() && s.wants_gradient));
    if (s.value && !s.is_leaf()) blocks.insert(s.value.get());
    if (s.grad) blocks.insert(s.grad.get());
  }
  std::size_t bytes = 0;
  for (const Block* block : blocks) bytes += block->bytes;
  RC_ASSERT(p.account->live_bytes == bytes);
}

Outcome run(const RandomProgram& program, const Regions& regions, Mode mode = Mode::train) {
  const World world(program.gradients_exist);
  const std::size_t live_before = pool().live_bytes();
  Outcome outcome;
  {
    Tape tape({.seed = 11, .step = 3, .mode = mode});
    Interpreter interpreter(tape, program, world, regions);
    const Var<double> loss = interpreter.loss();
    const std::vector<Var<double>> inputs = interpreter.inputs();
    if (mode == Mode::evaluate) {
      outcome.numbers = {loss.item()};
      return outcome;
    }
    if (!program.locals_live) interpreter.forget_all();
    if (program.peeks) saved_residuals(tape);
    tape.backward(loss);

    outcome.stats = tape.stats();
    outcome.deepest = interpreter.deepest();
    for (const Node& n : tape.program().nodes)
      outcome.has_dead_ends |= !n.live && tape.program().slot(n.first_output).wants_gradient;
    check_report(tape, loss.where().slot);
    for (const auto& counts : interpreter.asked())
      for (const auto& [slot, times] : *counts) RC_ASSERT(times == 1);
    if (mode == Mode::train) {
      check_holdings(tape.program());
      const auto add = [&](const Tensor<double>& values) {
        outcome.numbers.insert(outcome.numbers.end(), values.span().begin(), values.span().end());
      };
      add(loss.value());
      for (const Var<double>& input : inputs) add(tape.grad(input));
      for (const auto& entry : world.registry.entries()) add(Tensor<double>(entry->grad_or_zeros()));
      for (const Slot& s : tape.program().slots)
        if (s.keep && !s.is_leaf() && &s != &tape.program().slot(loss.where().slot))
          add(Tensor<double>(AnyTensor{s.spec.dtype, s.spec.shape, s.value, s.offset}));
    }
  }
  RC_ASSERT(pool().live_bytes() == live_before);
  return outcome;
}

RC_GTEST_PROP(RandomPrograms, RematChangesNoBit, (const RandomProgram& program)) {
  const Outcome plain = run(program, {Regions::Are::absent});
  const Outcome written = run(program, {});
  RC_ASSERT(same_bits(written, plain));
  RC_ASSERT(written.stats.ops_recorded == plain.stats.ops_recorded);
  RC_ASSERT(written.stats.ops_replayed <= written.stats.ops_recorded * (written.deepest + 1));
  RC_ASSERT(plain.stats.ops_replayed == 0);
}

RC_GTEST_PROP(RandomPrograms, PlanModeForetellsTheStep, (const RandomProgram& program)) {
  const TapeStats real = run(program, {}).stats, plan = run(program, {}, Mode::plan).stats;
  RC_ASSERT(plan.peak_bytes == real.peak_bytes);
  RC_ASSERT(plan.saved_bytes == real.saved_bytes);
  RC_ASSERT(plan.replayed_by_op == real.replayed_by_op);
  RC_ASSERT(plan.backward_flops == real.backward_flops);
}

RC_GTEST_PROP(RandomPrograms, RegionsThatKeepEverythingAreNoRegions, (const RandomProgram& program)) {
  const Outcome plain = run(program, {Regions::Are::absent});
  const Outcome all = run(program, {Regions::Are::all_replaced, policy::everything});
  RC_ASSERT(same_bits(all, plain));
  RC_ASSERT(all.stats.ops_replayed == 0);
  RC_ASSERT(all.stats.saved_bytes == plain.stats.saved_bytes);
  RC_ASSERT(all.stats.peak_bytes <= plain.stats.peak_bytes);
  // However one says it.
  const Outcome said = run(program, {Regions::Are::all_replaced, [](const SlotInfo&) { return true; }});
  RC_ASSERT(same_bits(said, plain));
  RC_ASSERT(said.stats.ops_replayed == 0);
  RC_ASSERT(said.stats.saved_bytes == plain.stats.saved_bytes);
}

// `everything` has a way of its own through the engine: it must do what any policy that saves everything does.
RC_GTEST_PROP(RandomPrograms, EverythingIsAPolicyLikeAnother, (const RandomProgram& program)) {
  const Outcome word = run(program, {Regions::Are::outermost_replaced, policy::everything});
  const Outcome function = run(program, {Regions::Are::outermost_replaced, [](const SlotInfo&) { return true; }});
  RC_ASSERT(same_bits(word, function));
  // What a dead end reads is at hand when the one closes, and forgotten when the other begins backward.
  if (word.has_dead_ends) return;
  RC_ASSERT(word.stats.saved_bytes == function.stats.saved_bytes);
  RC_ASSERT(word.stats.replayed_by_op == function.stats.replayed_by_op);
}

RC_GTEST_PROP(RandomPrograms, PlansAreTrueUnderOtherPolicies, (RandomProgram program)) {
  program.locals_live = false;  // plan() takes the loss from a function that has returned
  const World world(program.gradients_exist);
  const Plan plan = remat::plan([&](Tape& tape) { return Interpreter(tape, program, world).loss(); });
  const Outcome plain = run(program, {Regions::Are::absent});
  const auto check = [&](const Regions& regions, const TapeStats& foretold) {
    const Outcome real = run(program, regions);
    RC_ASSERT(same_bits(real, plain));
    RC_ASSERT(foretold.peak_bytes == real.stats.peak_bytes);
    RC_ASSERT(foretold.saved_bytes == real.stats.saved_bytes);
    RC_ASSERT(foretold.replayed_by_op == real.stats.replayed_by_op);
    return real.stats.peak_bytes;
  };
  check({}, plan.rows().front().stats);
  for (const Policy& policy : {policy::everything, policy::nothing, policy::dots, policy::any_name, !policy::dots})
    check({Regions::Are::outermost_replaced, policy}, plan.under(policy).stats);
  for (const PlannedPolicy& point : plan.frontier())
    check({Regions::Are::outermost_replaced, point.policy}, point.stats);

  const std::size_t least = plan.frontier().front().stats.peak_bytes, most = plan.frontier().back().stats.peak_bytes;
  std::size_t peak_before = 0;
  for (std::size_t i = 0; i <= 4; ++i) {
    const std::size_t budget = least + (most - least) * i / 4;
    const std::size_t peak = run(program, {Regions::Are::outermost_replaced, plan.within(budget)}).stats.peak_bytes;
    RC_ASSERT(peak <= budget);
    RC_ASSERT(peak >= peak_before);
    peak_before = peak;
  }
  RC_ASSERT_THROWS_AS(plan.within(least - 1), Error);
}

// Not against itself only: along one direction the loss grows as the gradient says.
RC_GTEST_PROP(RandomPrograms, GradientsAreRight, (RandomProgram program)) {
  program.gradients_exist = false;
  std::erase_if(program.steps, [](const auto& s) { return s.kind == Kind::input || s.kind == Kind::keep; });
  const auto loss = [&](double shift) {
    const World world(false, shift);
    Tape tape({.seed = 11, .step = 3});
    return Interpreter(tape, program, world).loss().item();
  };
  const auto slope = [&](double h) { return (loss(h) - loss(-h)) / (2 * h); };
  const std::vector<double> numbers = run(program, {}).numbers;
  double exact = 0, size = 1;
  for (std::size_t i = 1; i < numbers.size(); ++i) exact += numbers[i], size += std::abs(numbers[i]);
  const double coarse = slope(2e-5), fine = slope(1e-5);
  if (!(std::abs(coarse - fine) < 1e-6 * size)) return;  // too crooked for differences to tell, or not finite
  RC_ASSERT(std::abs(fine - exact) < 1e-5 * size);
}

RC_GTEST_PROP(RandomPrograms, EvaluateComputesTheSameLoss, (RandomProgram program)) {
  std::erase_if(program.steps, [](const auto& step) { return step.kind == Kind::dropout; });
  const double train = run(program, {}).numbers[0], evaluate = run(program, {}, Mode::evaluate).numbers[0];
  RC_ASSERT(std::memcmp(&train, &evaluate, sizeof(double)) == 0);
}

// What these programs found, at its smallest.

Var<double> small_input(Tape& tape, const Shape& shape = {3}) {
  return tape.input(Tensor<double>(shape, 0.3), {.wants_gradient = true});
}

// In a region of `everything`, what only the replay of a region inside starts from is held all the same.
TEST(FoundByRandomPrograms, EverythingHoldsWhatAnInnerRegionStartsFrom) {
  Tape tape;
  const auto x = small_input(tape);
  auto h = x + 1.0;  // no backward reads it
  const auto y = tape.checkpoint(policy::everything, [&] {
    return tape.checkpoint(policy::nothing, [&] { return sin(std::exchange(h, x) + 1.0); });
  });
  tape.backward(sum(y));
  EXPECT_DOUBLE_EQ(tape.grad(x)[0], std::cos(2.3));
}

// When backward forgets a dead end, what that made to be at hand must not be sought further back, where it is gone.
TEST(FoundByRandomPrograms, ADeadEndInANestedRegion) {
  Tape tape;
  const auto x = small_input(tape);
  auto h = sin(x);
  const auto y = tape.checkpoint(policy::ops("tanh"), [&] {
    const auto t = tape.checkpoint(policy::nothing, [&] { return tanh(std::exchange(h, x)); });
    sin(t);  // the loss does not reach it
    return t;
  });
  EXPECT_NO_THROW(tape.backward(sum(y)));
}

TEST(FoundByRandomPrograms, TheLossIsNoResidual) {
  Tape tape;
  tape.backward(tanh(sum(small_input(tape))));
  EXPECT_TRUE(saved_residuals(tape).empty());
  EXPECT_EQ(tape.stats().saved_bytes, 0U);
}

template <class Step>
void expect_true_plan(const Step& step) {
  const TapeStats foretold = remat::plan(step).rows().front().stats;
  Tape tape;
  tape.backward(step(tape));
  EXPECT_EQ(foretold.peak_bytes, tape.stats().peak_bytes);
  EXPECT_EQ(foretold.saved_bytes, tape.stats().saved_bytes);
}

TEST(FoundByRandomPrograms, APlanSeesALabelNoEarlierThanTheStep) {
  expect_true_plan([](Tape& tape) {
    const auto x = small_input(tape);
    const auto y = tape.checkpoint(policy::any_name, [&] { return tanh(sin(x)); });
    return sum(checkpoint_name(y, "after the region"));
  });
}

TEST(FoundByRandomPrograms, APlanSeesAKeepNoEarlierThanTheStep) {
  expect_true_plan([](Tape& tape) {
    const auto x = small_input(tape);
    auto h = x + 1.0;
    const auto y = tape.checkpoint(policy::nothing, [&] { return tanh(std::exchange(h, x)); });
    const auto loss = sum(sin(y) * sin(x) + sin(x));
    tape.keep(y);
    return loss;
  });
}

// The second of two micro-batches needs no more than the first, or a budget would be exceeded.
TEST(FoundByRandomPrograms, ThePeakDoesNotDependOnGradientsThatExist) {
  const ParameterRegistry parameters;
  const auto scale = (parameters / "p").parameter<double>("scale", {3}, init::ones());
  const auto peak = [&](Mode mode) {
    Tape tape({.mode = mode});
    tape.backward(sum(small_input(tape, {4, 3}) * scale));
    return tape.stats().peak_bytes;
  };
  const std::size_t foretold = peak(Mode::plan);
  EXPECT_EQ(peak(Mode::train), foretold);
  EXPECT_EQ(peak(Mode::train), foretold);
}

// A value that its region dropped cannot be kept any more; believing it was would lose what it is replayed from.
TEST(FoundByRandomPrograms, KeepRefusesWhatARegionDidNotReturn) {
  Tape tape;
  const auto x = small_input(tape);
  auto h = x + 1.0;
  Var<double> inside;
  const auto y = tape.checkpoint(policy::nothing, [&] {
    inside = std::exchange(h, x) + 1.0;
    return sin(inside);
  });
  EXPECT_THROW(tape.keep(inside), Error);
  EXPECT_NO_THROW(tape.backward(sum(y)));
}

}  // namespace
