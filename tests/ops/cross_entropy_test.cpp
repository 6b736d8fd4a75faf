#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>
#include <ops/try_op.hpp>
#include <remat/ops/cross_entropy.hpp>

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
  for (Index i = 0; i < 2000; ++i) targets[i] = static_cast<std::int32_t>(i % 65);
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
}

}  // namespace
