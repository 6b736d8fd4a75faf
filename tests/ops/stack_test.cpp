// stack, split, squeeze and unsqueeze: what lies where, what is a view, and what is refused.
#include <gtest/gtest.h>

#include <core/expect_error.hpp>
#include <cstdint>
#include <numeric>
#include <remat/core/eigen.hpp>
#include <remat/ops/reduce.hpp>
#include <remat/ops/stack.hpp>
#include <vector>

namespace {

using namespace remat;
using remat_test::expect_error;

template <class T>
Tensor<T> counting(const Shape& shape, int first = 0) {
  std::vector<T> values;
  for (Index i = 0; i < shape.size(); ++i) values.push_back(static_cast<T>(static_cast<float>(first + i)));
  return Tensor<T>(shape, std::span<const T>(values));
}
template <class T>
std::vector<double> list(const Var<T>& x) {
  const Tensor<T> value = x.value();
  std::vector<double> values;
  for (Index i = 0; i < value.size(); ++i) values.push_back(static_cast<double>(value[i]));
  return values;
}
using List = std::vector<double>;

template <class T>
void expect_stacks() {
  Tape tape;
  const auto a = tape.input(counting<T>({2, 3})), b = tape.input(counting<T>({2, 3}, 10));
  for (const int axis : {0, -3}) {
    EXPECT_EQ(stack({a, b}, axis).shape(), (Shape{2, 2, 3}));
    EXPECT_EQ(list(stack({a, b}, axis)), (List{0, 1, 2, 3, 4, 5, 10, 11, 12, 13, 14, 15}));
  }
  for (const int axis : {1, -2}) {
    EXPECT_EQ(stack({a, b}, axis).shape(), (Shape{2, 2, 3}));
    EXPECT_EQ(list(stack({a, b}, axis)), (List{0, 1, 2, 10, 11, 12, 3, 4, 5, 13, 14, 15}));
  }
  for (const int axis : {2, -1}) {
    EXPECT_EQ(stack({a, b}, axis).shape(), (Shape{2, 3, 2}));
    EXPECT_EQ(list(stack({a, b}, axis)), (List{0, 10, 1, 11, 2, 12, 3, 13, 4, 14, 5, 15}));
  }
  EXPECT_EQ(stack({sum(a), sum(b)}).shape(), (Shape{2}));
}

TEST(Stack, LaysOperandsAlongANewAxis) {
  expect_stacks<float>();
  expect_stacks<double>();
  expect_stacks<bfloat16>();
  expect_stacks<std::int32_t>();
}

TEST(Stack, RefusesWhatCannotBeStacked) {
  Tape tape;
  const auto x = tape.input(counting<float>({2, 3})), y = tape.input(counting<float>({3, 2}));
  expect_error({"stack", "at least one"}, [] { stack(std::vector<Var<float>>{}); });
  expect_error({"stack", "operand 1", "[3, 2]", "[2, 3]"}, [&] { stack({x, y}); });
  expect_error({"axis 3", "3 axes"}, [&] { stack({x, x}, 3); });
  expect_error({"axis -4"}, [&] { stack({x, x}, -4); });
}

TEST(Split, IsTheInverseOfConcat) {
  Tape tape;
  const auto x = tape.input(counting<float>({4, 6}));
  for (const int axis : {0, 1, -1, -2}) {
    EXPECT_EQ(list(concat(split(x, 2, axis), axis)), list(x)) << axis;
    EXPECT_EQ(list(concat(split(x, {1, 0, x.shape()[axis < 0 ? axis + 2 : axis] - 1}, axis), axis)), list(x)) << axis;
  }
  const auto thirds = split(x, 3, -1);
  ASSERT_EQ(thirds.size(), 3U);
  EXPECT_EQ(thirds[1].shape(), (Shape{4, 2}));
  EXPECT_EQ(list(thirds[1]), (List{2, 3, 8, 9, 14, 15, 20, 21}));
  const auto whole = split(x, {6}, 1);  // a list of one length, not a number of parts
  ASSERT_EQ(whole.size(), 1U);
  EXPECT_EQ(whole[0].shape(), x.shape());
  EXPECT_EQ(split(x, 2).at(1).shape(), (Shape{2, 6}));
}

TEST(Split, AlongTheFirstAxisIsNoOp) {
  Tape tape;
  const auto x = tape.input(counting<float>({4, 6}));
  for (const int axis : {0, -2}) split(x, {1, 3}, axis);
  EXPECT_EQ(tape.stats().ops_recorded, 0);
}

TEST(Split, RefusesLengthsThatAreNotTheAxis) {
  Tape tape;
  const auto x = tape.input(counting<float>({4, 6}));
  expect_error({"split", "axis 1", "[4, 6]", "6", "not divided by 4"}, [&] { split(x, 4, 1); });
  expect_error({"split", "0"}, [&] { split(x, 0, 1); });
  expect_error({"split", "5 elements", "has 6"}, [&] { split(x, {2, 3}, -1); });
  expect_error({"split", "-1"}, [&] { split(x, {7, -1}, 1); });
  expect_error({"split", "axis 2"}, [&] { split(x, 2, 2); });
}

TEST(Squeeze, AndUnsqueezeAreViews) {
  Tape tape;
  const auto x = tape.input(counting<float>({2, 3}), {.wants_gradient = true});
  EXPECT_EQ(unsqueeze(x, 0).shape(), (Shape{1, 2, 3}));
  EXPECT_EQ(unsqueeze(x, 1).shape(), (Shape{2, 1, 3}));
  EXPECT_EQ(unsqueeze(x, 2).shape(), (Shape{2, 3, 1}));
  EXPECT_EQ(unsqueeze(x, -1).shape(), (Shape{2, 3, 1}));
  EXPECT_EQ(unsqueeze(x, -3).shape(), (Shape{1, 2, 3}));
  const auto column = unsqueeze(x, 1);
  EXPECT_EQ(squeeze(column, 1).shape(), x.shape());
  EXPECT_EQ(squeeze(column, -2).shape(), x.shape());
  EXPECT_EQ(list(squeeze(column, 1)), list(x));
  EXPECT_EQ(tape.stats().ops_recorded, 0);
  tape.backward(sum(squeeze(column, 1)));
  EXPECT_EQ(tape.grad(x)[5], 1.0F);
}

TEST(Squeeze, RefusesOtherAxes) {
  Tape tape;
  const auto x = tape.input(counting<float>({2, 1}));
  expect_error({"squeeze", "axis 0", "[2, 1]", "length 2"}, [&] { squeeze(x, -2); });
  expect_error({"squeeze", "axis 2"}, [&] { squeeze(x, 2); });
  expect_error({"unsqueeze", "axis 3", "3 axes"}, [&] { unsqueeze(x, 3); });
  expect_error({"unsqueeze", "axis -4"}, [&] { unsqueeze(x, -4); });
}

}  // namespace
