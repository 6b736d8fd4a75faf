#include <gtest/gtest.h>

#include <cmath>
#include <ops/try_op.hpp>
#include <remat/ops/arithmetic.hpp>
#include <remat/ops/softmax_over.hpp>
#include <remat/ops/transpose.hpp>
#include <vector>

namespace {

using namespace remat;
using remat_test::random_tensor, remat_test::weigh, remat_test::weight_of;

/// Numbers as float holds them, all near `shift`.
Tensor<float> near(double shift, const Shape& shape) {
  Tensor<float> x = random_tensor<float>(shape, 1);
  for (Index i = 0; i < x.size(); ++i) x.write()[i] = static_cast<float>(shift + 2 * static_cast<double>(x[i]));
  return x;
}

// A logarithm of a sum is small beside a large maximum: neither results nor gradients may lose its digits.
TEST(Softmax, IsExactHoweverLargeItsOperandsAre) {
  constexpr Index rows = 5, classes = 21;
  for (const double shift : {0.0, 30.0, 1e2, 1e3, 1e4, 1e6, -1e9}) {
    const Tensor<float> x = near(shift, {rows, classes});
    for (const bool is_log : {false, true}) {
      SCOPED_TRACE(testing::Message() << "near " << shift << ", logarithms " << is_log);
      Tape tape;
      const auto input = tape.input(x, {.wants_gradient = true});
      const auto y = is_log ? log_softmax(input) : softmax(input);
      const Tensor<float> value = y.value();
      tape.backward(weigh(y));
      const Tensor<float> gradient = tape.grad(input);
      for (Index i = 0; i < rows; ++i) {
        double top = -INFINITY, sum = 0, mean = 0, total = 0;
        const auto at = [&](Index j) { return static_cast<double>(x[i * classes + j]); };
        const auto dy = [&](Index j) { return weight_of<double>(i * classes + j); };
        for (Index j = 0; j < classes; ++j) top = std::max(top, at(j));
        for (Index j = 0; j < classes; ++j) sum += std::exp(at(j) - top);
        const auto p = [&](Index j) { return std::exp(at(j) - top) / sum; };
        for (Index j = 0; j < classes; ++j) mean += p(j) * dy(j), total += dy(j);
        for (Index j = 0; j < classes; ++j) {
          const double expected = is_log ? at(j) - top - std::log(sum) : p(j);
          ASSERT_NEAR(value[i * classes + j], expected, is_log ? 1e-6 : 1e-7);
          ASSERT_NEAR(gradient[i * classes + j], is_log ? dy(j) - total * p(j) : p(j) * (dy(j) - mean), 1e-6);
        }
      }
    }
  }
}

// Other axes than the last give what the last one gives of the transposed tensor, long sums and large operands too.
TEST(Softmax, IsTheSameOverEveryAxis) {
  for (const double shift : {0.0, 1e4, -1e9})
    for (const Shape& shape : {Shape{3, 5, 70}, Shape{2, 5000, 3}, Shape{1, 2, 1}}) {
      Tape tape;
      const auto x = tape.input(near(shift, shape), {.wants_gradient = true});
      const auto twin = tape.input(x.value().copy(), {.wants_gradient = true});
      const auto swapped = transpose(twin);
      const auto y = softmax(x, 1), expected = transpose(softmax(swapped, -1));
      const auto log_y = log_softmax(x, -2), log_expected = transpose(log_softmax(swapped));
      const Tensor<float> values = y.value(), right = expected.value();
      const Tensor<float> logs = log_y.value(), right_logs = log_expected.value();
      for (Index i = 0; i < values.size(); ++i) {
        ASSERT_NEAR(values[i], right[i], 1e-6);
        ASSERT_NEAR(logs[i], right_logs[i], 2e-6);
      }
      tape.backward(weigh(y) + weigh(log_y) + weigh(expected) + weigh(log_expected));
      const Tensor<float> gradient = tape.grad(x), right_gradient = tape.grad(twin);
      for (Index i = 0; i < gradient.size(); ++i) ASSERT_NEAR(gradient[i], right_gradient[i], 1e-5);
    }
}

TEST(Softmax, AlongAnAxisThatIsNotThereIsAnError) {
  Tape tape;
  const auto x = tape.input(Tensor<float>({2, 3}, 1.0F));
  remat_test::expect_error({"softmax", "axis 2", "2 axes"}, [&] { softmax(x, 2); });
  remat_test::expect_error({"log_softmax", "axis -3"}, [&] { log_softmax(x, -3); });
}

TEST(Softmax, EqualLogitsShareAlikeHoweverLow) {
  Tape tape;
  const auto x = tape.input(Tensor<float>({1, 3}, -1e9F));
  for (Index i = 0; i < 3; ++i) EXPECT_FLOAT_EQ(log_softmax(x).value()[i], -1.0986123F);
}

}  // namespace
