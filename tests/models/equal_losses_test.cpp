// Two runs of one training that differ in policy, offload or threads have the same losses, bit for bit; where the batch
// or its layers are cut, sums are others, and the losses near.
#include <gtest/gtest.h>
#include <omp.h>

#include <remat/optim/adamw.hpp>
#include <remat/plan/plan.hpp>
#include <remat/policy/parse.hpp>
#include <string>
#include <vector>

#include "nn/adapted_llama.hpp"

namespace {

using namespace remat;
using remat_test::a_batch;
using remat_test::small_llama;

struct How {
  Policy policy = policy::everything;
  int threads = 2;
  Index parts = 1, head_chunk = 0, ffn_chunk = 0;
};

/// Of a few steps with adapters, dropout among them, beside matrices that are stored.
std::vector<double> losses_of(const How& run) {
  const int before = omp_get_max_threads();
  omp_set_num_threads(run.threads);
  ParameterRegistry parameters(3);
  models::Decoder<float> model(parameters / "m", small_llama());
  remat_test::store_all_matrices(parameters);
  const nn::Lora<float> lora(parameters, parameters / "lora", {.rank = 2, .dropout = 0.1});
  model.set_remat(run.policy);
  model.set_chunks(run.head_chunk, run.ffn_chunk);
  optim::AdamW adamw(parameters);
  std::vector<double> losses;
  const remat_test::Batch batch = a_batch();
  for (int step = 0; step < 5; ++step) {
    double loss = 0;
    const Index rows = 2 / run.parts;
    for (Index part = 0; part < run.parts; ++part) {
      const auto some = [&](const Tensor<std::int32_t>& all) {
        return Tensor<std::int32_t>({rows, 7},
                                    std::span(all.data() + part * rows * 7, static_cast<std::size_t>(rows * 7)));
      };
      Tape tape({.seed = 9, .step = step, .first_row = part * rows, .rows = rows});
      const auto share =
          model.loss(tape, some(batch.inputs), some(batch.targets)) * (1.0 / static_cast<double>(run.parts));
      tape.backward(share);
      loss += static_cast<double>(share.item());
    }
    adamw.step(0.02);
    losses.push_back(loss);
  }
  omp_set_num_threads(before);
  return losses;
}

TEST(EqualLosses, WhateverIsKeptOnDiskOrRecomputedByAnyThreads) {
  const std::vector<double> plain = losses_of({});
  EXPECT_LT(plain.back(), plain.front());
  for (const char* policy : {"nothing", "dots", "save_qkv_out_proj_separate", "offload(everything)",
                             "offload(names(iteration_input,transformer_layer_out))", "dots | offload(any_name)"})
    for (const int threads : {1, 3}) EXPECT_EQ(losses_of({policy::parse(policy), threads}), plain) << policy;
}

TEST(EqualLosses, NearWhereTheBatchTheHeadOrTheFeedForwardIsCut) {
  const std::vector<double> plain = losses_of({});
  for (const How& run : {How{.parts = 2}, How{.policy = policy::nothing, .head_chunk = 3}, How{.ffn_chunk = 2}}) {
    const std::vector<double> cut = losses_of(run);
    for (std::size_t i = 0; i < plain.size(); ++i) EXPECT_NEAR(cut[i], plain[i], 1e-5) << i;
  }
}

// So it is told: no rounding is exact.
TEST(EqualLosses, NearWhereWhatIsKeptIsRounded) {
  const std::vector<double> plain = losses_of({}), rounded = losses_of({policy::lossy::int8});
  EXPECT_EQ(rounded[0], plain[0]);
  EXPECT_NE(rounded, plain);
  EXPECT_NEAR(rounded[1], plain[1], 0.06);  // the first update goes by signs of gradients
}

}  // namespace
