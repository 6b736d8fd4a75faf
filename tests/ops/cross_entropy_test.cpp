#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <ops/try_op.hpp>
#include <remat/ops/arithmetic.hpp>
#include <remat/ops/cross_entropy.hpp>
#include <remat/ops/reduce.hpp>
#include <vector>

namespace {

using namespace remat;
using remat_test::error_of, remat_test::random_tensor;
using Ids = Tensor<std::int32_t>;

TEST(CrossEntropy, IsTheMeanOverTokensThatCount) {
  constexpr Index rows = 6, classes = 33;
  const auto x = random_tensor<double>({2, 3, classes}, 1);
  const Ids targets({2, 3}, {0, 5, -7, 32, -7, 5});
  Tape tape;
  const auto logits = tape.input(x, {.wants_gradient = true});
  const auto loss = cross_entropy(logits, targets, {.ignore = -7});
  EXPECT_EQ(loss.shape(), Shape{});
  double expected = 0;
  std::vector<double> gradient(static_cast<std::size_t>(x.size()));
  for (Index i = 0; i < rows; ++i) {
    if (targets[i] == -7) continue;
    double sum = 0;
    for (Index j = 0; j < classes; ++j) sum += std::exp(x[i * classes + j]);
    expected -= std::log(std::exp(x[i * classes + targets[i]]) / sum) / 4;
    for (Index j = 0; j < classes; ++j)
      gradient[static_cast<std::size_t>(i * classes + j)] =
          (std::exp(x[i * classes + j]) / sum - (j == targets[i] ? 1 : 0)) / 4;
  }
  EXPECT_NEAR(loss.item(), expected, 1e-14);
  tape.backward(loss);
  for (Index i = 0; i < x.size(); ++i) EXPECT_NEAR(tape.grad(logits)[i], gradient[static_cast<std::size_t>(i)], 1e-15);
}

/// The loss by its definition, probability by probability.
double by_definition(const Tensor<double>& logits, const Ids& targets, const CrossEntropyOptions& o,
                     const Tensor<double>& weights) {
  const Index classes = logits.shape().back();
  double sum = 0, weight = 0;
  for (Index i = 0; i < targets.size(); ++i) {
    if (targets[i] == o.ignore) continue;
    std::vector<double> u;
    double denominator = 0, loss = 0;
    for (Index j = 0; j < classes; ++j) {
      const double x = o.logit_multiplier * logits[i * classes + j];
      u.push_back(o.soft_cap > 0 ? o.soft_cap * std::tanh(x / o.soft_cap) : x);
      denominator += std::exp(u.back());
    }
    for (Index j = 0; j < classes; ++j) {
      const double wanted =
          o.label_smoothing / static_cast<double>(classes) + (j == targets[i] ? 1 - o.label_smoothing : 0);
      loss -= wanted * std::log(std::exp(u[static_cast<std::size_t>(j)]) / denominator);
    }
    sum += weights[i] * (loss + o.z_loss * std::log(denominator) * std::log(denominator));
    weight += weights[i];
  }
  return sum / weight;
}

TEST(CrossEntropy, FollowsItsDefinition) {
  const Tensor<double> ones({5}, 1), weights({5}, {0.5, 2, 100, 0, 0.25});
  const CrossEntropyOptions plain, smooth{.label_smoothing = 0.1}, z{.z_loss = 0.01}, cap{.soft_cap = 1.5},
      times{.logit_multiplier = 3};
  CrossEntropyOptions all{.ignore = 7, .label_smoothing = 0.9, .z_loss = 2, .soft_cap = 0.5};
  all.logit_multiplier = 0.3;
  for (const Index classes : {33, 5000})  // rows of many classes are summed in blocks
    for (const CrossEntropyOptions& o : {plain, smooth, z, cap, times, all}) {
      const auto x = random_tensor<double>({5, classes}, 1);
      const Ids ids({5}, {0, 32, o.ignore, 7, 8});
      Tape tape;
      EXPECT_NEAR(cross_entropy(tape.input(x), ids, o).item(), by_definition(x, ids, o, ones), 1e-11);
      EXPECT_NEAR(cross_entropy(tape.input(x), ids, o, weights).item(), by_definition(x, ids, o, weights), 1e-11);
    }
}

// One by one, their sum and their mean; what does not count is 0.
TEST(CrossEntropy, ReducesAsAsked) {
  const Tensor<double> x = random_tensor<double>({2, 3, 33}, 1), ones({2, 3}, 1), some({2, 3}, {0.5, 2, 100, 0, 3, 4});
  const Ids targets({2, 3}, {0, 32, 7, 5, 8, 7});
  for (CrossEntropyOptions o : {CrossEntropyOptions{.ignore = 7}, CrossEntropyOptions{7, 0.1, 0.01, 1.5}})
    for (const Tensor<double>& weights : {ones, some}) {
      const auto loss = [&](Tape& tape, Reduction reduction) {
        o.reduction = reduction;
        return cross_entropy(tape.input(x), targets, o, weights);
      };
      Tape tape;
      const auto each = loss(tape, Reduction::none), total = loss(tape, Reduction::sum);
      ASSERT_EQ(each.shape(), targets.shape());
      ASSERT_EQ(total.shape(), Shape{});
      double sum = 0, weight = 0;
      for (Index i = 0; i < 6; ++i) {
        const bool counts = targets[i] != 7 && weights[i] != 0;
        if (!counts) {
          EXPECT_EQ(each.value()[i], 0) << i;
          continue;
        }
        const Tensor<double> row({1, 33}, std::span<const double>(x.data() + i * 33, 33)), one({1}, 1);
        EXPECT_NEAR(each.value()[i], weights[i] * by_definition(row, Ids({1}, targets[i]), o, one), 1e-11) << i;
        sum += each.value()[i];
        weight += weights[i];
      }
      EXPECT_NEAR(total.item(), sum, 1e-12);
      EXPECT_NEAR(loss(tape, Reduction::mean).item(), sum / weight, 1e-13);
    }
}

// Each token's gradient is scaled by that of its loss. A number that multiplies a loss could as well be its weight.
TEST(CrossEntropy, EachLossPassesItsOwnGradient) {
  const auto x = random_tensor<double>({4, 33}, 1), upstream = Tensor<double>({4}, {2, 0, -0.5, 3});
  const Ids targets({4}, {0, 5, 32, -1});
  const auto gradient = [&](Reduction reduction, const Tensor<double>& weights, const Tensor<double>& factors) {
    Tape tape;
    const auto logits = tape.input(x, {.wants_gradient = true});
    tape.backward(
        sum(cross_entropy(logits, targets, {.label_smoothing = 0.1, .reduction = reduction}, weights) * factors));
    return tape.grad(logits).copy();
  };
  const Tensor<double> ones({4}, 1), weights({4}, {1, 2, 3, 4});
  const auto expected = gradient(Reduction::sum, upstream, Tensor<double>({}, 1));
  EXPECT_TRUE(same_bits(gradient(Reduction::none, ones, upstream), expected));
  const auto both = gradient(Reduction::none, weights, upstream);
  for (Index i = 0; i < both.size(); ++i) EXPECT_NEAR(both[i], weights[i / 33] * expected[i], 1e-14);
}

TEST(CrossEntropy, OfNoTokensThereAreNoLosses) {
  Tape tape;
  const auto logits = tape.input(Tensor<float>({0, 5}), {.wants_gradient = true});
  const auto each = cross_entropy(logits, Ids({0}), {.reduction = Reduction::none});
  EXPECT_EQ(each.shape(), Shape{0});
  EXPECT_EQ(cross_entropy(logits, Ids({0}), {.reduction = Reduction::sum}).item(), 0.0F);
  tape.backward(sum(each));
}

TEST(CrossEntropy, EqualLogitsCostTheSameHoweverSmooth) {
  Tape tape;  // nothing to choose: the loss is 0 however smooth
  EXPECT_EQ(cross_entropy(tape.input(Tensor<float>({2, 1}, 3.0F)), Ids({2}, 0), {.label_smoothing = 0.5}).item(), 0.0F);
  const auto equal = tape.input(Tensor<float>({1, 100}, 3.0F));
  EXPECT_NEAR(cross_entropy(equal, Ids({1}, 99), {.label_smoothing = 0.5}).item(), std::log(100.0F), 1e-5);
}

TEST(CrossEntropy, WhatDoesNotCountIsNotLookedAt) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const CrossEntropyOptions& o : {CrossEntropyOptions{}, CrossEntropyOptions{0, 0.1, 0.1, 3}}) {
    Tape tape;
    const auto logits = tape.input(Tensor<float>({3, 2}, {1, 2, nan, nan, nan, 0}), {.wants_gradient = true});
    const auto loss = cross_entropy(logits, Ids({3}, {1, o.ignore, 1}), o, Tensor<float>({3}, {2, 1, 0}));
    EXPECT_TRUE(std::isfinite(loss.item()));
    tape.backward(loss);
    EXPECT_NE(tape.grad(logits)[0], 0.0F);
    EXPECT_TRUE(std::isfinite(tape.grad(logits)[0]));
    for (Index i = 2; i < 6; ++i) EXPECT_EQ(tape.grad(logits)[i], 0.0F);
  }
}

