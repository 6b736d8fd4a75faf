#include <gtest/gtest.h>

#include <ops/try_op.hpp>
#include <remat/core/eigen.hpp>
#include <remat/ops/cumulative_sum.hpp>
#include <vector>

namespace {

using namespace remat;
using remat_test::error_of;

TEST(CumulativeSum, RunsAlongItsAxisAndBackInBackward) {
  for (const int axis : {0, 1, -1}) {
    Tape tape;
    const auto x = tape.input(Tensor<float>({2, 3}, {1, 2, 3, 4, 5, 6}), {.wants_gradient = true});
    const auto y = cumulative_sum(x, axis);
    const Tensor<float> value = y.value();
    tape.backward(remat_test::weigh(y));  // -1/2, -1/4, 0, 1/4, 1/2, 3/4
    const Tensor<float> gradient = tape.grad(x);
    const std::vector<float> rows{1, 3, 6, 4, 9, 15}, columns{1, 2, 3, 5, 7, 9};
    const std::vector<float> of_rows{-0.75, -0.25, 0, 1.5, 1.25, 0.75}, of_columns{-0.25, 0.25, 0.75, 0.25, 0.5, 0.75};
    for (std::size_t i = 0; i < 6; ++i) {
      EXPECT_EQ(value.span()[i], (axis == 0 ? columns : rows)[i]);
      EXPECT_EQ(gradient.span()[i], (axis == 0 ? of_columns : of_rows)[i]);
    }
  }
}

// Summed in float, the tenths would be off by 1% at the end; ones in bfloat16 would stand still at 256.
TEST(CumulativeSum, LongRowsAreRoundedOnce) {
  constexpr Index count = 1'000'000;
  Tape tape;
  const Tensor<float> y = cumulative_sum(tape.input(Tensor<float>({count}, 0.1F)), 0).value();
  for (Index i = 0; i < count; i += 999)
    ASSERT_EQ(y.span()[static_cast<std::size_t>(i)],
              static_cast<float>(static_cast<double>(i + 1) * static_cast<double>(0.1F)));
  const Tensor<bfloat16> z = cumulative_sum(tape.input(Tensor<bfloat16>({4096}, static_cast<bfloat16>(1))), 0).value();
  EXPECT_EQ(static_cast<float>(z.span()[4095]), 4096.0F);
}

TEST(CumulativeSum, RefusesAnAxisThatIsNotThere) {
  Tape tape;
  EXPECT_EQ(error_of([&] { cumulative_sum(tape.input(Tensor<float>({3}, 1.0F)), 1); }),
            "cumulative_sum: axis: axis 1 of a tensor with 1 axes");
}

}  // namespace
