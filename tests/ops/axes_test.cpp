// Wherever an op takes an axis, negative ones count from the end and those beyond are refused by name.
#include <gtest/gtest.h>

#include <numeric>
#include <remat/ops/blockwise.hpp>
#include <remat/ops/concat.hpp>
#include <remat/ops/reduce.hpp>
#include <remat/ops/slice.hpp>
#include <remat/ops/transpose.hpp>
#include <vector>

#include "core/expect_error.hpp"

namespace {

using namespace remat;
using remat_test::expect_error;

Tensor<float> counted(const Shape& shape) {
  std::vector<float> values(static_cast<std::size_t>(shape.size()));
  std::iota(values.begin(), values.end(), 0.0F);
  return Tensor<float>(shape, values);
}

TEST(Axes, NegativeOnesCountFromTheEndInEveryOp) {
  Tape tape;
  const auto x = tape.input(counted({2, 3, 4}));
  for (int axis = 0; axis < 3; ++axis) {
    const auto twice = [](const Var<float>& part, Index) { return concat({part}, 0); };
    EXPECT_TRUE(same_bits(concat({x, x}, axis - 3).value(), concat({x, x}, axis).value())) << axis;
    EXPECT_TRUE(same_bits(slice(x, axis - 3, 0, 1).value(), slice(x, axis, 0, 1).value())) << axis;
    EXPECT_TRUE(same_bits(sum(x, {axis - 3}).value(), sum(x, {axis}).value())) << axis;
    EXPECT_TRUE(same_bits(mean(x, {axis - 3}, true).value(), mean(x, {axis}, true).value())) << axis;
    EXPECT_TRUE(same_bits(blockwise(x, axis - 3, 1, policy::nothing, twice).value(), x.value())) << axis;
  }
  EXPECT_TRUE(same_bits(transpose(x, {-1, 0, -2}).value(), transpose(x, {2, 0, 1}).value()));
}

TEST(Axes, ThoseBeyondAreRefusedByName) {
  Tape tape;
  const auto x = tape.input(counted({2, 3}));
  const auto refuses = [](const char* op, int axis, auto&& use) {
    expect_error({op, "axis " + std::to_string(axis), "2 axes"}, use);
  };
  for (const int axis : {2, -3, 100}) {
    refuses("concat", axis, [&] { concat({x, x}, axis); });
    refuses("slice", axis, [&] { slice(x, axis, 0, 1); });
    refuses("sum", axis, [&] { sum(x, {axis}); });
    refuses("mean", axis, [&] { mean(x, {axis}); });
    refuses("transpose", axis, [&] { transpose(x, {0, axis}); });
    refuses("blockwise", axis,
            [&] { blockwise(x, axis, 1, policy::nothing, [](const Var<float>& part, Index) { return part; }); });
  }
}

}  // namespace
