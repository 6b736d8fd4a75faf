// Matrices that stay as they are stored: they compute what numbers do, and nothing is kept for what is not trained.
#include <gtest/gtest.h>

#include <remat/models/decoder.hpp>
#include <remat/nn/linear.hpp>
#include <remat/ops/embedding.hpp>
#include <remat/ops/reduce.hpp>
#include <utility>

#include "core/expect_error.hpp"
#include "nn/adapted_llama.hpp"
#include "nn/random_tensor.hpp"

namespace {

using namespace remat;
using remat_test::a_batch;
using remat_test::Batch;
using remat_test::expect_error;
using remat_test::expect_near;
using remat_test::random_tensor;
using remat_test::small_llama;
using remat_test::store;
using remat_test::store_all_matrices;

TEST(StoredMatrices, ComputeWhatNumbersDo) {
  for (const bool tied : {true, false}) {
    ParameterRegistry parameters(3), stored(3);
    auto config = small_llama();
    config.tied_head = tied;
    const models::Decoder<float> model(parameters / "m", config), from_store(stored / "m", config);
    store_all_matrices(stored);
    const Batch batch = a_batch();
    const auto run = [&](const ParameterRegistry& of, const models::Decoder<float>& decoder) {
      Tape tape({.step = 1});
      const Var<float> loss = decoder.loss(tape, batch);
      const float value = loss.item();
      tape.backward(loss);
      return std::pair(value, Parameter<float>(of.at<float>("m/decoder/layer_0/attention_norm/scale")).grad());
    };
    parameters.freeze("*/w"), parameters.freeze("*/table");
    const auto [loss, grad] = run(parameters, model);
    const auto [stored_loss, stored_grad] = run(stored, from_store);
    EXPECT_NEAR(stored_loss, loss, 1e-5);
    expect_near(stored_grad, grad, 1e-4);
    Tape tape({.mode = Mode::evaluate}), other({.mode = Mode::evaluate});
    expect_near(from_store.logits(tape, batch.inputs).value(), model.logits(other, batch.inputs).value(), 1e-4);
    EXPECT_EQ(from_store.generate({1, 2, 3}, {.length = 9, .temperature = 0}),
              model.generate({1, 2, 3}, {.length = 9, .temperature = 0}));
  }
}

TEST(StoredMatrices, SaveNothingForTheirProducts) {
  ParameterRegistry parameters;
  const auto w = (parameters / "a").parameter<float>("w", {8, 4}, init::normal(1));
  store(w, true);
  Tape tape({.step = 1});
  const Var<float> x = tape.input(random_tensor<float>({6, 8}, 1), {.wants_gradient = true});
  const Var<float> loss = sum(linear(x, w));
  EXPECT_EQ(tape.stats().saved_bytes, 0U);
  tape.backward(loss);
  EXPECT_EQ(tape.grad(x).shape(), Shape({6, 8}));
}

TEST(StoredMatrices, AreReadAsNumbersAndNeverWritten) {
  ParameterRegistry parameters;
  const auto w = (parameters / "a").parameter<float>("w", {3, 4}, init::normal(1));
  const Tensor<float> before = w.value();
  store(w, true);
  expect_near(w.value(), before, 0);
  EXPECT_TRUE(w.is_frozen());
  EXPECT_EQ(parameters.count(), 12);
  expect_error({"a/w", "cannot be set"}, [&] { w.set_value(before); });
  expect_error({"a/w", "cannot be trained"}, [&] { parameters.unfreeze("*"); });
  Tape tape;
  expect_error({"a/w", "floats", "load it as numbers"}, [&] { (void)sum(tape.parameter(w)); });
  expect_error({"a/w: is stored transposed, so that its rows cannot be looked up"},
               [&] { embedding(tape.input(Tensor<std::int32_t>({2}, 1)), w); });
  const ParameterRegistry copy(parameters);
  expect_near(copy.at<float>("a/w").value(), before, 0);
}

TEST(WithoutValues, ParametersAreMadeButNotUsed) {
  ParameterRegistry parameters;
  const nn::Linear<float> layer((parameters / "a").without_values(), {.input_dims = 3, .output_dims = 4});
  EXPECT_EQ(parameters.count(), 16);
  EXPECT_EQ(parameters.bytes(), 0U);
  Tape tape;
  expect_error({"a/w", "no value yet"}, [&] { (void)layer(tape.input(Tensor<float>({2, 3}, 1.0F))); });
  expect_error({"a/w", "no value yet"}, [&] { (void)layer.w.value(); });
  layer.w.set_value(Tensor<float>({3, 4}, 1.0F));
  layer.b.set_value(Tensor<float>({4}, 1.0F));
  EXPECT_EQ(layer(tape.input(Tensor<float>({2, 3}, 1.0F))).value().data()[0], 4.0F);
}

}  // namespace
