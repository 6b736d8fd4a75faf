#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>
#include <ops/try_op.hpp>
#include <remat/ops/arithmetic.hpp>
#include <remat/ops/layer_norm.hpp>
#include <remat/ops/reduce.hpp>
#include <remat/ops/rms_norm.hpp>
#include <remat/ops/unary.hpp>

namespace {

using namespace remat;
using remat_test::error_of, remat_test::parameter_of, remat_test::random_tensor, remat_test::weigh;

TEST(LayerNorm, Values) {
  constexpr Index d = 33;
  const auto x = random_tensor<float>({2, 3, d}, 1), scale = random_tensor<float>({d}, 2);
  const auto bias = random_tensor<float>({d}, 3);
  Tape tape;
  const auto in = tape.input(x);
  const auto full = layer_norm(in, scale, bias).value(), alone = layer_norm(in, {}, {}, 0.5).value();
  for (Index i = 0; i < 6; ++i) {
    double mean = 0, variance = 0;
    for (Index j = 0; j < d; ++j) mean += double{x[i * d + j]} / d;
    for (Index j = 0; j < d; ++j) variance += std::pow(double{x[i * d + j]} - mean, 2) / d;
    for (Index j = 0; j < d; ++j) {
      const double centered = double{x[i * d + j]} - mean;
      EXPECT_NEAR(full[i * d + j], centered / std::sqrt(variance + 1e-5) * double{scale[j]} + double{bias[j]}, 1e-5);
      EXPECT_NEAR(alone[i * d + j], centered / std::sqrt(variance + 0.5), 1e-5);
    }
  }
}

TEST(LayerNorm, LosesNoDigitsToALargeMean) {
  Tape tape;
  auto x = random_tensor<float>({100}, 1);
  const auto y = layer_norm(tape.input(x)).value();
  for (Index i = 0; i < 100; ++i) x.write()[i] = std::round(x[i] * 1024) / 1024 + 4096;
  const auto shifted = layer_norm(tape.input(x)).value();
  for (Index i = 0; i < 100; ++i) EXPECT_NEAR(shifted[i], y[i], 2e-3);
}

TEST(RmsNorm, Values) {
  constexpr Index d = 33;
  const auto x = random_tensor<float>({6, d}, 1), scale = random_tensor<float>({d}, 2);
  Tape tape;
  const auto in = tape.input(x);
  const auto full = rms_norm(in, scale).value(), alone = rms_norm(in, {}, 0.5).value();
  for (Index i = 0; i < 6; ++i) {
    double square = 0;
    for (Index j = 0; j < d; ++j) square += std::pow(double{x[i * d + j]}, 2) / d;
    for (Index j = 0; j < d; ++j) {
      EXPECT_NEAR(full[i * d + j], double{x[i * d + j]} / std::sqrt(square + 1e-6) * double{scale[j]}, 1e-5);
      EXPECT_NEAR(alone[i * d + j], double{x[i * d + j]} / std::sqrt(square + 0.5), 1e-5);
    }
  }
}

/// What a skip connection and a norm give, and their gradients: fused, or as three ops with the same mask.
struct SkipOutcome {
  std::vector<Tensor<float>> values;
};
template <class F>
SkipOutcome skip_outcome(const F& skip_norm) {
  ParameterRegistry registry;
  const auto scale = parameter_of(registry, "scale", random_tensor<float>({300}, 3));
  const auto bias = parameter_of(registry, "bias", random_tensor<float>({300}, 4));
  Tape tape({.seed = 7, .step = 0});
  const auto x = tape.input(random_tensor<float>({40, 300}, 1), {.wants_gradient = true});
  const auto branch = tape.input(random_tensor<float>({40, 300}, 2), {.wants_gradient = true});
  const SkipNorm<float> both = skip_norm(x, branch, scale, bias);
  SkipOutcome outcome{{both.sum.value(), both.normal.value()}};
  tape.backward(weigh(both.sum) + weigh(square(both.normal)));
  for (const auto& gradient : {tape.grad(x), tape.grad(branch), scale.grad(), bias.grad()})
    outcome.values.push_back(gradient.copy());
  return outcome;
}

TEST(Norms, SkipNormsEqualDropoutSumAndNorm) {
  for (const double rate : {0.0, 0.3})
    for (const bool rms : {false, true}) {
      SCOPED_TRACE(testing::Message() << rate << (rms ? " rms" : ""));
      const auto fused = skip_outcome([&](const auto& x, const auto& branch, const auto& scale, const auto& bias) {
        return rms ? skip_rms_norm<float>(x, branch, rate, scale)
                   : skip_layer_norm<float>(x, branch, rate, scale, bias);
      });
      const auto apart = skip_outcome([&](const auto& x, const auto& branch, const auto& scale, const auto& bias) {
        const auto sum = x + dropout(branch, rate);
        return SkipNorm<float>{sum, rms ? rms_norm<float>(sum, scale) : layer_norm<float>(sum, scale, bias)};
      });
      for (std::size_t i = 0; i < fused.values.size(); ++i)
        for (Index j = 0; j < fused.values[i].size(); ++j)
          ASSERT_NEAR(fused.values[i][j], apart.values[i][j], 2e-5) << i << ' ' << j;
      EXPECT_EQ(same_bits(fused.values[2], fused.values[3]), rate == 0);  // dx is dbranch, unless some of it is dropped
    }
}

// The gradient of the sum is added to that of the norm, whichever of both a user reads.
TEST(Norms, WhatSkipsThemHasItsGradient) {
  for (const bool rms : {false, true}) {
    const auto gradient = [&](bool reads_sum) {
      Tape tape;
      const auto x = tape.input(random_tensor<float>({5, 40}, 1), {.wants_gradient = true});
      const auto branch = tape.input(random_tensor<float>({5, 40}, 2));
      const SkipNorm<float> both = rms ? skip_rms_norm<float>(x, branch) : skip_layer_norm<float>(x, branch);
      const auto of_normal = weigh(square(both.normal));
      tape.backward(reads_sum ? weigh(both.sum) + of_normal : of_normal);
      return tape.grad(x).copy();
    };
    const Tensor<float> with = gradient(true), without = gradient(false);
    for (Index j = 0; j < with.size(); ++j)
      ASSERT_NEAR(with[j] - without[j], remat_test::weight_of<float>(j), 2e-5) << rms << ' ' << j;
  }
}

// Gradients of x and of the branch are one buffer, written over that of the sum: 3 tensors live, not 4.
TEST(Norms, SkipNormsMakeNoGradientTwice) {
  const auto peak = [](double rate) {
    Tape tape({.seed = 7, .step = 0});
    const auto x = tape.input(random_tensor<float>({64, 64}, 1), {.wants_gradient = true});
    {
      const auto both = skip_layer_norm<float>(x, sin(x), rate);
      const auto loss = sum(both.sum + both.normal);
      tape.backward(loss);
    }
    return tape.stats().peak_bytes;
  };
  EXPECT_EQ(peak(0.3) - peak(0), 64U * 64U * sizeof(float));
}

// 3000 rows: more than one row to a block, and blocks for several threads.
TEST(Norms, GradientsAreTheSameForAnyNumberOfThreads) {
  const auto x = random_tensor<float>({3000, 17}, 1), scale = random_tensor<float>({17}, 2);
  const auto gradients = [&](int threads) {
    const int before = omp_get_max_threads();
    omp_set_num_threads(threads);
    ParameterRegistry registry;
    const auto s = parameter_of(registry, "s", scale), b = parameter_of(registry, "b", scale);
    Tape tape;
    const auto in = tape.input(x, {.wants_gradient = true});
    tape.backward(weigh(rms_norm(layer_norm(in, s, b), s)));
    omp_set_num_threads(before);
    return std::vector<Tensor<float>>{tape.grad(in), s.grad().copy(), b.grad().copy()};
  };
  const auto one = gradients(1), two = gradients(2), three = gradients(3);
  for (std::size_t i = 0; i < one.size(); ++i) {
    EXPECT_TRUE(same_bits(one[i], two[i])) << i;
    EXPECT_TRUE(same_bits(one[i], three[i])) << i;
  }
}

TEST(Norms, EmptyGradientsAreZeros) {
  ParameterRegistry registry;
  const auto s = parameter_of(registry, "s", Tensor<float>({5}, 1.0F)), b = parameter_of(registry, "b", s.value());
  Tape tape;
  tape.backward(weigh(rms_norm(layer_norm(tape.input(Tensor<float>({0, 5})), s, b), s)));
  for (Index j = 0; j < 5; ++j) EXPECT_EQ(s.grad()[j], 0.0F);
  for (Index j = 0; j < 5; ++j) EXPECT_EQ(b.grad()[j], 0.0F);
  EXPECT_EQ(layer_norm(Tape().input(Tensor<float>({3, 0}))).shape(), (Shape{3, 0}));
}

// x, mean and rstd for dx and dscale; nothing at all for dbias alone.
TEST(Norms, KeepWhatTheirWantedGradientsRead) {
  const auto saved = [](bool wants_x, auto norm) {
    ParameterRegistry registry;
    const auto p = parameter_of(registry, "p", Tensor<float>({16}, 1.0F));
    Tape tape;
    const auto x = tape.input(random_tensor<float>({16, 16}, 1), {.wants_gradient = wants_x});
    tape.backward(weigh(norm(x, p)));
    return tape.stats().saved_bytes;
  };
  EXPECT_EQ(saved(true, [](const auto& x, const auto& p) { return layer_norm(x, p, p); }), 128U);
  EXPECT_EQ(saved(false, [](const auto& x, const auto& p) { return layer_norm(x, p); }), 128U);
  EXPECT_EQ(saved(false, [](const auto& x, const auto& p) { return layer_norm(x, {}, p); }), 0U);
  EXPECT_EQ(saved(true, [](const auto& x, const auto& p) { return rms_norm(x, p); }), 64U);
}

TEST(Norms, RefuseWhatDoesNotFit) {
  ParameterRegistry registry;
  const auto scale = (registry / "ln").parameter<float>("scale", {4}, init::ones());
  Tape tape;
  const auto x = tape.input(Tensor<float>({2, 5}, 0.0F));
  EXPECT_EQ(error_of([&] { layer_norm(x, scale); }), "layer_norm: ln/scale has shape [4], x has 5 features");
  EXPECT_EQ(error_of([&] {
              layer_norm(x, {}, Tensor<float>({1, 5}, 0.0F));
            }),
            "layer_norm: bias has shape [1, 5], x has 5 features");
  EXPECT_EQ(error_of([&] { rms_norm(x, scale); }), "rms_norm: ln/scale has shape [4], x has 5 features");
  EXPECT_EQ(error_of([&] { rms_norm(x, {}, 0); }), "rms_norm: epsilon 0 must be positive");
  const auto branch = tape.input(Tensor<float>({5}, 0.0F));
  EXPECT_EQ(error_of([&] { skip_layer_norm(x, branch); }), "skip_layer_norm: branch has shape [5], x has [2, 5]");
  EXPECT_EQ(error_of([&] { skip_rms_norm(x, x, 1.0); }), "skip_rms_norm: dropout rate 1 is not in [0, 1)");
}

}  // namespace
