// Greatest and least elements, their places, and moments over axes: what no difference of values shows.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <ops/try_op.hpp>
#include <remat/core/eigen.hpp>
#include <remat/ops/argmax.hpp>
#include <remat/ops/arithmetic.hpp>
#include <remat/ops/extremum.hpp>
#include <remat/ops/logsumexp.hpp>
#include <remat/ops/reduce.hpp>
#include <remat/ops/top_k.hpp>
#include <remat/ops/variance.hpp>
#include <vector>

namespace {

using namespace remat;
using remat_test::error_of;

constexpr float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();

template <class T>
void expect_elements(const Tensor<T>& found, const Shape& shape, const std::vector<double>& expected) {
  EXPECT_EQ(found.shape(), shape);
  ASSERT_EQ(found.size(), static_cast<Index>(expected.size()));
  for (Index i = 0; i < found.size(); ++i) {
    const auto value = static_cast<double>(found.span()[static_cast<std::size_t>(i)]);
    const double wanted = expected[static_cast<std::size_t>(i)];
    EXPECT_TRUE(value == wanted || (std::isnan(value) && std::isnan(wanted)))
        << i << ": " << value << ", not " << wanted;
  }
}

TEST(Extremum, EqualElementsShareTheGradient) {
  for (const bool greatest : {true, false}) {
    Tape tape;
    const float s = greatest ? 1 : -1;
    const auto x = tape.input(Tensor<float>({2, 4}, {s * 1, s * 3, s * 3, s * 3, s * -inf, s * 2, s * 0, s * 2}),
                              {.wants_gradient = true});
    const auto y = greatest ? max(x, {-1}) : min(x, {-1});
    expect_elements(y.value(), {2}, {s * 3, s * 2});
    tape.backward(sum(y) * 6.0F);
    expect_elements(tape.grad(x), {2, 4}, {0, 2, 2, 2, 0, 3, 0, 3});
  }
}

TEST(Extremum, OfColumnsAndOfEverything) {
  Tape tape;
  const auto x = tape.input(Tensor<double>({2, 3}, {1, 5, -2, 4, 5, -3}), {.wants_gradient = true});
  const auto columns = max(x, {0}, true);
  expect_elements(columns.value(), {1, 3}, {4, 5, -2});
  expect_elements(min(x).value(), {}, {-3});
  expect_elements(max(x).value(), {}, {5});
  tape.backward(sum(columns) + max(x) * 10.0);
  expect_elements(tape.grad(x), {2, 3}, {0, 5.5, 1, 1, 5.5, 0});
}

TEST(Extremum, OfMoreThanABlock) {
  std::vector<float> many(40000, -1);
  many[39999] = 7, many[20000] = -8;
  Tape tape;
  const auto x = tape.input(Tensor<float>({40000}, std::span<const float>(many)));
  EXPECT_EQ(max(x).item(), 7.0F);
  EXPECT_EQ(min(x).item(), -8.0F);
}

// Wherever in the row it is, whatever is beside it, forward and backward.
TEST(Extremum, NaNStaysNaN) {
  for (std::size_t place = 0; place < 40; ++place)
    for (const Shape& shape : {Shape{1, 40}, Shape{40, 1}, Shape{40}}) {
      std::vector<float> values(40, 1);
      values[0] = inf, values[39] = -inf, values[place] = nan;
      Tape tape;
      const auto x = tape.input(Tensor<float>(shape, std::span<const float>(values)), {.wants_gradient = true});
      const int axis = shape == Shape{1, 40} ? 1 : 0;
      EXPECT_TRUE(std::isnan(max(x, {axis}).item()));
      EXPECT_TRUE(std::isnan(min(x, {axis}).item()));
      EXPECT_EQ(argmax(x, axis).item(), static_cast<int>(place));
      EXPECT_EQ(argmin(x, axis).item(), static_cast<int>(place));
      tape.backward(max(x, {axis}).reshape({}));
      const Tensor<float> gradient = tape.grad(x);
      for (const float each : gradient.span()) EXPECT_TRUE(std::isnan(each));
    }
}

TEST(Extremum, RefusesToChooseFromNothing) {
  Tape tape;
  const auto x = tape.input(Tensor<float>(Shape{2, 0}));
  const std::string tail = ": x has shape [2, 0]: along an axis of length 0 there is no element to choose";
  EXPECT_EQ(error_of([&] { max(x, {1}); }), "max" + tail);
  EXPECT_EQ(error_of([&] { min(x); }), "min" + tail);
  EXPECT_EQ(error_of([&] { argmax(x, 1); }), "argmax" + tail);
  EXPECT_EQ(max(x, {0}).shape(), Shape{0});  // no results, nothing to choose for
  EXPECT_EQ(error_of([&] { max(x, {2}); }), "max: axes: axis 2 of a tensor with 2 axes");
  EXPECT_EQ(error_of([&] { argmin(x, -3); }), "argmin: axis: axis -3 of a tensor with 2 axes");
}

TEST(ArgExtremum, IsTheFirstOfEquals) {
  Tape tape;
  const auto x = tape.input(Tensor<float>({2, 2, 3}, {1, 3, 3, -1, -1, 5, /**/ 0, 0, 0, 2, 0, -2}));
  expect_elements(argmax(x, 2).value(), {2, 2}, {1, 2, 0, 0});
  expect_elements(argmin(x, -1).value(), {2, 2}, {0, 0, 0, 2});
  expect_elements(argmax(x, 1).value(), {2, 3}, {0, 0, 1, 1, 0, 0});
  expect_elements(argmin(x, 1, true).value(), {2, 1, 3}, {1, 1, 0, 0, 0, 1});
  expect_elements(argmax(x, 0, true).value(), {1, 2, 3}, {0, 0, 0, 1, 1, 0});
  expect_elements(argmax(x.reshape({-1}), 0).value(), {}, {5});
}

TEST(ArgExtremum, OfMoreColumnsThanAStrip) {
  std::vector<double> values(3 * 130);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<double>(i / 130 == i % 130 % 3);
  Tape tape;
  const Tensor<std::int32_t> found =
      argmax(tape.input(Tensor<double>({3, 130}, std::span<const double>(values))), 0).value();
  for (std::size_t j = 0; j < 130; ++j) EXPECT_EQ(found.span()[j], static_cast<int>(j % 3));
}

TEST(ArgExtremum, NoGradientFlowsThrough) {
  Tape tape;
  const auto x = tape.input(Tensor<float>({3}, {1, 3, 2}), {.wants_gradient = true});
  argmax(x, 0);
  tape.backward(sum(x));
  expect_elements(tape.grad(x), {3}, {1, 1, 1});
}

TEST(TopK, IsInDescendingOrderAndTiesByPlace) {
  Tape tape;
  const auto x =
      tape.input(Tensor<float>({2, 6}, {2, 7, 2, -1, 7, 2, /**/ -inf, 0, nan, inf, nan, 0}), {.wants_gradient = true});
  const auto top = top_k(x, 4);
  expect_elements(top.values.value(), {2, 4}, {7, 7, 2, 2, nan, nan, inf, 0});
  expect_elements(top.indices.value(), {2, 4}, {1, 4, 0, 2, 2, 4, 3, 1});
  tape.backward(remat_test::weigh(top.values));  // -1/2, -1/4, 0, 1/4, 1/2, 3/4, 1, -1/2
  expect_elements(tape.grad(x), {2, 6}, {0, -0.5, 0.25, 0, -0.25, 0, /**/ 0, -0.5, 0.5, 1, 0.75, 0});
}

TEST(TopK, OfAllIsASort) {
  constexpr Index d = 1001;
  std::vector<float> values;
  for (Index i = 0; i < d; ++i) values.push_back(static_cast<float>(i * 379 % d / 3));
  Tape tape;
  const auto top = top_k(tape.input(Tensor<float>({d}, std::span<const float>(values))), d);
  const Tensor<float> sorted = top.values.value();
  const Tensor<std::int32_t> places = top.indices.value();
  for (std::size_t i = 1; i < d; ++i) {
    EXPECT_TRUE(sorted.span()[i - 1] > sorted.span()[i] ||
                (sorted.span()[i - 1] == sorted.span()[i] && places.span()[i - 1] < places.span()[i]));
    EXPECT_EQ(sorted.span()[i], values[static_cast<std::size_t>(places.span()[i])]);
  }
}

TEST(TopK, RefusesMoreThanThereAre) {
  Tape tape;
  const auto x = tape.input(Tensor<float>({2, 5}, 1.0F));
  EXPECT_EQ(error_of([&] { top_k(x, 6); }), "top_k: k is 6, rows of x have 5 elements");
  EXPECT_EQ(error_of([&] { top_k(x, -1); }), "top_k: k is -1, rows of x have 5 elements");
  EXPECT_EQ(error_of([&] { top_k(sum(x), 1); }), "top_k: x is a number, a last axis to choose from is needed");
}

TEST(LogSumExp, OverflowsNowhere) {
  Tape tape;
  const auto x = tape.input(Tensor<float>({4, 2}, {1000, 1000, -1000, -1000, -inf, -inf, -inf, 5}));
  const Tensor<float> y = logsumexp(x, {1}).value();
  EXPECT_FLOAT_EQ(y.span()[0], 1000 + std::log(2.0F));
  EXPECT_FLOAT_EQ(y.span()[1], -1000 + std::log(2.0F));
  EXPECT_EQ(y.span()[2], -inf);
  EXPECT_EQ(y.span()[3], 5.0F);
  EXPECT_EQ(logsumexp(tape.input(Tensor<float>({2}, {inf, 1}))).item(), inf);
  EXPECT_TRUE(std::isnan(logsumexp(tape.input(Tensor<float>({2}, {inf, nan}))).item()));
  EXPECT_EQ(logsumexp(tape.input(Tensor<float>(Shape{0}))).item(), -inf);
}

// Beside 1e6 the logarithm of the sum is all but lost in the value; the gradient still sums to 1.
TEST(LogSumExp, GradientIsThatOfSoftmaxHoweverLargeXIs) {
  Tape tape;
  const auto x = tape.input(Tensor<float>({3}, {1e6F, 1e6F + 1, 1e6F + 2}), {.wants_gradient = true});
  tape.backward(logsumexp(x));
  const Tensor<float> gradient = tape.grad(x);
  const double exact[] = {0.09003057317038046, 0.24472847105479767, 0.6652409557748219};
  for (std::size_t i = 0; i < 3; ++i) EXPECT_NEAR(gradient.span()[i], exact[i], 1e-6);
}

TEST(Variance, IsDividedByNAndSubtractsTheMeanFirst) {
  Tape tape;
  const auto x = tape.input(Tensor<float>({2, 4}, {1, 2, 3, 4, 10001, 10002, 10003, 10004}), {.wants_gradient = true});
  const auto y = variance(x, {1}, true);
  expect_elements(y.value(), {2, 1}, {1.25, 1.25});
  expect_elements(variance(tape.input(Tensor<float>({1}, 3.0F))).value(), {}, {0});
  tape.backward(sum(y) * 2.0F);
  expect_elements(tape.grad(x), {2, 4}, {-1.5, -0.5, 0.5, 1.5, -1.5, -0.5, 0.5, 1.5});
}

// In bfloat16 itself the mean would be 100 or 101, and the variance far off.
TEST(Reductions, OfBfloat16AreComputedInFloat) {
  const auto b = [](double value) { return static_cast<bfloat16>(value); };
  Tape tape;
  const auto x = tape.input(Tensor<bfloat16>({4}, {b(100), b(100), b(101), b(101)}), {.wants_gradient = true});
  expect_elements(variance(x).value(), {}, {0.25});
  expect_elements(max(x).value(), {}, {101});
  expect_elements(top_k(x, 3).indices.value(), {3}, {2, 3, 0});
  expect_elements(argmin(x, 0).value(), {}, {0});
  EXPECT_NEAR(static_cast<double>(logsumexp(x).item()), 102.0, 0.5);
  tape.backward(logsumexp(x) + max(x) + sum(top_k(x, 1).values));
  const Tensor<bfloat16> gradient = tape.grad(x);
  const double low = 0.5 / (1 + std::exp(1.0)), high = 0.5 - low;
  const double exact[] = {low, low, high + 1.5, high + 0.5};
  for (std::size_t i = 0; i < 4; ++i) EXPECT_NEAR(static_cast<double>(gradient.span()[i]), exact[i], 0.01);
}

}  // namespace
