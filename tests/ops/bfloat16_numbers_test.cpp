// Numbers in expressions over bfloat16: 1.0 / 3 was first rounded to bfloat16, which biased every product by 0.2 %.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <ops/try_op.hpp>
#include <remat/core/eigen.hpp>
#include <remat/ops/arithmetic.hpp>
#include <remat/ops/reduce.hpp>

namespace {

using namespace remat;

constexpr Index count = 500;
constexpr double third = 1.0 / 3;
constexpr auto n = static_cast<float>(third);

Tensor<bfloat16> operands() {
  Tensor<bfloat16> x({count / 5, 5});
  for (Index i = 0; i < count; ++i)
    x.write()[i] = bfloat16((i % 2 == 0 ? 1.0F : -1.0F) * (0.1F + 0.013F * static_cast<float>(i)));
  return x;
}

/// The value of f(x), and the gradient of x where that of each element of f(x) is 1, are `value(x)` and `slope(x)`,
/// each computed in float and rounded once.
template <class F, class Value, class Slope>
void expect_rounded_once(const char* what, F&& f, Value&& value, Slope&& slope) {
  const Tensor<bfloat16> x = operands();
  Tape tape;
  const Var<bfloat16> in = tape.input(x, {.wants_gradient = true});
  const Var<bfloat16> y = f(in);
  EXPECT_EQ(tape.stats().ops_recorded, 1) << what;
  EXPECT_EQ(y.shape(), x.shape()) << what;
  const Tensor<bfloat16> values = y.value();
  tape.backward(sum(y));
  const Tensor<bfloat16> gradient = tape.grad(in);
  for (Index i = 0; i < count; ++i) {
    const auto u = static_cast<float>(x[i]);
    ASSERT_EQ(static_cast<float>(values[i]), static_cast<float>(bfloat16(value(u)))) << what << " of " << u;
    ASSERT_EQ(static_cast<float>(gradient[i]), static_cast<float>(bfloat16(slope(u)))) << what << "' at " << u;
  }
}

TEST(Bfloat16Numbers, AreRoundedWithTheResultOnly) {
  const auto one = [](float) { return 1.0F; };
  const auto constant = [](float c) { return [c](float) { return c; }; };
  using V = const Var<bfloat16>&;
  expect_rounded_once(
      "x * n", [](V x) { return x * third; }, [](float x) { return x * n; }, constant(n));
  expect_rounded_once(
      "n * x", [](V x) { return n * x; }, [](float x) { return n * x; }, constant(n));
  expect_rounded_once(
      "x + n", [](V x) { return x + third; }, [](float x) { return x + n; }, one);
  expect_rounded_once(
      "n + x", [](V x) { return third + x; }, [](float x) { return n + x; }, one);
  expect_rounded_once(
      "x - n", [](V x) { return x - third; }, [](float x) { return x - n; }, one);
  expect_rounded_once(
      "n - x", [](V x) { return third - x; }, [](float x) { return n - x; }, constant(-1.0F));
  expect_rounded_once(
      "x / n", [](V x) { return x / third; }, [](float x) { return x / n; }, constant(1.0F / n));
  expect_rounded_once(
      "n / x", [](V x) { return third / x; }, [](float x) { return n / x; }, [](float x) { return -(n / x) / x; });
  expect_rounded_once(
      "max(x, n)", [](V x) { return maximum(x, third); }, [](float x) { return std::max(x, n); },
      [](float x) { return x > n ? 1.0F : 0.0F; });
  expect_rounded_once(
      "max(n, x)", [](V x) { return maximum(third, x); }, [](float x) { return std::max(x, n); },
      [](float x) { return x > n ? 1.0F : 0.0F; });
  expect_rounded_once(
      "x * 3", [](V x) { return x * 3; }, [](float x) { return x * 3; }, constant(3.0F));
}

// A number may be stretched to a shape it does not have, the Var too: x of one element and a tensor are as before.
TEST(Bfloat16Numbers, FollowBroadcasting) {
  Tape tape;
  const auto x = tape.input(Tensor<bfloat16>(Shape{}, bfloat16(3.0F)), {.wants_gradient = true});
  const auto y = x * (1.0 / 3) + tape.input(Tensor<bfloat16>({2, 2}, bfloat16(1.0F)));
  EXPECT_EQ(y.shape(), (Shape{2, 2}));
  EXPECT_EQ(static_cast<float>(y.value()[3]), 2.0F);
  tape.backward(sum(y));
  EXPECT_EQ(static_cast<float>(tape.grad(x).item()), static_cast<float>(bfloat16(4.0F / 3)));
}

// The mean error over many values is that of rounding to nearest, 0, instead of that of the rounded number.
TEST(Bfloat16Numbers, AreNotBiased) {
  const Tensor<bfloat16> x = operands();
  Tape tape;
  const Tensor<bfloat16> y = (tape.input(x) * (1.0 / 3)).value();
  double error = 0;
  for (Index i = 0; i < count; ++i) error += static_cast<double>(y[i]) / (static_cast<double>(x[i]) / 3) - 1;
  EXPECT_LT(std::fabs(error / count), 3e-4);
}

TEST(Bfloat16Numbers, OfFloatAndDoubleAreOfThatType) {
  const auto check = []<class T>(T) {
    Tape tape;
    const auto x = remat_test::random_tensor<T>({33}, 1);
    const auto y = (tape.input(x) * (1.0 / 3)).value(), z = (0.1 - tape.input(x)).value();
    for (Index i = 0; i < 33; ++i) EXPECT_EQ(y[i], x[i] * static_cast<T>(1.0 / 3));
    for (Index i = 0; i < 33; ++i) EXPECT_EQ(z[i], static_cast<T>(0.1) - x[i]);
  };
  check(1.0F);
  check(1.0);
}

}  // namespace
