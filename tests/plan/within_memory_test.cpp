// A step that is planned within a memory keeps to it, and cuts the batch where no policy alone would.
#include <gtest/gtest.h>

#include <algorithm>
#include <remat/models/gpt.hpp>
#include <remat/optim/adamw.hpp>
#include <remat/plan/within_memory.hpp>
#include <remat/policy/parse.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/expect_error.hpp"

namespace {

using namespace remat;
using remat_test::expect_error;

struct Batch {
  Tensor<std::int32_t> inputs, targets;
};
Batch rows_of(Index rows, Index length) {
  return {Tensor<std::int32_t>({rows, length}, 1), Tensor<std::int32_t>({rows, length}, 2)};
}

TEST(WithinMemory, TheStepKeepsToItsBudgetAndThePoolToTheMemory) {
#if defined(REMAT_ASAN) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "sanitizers fill the memory that is measured";
#endif
  ParameterRegistry parameters(1);
  models::Gpt<float> gpt(parameters / "gpt", {.vocabulary = 64,
                                              .context = 256,
                                              .num_layers = 6,
                                              .model_dims = 96,
                                              .num_heads = 4,
                                              .remat = policy::save_nothing});
  const auto plan_of = [&](Index rows) { return plan([&](Tape& tape) { return gpt.loss(tape, rows_of(rows, 256)); }); };
  const Plan whole = plan_of(8);
  const std::size_t least = whole.frontier().front().stats.peak_bytes;
  const auto anonymous = [] { return machine::process_memory().anonymous; };
  ASSERT_GT(anonymous(), 0U);
  const std::size_t beside = anonymous() + detail::StepSearch::slack() + (std::size_t{4} << 20) +
                             12 * static_cast<std::size_t>(parameters.trainable_count());

  // Room for the whole batch; then for less than that takes under any policy.
  const StepWithinMemory roomy =
      plan_within_memory(beside + 4 * whole.rows().front().stats.peak_bytes, parameters, 8, plan_of);
  EXPECT_EQ(roomy.parts, 1);
  const StepWithinMemory tight = plan_within_memory(beside + least / 2, parameters, 8, plan_of);
  EXPECT_GT(tight.parts, 1);
  EXPECT_LE(tight.policy.stats.peak_bytes, tight.budget);
  EXPECT_EQ(tight.promised, beside + least / 2);
  EXPECT_GE(tight.policy.seconds, roomy.policy.seconds);

  // A cut that is not to be chosen is not, and gradients that wait for others have their room.
  const auto values = static_cast<std::size_t>(parameters.trainable_count());
  MemorySearch of_four{.parts = 4};
  of_four.waiting_bytes = [](Index parts) { return parts == 4 ? std::size_t{4 * 2} : 0; };
  const std::size_t room = beside + 4 * whole.rows().front().stats.peak_bytes + 8 * values;
  const StepWithinMemory fixed = plan_within_memory(room, parameters, 8, plan_of, of_four);
  EXPECT_EQ(fixed.parts, 4);
  EXPECT_GE(fixed.standing + (std::size_t{2} << 20), tight.standing + 8 * values);
  // So has what another process holds more.
  of_four.more_bytes = std::size_t{16} << 20;
  const StepWithinMemory of_other = plan_within_memory(room + of_four.more_bytes, parameters, 8, plan_of, of_four);
  EXPECT_GE(of_other.standing + (std::size_t{2} << 20), fixed.standing + of_four.more_bytes);

  gpt.set_remat(tight.policy.policy);
  for (int step = 0; step < 2; ++step)
    for (Index part = 0; part < tight.parts; ++part) {
      Tape tape({.step = step, .first_row = part * (8 / tight.parts), .rows = 8 / tight.parts});
      tape.backward(gpt.loss(tape, rows_of(8 / tight.parts, 256)));
      EXPECT_EQ(tape.stats().peak_bytes, tight.policy.stats.peak_bytes);
    }
  EXPECT_LE(anonymous(), tight.promised);

  expect_error({"no policy and no cut of the batch", "within 1 MiB", "the least possible is"},
               [&] { plan_within_memory(std::size_t{1} << 20, parameters, 8, plan_of); });
  pool().set_held_limit();
}

/// One step of a model, planned within what is left of the memory beside the process and its optimizer.
class Searches : public testing::Test {
 protected:
  static constexpr Index length = 256;

  void SetUp() override {
#if defined(REMAT_ASAN) || defined(__SANITIZE_THREAD__)
    GTEST_SKIP() << "sanitizers fill the memory that is measured";
#endif
  }
  void TearDown() override { pool().set_held_limit(); }

