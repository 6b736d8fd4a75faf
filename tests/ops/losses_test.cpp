// Losses beside cross-entropy: squared error, binary cross-entropy and the divergence of a student from its teacher.
#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <ops/try_op.hpp>
#include <remat/core/eigen.hpp>
#include <remat/ops/arithmetic.hpp>
#include <remat/ops/binary_cross_entropy.hpp>
#include <remat/ops/kl_divergence.hpp>
#include <remat/ops/mean_squared_error.hpp>
#include <remat/ops/reduce.hpp>
#include <remat/ops/softmax.hpp>
#include <utility>
#include <vector>

namespace {

using namespace remat;
using remat_test::error_of, remat_test::random_tensor;

constexpr float infinity = std::numeric_limits<float>::infinity(), most = std::numeric_limits<float>::max();
constexpr float nan = std::numeric_limits<float>::quiet_NaN();

/// Targets in [0, 1], the ends among them.
template <class T>
Tensor<T> shares(const Shape& shape) {
  Tensor<T> x = random_tensor<T>(shape, 7);
  for (Index i = 0; i < x.size(); ++i)
    x.write()[i] = i % 4 == 0 ? T{0} : i % 4 == 1 ? T{1} : x[i] / 4 + static_cast<T>(0.5);
  return x;
}

/// `loss(tape, reduction, weights)` of `each[i]`, by itself: one by one, summed and as a mean.
template <class F>
void expect_reductions(const std::vector<double>& each, const Shape& shape, F&& loss) {
  Tensor<double> some(shape);
  for (Index i = 0; i < some.size(); ++i) some.write()[i] = static_cast<double>(i % 3) / 2;
  for (const bool is_weighted : {false, true}) {
    SCOPED_TRACE(is_weighted ? "with weights" : "without weights");
    const Like<double> weights = is_weighted ? Like<double>(some) : Like<double>();
    Tape tape;
    const Tensor<double> values = loss(tape, Reduction::none, weights).value();
    ASSERT_EQ(values.shape(), shape);
    double sum = 0, total = 0;
    for (Index i = 0; i < some.size(); ++i) {
      const double weight = is_weighted ? some[i] : 1, expected = weight * each[static_cast<std::size_t>(i)];
      EXPECT_NEAR(values[i], expected, 1e-13 * (1 + std::abs(expected))) << i;
      sum += values[i];
      total += weight;
    }
    const auto all = loss(tape, Reduction::sum, weights), mean = loss(tape, Reduction::mean, weights);
    ASSERT_EQ(all.shape(), Shape{});
    ASSERT_EQ(mean.shape(), Shape{});
    EXPECT_NEAR(all.item(), sum, 1e-13 * sum);
    EXPECT_NEAR(mean.item(), sum / total, 1e-13 * sum / total);
    EXPECT_EQ(loss(tape, Reduction::mean, Tensor<double>(shape, 0.0)).item(), 0);
  }
}

TEST(MeanSquaredError, FollowsItsDefinition) {
  const Shape shape{3, 7};
  const auto x = random_tensor<double>(shape, 1), target = random_tensor<double>(shape, 2);
  std::vector<double> each;
  for (Index i = 0; i < x.size(); ++i) each.push_back(std::pow(x[i] - target[i], 2));
  expect_reductions(each, shape, [&](Tape& tape, Reduction reduction, const Like<double>& weights) {
    return mean_squared_error(tape.input(x), target, {.reduction = reduction}, weights);
  });
}

TEST(MeanSquaredError, OfManyElementsIsExact) {  // summed one after the other they would lose digits
  const auto x = random_tensor<float>({300'000}, 1);
  double expected = 0;
  for (Index i = 0; i < x.size(); ++i) expected += std::pow(static_cast<double>(x[i] - 0.5F), 2) / 300'000;
  Tape tape;
  EXPECT_NEAR(mean_squared_error(tape.input(x), Tensor<float>({300'000}, 0.5F)).item(), expected, 3e-7 * expected);
}

TEST(BinaryCrossEntropy, FollowsItsDefinition) {
  const Shape shape{5, 9};
  const auto x = random_tensor<double>(shape, 1), target = shares<double>(shape);
  for (const double pos_weight : {1.0, 0.0, 3.5}) {
    std::vector<double> each;
    for (Index i = 0; i < x.size(); ++i) {
      const double p = 1 / (1 + std::exp(-x[i]));
      each.push_back(-pos_weight * target[i] * std::log(p) - (1 - target[i]) * std::log(1 - p));
    }
    expect_reductions(each, shape, [&](Tape& tape, Reduction reduction, const Like<double>& weights) {
      return binary_cross_entropy(tape.input(x), target, {pos_weight, reduction}, weights);
    });
  }
}

// log(1 + e^x) is x for a large x and e^x for a small one; an infinite logit that is right costs nothing.
TEST(BinaryCrossEntropy, IsExactHoweverLargeLogitsAre) {
  for (const float x : {0.0F, 1e-30F, 20.0F, 88.0F, 1e6F, 1e9F, most, infinity})
    for (const float target : {0.0F, 1.0F})
      for (const float sign : {-1.0F, 1.0F}) {
        SCOPED_TRACE(testing::Message() << sign * x << " for " << target);
        Tape tape;
        const auto logits = tape.input(Tensor<float>({1}, sign * x), {.wants_gradient = true});
        const auto loss = binary_cross_entropy(logits, Tensor<float>({1}, target));
        const float value = loss.item();
        const bool is_right = x > 0 && (sign > 0) == (target > 0);
        const double small = std::exp(-double{x}), expected = std::log1p(small) + (is_right ? 0 : double{x});
        if (expected < double{most})
          EXPECT_NEAR(value, expected, 2e-7 * expected + 1e-37);
        else
          EXPECT_EQ(value, x);
        tape.backward(loss);
        const double slope = (is_right ? small : 1) / (1 + small) * (target > 0 ? -1 : 1);
        EXPECT_NEAR(tape.grad(logits)[0], x == 0 ? (target > 0 ? -0.5 : 0.5) : slope, 2e-7 * std::abs(slope) + 1e-37);
      }
}

TEST(BinaryCrossEntropy, RefusesTargetsThatAreNoProbabilities) {
  Tape tape;
  const auto logits = tape.input(Tensor<float>({2, 2}, 0.0F));
  const auto error = [&](float target, const BinaryCrossEntropyOptions& options = {}) {
    return error_of([&] { binary_cross_entropy(logits, Tensor<float>({2, 2}, {0, 1, target, 0}), options); });
  };
  EXPECT_EQ(error(2), "binary_cross_entropy: target 2 at [1, 0] is not in [0, 1]");
  EXPECT_EQ(error(-0.5F), "binary_cross_entropy: target -0.5 at [1, 0] is not in [0, 1]");
  EXPECT_EQ(error(nan), "binary_cross_entropy: target nan at [1, 0] is not in [0, 1]");
  EXPECT_EQ(error(0, {.pos_weight = -1}), "binary_cross_entropy: pos_weight -1 is not a number >= 0");
  EXPECT_EQ(binary_cross_entropy(logits, Tensor<float>({2, 2}, -1.0F), {}, Tensor<float>({2, 2}, 0.0F)).item(), 0);
}

/// The divergence of one row in double, and its derivatives, all without the factor temperature^2.
struct ExactDivergence {
  double value = 0;
  std::vector<double> by_student, by_teacher;
  template <class T>
  ExactDivergence(const T* student, const T* teacher, Index classes, double temperature) {
    const auto log_softmax = [=](const T* x) {
      double top = -INFINITY, sum = 0;
      for (Index j = 0; j < classes; ++j) top = std::max(top, static_cast<double>(x[j]));
      std::vector<double> logs;
      for (Index j = 0; j < classes; ++j) logs.push_back((static_cast<double>(x[j]) - top) / temperature);
      for (const double log : logs) sum += std::exp(log);
      for (double& log : logs) log -= std::log(sum);
      return logs;
    };
    const std::vector<double> log_q = log_softmax(student), log_p = log_softmax(teacher);
    for (std::size_t j = 0; j < log_p.size(); ++j)
      if (log_p[j] > -INFINITY) value += std::exp(log_p[j]) * (log_p[j] - log_q[j]);
    for (std::size_t j = 0; j < log_p.size(); ++j) {
      const double p = std::exp(log_p[j]);
      by_student.push_back((std::exp(log_q[j]) - p) / temperature);
      by_teacher.push_back(p > 0 ? p * (log_p[j] - log_q[j] - value) / temperature : 0);
    }
  }
};

TEST(KlDivergence, FollowsItsDefinition) {
  for (const Index classes : {1, 33, 5000})  // rows of many classes are summed in blocks
    for (const double temperature : {1.0, 0.5, 4.0}) {
      const auto student = random_tensor<double>({2, 3, classes}, 1),
                 teacher = random_tensor<double>({2, 3, classes}, 2);
      std::vector<double> each;
      for (Index i = 0; i < 6; ++i) {
        const ExactDivergence exact(student.data() + i * classes, teacher.data() + i * classes, classes, temperature);
        each.push_back(temperature * temperature * exact.value);
      }
      expect_reductions(each, {2, 3}, [&](Tape& tape, Reduction reduction, const Like<double>& weights) {
        return kl_divergence(tape.input(student), teacher, {temperature, reduction}, weights);
      });
    }
}

// Neither maximum swallows the logarithm of its sum, and classes that a mask rules out count for nothing.
TEST(KlDivergence, IsExactHoweverLargeLogitsAre) {
  constexpr Index classes = 21;
  for (const double shift : {0.0, 30.0, 1e2, 1e3, 1e4, 1e6, -1e9})
    for (const float masked : {0.0F, -infinity, -most})
      for (const double temperature : {1.0, 3.0}) {
        SCOPED_TRACE(testing::Message() << "near " << shift << ", masked by " << masked << " at " << temperature);
        Tensor<float> x = random_tensor<float>({3, classes}, 1), like = random_tensor<float>({3, classes}, 2);
        for (Index i = 0; i < x.size(); ++i) {
          const bool is_masked = masked != 0 && i % 5 == 0;
          x.write()[i] = is_masked ? masked : static_cast<float>(shift + 2 * double{x[i]});
          like.write()[i] = is_masked ? masked : static_cast<float>(2 * double{like[i]} - shift);
        }
        Tape tape;
        const auto student = tape.input(x, {.wants_gradient = true}),
                   teacher = tape.input(like, {.wants_gradient = true});
        const auto loss = kl_divergence(student, teacher, {.temperature = temperature});
        const float value = loss.item();
        tape.backward(loss);
        const double square = temperature * temperature;
        double expected = 0;
        for (Index i = 0; i < 3; ++i) {
          const ExactDivergence exact(x.data() + i * classes, like.data() + i * classes, classes, temperature);
          expected += square * exact.value / 3;
          for (Index j = 0; j < classes; ++j) {
            const auto at = static_cast<std::size_t>(j);
            ASSERT_NEAR(tape.grad(student)[i * classes + j], square * exact.by_student[at] / 3, 5e-7);
            ASSERT_NEAR(tape.grad(teacher)[i * classes + j], square * exact.by_teacher[at] / 3, 2e-6);
          }
        }
        EXPECT_NEAR(value, expected, 2e-6 * expected);
      }
}

// A difference of logarithms of about 5 would leave no digit of a divergence of 1e-7; nor may it be below 0.
TEST(KlDivergence, OfAStudentNearItsTeacherIsExact) {
  constexpr Index classes = 200;
  for (const float distance : {0.1F, 0.01F, 1e-3F, 0.0F}) {
    const auto like = random_tensor<float>({4, classes}, 1), noise = random_tensor<float>({4, classes}, 2);
    Tensor<float> x = like.copy();
    for (Index i = 0; i < x.size(); ++i) x.write()[i] += distance * noise[i];
    Tape tape;
    const auto each = kl_divergence(tape.input(x), like, {.reduction = Reduction::none}).value();
    for (Index i = 0; i < 4; ++i) {
      const double exact = ExactDivergence(x.data() + i * classes, like.data() + i * classes, classes, 1).value;
      EXPECT_NEAR(each[i], exact, 1e-3 * exact) << "at " << distance;
      EXPECT_GE(each[i], 0);
    }
  }
}

TEST(KlDivergence, IsInfiniteWhereTheStudentRulesOutWhatTheTeacherDoes) {
  Tape tape;
  const auto student = tape.input(Tensor<float>({1, 3}, {0, -infinity, 1}));
  EXPECT_EQ(kl_divergence(student, Tensor<float>({1, 3}, {0, 0, 1})).item(), infinity);
  EXPECT_LT(kl_divergence(student, Tensor<float>({1, 3}, {0, -infinity, 1})).item(), 1e-12F);
}

TEST(KlDivergence, PassesNothingToATeacherThatIsConstant) {
  const auto x = random_tensor<float>({3, 5}, 1), like = random_tensor<float>({3, 5}, 2);
  std::vector<Tensor<float>> gradients;
  for (const bool is_tensor : {true, false}) {
    Tape tape;
    const auto student = tape.input(x, {.wants_gradient = true}), teacher = tape.input(like, {.wants_gradient = true});
    tape.backward(is_tensor ? kl_divergence(student, like) : kl_divergence(student, stop_gradient(teacher)));
    gradients.push_back(tape.grad(student).copy());
    for (Index i = 0; i < 15; ++i) EXPECT_EQ(tape.grad(teacher)[i], 0);
  }
  EXPECT_TRUE(same_bits(gradients[0], gradients[1]));
}

// Backward reads the logits and five numbers a row; there is one array as large, the gradient.
TEST(KlDivergence, HoldsNoProbabilities) {
  constexpr Index rows = 8, classes = 1000;
  Tape tape;
  const auto student = tape.input(random_tensor<float>({rows, classes}, 1), {.wants_gradient = true});
  const auto teacher = random_tensor<float>({rows, classes}, 2);
  tape.backward(kl_divergence(student, teacher, {.temperature = 2}));
  EXPECT_EQ(tape.stats().saved_bytes, sizeof(float) * rows * 5);
  EXPECT_LE(tape.stats().peak_bytes, sizeof(float) * rows * (classes + 5) + 4 * 64);
}

/// The three losses, of `a` and `b` of one shape.
template <class F>
void for_each_loss(F&& visit) {
  visit("mean_squared_error", [](const auto& a, const auto& b, Reduction r, const auto& weights) {
    return mean_squared_error(a, b, {r}, weights);
  });
  visit("binary_cross_entropy", [](const auto& a, const auto& b, Reduction r, const auto& weights) {
    return binary_cross_entropy(a, b, {2, r}, weights);
  });
  visit("kl_divergence", [](const auto& a, const auto& b, Reduction r, const auto& weights) {
    return kl_divergence(a, b, {2, r}, weights);
  });
}

TEST(Losses, OfNothingAreZero) {
  for_each_loss([](const char* name, const auto& loss) {
    SCOPED_TRACE(name);
    Tape tape;
    const auto x = tape.input(Tensor<float>({0, 5}), {.wants_gradient = true});
    const Like<float> none;
    const auto mean = loss(x, Tensor<float>({0, 5}), Reduction::mean, none);
    EXPECT_EQ(mean.item(), 0);
    EXPECT_EQ(loss(x, Tensor<float>({0, 5}), Reduction::sum, none).item(), 0);
    tape.backward(mean + sum(loss(x, Tensor<float>({0, 5}), Reduction::none, none)));
  });
}

// What weighs 0 may hold anything; weights get no gradient, and what they are constant in is that of no weight.
TEST(Losses, WhatDoesNotCountIsNotLookedAt) {
  for_each_loss([](const char* name, const auto& loss) {
    SCOPED_TRACE(name);
    const bool by_row = std::string(name) == "kl_divergence";
    for (const Reduction reduction : {Reduction::mean, Reduction::none}) {
      Tape tape;
      const auto x = tape.input(Tensor<float>({2, 2}, {1, -2, nan, infinity}), {.wants_gradient = true});
      const auto like = tape.input(Tensor<float>({2, 2}, {0, 1, infinity, nan}), {.wants_gradient = true});
      const auto weights = tape.input(by_row ? Tensor<float>({2}, {3, 0}) : Tensor<float>({2, 2}, {3, 3, 0, 0}),
                                      {.wants_gradient = true});
      const auto value = sum(loss(x, like, reduction, weights));
      EXPECT_GT(value.item(), 0.1F);
      EXPECT_LT(value.item(), 100);
      tape.backward(value);
      for (const auto& each : {x, like}) {
        EXPECT_NE(tape.grad(each)[0], 0);
        EXPECT_TRUE(std::isfinite(tape.grad(each)[0]));
        for (Index i = 2; i < 4; ++i) EXPECT_EQ(tape.grad(each)[i], 0);
      }
      for (Index i = 0; i < tape.grad(weights).size(); ++i) EXPECT_EQ(tape.grad(weights)[i], 0);
    }
  });
}

// In bfloat16 they compute in float: on the same numbers, values are equal and gradients a rounding away.
TEST(Losses, OfBfloat16AreThoseOfFloat) {
  for_each_loss([](const char* name, const auto& loss) {
    SCOPED_TRACE(name);
    const Shape shape{5, 700};
    const auto run = [&]<class T>(T) {
      const auto as = [&](const Tensor<float>& from) {
        Tensor<T> x(shape);
        for (Index i = 0; i < x.size(); ++i)
          x.write()[i] = static_cast<T>(static_cast<float>(static_cast<bfloat16>(from[i])));
        return x;
      };
      Tape tape;
      const auto a = tape.input(as(random_tensor<float>(shape, 1)), {.wants_gradient = true});
      const auto b = tape.input(as(shares<float>(shape)), {.wants_gradient = true});
      const auto value = loss(a, b, Reduction::sum, Like<float>());
      std::vector<float> all{value.item()};
      tape.backward(value);
      for (const auto& each : {a, b})
        for (Index i = 0; i < a.shape().size(); ++i) all.push_back(static_cast<float>(tape.grad(each)[i]));
      return all;
    };
    const std::vector<float> exact = run(float{}), rounded = run(bfloat16{});
    EXPECT_EQ(rounded[0], exact[0]);
    for (std::size_t i = 1; i < exact.size(); ++i)
      ASSERT_NEAR(rounded[i], exact[i], 0x1p-8F * std::abs(exact[i]) + 1e-9F) << i;
  });
}

TEST(Losses, AreTheSameForAnyNumberOfThreads) {
  for_each_loss([](const char* name, const auto& loss) {
    SCOPED_TRACE(name);
    const auto run = [&](int threads) {
      const int before = omp_get_max_threads();
      omp_set_num_threads(threads);
      Tape tape;
      const auto x = tape.input(random_tensor<float>({100, 700}, 1), {.wants_gradient = true});
      const auto value = loss(x, shares<float>({100, 700}), Reduction::mean, Like<float>());
      const float result = value.item();
      tape.backward(value);
      omp_set_num_threads(before);
      return std::pair(result, tape.grad(x).copy());
    };
    const auto one = run(1);
    for (const int threads : {2, 3}) {
      const auto many = run(threads);
      EXPECT_EQ(many.first, one.first);
      EXPECT_TRUE(same_bits(many.second, one.second));
    }
  });
}

TEST(Losses, RefuseWhatDoesNotFit) {
  Tape tape;
  const auto x = tape.input(Tensor<float>({2, 3}, 0.0F));
  const Tensor<float> column({3}, 0.0F), like({2, 3}, 0.0F);
  EXPECT_EQ(error_of([&] { mean_squared_error(x, column); }),
            "mean_squared_error: target has shape [3], prediction [2, 3]: they must be equal");
  EXPECT_EQ(error_of([&] { mean_squared_error(x, like, {}, column); }),
            "mean_squared_error: weights have shape [3], prediction [2, 3]: they must be equal");
  EXPECT_EQ(error_of([&] { binary_cross_entropy(x, column); }),
            "binary_cross_entropy: target has shape [3], logits [2, 3]: they must be equal");
  EXPECT_EQ(error_of([&] { kl_divergence(x, column); }),
            "kl_divergence: teacher logits have shape [3], student logits [2, 3]: they must be equal");
  EXPECT_EQ(error_of([&] { kl_divergence(x, like, {}, column); }),
            "kl_divergence: weights have shape [3], logits of shape [2, 3] need [2]");
  EXPECT_EQ(error_of([&] { kl_divergence(x, like, {.temperature = 0}); }),
            "kl_divergence: temperature 0 is not a number > 0");
  EXPECT_EQ(error_of([&] { kl_divergence(sum(x), Tensor<float>({}, 0.0F)); }),
            "kl_divergence: student logits are a number, a last axis of classes is needed");
}

}  // namespace
