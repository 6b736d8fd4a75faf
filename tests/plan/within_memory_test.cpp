// A step that is planned within a memory keeps to it, and cuts the batch where no policy alone would.
#include <gtest/gtest.h>

#include <remat/models/gpt.hpp>
#include <remat/plan/within_memory.hpp>
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
  const std::size_t beside =
      anonymous() + (std::size_t{24} << 20) + 12 * static_cast<std::size_t>(parameters.trainable_count());

  // Room for the whole batch; then for less than that takes under any policy.
  const StepWithinMemory roomy =
      plan_within_memory(beside + 4 * whole.rows().front().stats.peak_bytes, parameters, 8, plan_of);
  EXPECT_EQ(roomy.parts, 1);
  const StepWithinMemory tight = plan_within_memory(beside + least / 2, parameters, 8, plan_of);
  EXPECT_GT(tight.parts, 1);
  EXPECT_LE(tight.policy.stats.peak_bytes, tight.budget);
  EXPECT_EQ(tight.promised, beside + least / 2);
  EXPECT_GE(tight.policy.seconds, roomy.policy.seconds);

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