  Var<float> loss(Tape& tape, Index rows) const { return gpt_.loss(tape, rows_of(rows, length)); }
  Plan plan_of(const StepCut& cut) {
    gpt_.set_chunks(cut.head_chunk, cut.ffn_chunk);
    return plan([&](Tape& tape) { return loss(tape, cut.rows); });
  }
  /// For a batch of `rows` rows in one part whose activations may take `step` bytes, where the optimizer takes
  /// `state_bytes` for each value.
  StepWithinMemory within(std::size_t step, Index rows, const MemorySearch& how, std::size_t state_bytes = 12) {
    pool().trim();
    const std::size_t beside = machine::process_memory().anonymous + detail::StepSearch::slack() +
                               state_bytes * static_cast<std::size_t>(parameters_.trainable_count());
    const auto found = plan_within_memory(
        beside + step / 94 * 100, parameters_, 1,
        [&](const StepCut& cut) {
          return plan_of({rows, cut.head_chunk, cut.ffn_chunk});
        },
        how);
    gpt_.set_remat(found.policy.policy);
    gpt_.set_chunks(found.cut.head_chunk, found.cut.ffn_chunk);
    return found;
  }
  /// The loss of a step as it was chosen, whose peak must be the one that was planned.
  float step(const StepWithinMemory& chosen, Index rows, const GradientHook& hook = {}) {
    Tape tape({.step = 1});
    const auto mean = loss(tape, rows);
    tape.backward(mean, hook);
    EXPECT_EQ(tape.stats().peak_bytes, chosen.policy.stats.peak_bytes);
    return mean.item();
  }
  std::vector<float> gradients() const {
    std::vector<float> all;
    for (const auto& entry : parameters_.entries()) {
      const Tensor<float> grad = Parameter<float>(entry).grad();
      all.insert(all.end(), grad.data(), grad.data() + grad.size());
    }
    parameters_.zero_grad();
    return all;
  }

