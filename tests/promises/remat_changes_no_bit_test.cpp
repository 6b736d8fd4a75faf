// Promise: remat changes no bit. Every policy of the phrase book, with and without dropout, on 1 and 2 threads.
#include <gtest/gtest.h>

#include "promises/small_gpt.hpp"

namespace {

using namespace remat;
using remat_test::differing;
using remat_test::gpt_step;
using remat_test::small_gpt;
using remat_test::Threads;

struct Case {
  double dropout;
  int threads;
};

class RematChangesNoBit : public testing::TestWithParam<Case> {
 protected:
  models::GptConfig config() const {
    models::GptConfig config = small_gpt();
    config.dropout = GetParam().dropout;
    return config;
  }
};

TEST_P(RematChangesNoBit, UnderEveryPolicyOfThePhraseBook) {
  const Threads threads(GetParam().threads);
  const auto plain = gpt_step<float>(config());
  EXPECT_EQ(plain.stats.ops_replayed, 0);
  std::vector<std::pair<std::string, Policy>> policies;
  for (const policy::Phrase& phrase : policy::phrase_book()) policies.emplace_back(phrase.name, phrase.policy);
  for (const char* text :
       {"nothing", "everything", "dots", "batched", "!dots", "names(*)", "!names(*)", "ops(linear)", "offload(dots)",
        "save_only_these_names(ffn1, out_proj)", "save_any_names_but_these(ffn1)",
        "save_anything_except_these_names(context, ffn1)", "save_and_offload_only_these_names([ffn1], [context])",
        "save_from_both_policies(names(ffn1), batched)"})
    policies.emplace_back(text, policy::parse(text));
  // A policy of no system: keeps about half of the slots, by their number.
  policies.emplace_back("odd slots", [](const SlotInfo& slot) { return slot.index % 2 == 1; });
  for (const auto& [name, policy] : policies) {
    for (const int every : {1, 2, 3}) {
      models::GptConfig remat = config();
      remat.remat = policy;
      remat.remat_every = every;
      EXPECT_EQ(differing(plain, gpt_step<float>(remat)), std::vector<std::string>{}) << name << ", every " << every;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Dropout, RematChangesNoBit,
                         testing::Values(Case{0, 1}, Case{0, 2}, Case{0.1, 1}, Case{0.1, 2}), [](const auto& info) {
                           return std::string(info.param.dropout > 0 ? "On" : "Off") +
                                  std::to_string(info.param.threads) + "Threads";
                         });

// The test above would pass if dropout were dead or the policies did nothing.
TEST(RematChangesNoBit, TheComparisonCanFail) {
  models::GptConfig dropping = small_gpt();
  dropping.dropout = 0.1;
  const auto plain = gpt_step<float>(small_gpt()), dropped = gpt_step<float>(dropping);
  EXPECT_NE(plain.loss, dropped.loss);
  EXPECT_FALSE(differing(dropped, gpt_step<float>(dropping, 4)).empty());  // another step, another mask
  models::GptConfig remat = small_gpt();
  remat.remat = policy::nothing;
  const auto replayed = gpt_step<float>(remat);
  EXPECT_GT(replayed.stats.ops_replayed, 0);
  EXPECT_LT(replayed.stats.saved_bytes, plain.stats.saved_bytes);
}

// 20 steps of training end with equal parameters.
TEST(RematChangesNoBit, OverTwentyStepsOfTraining) {
  const auto train = [](const Policy& policy) {
    models::GptConfig config = small_gpt();
    config.dropout = 0.1;
    config.remat = policy;
    ParameterRegistry parameters(5);
    const models::Gpt<float> gpt(parameters / "gpt", config);
    optim::AdamW adamw(parameters);
    for (int step = 0; step < 20; ++step) {
      Tape tape({.seed = 11, .step = step});
      tape.backward(gpt.loss(tape, remat_test::tokens(2, config.context, config.vocabulary, 100 + step)));
      adamw.step(1e-3, optim::clip_scale(optim::global_norm(parameters), 1.0));
    }
    std::vector<Tensor<float>> values;
    for (const auto& entry : parameters.entries()) values.push_back(Parameter<float>(entry).value());
    return values;
  };
  const auto plain = train(policy::everything);
  for (const Policy& policy : {policy::nothing, policy::save_dot_except_logits, policy::save_out_proj}) {
    const auto remat = train(policy);
    for (std::size_t i = 0; i < plain.size(); ++i) EXPECT_TRUE(same_bits(plain[i], remat[i])) << i;
  }
}

}  // namespace