TEST(CrossEntropy, IsZeroWhenWeightsAre) {
  Tape tape;
  const auto logits = tape.input(random_tensor<float>({3, 5}, 1), {.wants_gradient = true});
  const auto loss = cross_entropy(logits, Ids({3}, 1), {}, Tensor<float>({3}, 0.0F));
  EXPECT_EQ(loss.item(), 0.0F);
  tape.backward(loss);
  for (Index i = 0; i < 15; ++i) EXPECT_EQ(tape.grad(logits)[i], 0.0F);
}

TEST(CrossEntropy, NoGradientFlowsToWeights) {
  Tape tape;
  const auto logits = tape.input(random_tensor<float>({3, 5}, 1), {.wants_gradient = true});
  const auto weights = tape.input(Tensor<float>({3}, {1, 2, 3}), {.wants_gradient = true});
  tape.backward(cross_entropy(logits, Ids({3}, 1), {}, weights));
  EXPECT_NE(tape.grad(logits)[0], 0.0F);
  for (Index i = 0; i < 3; ++i) EXPECT_EQ(tape.grad(weights)[i], 0.0F);
}

TEST(CrossEntropy, SurvivesLargeLogits) {
  Tape tape;
  const Tensor<float> x({2, 3}, {1e30F, 0, -1e30F, -500, -501, -INFINITY});
  const auto logits = tape.input(x, {.wants_gradient = true});
  const auto loss = cross_entropy(logits, Ids({2}, {0, 1}));
  EXPECT_NEAR(loss.item(), (0 + std::log(1 + std::exp(1.0))) / 2, 1e-4);
  tape.backward(loss);
  const double p = 1 / (1 + std::exp(-1.0));
  const double expected[] = {0, 0, 0, p / 2, -p / 2, 0};
  for (Index i = 0; i < 6; ++i) EXPECT_NEAR(tape.grad(logits)[i], expected[i], 1e-4);
}

