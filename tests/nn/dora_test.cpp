// Adapters with magnitudes (DoRA): what they compute is what the formula says, beside numbers and beside matrices that
// are stored, whole or in parts, whatever the policy; lengths are made by strips.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <remat/kernels/adapted_norms.hpp>
#include <remat/models/decoder.hpp>
#include <remat/nn/lora.hpp>
#include <remat/ops/arithmetic.hpp>
#include <remat/ops/dropout.hpp>
#include <remat/ops/matmul.hpp>
#include <remat/ops/reduce.hpp>
#include <remat/optim/adamw.hpp>
#include <remat/optim/gradient_watch.hpp>
#include <string>
#include <utility>
#include <vector>

#include "nn/adapted_llama.hpp"
#include "nn/random_tensor.hpp"

namespace {

using namespace remat;
using remat_test::a_batch;
using remat_test::expect_near;
using remat_test::expect_policies_and_merging_to_agree;
using remat_test::fill;
using remat_test::LinearStep;
using remat_test::random_tensor;
using remat_test::small_llama;
using remat_test::store;
using remat_test::store_all_matrices;
using remat_test::Stored;

// y = x W' + b with W'_j = m_j (W + scale A B)_j / |(W + scale A B)_j|, the length a constant; columns 4 and 5 stay
// where parts are adapted. By hand, in loops.
TEST(Dora, ComputesItsFormulaAndTheGradients) {
  using T = double;
  for (const int stored : {0, 1, 2})
    for (const bool has_parts : {false, true}) {
      ParameterRegistry parameters(1);
      const nn::Linear<T> layer(parameters / "a" / "qkv", {.input_dims = 6, .output_dims = 9});
      layer.b.set_value(random_tensor<T>({9}, 3));
      layer.w.entry()->parts = {{"query", 0, 4}, {"key", 4, 6}, {"value", 6, 9}};
      if (stored > 0) store(layer.w, stored == 1);
      const std::vector<std::string> targets =
          has_parts ? std::vector<std::string>{"a/query", "a/value"} : std::vector<std::string>{"a/qkv"};
      const nn::Lora<T> lora(parameters, parameters / "lora",
                             {.targets = targets, .rank = 2, .alpha = 6, .dora = true});
      const auto& part = lora.parts().at(0);
      EXPECT_EQ(part.magnitude.path(), "lora/a/qkv/magnitude");
      fill(lora);
      const LinearStep step(layer, 5);

      const Tensor<T> w = layer.w.value(), b = layer.b.value(), down = part.down.value(), up = part.up.value(),
                      m = part.magnitude.value();
      std::vector<double> whole(w.data(), w.data() + 54), factor(9, 1), by_x(30, 0),
          by_m(static_cast<std::size_t>(m.size()), 0), by_down(static_cast<std::size_t>(down.size()), 0),
          by_up(static_cast<std::size_t>(up.size()), 0);
      const Index ranks = down.shape()[1], columns = up.shape()[1];
      const auto each_column = [&](auto&& work) {
        each_part(part.pieces, 2, 9, [&](const AdaptedColumns& c) {
          for (Index j = 0; j < c.width; ++j) work(c.of_w + j, c.of_up + j, c.of_down);
        });
      };
      each_column([&](Index j, Index at, Index first) {
        double squares = 0;
        for (Index i = 0; i < 6; ++i) {
          double& element = whole[static_cast<std::size_t>(i * 9 + j)];
          for (Index r = 0; r < 2; ++r) element += 3 * down.data()[i * ranks + first + r] * up.data()[r * columns + at];
          squares += element * element;
        }
        factor[static_cast<std::size_t>(j)] = m.data()[at] / std::sqrt(squares);
        double by_factor = 0;
        for (Index t = 0; t < 5; ++t)
          for (Index i = 0; i < 6; ++i)
            by_factor +=
                step.weight.data()[t * 9 + j] * step.x.data()[t * 6 + i] * whole[static_cast<std::size_t>(i * 9 + j)];
        by_m[static_cast<std::size_t>(at)] = by_factor / std::sqrt(squares);
        for (Index i = 0; i < 6; ++i)
          for (Index r = 0; r < 2; ++r) {
            double sum = 0;
            for (Index t = 0; t < 5; ++t) sum += step.x.data()[t * 6 + i] * step.weight.data()[t * 9 + j];
            sum *= 3 * factor[static_cast<std::size_t>(j)];
            by_down[static_cast<std::size_t>(i * ranks + first + r)] += sum * up.data()[r * columns + at];
            by_up[static_cast<std::size_t>(r * columns + at)] += sum * down.data()[i * ranks + first + r];
          }
      });
      for (Index t = 0; t < 5; ++t)
        for (Index j = 0; j < 9; ++j) {
          double sum = 0;
          for (Index i = 0; i < 6; ++i) {
            const double element = factor[static_cast<std::size_t>(j)] * whole[static_cast<std::size_t>(i * 9 + j)];
            sum += step.x.data()[t * 6 + i] * element;
            by_x[static_cast<std::size_t>(t * 6 + i)] += step.weight.data()[t * 9 + j] * element;
          }
          EXPECT_NEAR(step.y.data()[t * 9 + j], sum + b.data()[j], 1e-12);
        }
      expect_near(step.by_x, by_x, 1e-12);
      expect_near(part.down.grad(), by_down, 1e-12);
      expect_near(part.up.grad(), by_up, 1e-12);
      expect_near(part.magnitude.grad(), by_m, 1e-12);
      const auto merged = lora.merged(part);
      for (Index i = 0; i < 54; ++i)
        EXPECT_NEAR(merged.weight.data()[i],
                    whole[static_cast<std::size_t>(i)] * factor[static_cast<std::size_t>(i % 9)], 1e-12);
    }
}

// PEFT drops what the whole of the decomposed product reads: x W + b + (m / n - 1) z W + m / n scale z A B.
TEST(Dora, DropsWhatTheDecomposedProductReads) {
  using T = double;
  ParameterRegistry parameters(1);
  const nn::Linear<T> layer(parameters / "a", {.input_dims = 6, .output_dims = 5});
  const nn::Lora<T> lora(parameters, parameters / "l",
                         {.targets = {"a"}, .rank = 2, .alpha = 6, .dropout = 0.5, .dora = true});
  fill(lora);
  const auto& part = lora.parts()[0];
  const Tensor<T> norms = lora.lengths(part);
  const LinearStep step(layer, 7, 4);
  Tape by_hand({.seed = 4, .step = 1});
  const Var<T> whole = by_hand.input(step.x, {.wants_gradient = true}),
               m = by_hand.input(part.magnitude.value(), {.wants_gradient = true});
  Var<T> z;
  {
    const auto here = by_hand.layer("a");
    z = dropout(whole, 0.5);
  }
  const Var<T> factor = m / by_hand.input(norms), w = by_hand.input(layer.w.value());
  const Var<T> low = matmul(matmul(z, by_hand.input(part.down.value())), by_hand.input(part.up.value())) * 3.0;
  const Var<T> should =
      matmul(whole, w) + by_hand.input(layer.b.value()) + (factor - 1.0) * matmul(z, w) + factor * low;
  expect_near(step.y, should.value(), 1e-12);
  by_hand.backward(sum(should * by_hand.input(step.weight)));
  expect_near(step.by_x, by_hand.grad(whole), 1e-12);
  expect_near(part.magnitude.grad(), by_hand.grad(m), 1e-12);
}

TEST(Dora, BeginsAsTheModelIsAndThenEveryPartIsTrained) {
  ParameterRegistry parameters(3);
  const models::Decoder<float> model(parameters / "m", small_llama());
  const auto loss_now = [&] {
    Tape tape({.mode = Mode::evaluate});
    return model.loss(tape, a_batch()).item();
  };
  const float before = loss_now();
  store_all_matrices(parameters);
  const nn::Lora<float> lora(parameters, parameters / "lora", {.dora = true});
  EXPECT_NEAR(loss_now(), before, 1e-5);
  std::vector<Tensor<float>> first;
  for (const auto& part : lora.parts()) first.push_back(part.magnitude.value());
  optim::AdamW adamw(parameters, {.weight_decay = 0});
  optim::GradientWatch watch(parameters, 2);
  for (int step = 0; step < 4; ++step) {
    Tape tape({.step = step});
    tape.backward(model.loss(tape, a_batch()));
    watch.check();
    adamw.step(1e-2);
  }
  EXPECT_LT(loss_now(), before);
  for (std::size_t i = 0; i < first.size(); ++i) {
    const Tensor<float> now = lora.parts()[i].magnitude.value();
    for (Index j = 0; j < now.size(); ++j) EXPECT_NE(now.data()[j], first[i].data()[j]);
  }
  lora.deactivate();
  EXPECT_NEAR(loss_now(), before, 1e-5);
}

TEST(Dora, NoPolicyChangesABitAndMergedTheModelComputesAsBefore) {
  expect_policies_and_merging_to_agree(
      {.targets = {"*/query", "*/attention/value", "*/ffn/*"}, .dropout = 0.25, .dora = true}, 24);
}

TEST(Dora, ComputesInBfloat16AndInACopiedRegistry) {
  ParameterRegistry parameters(3);
  const models::Decoder<bfloat16> model(parameters / "m", small_llama());
  store_all_matrices(parameters);
  const nn::Lora<bfloat16> lora(parameters, parameters / "lora", {.dropout = 0.1, .dora = true});
  fill(lora);
  Tape tape({.step = 1});
  const Var<float> loss = model.loss(tape, a_batch());
  tape.backward(loss);
  EXPECT_TRUE(std::isfinite(loss.item()));
  for (const auto& part : lora.parts())
    for (const auto& parameter : {part.down, part.up, part.magnitude}) {
      const Tensor<float> grad = parameter.grad();
      double sum = 0;
      for (const float v : grad.span()) sum += std::abs(v);
      EXPECT_TRUE(sum > 0 && std::isfinite(sum)) << parameter.path();
    }
  const ParameterRegistry copy(parameters);
  const auto& part = lora.parts()[0];
  const auto& adapter = copy.at<float>(part.weight.path()).entry()->adapter;
  EXPECT_EQ(adapter->magnitude, copy.at<float>(part.magnitude.path()).entry());
  EXPECT_NE(adapter->magnitude, part.magnitude.entry());
}

// Several strips of each layout, whole and of some columns; the sum of w and the product never exists whole.
TEST(Dora, LengthsAreMadeByStrips) {
  const Index inputs = 1100, outputs = 1300, rank = 3;
  const Tensor<float> w = random_tensor<float>({inputs, outputs}, 1),
                      down = random_tensor<float>({inputs, 2 * rank}, 2), up = random_tensor<float>({rank, outputs}, 3);
  std::vector<float> turned(static_cast<std::size_t>(inputs * outputs));
  for (Index i = 0; i < inputs; ++i)
    for (Index j = 0; j < outputs; ++j) turned[static_cast<std::size_t>(j * inputs + i)] = w.data()[i * outputs + j];
  const Stored straight(inputs, outputs, std::vector<float>(w.data(), w.data() + w.size())),
      transposed(outputs, inputs, turned);
  for (const auto& [begin, end] : {std::pair<Index, Index>{0, outputs}, {130, 777}}) {
    std::vector<double> should;
    for (Index j = begin; j < end; ++j) {
      double squares = 0;
      for (Index i = 0; i < inputs; ++i) {
        double element = w.data()[i * outputs + j];
        for (Index r = 0; r < rank; ++r)
          element += 0.5 * static_cast<double>(down.data()[i * 2 * rank + rank + r]) *
                     static_cast<double>(up.data()[r * outputs + j - begin]);
        squares += element * element;
      }
      should.push_back(std::sqrt(squares));
    }
    for (const int kind : {0, 1, 2}) {
      const kernels::AdaptedNorms<float> norms{inputs, outputs,
                                               kind == 0   ? nullptr
                                               : kind == 1 ? &straight
                                                           : static_cast<const FrozenMatrix*>(&transposed),
                                               kind == 2};
      EXPECT_LT(norms.scratch(rank), static_cast<std::size_t>(inputs * outputs) * sizeof(float) / 2);
      std::vector<std::byte> scratch(norms.scratch(rank));
      std::vector<float> is(should.size());
      norms.run(kind == 0 ? w.data() : nullptr, down.data() + rank, up.data(), 0.5,
                {begin, end, rank, 2 * rank, outputs}, is.data(), scratch.data());
      for (std::size_t j = 0; j < should.size(); ++j) ASSERT_NEAR(is[j], should[j], 1e-4) << kind << ", " << j;
    }
  }
}

// A column of zeros has no direction: it stays zero, and nothing becomes NaN.
TEST(Dora, AColumnOfZerosStaysZero) {
  ParameterRegistry parameters(1);
  const nn::Linear<float> layer(parameters / "a", {.input_dims = 4, .output_dims = 3, .bias = false});
  Tensor<float> w = layer.w.value();
  for (std::size_t i = 0; i < 4; ++i) w.write()[3 * i + 1] = 0;
  layer.w.set_value(w);
  const nn::Lora<float> lora(parameters, parameters / "l", {.targets = {"a"}, .rank = 2, .dora = true});
  Tape tape({.step = 1});
  const Var<float> y = layer(tape.input(random_tensor<float>({5, 4}, 1), {.wants_gradient = true}));
  for (Index t = 0; t < 5; ++t) EXPECT_EQ(y.value().data()[3 * t + 1], 0);
  tape.backward(sum(y));
  for (const auto& parameter : {lora.parts()[0].down, lora.parts()[0].up, lora.parts()[0].magnitude}) {
    const Tensor<float> grad = parameter.grad();
    for (const float v : grad.span()) EXPECT_TRUE(std::isfinite(v));
  }
}

}  // namespace
