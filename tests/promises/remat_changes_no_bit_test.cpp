// Promise: remat changes no bit. Every policy of the phrase book and some of our own, on three kinds of models, with
// and without dropout, on 1 and 2 threads, by each backend of products.
#include <gtest/gtest.h>

#include "promises/small_models.hpp"

namespace {

using namespace remat;
using remat_test::differing;
using remat_test::gpt_step;
using remat_test::small_gpt;
using remat_test::SmallConfig;
using remat_test::Threads;

using NamedPolicy = std::pair<std::string, Policy>;

/// `first_matrix`: the label of the feed-forward's first product, because a name that nothing carries is an error.
std::vector<NamedPolicy> every_policy(const std::string& first_matrix) {
  std::vector<NamedPolicy> policies;
  for (const policy::Phrase& phrase : policy::phrase_book()) policies.emplace_back(phrase.name, phrase.policy);
  for (std::string text :
       {"nothing", "everything", "dots", "batched", "!dots", "names(*)", "!names(*)", "ops(linear)", "offload(dots)",
        "save_only_these_names(FFN1, out_proj)", "save_any_names_but_these(FFN1)",
        "save_anything_except_these_names(context, FFN1)", "save_and_offload_only_these_names([FFN1], [context])",
        "save_from_both_policies(names(FFN1), batched)"}) {
    if (const std::size_t at = text.find("FFN1"); at != std::string::npos) text.replace(at, 4, first_matrix);
    policies.emplace_back(text, policy::parse(text));
  }
  // A policy of no system: keeps about half of the slots, by their number.
  policies.emplace_back("odd slots", [](const SlotInfo& slot) { return slot.index % 2 == 1; });
  return policies;
}

struct Case {
  double dropout;
  int threads;
};
const auto cases = testing::Values(Case{0, 1}, Case{0, 2}, Case{0.1, 1}, Case{0.1, 2});
const auto name_of_case = [](const auto& info) {
  return std::string(info.param.dropout > 0 ? "On" : "Off") + std::to_string(info.param.threads) + "Threads";
};

class RematChangesNoBit : public testing::TestWithParam<Case> {
 protected:
  /// Twenty steps of training under every policy: all losses, and all parameters at the end.
  template <class Model>
  void expect_equal_trainings() const {
    const Threads threads(GetParam().threads);
    const auto plain = remat_test::train<Model>({.dropout = GetParam().dropout});
    EXPECT_EQ(plain.last_step.ops_replayed, 0);
    EXPECT_LT(plain.losses.back(), plain.losses.front());
    for (const auto& [name, policy] : every_policy(Model::first_matrix)) {
      const SmallConfig config{.dropout = GetParam().dropout, .remat = policy};
      EXPECT_EQ(remat_test::count_differences(plain, remat_test::train<Model>(config)), 0) << name;
    }
  }
};

TEST_P(RematChangesNoBit, OfAGpt) { expect_equal_trainings<remat_test::SmallGpt>(); }
TEST_P(RematChangesNoBit, OfAnEncoderDecoder) { expect_equal_trainings<remat_test::SmallEncoderDecoder>(); }
TEST_P(RematChangesNoBit, OfARoutedFeedForward) { expect_equal_trainings<remat_test::SmallRouted>(); }

// Gradients of one step, with regions of 1, 2 and all 3 layers.
TEST_P(RematChangesNoBit, InRegionsOfSeveralLayers) {
  const Threads threads(GetParam().threads);
  models::GptConfig config = small_gpt();
  config.dropout = GetParam().dropout;
  const auto plain = gpt_step<float>(config);
  EXPECT_EQ(plain.stats.ops_replayed, 0);
  for (const auto& [name, policy] : every_policy("ffn1")) {
    for (const int every : {1, 2, 3}) {
      config.remat = policy;
      config.remat_every = every;
      EXPECT_EQ(differing(plain, gpt_step<float>(config)), std::vector<std::string>{}) << name << ", every " << every;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Dropout, RematChangesNoBit, cases, name_of_case);

/// Products are made by `backend` while it lives.
struct ProductsBy {
  explicit ProductsBy(kernels::Backend backend) { kernels::set_gemm_choice(kernels::GemmChoice(backend)); }
  ProductsBy(const ProductsBy&) = delete;
  ProductsBy& operator=(const ProductsBy&) = delete;
  ~ProductsBy() { kernels::set_gemm_choice(before); }
  const kernels::GemmChoice before = kernels::gemm_choice();
};

template <class Model>
void expect_equal_trainings_by_each_backend() {
  const Threads threads(2);
  for (const kernels::Backend backend : kernels::backends) {
    const ProductsBy products(backend);
    const auto plain = remat_test::train<Model>({.dropout = 0.1}, 3);
    for (const auto& [name, policy] : every_policy(Model::first_matrix)) {
      const SmallConfig config{.dropout = 0.1, .remat = policy};
      EXPECT_EQ(remat_test::count_differences(plain, remat_test::train<Model>(config, 3)), 0)
          << name << ", by " << name_of(backend);
    }
  }
}

TEST(RematChangesNoBitByEachBackend, OfAGpt) { expect_equal_trainings_by_each_backend<remat_test::SmallGpt>(); }
TEST(RematChangesNoBitByEachBackend, OfAnEncoderDecoder) {
  expect_equal_trainings_by_each_backend<remat_test::SmallEncoderDecoder>();
}
TEST(RematChangesNoBitByEachBackend, OfARoutedFeedForward) {
  expect_equal_trainings_by_each_backend<remat_test::SmallRouted>();
}

// The tests above would pass if dropout were dead, the policies did nothing, or all tokens went to one expert.
template <class Model>
class TheComparison : public testing::Test {};
using Models = testing::Types<remat_test::SmallGpt, remat_test::SmallEncoderDecoder, remat_test::SmallRouted>;
TYPED_TEST_SUITE(TheComparison, Models);

TYPED_TEST(TheComparison, CanFail) {
  const auto plain = remat_test::train<TypeParam>({}), dropped = remat_test::train<TypeParam>({.dropout = 0.1});
  EXPECT_GT(remat_test::count_differences(plain, dropped), 20);
  const auto replayed = remat_test::train<TypeParam>({.remat = policy::nothing}, 1);
  EXPECT_GT(replayed.last_step.replayed_by_op.at("attention"), 0);
  EXPECT_LT(replayed.last_step.saved_bytes, plain.last_step.saved_bytes);
}

TEST(TheRoutedModel, LeavesTokensWithoutASeatAndUsesBothExperts) {
  ParameterRegistry parameters(5);
  const remat_test::SmallRouted model(parameters / "model", {});
  Tape tape({.seed = 11, .step = 0});
  const auto loss = model.loss(tape, remat_test::tokens(2, remat_test::small::length, remat_test::small::vocabulary));
  const Program& program = tape.program();
  const auto route = std::find_if(program.nodes.begin(), program.nodes.end(),
                                  [](const Node& node) { return node.op->name() == std::string("route"); });
  ASSERT_NE(route, program.nodes.end());
  const auto* experts = reinterpret_cast<const std::int32_t*>(tape.program().data(route->first_output + 1, 0));
  const auto* slots = reinterpret_cast<const std::int32_t*>(tape.program().data(route->first_output + 2, 0));
  const Index tokens = 2 * remat_test::small::length;
  EXPECT_GT(std::count(experts, experts + tokens, 0), 0);
  EXPECT_GT(std::count(experts, experts + tokens, 1), 0);
  EXPECT_GT(std::count(slots, slots + tokens, -1), 0);
}

}  // namespace