/// Loss and gradient of one token in double, from logits as float holds them.
struct Exact {
  double loss = 0;
  std::vector<double> gradient;
  Exact(const float* x, Index classes, Index target, double smoothing = 0) {
    double top = -INFINITY, sum = 0, distances = 0;
    for (Index j = 0; j < classes; ++j) top = std::max(top, static_cast<double>(x[j]));
    for (Index j = 0; j < classes; ++j) {
      gradient.push_back(std::exp(static_cast<double>(x[j]) - top));
      sum += gradient.back();
      distances += static_cast<double>(x[j]) - top;
    }
    const double share = smoothing / static_cast<double>(classes);
    loss = std::log(sum) - (1 - smoothing) * (static_cast<double>(x[target]) - top) - share * distances;
    for (Index j = 0; j < classes; ++j)
      gradient[static_cast<std::size_t>(j)] =
          gradient[static_cast<std::size_t>(j)] / sum - share - (j == target ? 1 - smoothing : 0);
  }
};

// The logarithm of the sum keeps its digits beside a large maximum.
TEST(CrossEntropy, IsExactHoweverLargeLogitsAre) {
  constexpr Index classes = 21;
  for (const double shift : {0.0, 30.0, 1e2, 1e3, 1e4, 1e6, -1e9})
    for (const double smoothing : {0.0, 0.1}) {
      SCOPED_TRACE(testing::Message() << "near " << shift << ", smoothed by " << smoothing);
      Tensor<float> x = random_tensor<float>({3, classes}, 1);
      for (Index i = 0; i < x.size(); ++i) x.write()[i] = static_cast<float>(shift + 2 * static_cast<double>(x[i]));
      Tape tape;
      const auto logits = tape.input(x, {.wants_gradient = true});
      const auto loss = cross_entropy(logits, Ids({3}, {0, 7, 20}), {.label_smoothing = smoothing});
      const float value = loss.item();
      tape.backward(loss);
      double expected = 0;
      for (Index i = 0; i < 3; ++i) {
        const Exact exact(x.data() + i * classes, classes, i == 0 ? 0 : i == 1 ? 7 : 20, smoothing);
        expected += exact.loss / 3;
        for (Index j = 0; j < classes; ++j)
          ASSERT_NEAR(tape.grad(logits)[i * classes + j], exact.gradient[static_cast<std::size_t>(j)] / 3, 1e-7);
      }
      EXPECT_NEAR(value, expected, 1e-6 * expected);
    }
}

