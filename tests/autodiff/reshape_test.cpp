// Views of Vars in another shape.
#include <gtest/gtest.h>

#include <core/expect_error.hpp>
#include <remat/autodiff/tape.hpp>
#include <remat/ops/arithmetic.hpp>
#include <remat/ops/reduce.hpp>

namespace {

using namespace remat;
using remat_test::expect_error;

// Protects x.reshape({-1, n}), with its gradient and without a copy.
TEST(Reshape, OneAxisFollowsFromTheOthers) {
  Tape tape;
  const auto x = tape.input(Tensor<float>({2, 6}, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}), {.wants_gradient = true});
  EXPECT_EQ(x.reshape({-1, 4}).shape(), (Shape{3, 4}));
  EXPECT_EQ(reshape(x, {2, -1, 3}).shape(), (Shape{2, 2, 3}));
  EXPECT_EQ(x.reshape({-1}).value().data(), x.value().data());
  EXPECT_EQ(x.reshape(Shape{12}).shape(), (Shape{12}));
  const Axes axes{4, -1};
  const auto y = reshape(x, axes);
  tape.backward(sum(y * Tensor<float>({4, 1}, {1, 2, 3, 4})));
  EXPECT_TRUE(same_bits(tape.grad(x), Tensor<float>({2, 6}, {1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4})));
  expect_error({"12 elements", "[-1, 5]"}, [&] { x.reshape({-1, 5}); });
}

}  // namespace
