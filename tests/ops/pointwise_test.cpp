// Values and derivatives of element by element ops where differences see nothing: at kinks, ends, zeros and NaN.
#include <gtest/gtest.h>

#include <cmath>
#include <core/expect_error.hpp>
#include <limits>
#include <remat/core/eigen.hpp>
#include <remat/ops/arithmetic.hpp>
#include <remat/ops/clamp.hpp>
#include <remat/ops/pow.hpp>
#include <remat/ops/reduce.hpp>
#include <remat/ops/unary_activations.hpp>
#include <vector>

namespace {

using namespace remat;

constexpr double inf = std::numeric_limits<double>::infinity(), nan = std::numeric_limits<double>::quiet_NaN();

struct Case {
  std::vector<double> in;
  double value;
  std::vector<double> slopes;  // one of each operand
};

void expect_equal(double found, double expected, const char* what, const Case& each) {
  std::string at;
  for (const double x : each.in) at += " " + std::to_string(x);
  if (std::isnan(expected))
    EXPECT_TRUE(std::isnan(found)) << what << " at" << at << " is " << found;
  else if (std::isinf(expected))
    EXPECT_EQ(found, expected) << what << " at" << at;
  else
    EXPECT_NEAR(found, expected, 1e-6 * std::max(1.0, std::abs(expected))) << what << " at" << at;
}

template <class T, class F>
void expect_cases(F&& f, const std::vector<Case>& cases) {
  for (const Case& each : cases) {
    Tape tape;
    std::vector<Var<T>> x;
    for (const double value : each.in)
      x.push_back(tape.input(Tensor<T>(Shape{1}, static_cast<T>(value)), {.wants_gradient = true}));
    const Var<T> y = f(x);
    expect_equal(static_cast<double>(y.item()), each.value, "the value", each);
    tape.backward(y);
    for (std::size_t k = 0; k < x.size(); ++k)
      expect_equal(static_cast<double>(tape.grad(x[k]).item()), each.slopes[k], "a slope", each);
  }
}
template <class F>
void expect_cases_of_both(F&& f, const std::vector<Case>& cases) {
  expect_cases<float>(f, cases);
  expect_cases<double>(f, cases);
}

TEST(Pointwise, SigmoidAndSoftplusHaveTheirLimits) {
  expect_cases_of_both([](const auto& x) { return sigmoid(x[0]); }, {{{0}, 0.5, {0.25}},
                                                                     {{1000}, 1, {0}},
                                                                     {{-1000}, 0, {0}},
                                                                     {{inf}, 1, {0}},
                                                                     {{-inf}, 0, {0}},
                                                                     {{nan}, nan, {nan}}});
  expect_cases_of_both([](const auto& x) { return softplus(x[0]); }, {{{0}, std::log(2.0), {0.5}},
                                                                      {{1000}, 1000, {1}},
                                                                      {{-1000}, 0, {0}},
                                                                      {{inf}, inf, {1}},
                                                                      {{-inf}, 0, {0}},
                                                                      {{nan}, nan, {nan}}});
}

TEST(Pointwise, PowAtZeroIsAsInPyTorch) {
  const auto power = [](double exponent) { return [=](const auto& x) { return pow(x[0], exponent); }; };
  expect_cases_of_both(power(0), {{{0}, 1, {0}}, {{2}, 1, {0}}, {{inf}, 1, {0}}, {{nan}, 1, {0}}});
  expect_cases_of_both(power(0.5), {{{0}, 0, {inf}}, {{4}, 2, {0.25}}, {{-1}, nan, {nan}}});
  expect_cases_of_both(power(1), {{{0}, 0, {1}}, {{-3}, -3, {1}}});
  expect_cases_of_both(power(2), {{{0}, 0, {0}}, {{-3}, 9, {-6}}});
  expect_cases_of_both(power(3), {{{0}, 0, {0}}, {{-2}, -8, {12}}});
  expect_cases_of_both(power(4), {{{-2}, 16, {-32}}});
  expect_cases_of_both(power(-1), {{{0}, inf, {-inf}}, {{-2}, -0.5, {-0.25}}});
  expect_cases_of_both([](const auto& x) { return pow(x[0], x[1]); }, {{{0, 0}, 1, {0, 0}},
                                                                       {{0, 2}, 0, {0, 0}},
                                                                       {{0, 0.5}, 0, {inf, 0}},
                                                                       {{0, -1}, inf, {-inf, -inf}},
                                                                       {{2, 3}, 8, {12, 8 * std::log(2.0)}},
                                                                       {{2, 0}, 1, {0, std::log(2.0)}},
                                                                       {{-2, 3}, -8, {12, nan}}});
  expect_cases_of_both([](const auto& x) { return pow(2, x[0]); }, {{{3}, 8, {8 * std::log(2.0)}}});
}

TEST(Pointwise, MinimumSharesTiesAndKeepsNaN) {
  expect_cases_of_both([](const auto& x) { return minimum(x[0], x[1]); }, {{{1, 2}, 1, {1, 0}},
                                                                           {{2, 1}, 1, {0, 1}},
                                                                           {{3, 3}, 3, {0.5, 0.5}},
                                                                           {{-inf, 3}, -inf, {1, 0}},
                                                                           {{nan, 3}, nan, {0, 0}},
                                                                           {{3, nan}, nan, {0, 0}}});
  expect_cases_of_both([](const auto& x) { return minimum(x[0], 2); }, {{{1}, 1, {1}}, {{2}, 2, {0.5}}, {{3}, 2, {0}}});
  expect_cases_of_both([](const auto& x) { return minimum(2, x[0]); }, {{{1}, 1, {1}}, {{2}, 2, {0.5}}, {{3}, 2, {0}}});
}

TEST(Pointwise, ClampPassesTheGradientOnItsBounds) {
  expect_cases_of_both([](const auto& x) { return clamp(x[0], -1, 2); }, {{{-1}, -1, {1}},
                                                                          {{2}, 2, {1}},
                                                                          {{0}, 0, {1}},
                                                                          {{-1.5}, -1, {0}},
                                                                          {{2.5}, 2, {0}},
                                                                          {{inf}, 2, {0}},
                                                                          {{nan}, nan, {0}}});
  expect_cases_of_both([](const auto& x) { return clamp(x[0], 2, -1); }, {{{-3}, -1, {0}}, {{1}, -1, {0}}});
  expect_cases_of_both([](const auto& x) { return clamp(x[0], 0, inf); }, {{{1e30}, 1e30, {1}}, {{-1}, 0, {0}}});
  Tape tape;
  const auto x = tape.input(Tensor<float>({2}, 1.0F));
  remat_test::expect_error({"clamp", "nan"}, [&] { clamp(x, nan, 1); });
  // A bound that bfloat16 does not hold is rounded to one that it does, which then is within the bounds.
  const auto low = tape.input(Tensor<bfloat16>(Shape{1}, static_cast<bfloat16>(0.3F)), {.wants_gradient = true});
  const auto y = clamp(low, -1, 0.3);
  tape.backward(sum(y));
  EXPECT_EQ(static_cast<float>(tape.grad(low).item()), 1.0F);
}

}  // namespace