  ParameterRegistry parameters_{1};
  models::Gpt<float> gpt_{parameters_ / "gpt",
                          {.vocabulary = 64,
                           .context = length,
                           .num_layers = 4,
                           .model_dims = 192,
                           .num_heads = 4,
                           .remat = policy::save_nothing}};
};

// The least that recomputing alone can do is what enters the layers; on disk that takes no memory, and changes no bit.
TEST_F(Searches, OffloadWhereRecomputingIsNotEnough) {
  const std::size_t least = plan_of({.rows = 4}).frontier().front().stats.peak_bytes, less = least / 100 * 93;
  const float loss = step({.policy = plan_of({.rows = 4}).under(policy::save_nothing)}, 4);
  const std::vector<float> expected = gradients();
  expect_error({"no policy and no cut", "the least possible is"}, [&] { within(less, 4, {.may_offload = false}); });
  const StepWithinMemory chosen = within(less, 4, {});
  EXPECT_GT(chosen.policy.stats.offloaded_bytes, 0U);
  EXPECT_FALSE(chosen.is_lossy());
  gpt_.set_remat(policy::parse(policy::to_string(chosen.policy.policy)));  // as it would be stored
  EXPECT_EQ(step(chosen, 4), loss);
  EXPECT_EQ(gradients(), expected);
}

// Rounding is what changes results, so it is chosen only by those who allow it.
TEST_F(Searches, RoundOnlyWhereThatIsAllowed) {
  const Plan whole = plan_of({.rows = 2});
  const std::size_t middle = (whole.frontier().front().stats.peak_bytes + whole.frontier().back().stats.peak_bytes) / 2;
  const StepWithinMemory exact = within(middle, 2, {.may_offload = false}),
                         lossy = within(middle, 2, {.may_offload = false, .may_be_lossy = true});
  EXPECT_FALSE(exact.is_lossy());
  EXPECT_TRUE(lossy.is_lossy());
  EXPECT_LT(lossy.policy.seconds, exact.policy.seconds);
  gpt_.set_remat(exact.policy.policy);
  const float loss = step(exact, 2);
  const std::vector<float> expected = gradients();
  gpt_.set_remat(lossy.policy.policy);
  EXPECT_EQ(step(lossy, 2), loss);  // forward is exact
  const std::vector<float> rounded = gradients();
  EXPECT_NE(rounded, expected);
  double off = 0, size = 0;
  for (std::size_t i = 0; i < expected.size(); ++i)
    off = std::max<double>(off, std::abs(rounded[i] - expected[i])),
    size = std::max<double>(size, std::abs(expected[i]));
  EXPECT_LT(off, 0.05 * size);
}

// Where a row is the smallest part, layers and head can still be computed by pieces: other sums, near results.
TEST_F(Searches, CutTheHeadAndTheFeedForward) {
  const StepWithinMemory plain{.policy = plan_of({.rows = 1}).under(policy::save_nothing)};
  const std::size_t least = plan_of({.rows = 1}).frontier().front().stats.peak_bytes;
  const float loss = step(plain, 1);
  const std::vector<float> expected = gradients();
  const StepWithinMemory chosen =
      within(least / 100 * 90, 1, {.may_offload = false, .head_chunks = {32}, .ffn_chunks = {32}});
  EXPECT_EQ(chosen.cut.ffn_chunk, 32);
  EXPECT_EQ(gpt_.decoder.layers[0].ffn.chunk, 32);
  EXPECT_NEAR(step(chosen, 1), loss, 1e-5);
  const std::vector<float> cut = gradients();
  for (std::size_t i = 0; i < expected.size(); ++i) ASSERT_NEAR(cut[i], expected[i], 1e-5) << i;
  gpt_.set_chunks(0, 0);
  EXPECT_EQ(gpt_.decoder.layers[0].ffn.chunk, 0);
  expect_error({"gpt: set_chunks: of_ffn"}, [&] { gpt_.set_chunks(0, -1); });
}

// They cannot be clipped, so they are the last resort; then gradients take what a few matrices do.
TEST_F(Searches, UpdateInBackwardWhereNothingElseFits) {
  const Plan whole = plan_of({.rows = 1});
  const std::size_t least = whole.frontier().front().stats.peak_bytes, at_once = whole.gradient_bytes_at_once();
  EXPECT_LT(at_once, parameters_.bytes() / 4);
  const MemorySearch how{.in_backward_bytes = 8};
  EXPECT_FALSE(within(2 * least, 1, how).in_backward);
  const std::size_t tight = least + at_once + (std::size_t{2} << 20);
  expect_error({"the least possible is"}, [&] { within(tight, 1, {.may_offload = false}, 8); });
  const StepWithinMemory chosen = within(tight, 1, {.in_backward_bytes = 8, .may_offload = false}, 8);
  EXPECT_TRUE(chosen.in_backward);
  optim::AdamW adamw(parameters_);
  const GradientHook update = adamw.in_backward(1e-3);
  std::size_t most = 0;
  step(chosen, 1, [&](ParameterEntry& entry) {
    most = std::max(most, parameters_.grad_bytes());
    update(entry);
  });
  EXPECT_EQ(most, at_once);
  EXPECT_EQ(parameters_.grad_bytes(), 0U);
  EXPECT_LE(machine::process_memory().anonymous, chosen.promised);
}

// None of these fits into any memory, which no sentence about memory says.
TEST(WithinMemory, RefusesBatchesAndPartsThatAreNone) {
  const ParameterRegistry parameters;
  const auto within = [&](Index rows, Index parts) {
    plan_within_memory(std::size_t{1} << 40, parameters, rows,
                       [](Index) -> Plan { throw std::logic_error("there is nothing to plan"); }, {.parts = parts});
  };
  expect_error({"plan_within_memory: a batch of 0 rows"}, [&] { within(0, 0); });
  expect_error({"plan_within_memory: a batch of -3 rows"}, [&] { within(-3, 0); });
  expect_error({"3 parts do not divide a batch of 4 rows"}, [&] { within(4, 3); });
  expect_error({"8 parts do not divide a batch of 4 rows"}, [&] { within(4, 8); });
  expect_error({"-2 parts do not divide a batch of 4 rows"}, [&] { within(4, -2); });
}

TEST(ProcessMemory, SeesWhatIsTakenAndWhatIsMapped) {
  const machine::ProcessMemory before = machine::process_memory();
  std::vector<char> taken(std::size_t{64} << 20, 1);
  const machine::ProcessMemory after = machine::process_memory();
  EXPECT_GE(after.anonymous, before.anonymous + (std::size_t{60} << 20));
  EXPECT_GE(after.peak_resident, after.resident);
  EXPECT_GE(after.resident, after.anonymous);
  EXPECT_GT(after.mapped_files, std::size_t{1} << 20);  // this program and its libraries
  EXPECT_EQ(taken.back(), 1);
}

}  // namespace