// Logits around 30, as those of a head that nothing holds near 0: as exact as softmax that subtracts the maximum.
TEST(CrossEntropy, LosesNoDigitsToTheMeanOfItsLogits) {
  constexpr Index tokens = 16, classes = 1000;
  Tensor<float> x = random_tensor<float>({tokens, classes}, 1);
  for (Index i = 0; i < x.size(); ++i) x.write()[i] = 30 + 2 * x[i];
  Tape tape;
  const auto logits = tape.input(x, {.wants_gradient = true});
  tape.backward(cross_entropy(logits, Ids({tokens}, 3)) * static_cast<float>(tokens));
  double error = 0, of_softmax = 0;  // relative, summed
  for (Index i = 0; i < tokens; ++i) {
    const float* row = x.data() + i * classes;
    const Exact exact(row, classes, 0);
    const float top = *std::max_element(row, row + classes);
    float sum = 0;
    for (Index j = 0; j < classes; ++j) sum += std::exp(row[j] - top);
    for (Index j = 4; j < classes; ++j) {
      const double p = exact.gradient[static_cast<std::size_t>(j)];
      error += std::abs(static_cast<double>(tape.grad(logits)[i * classes + j]) / p - 1);
      of_softmax += std::abs(static_cast<double>(std::exp(row[j] - top) / sum) / p - 1);
    }
  }
  EXPECT_LE(error, of_softmax);
}

TEST(CrossEntropy, IsZeroWhenNoTokenCounts) {
  for (const Index rows : {0, 3}) {
    Tape tape;
    const auto logits = tape.input(random_tensor<float>({rows, 5}, 1), {.wants_gradient = true});
    const auto loss = cross_entropy(logits, Ids({rows}, -1));
    EXPECT_EQ(loss.item(), 0.0F);
    tape.backward(loss);
    for (Index i = 0; i < rows * 5; ++i) EXPECT_EQ(tape.grad(logits)[i], 0.0F);
  }
}

TEST(CrossEntropy, IsTheSameForAnyNumberOfThreads) {
  const auto x = random_tensor<float>({2000, 65}, 1);
  Ids targets({2000});
  for (Index i = 0; i < 2000; ++i) targets.write()[i] = static_cast<std::int32_t>(i % 65);
  const auto loss = [&](int threads) {
    const int before = omp_get_max_threads();
    omp_set_num_threads(threads);
    Tape tape;
    const float value = cross_entropy(tape.input(x), targets).item();
    omp_set_num_threads(before);
    return value;
  };
  EXPECT_EQ(loss(1), loss(2));
  EXPECT_EQ(loss(1), loss(3));
}

TEST(CrossEntropy, RefusesWhatDoesNotFit) {
  Tape tape;
  const auto logits = tape.input(Tensor<float>({2, 3, 65}, 0.0F));
  EXPECT_EQ(error_of([&] {
              cross_entropy(logits, Ids({2, 3}, {0, 1, 2, 3, 65, 5}));
            }),
            "cross_entropy: target 65 at [1, 1], but logits have 65 classes");
  EXPECT_EQ(error_of([&] {
              cross_entropy(logits, Ids({2, 3}, {0, 1, -1, 3, -2, 5}));
            }),
            "cross_entropy: target -2 at [1, 1], but logits have 65 classes");
  EXPECT_EQ(error_of([&] { cross_entropy(logits, Ids({6}, 0)); }),
            "cross_entropy: targets have shape [6], logits of shape [2, 3, 65] need [2, 3]");
  const Ids targets({2, 3}, 0);
  const auto error = [&](const CrossEntropyOptions& options) {
    return error_of([&] { cross_entropy(logits, targets, options); });
  };
  EXPECT_EQ(error({.label_smoothing = 1}), "cross_entropy: label_smoothing 1 is not in [0, 1)");
  EXPECT_EQ(error({.label_smoothing = -0.5}), "cross_entropy: label_smoothing -0.5 is not in [0, 1)");
  EXPECT_EQ(error({.z_loss = -1}), "cross_entropy: z_loss -1 is not >= 0");
  EXPECT_EQ(error({.soft_cap = -30}), "cross_entropy: soft_cap -30 is not >= 0 (0: none)");
  EXPECT_EQ(error({.logit_multiplier = 0}), "cross_entropy: logit_multiplier 0 is not > 0 and finite");
  EXPECT_EQ(error({.logit_multiplier = HUGE_VAL}), "cross_entropy: logit_multiplier inf is not > 0 and finite");
  EXPECT_EQ(error({.logit_multiplier = NAN}), "cross_entropy: logit_multiplier nan is not > 0 and finite");
  EXPECT_EQ(error_of([&] { cross_entropy(logits, targets, {}, Tensor<float>({6}, 1.0F)); }),
            "cross_entropy: weights have shape [6], targets [2, 3]");
}

}  // namespace
