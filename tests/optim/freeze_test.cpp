// Frozen parameters: leaves that want no gradient, so that nothing is computed, kept or updated for one.
#include <gtest/gtest.h>

#include <remat/ops/arithmetic.hpp>
#include <remat/ops/embedding.hpp>
#include <remat/ops/linear.hpp>
#include <remat/ops/reduce.hpp>
#include <remat/ops/unary.hpp>
#include <remat/optim/adamw.hpp>
#include <remat/plan/plan.hpp>
#include <remat/policy/phrase_book.hpp>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "core/expect_error.hpp"

namespace {

using namespace remat;
using remat_test::expect_error;

constexpr Index dims = 16, rows = 6, vocabulary = 11, layers = 4;

/// An embedding, layers of tanh(x w + b) two to a region, and a head that is the embedding's table again, of type T
/// with float masters.
template <class T>
struct Net {
  ParameterRegistry parameters{5};
  Parameter<float> table;
  std::vector<Parameter<float>> w, b;
  Net() {
    table = (parameters / "net" / "embedding").parameter<float>("table", {vocabulary, dims}, init::normal(0.5));
    for (Index i = 0; i < layers; ++i) {
      const Scope layer = parameters / "net" / ("layer_" + std::to_string(i));
      w.push_back(layer.parameter<float>("w", {dims, dims}, init::normal(0.3)));
      b.push_back(layer.parameter<float>("b", {dims}, init::normal(0.3)));
    }
  }
  Var<T> loss(Tape& tape, const Policy& policy) const {
    const auto ids = tape.input(Tensor<std::int32_t>({rows}, std::vector<std::int32_t>{1, 4, 2, 8, 5, 7}));
    auto x = embedding<T>(ids, table);
    for (std::size_t i = 0; i < layers; i += 2)
      x = tape.checkpoint(policy, [&] { return tanh(linear<T>(tanh(linear<T>(x, w[i], b[i])), w[i + 1], b[i + 1])); });
    return mean(square(linear<T>(x, table, {}, {.transposed = true})));
  }
  TapeStats step(const Policy& policy, const GradientHook& hook = {}) const {
    Tape tape;
    tape.backward(loss(tape, policy), hook);
    return tape.stats();
  }
};

constexpr double product = 2.0 * rows * dims * dims, head_product = 2.0 * rows * dims * vocabulary;

template <class T>
class Freeze : public testing::Test {};
using Types = testing::Types<float, bfloat16>;
TYPED_TEST_SUITE(Freeze, Types);

// Protects fine-tuning: the others' gradients have the bits they had, under every policy, and frozen ones have none.
TYPED_TEST(Freeze, TheGradientsOfTheOthersKeepTheirBits) {
  std::vector<Policy> policies{policy::everything, policy::nothing, policy::dots};
  for (const policy::Phrase& phrase : policy::phrase_book()) policies.push_back(phrase.policy);
  for (const Policy& policy : policies) {
    SCOPED_TRACE(policy::to_string(policy));
    const Net<TypeParam> whole, part;
    EXPECT_EQ(part.parameters.freeze("net/embedding*"), 1);
    EXPECT_EQ(part.parameters.freeze("*/layer_?/b"), layers);
    EXPECT_EQ(part.parameters.freeze("net/layer_1/*"), 2);
    (void)whole.step(policy), (void)part.step(policy);
    for (const auto& entry : part.parameters.entries()) {
      const bool is_trained = entry->path.back() == 'w' && entry->path != "net/layer_1/w";
      EXPECT_EQ(entry->is_frozen, !is_trained) << entry->path;
      EXPECT_EQ(entry->has_grad, is_trained) << entry->path;
      EXPECT_EQ(static_cast<bool>(entry->grad.storage), is_trained) << entry->path;
      if (!is_trained) continue;
      EXPECT_TRUE(same_bits(Parameter<float>(entry).grad(), whole.parameters.template at<float>(entry->path).grad()))
          << entry->path;
    }
  }
}

// Protects what freezing is for: the products of its gradient are not computed, nor is kept what only they read.
TYPED_TEST(Freeze, SkipsItsProductsAndWhatOnlyTheyRead) {
  const Net<TypeParam> whole, weights, below;
  weights.parameters.freeze("*/w");
  below.parameters.freeze("net/embedding/table");  // tied: as one
  below.parameters.freeze("net/layer_0/*");
  below.parameters.freeze("net/layer_1/*");
  const TapeStats all = whole.step(policy::everything), some = weights.step(policy::everything),
                  upper = below.step(policy::everything);
  EXPECT_EQ(all.backward_flops, 8 * product + 2 * head_product);
  EXPECT_EQ(some.backward_flops, all.backward_flops - 4 * product);
  // Neither the head's table nor what lies below layer 2: its input wants no gradient either.
  EXPECT_EQ(upper.backward_flops, 3 * product + head_product);
  EXPECT_LT(some.saved_bytes, all.saved_bytes);
  EXPECT_LT(upper.saved_bytes, some.saved_bytes);
  EXPECT_EQ(all.forward_flops, upper.forward_flops);
}

// Protects plans: the peak that they promise is the one that is measured, with frozen layers too.
TYPED_TEST(Freeze, PlansAreTrueWithFrozenLayers) {
  for (const char* pattern : {"net/embedding*", "*/w", "*/layer_0/*", "*/layer_3/*"}) {
    Net<TypeParam> net;
    net.parameters.freeze(pattern);
    for (const Policy& policy : {policy::everything, policy::nothing, policy::dots}) {
      const Plan plan = remat::plan([&](Tape& tape) { return net.loss(tape, policy); }, CostModel());
      const TapeStats measured = net.step(policy);
      EXPECT_EQ(plan.rows()[0].stats.peak_bytes, measured.peak_bytes) << pattern << ' ' << policy;
      EXPECT_EQ(plan.rows()[0].stats.saved_bytes, measured.saved_bytes) << pattern << ' ' << policy;
      EXPECT_EQ(plan.rows()[0].stats.backward_flops, measured.backward_flops) << pattern << ' ' << policy;
    }
  }
}

// Protects the optimizer: no state, no update, no share in the norm, no call of a hook, for frozen parameters.
TEST(FreezeTraining, UpdatesTheOthersOnly) {
  for (const bool in_backward : {false, true}) {
    const Net<float> net;
    net.parameters.freeze("net/layer_0/*");
    optim::AdamW adamw(net.parameters);
    const auto frozen = net.w[0].value().copy(), trained = net.w[1].value().copy();
    std::set<std::string> called;
    (void)net.step(policy::nothing, [&](ParameterEntry& entry) { called.insert(entry.path); });
    EXPECT_EQ(called.size(), 2 * (layers - 1) + 1);
    EXPECT_EQ(called.count("net/layer_0/w"), 0U);
    const double norm = optim::global_norm(net.parameters);
    EXPECT_GT(norm, 0);
    net.parameters.zero_grad();
    in_backward ? (void)net.step(policy::nothing, adamw.in_backward(0.1)) : (void)net.step(policy::nothing);
    if (!in_backward) adamw.step(0.1);
    EXPECT_TRUE(same_bits(net.w[0].value(), frozen));
    EXPECT_FALSE(same_bits(net.w[1].value(), trained));
    EXPECT_EQ(adamw.state_bytes(), 2 * sizeof(float) * static_cast<std::size_t>(net.parameters.trainable_count()));
    EXPECT_EQ(net.parameters.trainable_count(), net.parameters.count() - dims * dims - dims);
  }
}

// Protects gradual unfreezing: state waits while a parameter is frozen, and bits afterwards are those of a parameter
// that had no gradient meanwhile.
TEST(FreezeTraining, StateWaitsWhileFrozen) {
  const auto run = [](bool freezes) {
    const Net<float> net;
    optim::AdamW adamw(net.parameters);
    for (int step = 0; step < 3; ++step) {
      if (freezes && step == 1) net.parameters.freeze("net/layer_2/w");
      if (freezes && step == 2) net.parameters.unfreeze("net/layer_2/w");
      (void)net.step(policy::nothing);
      if (!freezes && step == 1) net.w[2].zero_grad();
      adamw.step(0.1);
    }
    EXPECT_EQ(adamw.state_bytes(), 2 * sizeof(float) * static_cast<std::size_t>(net.parameters.count()));
    return net.w[2].value();
  };
  EXPECT_TRUE(same_bits(run(true), run(false)));
}

// Protects the rule of when it counts: a tape keeps to what it recorded, a gradient that was there goes.
TEST(FreezeTraining, IsReadWhenATapeFirstUsesAParameter) {
  const Net<float> net;
  (void)net.step(policy::nothing);
  EXPECT_TRUE(net.w[0].has_grad());
  const std::size_t before = pool().live_bytes();
  EXPECT_EQ(net.parameters.freeze("net/layer_0/w"), 1);
  EXPECT_FALSE(net.w[0].has_grad());
  EXPECT_TRUE(net.w[0].is_frozen());
  EXPECT_EQ(before - pool().live_bytes(), dims * dims * sizeof(float));
  net.parameters.unfreeze("*");
  {
    Tape tape;
    const auto loss = net.loss(tape, policy::nothing);
    net.parameters.freeze("net/layer_0/w");
    std::set<std::string> called;
    tape.backward(loss, [&](ParameterEntry& entry) { called.insert(entry.path); });
    EXPECT_EQ(tape.stats().backward_flops - tape.stats().replay_flops, 8 * product + 2 * head_product);
    EXPECT_FALSE(net.w[0].has_grad());
    EXPECT_EQ(called.count("net/layer_0/w"), 0U);
  }
  Tape tape;
  const auto loss = net.loss(tape, policy::nothing);
  net.parameters.unfreeze("net/layer_0/w");
  tape.backward(loss);
  EXPECT_FALSE(net.w[0].has_grad());
  expect_error({"grad", "not frozen"}, [&] { (void)tape.grad(tape.parameter(net.w[0])); });
}

// Protects users from a step that can train nothing.
TEST(FreezeTraining, AllFrozenIsAnErrorThatSaysSo) {
  const Net<float> net;
  EXPECT_EQ(net.parameters.freeze("*"), 2 * layers + 1);
  expect_error({"backward", "depends on no parameter", "9 of the step's parameters are frozen", "unfreeze"},
               [&] { (void)net.step(policy::nothing); });
  optim::AdamW adamw(net.parameters);
  expect_error({"adamw", "no parameter has a gradient", "frozen", "unfreeze"}, [&] { adamw.step(0.1); });
  expect_error({"net/layer_1/w", "frozen", "unfreeze"}, [&] { net.w[1].set_grad(net.w[1].value()); });
  EXPECT_EQ(net.parameters.unfreeze("net/layer_3/?"), 2);
  EXPECT_EQ(net.step(policy::nothing).backward_flops > 0, true);
  adamw.step(0.1);
}

// Protects from a slip in a pattern, which would train what was to stay.
TEST(FreezeTraining, APatternThatFitsNothingIsAnErrorWithNearPaths) {
  const Net<float> net;
  expect_error(
      {"parameters: freeze(\"net/embeding*\") fits no parameter; the nearest paths are \"net/embedding/table\""},
      [&] { net.parameters.freeze("net/embeding*"); });
  expect_error({"freeze(\"net/embeding/*\")", "the nearest paths are \"net/embedding/table\""},
               [&] { net.parameters.freeze("net/embeding/*"); });
  expect_error({"unfreeze(\"*/layer_4/w\")", "the nearest paths are \"net/layer_0/w\""},
               [&] { net.parameters.unfreeze("*/layer_4/w"); });
  expect_error({"none has been made yet"}, [] { ParameterRegistry().freeze("*"); });
  expect_error({"fits no parameter"}, [&] { net.parameters.freeze("net/layer_0"); });  // the whole path, not a part
  EXPECT_EQ(net.parameters.trainable_count(), net.parameters.count());
}

TEST(FreezeTraining, TheTableMarksFrozenParameters) {
  ParameterRegistry parameters;
  for (const char* name : {"a", "b"}) (parameters / name).shared_as("s").parameter<float>("w", {2, 3}, init::zeros());
  (parameters / "c").parameter<float>("w", {4}, init::zeros());
  (parameters / "d").parameter<float>("w", {5}, init::zeros());
  parameters.freeze("shared/s/*"), parameters.freeze("c*");
  std::ostringstream text;
  text << parameters;
  EXPECT_EQ(text.str(),
            "parameter   shape                    count  users\n"
            "c/w         [4]                          4  1 (frozen)\n"
            "d/w         [5]                          5  1\n"
            "shared/s/w  [2, 3]                       6  2 (shared, frozen)\n"
            "total                                   15  \n"
            "trainable                                5  \n");
}

}  // namespace
