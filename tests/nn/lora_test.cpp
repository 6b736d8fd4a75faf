// Adapters of whole matrices: what they compute, and the gradients, are what the formula says, whatever the policy,
// beside numbers and beside matrices that are stored.
#include <gtest/gtest.h>

#include <cmath>
#include <remat/models/decoder.hpp>
#include <remat/nn/lora.hpp>
#include <remat/ops/arithmetic.hpp>
#include <remat/ops/matmul.hpp>
#include <remat/ops/reduce.hpp>
#include <remat/optim/adamw.hpp>
#include <remat/optim/gradient_watch.hpp>
#include <remat/policy/parse.hpp>
#include <remat/policy/phrase_book.hpp>
#include <string>
#include <vector>

#include "nn/adapted_llama.hpp"
#include "nn/random_tensor.hpp"

namespace {

using namespace remat;
using remat_test::a_batch;
using remat_test::Batch;
using remat_test::expect_near;
using remat_test::fill;
using remat_test::LinearStep;
using remat_test::random_tensor;
using remat_test::small_llama;
using remat_test::store;
using remat_test::store_all_matrices;
using remat_test::trained_gradients;

TEST(Lora, ComputesItsFormulaAndTheGradients) {
  using T = double;
  for (const bool is_stored : {false, true}) {
    ParameterRegistry parameters(1);
    const nn::Linear<T> layer(parameters / "a", {.input_dims = 6, .output_dims = 5});
    if (is_stored) store(layer.w, true);
    const nn::Lora<T> lora(parameters, parameters / "lora", {.targets = {"a"}, .rank = 3, .alpha = 6});
    fill(lora);
    EXPECT_EQ(lora.scale(), 2);
    const LinearStep step(layer, 7);
    Tape by_hand({.step = 1});
    const auto& part = lora.parts().at(0);
    const Var<T> z = by_hand.input(step.x, {.wants_gradient = true}),
                 down = by_hand.input(part.down.value(), {.wants_gradient = true}),
                 up = by_hand.input(part.up.value(), {.wants_gradient = true});
    const Var<T> y = linear<T>(z, layer.w.value(), layer.b.value()) + matmul(matmul(z, down), up) * 2.0;
    expect_near(step.y, y.value(), 1e-12);
    by_hand.backward(sum(y * by_hand.input(step.weight)));
    expect_near(step.by_x, by_hand.grad(z), 1e-12);
    expect_near(part.down.grad(), by_hand.grad(down), 1e-12);
    expect_near(part.up.grad(), by_hand.grad(up), 1e-12);
    EXPECT_FALSE(layer.w.has_grad() || layer.b.has_grad());
  }
}

TEST(Lora, BeginsAsTheModelIsAndThenEveryAdapterIsTrained) {
  ParameterRegistry parameters(3);
  const models::Decoder<float> model(parameters / "m", small_llama());
  const Batch batch = a_batch();
  const auto loss_now = [&] {
    Tape tape({.mode = Mode::evaluate});
    return model.loss(tape, batch).item();
  };
  const float before = loss_now();
  const nn::Lora<float> lora(parameters, parameters / "lora", {});
  EXPECT_EQ(lora.parts().size(), 14U);
  EXPECT_EQ(loss_now(), before);
  store_all_matrices(parameters);
  optim::AdamW adamw(parameters);
  optim::GradientWatch watch(parameters, 2);
  for (int step = 0; step < 4; ++step) {
    Tape tape({.step = step});
    tape.backward(model.loss(tape, batch));
    watch.check();
    adamw.step(1e-2);
  }
  EXPECT_LT(loss_now(), before);
  for (const auto& part : lora.parts()) {
    EXPECT_FALSE(part.weight.has_grad());
    double moved = 0;
    const Tensor<float> up = part.up.value();
    for (const float v : up.span()) moved += std::abs(v);
    EXPECT_GT(moved, 0) << part.layer;
  }
}

TEST(Lora, NoPolicyChangesABit) {
  std::vector<std::string> policies{"everything", "dots", "names(query_proj,ffn2)"};
  for (const policy::Phrase& phrase : policy::phrase_book()) policies.emplace_back(phrase.name);
  for (const bool is_stored : {false, true}) {
    std::vector<Tensor<float>> first;
    for (const std::string& policy : policies) {
      SCOPED_TRACE(policy);
      ParameterRegistry parameters(3);
      auto config = small_llama();
      config.remat = policy::parse(policy);
      const models::Decoder<float> model(parameters / "m", config);
      if (is_stored) store_all_matrices(parameters);
      const nn::Lora<float> lora(parameters, parameters / "lora", {.dropout = 0.25});
      fill(lora);
      Tape tape({.step = 5});
      tape.backward(model.loss(tape, a_batch()));
      const std::vector<Tensor<float>> grads = trained_gradients(parameters);
      EXPECT_EQ(grads.size(), 28U);
      if (first.empty()) first = grads;
      for (std::size_t i = 0; i < grads.size(); ++i) expect_near(grads[i], first[i], 0);
    }
  }
}

TEST(Lora, MergedTheModelComputesAsBefore) {
  ParameterRegistry parameters(3);
  const models::Decoder<float> model(parameters / "m", small_llama());
  store_all_matrices(parameters);
  const nn::Lora<float> lora(parameters, parameters / "lora", {.rank = 2});
  fill(lora);
  const auto logits = [&] {
    Tape tape({.mode = Mode::evaluate});
    return model.logits(tape, a_batch().inputs).value();
  };
  const Tensor<float> before = logits();
  lora.deactivate();
  const Tensor<float> base = logits();
  lora.activate();
  expect_near(logits(), before, 0);
  const double deviation = lora.merge();
  EXPECT_GT(deviation, 0);
  EXPECT_LT(deviation, 1e-5);
  expect_near(logits(), before, 1e-3);
  double changed = 0;
  for (Index i = 0; i < base.size(); ++i)
    changed = std::max<double>(changed, std::abs(base.data()[i] - before.data()[i]));
  EXPECT_GT(changed, 0.1);
  EXPECT_FALSE(parameters.at<float>("m/decoder/layer_0/ffn/ffn1/w").entry()->matrix);
}

// A tape goes on with the matrix that it began with.
TEST(Lora, MergingBetweenForwardAndBackwardChangesNoGradient) {
  std::vector<Tensor<float>> first;
  for (const bool merges : {false, true}) {
    ParameterRegistry parameters(3);
    const nn::Linear<float> layer(parameters / "a", {.input_dims = 6, .output_dims = 5});
    store_all_matrices(parameters);
    const nn::Lora<float> lora(parameters, parameters / "lora", {.targets = {"a"}, .rank = 2});
    fill(lora);
    Tape tape({.step = 1});
    const Var<float> x = tape.input(random_tensor<float>({3, 6}, 1), {.wants_gradient = true});
    const Var<float> loss = sum(layer(x));
    if (merges) lora.merge();
    tape.backward(loss);
    if (!merges) first = {tape.grad(x)};
    if (merges) expect_near(tape.grad(x), first[0], 0);
  }
}

TEST(Lora, ACopiedRegistryHasAdaptersOfItsOwn) {
  ParameterRegistry parameters(3);
  const nn::Linear<float> layer(parameters / "a", {.input_dims = 6, .output_dims = 5});
  const nn::Lora<float> lora(parameters, parameters / "lora", {.targets = {"a"}, .rank = 2});
  const ParameterRegistry copy(parameters);
  const auto& adapter = copy.at<float>("a/w").entry()->adapter;
  ASSERT_TRUE(adapter);
  EXPECT_EQ(adapter->up, copy.at<float>("lora/a/up").entry());
  EXPECT_NE(adapter->up, lora.parts().at(0).up.entry());
}

TEST(Lora, ComputesInBfloat16) {
  ParameterRegistry parameters(3);
  const models::Decoder<bfloat16> model(parameters / "m", small_llama());
  store_all_matrices(parameters);
  const nn::Lora<bfloat16> lora(parameters, parameters / "lora", {.dropout = 0.1});
  fill(lora);
  Tape tape({.step = 1});
  const Var<float> loss = model.loss(tape, a_batch());
  tape.backward(loss);
  EXPECT_TRUE(std::isfinite(loss.item()));
  for (const Tensor<float>& grad : trained_gradients(parameters)) {
    double sum = 0;
    for (const float v : grad.span()) sum += std::abs(v);
    EXPECT_TRUE(sum > 0 && std::isfinite(sum));
  }
}

}  // namespace
