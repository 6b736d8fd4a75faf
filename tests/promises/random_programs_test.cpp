// Promises on random programs: what remat may not change, what a plan must foretell, what may not be left behind.
//
// Seeds are fixed; RC_PARAMS="seed=... max_success=..." overrides them.
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <cstdlib>
#include <cstring>
#include <set>

#include "promises/random_program.hpp"

namespace {

using namespace remat;
using remat_test::Interpreter;
using remat_test::RandomProgram;
using remat_test::Regions;
using remat_test::World;

// Before rapidcheck first reads it.
const int default_parameters = setenv("RC_PARAMS", "seed=20 max_success=2000 max_size=40", 0);

/// All that a step shows to the outside.
struct Outcome {
  std::vector<double> numbers{};  // loss, gradients of inputs and parameters, kept values
  TapeStats stats{};
  int deepest = 0;
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
        if (s.keep && !s.is_leaf()) add(Tensor<double>(AnyTensor{s.spec.dtype, s.spec.shape, s.value, s.offset}));
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
    const std::size_t peak =
        run(program, {Regions::Are::outermost_replaced, plan.within(budget)}).stats.peak_bytes;
    RC_ASSERT(peak <= budget);
    RC_ASSERT(peak >= peak_before);
    peak_before = peak;
  }
  RC_ASSERT_THROWS_AS(plan.within(least - 1), Error);
}

RC_GTEST_PROP(RandomPrograms, EvaluateComputesTheSameLoss, (RandomProgram program)) {
  std::erase_if(program.steps, [](const auto& step) { return step.kind == remat_test::Kind::dropout; });
  const double train = run(program, {}).numbers[0], evaluate = run(program, {}, Mode::evaluate).numbers[0];
  RC_ASSERT(std::memcmp(&train, &evaluate, sizeof(double)) == 0);
}

}  // namespace
