// Comparisons, the choices made by them, casts to and from integers, and one-hot rows: values that no difference tells.
#include <gtest/gtest.h>

#include <cmath>
#include <core/expect_error.hpp>
#include <cstdint>
#include <limits>
#include <remat/core/eigen.hpp>
#include <remat/ops/arithmetic.hpp>
#include <remat/ops/cast.hpp>
#include <remat/ops/compare.hpp>
#include <remat/ops/one_hot.hpp>
#include <remat/ops/reduce.hpp>
#include <remat/ops/where.hpp>
#include <remat/params/registry.hpp>
#include <vector>

namespace {

using namespace remat;
using remat_test::expect_error;

constexpr double inf = std::numeric_limits<double>::infinity(), nan = std::numeric_limits<double>::quiet_NaN();

template <class T>
Tensor<T> tensor(const Shape& shape, const std::vector<double>& values) {
  std::vector<T> typed;
  for (const double value : values) typed.push_back(static_cast<T>(value));
  return Tensor<T>(shape, std::span<const T>(typed));
}
template <class T>
std::vector<double> list(const Tensor<T>& x) {
  std::vector<double> values;
  for (Index i = 0; i < x.size(); ++i) values.push_back(static_cast<double>(x[i]));
  return values;
}
template <class T>
std::vector<double> list(const Var<T>& x) {
  return list(x.value());
}
using List = std::vector<double>;

template <class T>
void expect_comparisons() {
  Tape tape;
  const auto a = tape.input(tensor<T>({3}, {1, 2, 3})), b = tape.input(tensor<T>({2, 1}, {2, 3}));
  EXPECT_EQ(equal(a, b).shape(), (Shape{2, 3}));
  EXPECT_EQ(list(equal(a, b)), (List{0, 1, 0, 0, 0, 1}));
  EXPECT_EQ(list(not_equal(a, b)), (List{1, 0, 1, 1, 1, 0}));
  EXPECT_EQ(list(less(a, b)), (List{1, 0, 0, 1, 1, 0}));
  EXPECT_EQ(list(less_equal(a, b)), (List{1, 1, 0, 1, 1, 1}));
  EXPECT_EQ(list(greater(a, b)), (List{0, 0, 1, 0, 0, 0}));
  EXPECT_EQ(list(greater_equal(a, b)), (List{0, 1, 1, 0, 0, 1}));
  EXPECT_EQ(list(less(a, 2)), (List{1, 0, 0}));
  EXPECT_EQ(list(less(2, a)), (List{0, 0, 1}));
  EXPECT_EQ(list(greater(a, 1.5)), (List{0, 1, 1}));
  EXPECT_EQ(list(greater(a, tensor<T>({3}, {3, 2, 1}))), (List{0, 0, 1}));
}

TEST(Compare, EveryElementTypeBroadcasts) {
  expect_comparisons<float>();
  expect_comparisons<double>();
  expect_comparisons<bfloat16>();
  expect_comparisons<std::int32_t>();
  expect_comparisons<std::int64_t>();
  expect_comparisons<std::uint8_t>();
  expect_comparisons<std::int8_t>();
}

TEST(Compare, NaNIsUnequalAndUnordered) {
  Tape tape;
  const auto x = tape.input(tensor<float>({3}, {nan, inf, 1}));
  EXPECT_EQ(list(equal(x, x)), (List{0, 1, 1}));
  EXPECT_EQ(list(not_equal(x, x)), (List{1, 0, 0}));
  EXPECT_EQ(list(less(x, 2)), (List{0, 0, 1}));
  EXPECT_EQ(list(less_equal(x, x)), (List{0, 1, 1}));
  EXPECT_EQ(list(greater(x, 2)), (List{0, 1, 0}));
  EXPECT_EQ(list(greater_equal(x, nan)), (List{0, 0, 0}));
}

// A number beside floats is rounded to their type, beside integers it is not cut to one.
TEST(Compare, NumbersAreWhatTheUserMeans) {
  Tape tape;
  EXPECT_EQ(equal(tape.input(tensor<float>({}, {0.1})), 0.1).item(), 1);
  EXPECT_EQ(equal(tape.input(tensor<bfloat16>({}, {0.1F})), 0.1).item(), 1);
  const auto ids = tape.input(tensor<std::int32_t>({2}, {2, 3}));
  EXPECT_EQ(list(less(ids, 2.5)), (List{1, 0}));
  EXPECT_EQ(list(less(ids, std::int64_t{1} << 40)), (List{1, 1}));
  EXPECT_EQ(list(greater(tape.input(tensor<std::uint8_t>({1}, {200})), -1)), (List{1}));
}

TEST(Compare, ConditionsCombineByArithmetic) {
  Tape tape;
  const auto x = tape.input(tensor<float>({4}, {-2, -1, 1, 2}));
  const auto low = greater(x, -1.5), high = less(x, 1.5);
  EXPECT_EQ(list(low * high), (List{0, 1, 1, 0}));
  EXPECT_EQ(list(maximum(1 - low, 1 - high)), (List{1, 0, 0, 1}));
  EXPECT_EQ(list(cast<float>(low)), (List{0, 1, 1, 1}));
}

// What only a comparison reads keeps nothing for backward, and a parameter may be compared.
TEST(Compare, HasNoGradient) {
  ParameterRegistry registry;
  const auto w = (registry / "test").parameter<float>("w", {3}, init::ones());
  Tape tape;
  const auto x = tape.input(tensor<float>({3}, {1, 2, 3}), {.wants_gradient = true});
  const auto above = greater(x * 2, w);
  EXPECT_EQ(list(above), (List{1, 1, 1}));
  tape.backward(sum(where(above, x, 0) * 5));
  EXPECT_EQ(list(tape.grad(x)), (List{5, 5, 5}));
  EXPECT_FALSE(w.has_grad());
}

TEST(Compare, ShapesThatDoNotBroadcastAreAnError) {
  Tape tape;
  const auto x = tape.input(Tensor<float>({2}, 1.0F));
  expect_error({"less_equal", "[2]", "[3]"}, [&] { less_equal(x, Tensor<float>({3}, 1.0F)); });
}

TEST(Where, StretchesAllThree) {
  Tape tape;
  const auto rows = tape.input(tensor<std::int32_t>({2, 1}, {1, 0}));
  const auto a = tape.input(tensor<float>({3}, {1, 2, 3}), {.wants_gradient = true});
  const auto b = tape.input(tensor<float>({}, {9}), {.wants_gradient = true});
  const auto y = where(rows, a, b);
  EXPECT_EQ(y.shape(), (Shape{2, 3}));
  EXPECT_EQ(list(y), (List{1, 2, 3, 9, 9, 9}));
  const auto z = where(rows, b, a);
  EXPECT_EQ(list(z), (List{9, 9, 9, 1, 2, 3}));
  tape.backward(sum(y * tensor<float>({2, 3}, {1, 10, 100, 1000, 10000, 100000})));
  EXPECT_EQ(list(tape.grad(a)), (List{1, 10, 100}));
  EXPECT_EQ(list(tape.grad(b)), (List{111000}));
}

TEST(Where, WhatIsNotChosenDoesNotMatter) {
  Tape tape;
  const auto mask = tensor<std::uint8_t>({4}, {1, 0, 1, 0});
  const auto a = tape.input(tensor<float>({4}, {1, nan, 3, inf}), {.wants_gradient = true});
  const auto b = tape.input(tensor<float>({4}, {-inf, 2, nan, 4}), {.wants_gradient = true});
  const auto y = where(mask, a, b);
  EXPECT_EQ(list(y), (List{1, 2, 3, 4}));
  // The gradients of elements 1 and 2 are infinite and NaN.
  tape.backward(sum(y * tensor<float>({4}, {1, inf, nan, 5})));
  const Tensor<float> da = tape.grad(a), db = tape.grad(b);
  EXPECT_EQ(da[0], 1);
  EXPECT_EQ(da[1], 0);
  EXPECT_TRUE(std::isnan(da[2]));
  EXPECT_EQ(da[3], 0);
  EXPECT_EQ(db[0], 0);
  EXPECT_EQ(db[1], static_cast<float>(inf));
  EXPECT_EQ(db[2], 0);
  EXPECT_EQ(db[3], 5);
}

TEST(Where, TakesIntegersAndParameters) {
  ParameterRegistry registry;
  const auto w = (registry / "test").parameter<float>("w", {2}, init::ones());
  Tape tape;
  const auto ids = tape.input(tensor<std::int32_t>({2}, {7, -1}));
  EXPECT_EQ(list(where(less(ids, 0), 0, ids)), (List{7, 0}));
  const auto x = tape.input(tensor<float>({2}, {3, 4}));
  tape.backward(sum(where(less(ids, 0), w, x)));
  EXPECT_EQ(list(w.grad()), (List{0, 1}));
}

TEST(MaskedFill, FillsWhereTheMaskIsSet) {
  Tape tape;
  const auto causal = tensor<std::uint8_t>({2, 2}, {0, 1, 0, 0});
  const auto scores = tape.input(tensor<float>({2, 2, 2}, {1, 2, 3, 4, 5, 6, 7, 8}), {.wants_gradient = true});
  const auto y = masked_fill(scores, causal, -inf);
  EXPECT_EQ(list(y), (List{1, -inf, 3, 4, 5, -inf, 7, 8}));
  EXPECT_EQ(list(masked_fill(scores, greater(scores, 2.5), 0)), (List{1, 2, 0, 0, 0, 0, 0, 0}));
  const auto second = tensor<std::uint8_t>({2, 1}, {0, 1});  // rows of a tensor, and a number for each
  EXPECT_EQ(list(masked_fill(scores, second, 0)), (List{1, 2, 0, 0, 5, 6, 0, 0}));
  tape.backward(sum(masked_fill(y, causal, 0) * 2));
  EXPECT_EQ(list(tape.grad(scores)), (List{2, 0, 2, 2, 2, 0, 2, 2}));
}

TEST(MaskedFill, DoesNotStretchItsTensor) {
  Tape tape;
  const auto x = tape.input(Tensor<float>({3}, 1.0F));
  expect_error({"masked_fill", "[2, 3]", "[3]"}, [&] { masked_fill(x, Tensor<std::uint8_t>({2, 3}, 1), 0); });
  expect_error({"masked_fill", "[4]", "[3]"}, [&] { masked_fill(x, Tensor<std::uint8_t>({4}, 1), 0); });
}

TEST(Cast, GoesBetweenAllTypes) {
  Tape tape;
  const auto all = [&]<class T>(const Var<T>& x, const List& expected) {
    EXPECT_EQ(list(cast<float>(x)), expected);
    EXPECT_EQ(list(cast<double>(x)), expected);
    EXPECT_EQ(list(cast<bfloat16>(x)), expected);
    EXPECT_EQ(list(cast<std::int8_t>(x)), expected);
    EXPECT_EQ(list(cast<std::uint8_t>(x)), expected);
    EXPECT_EQ(list(cast<std::int32_t>(x)), expected);
    EXPECT_EQ(list(cast<std::int64_t>(x)), expected);
  };
  const List values{0, 1, 100};
  all(tape.input(tensor<float>({3}, values)), values);
  all(tape.input(tensor<double>({3}, values)), values);
  all(tape.input(tensor<bfloat16>({3}, {0, 1, 100})), values);
  all(tape.input(tensor<std::int8_t>({3}, values)), values);
  all(tape.input(tensor<std::uint8_t>({3}, values)), values);
  all(tape.input(tensor<std::int32_t>({3}, values)), values);
  all(tape.input(tensor<std::int64_t>({3}, values)), values);
}

TEST(Cast, ToIntegersLosesFractionsAndStaysInRange) {
  Tape tape;
  const List values{-1.9, 1.9, -0.5, nan, inf, -inf, 3e9, -3e9};
  const double least = std::numeric_limits<std::int32_t>::min(), most = std::numeric_limits<std::int32_t>::max();
  EXPECT_EQ(list(cast<std::int32_t>(tape.input(tensor<float>({8}, values)))),
            (List{-1, 1, 0, 0, most, least, most, least}));
  EXPECT_EQ(list(cast<std::int32_t>(tape.input(tensor<double>({8}, values)))),
            (List{-1, 1, 0, 0, most, least, most, least}));
  EXPECT_EQ(list(cast<std::uint8_t>(tape.input(tensor<float>({4}, {255.5, 256, -0.5, -7})))), (List{255, 255, 0, 0}));
  const auto wide = cast<std::int64_t>(tape.input(tensor<double>({3}, {1e19, -1e19, 0x1p62})));
  EXPECT_EQ(wide.value()[0], std::numeric_limits<std::int64_t>::max());
  EXPECT_EQ(wide.value()[1], std::numeric_limits<std::int64_t>::min());
  EXPECT_EQ(wide.value()[2], std::int64_t{1} << 62);
  EXPECT_EQ(list(cast<std::int8_t>(tape.input(tensor<std::int32_t>({2}, {200, -129})))), (List{-56, 127}));
}

TEST(Cast, GradientsComeBackThroughFloatingTypesAlone) {
  Tape tape;
  const auto x = tape.input(tensor<float>({2}, {1.5, -2.5}), {.wants_gradient = true});
  const auto whole = cast<float>(cast<std::int32_t>(x));
  EXPECT_EQ(list(whole), (List{1, -2}));
  tape.backward(sum(cast<double>(x) * 3 + cast<double>(whole * x)));
  EXPECT_EQ(list(tape.grad(x)), (List{4, 1}));
}

TEST(OneHot, HasAOneAtEachId) {
  Tape tape;
  const auto ids = tape.input(tensor<std::int32_t>({2, 2}, {2, 0, 1, 1}));
  const auto y = one_hot<float>(ids, 3);
  EXPECT_EQ(y.shape(), (Shape{2, 2, 3}));
  EXPECT_EQ(list(y), (List{0, 0, 1, 1, 0, 0, 0, 1, 0, 0, 1, 0}));
  EXPECT_EQ(list(one_hot<bfloat16>(ids, 3)), list(y));
  EXPECT_EQ(list(one_hot<std::int32_t>(ids, 3)), list(y));
}

TEST(OneHot, RefusesIdsThatAreNoClasses) {
  Tape tape;
  const auto ids = tape.input(tensor<std::int32_t>({2, 2}, {2, 0, 1, 7}));
  expect_error({"one_hot", "id 7", "[1, 1]", "3 classes"}, [&] { one_hot<float>(ids, 3); });
  expect_error({"id -1"}, [&] { one_hot<float>(tape.input(tensor<std::int32_t>({1}, {-1})), 3); });
  expect_error({"one_hot", "0 classes"}, [&] { one_hot<float>(ids, 0); });
}

}  // namespace
