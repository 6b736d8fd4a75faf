#include <gtest/gtest.h>

#include <cmath>
#include <ops/try_op.hpp>
#include <remat/ops/softmax.hpp>
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

TEST(Softmax, EqualLogitsShareAlikeHoweverLow) {
  Tape tape;
  const auto x = tape.input(Tensor<float>({1, 3}, -1e9F));
  for (Index i = 0; i < 3; ++i) EXPECT_FLOAT_EQ(log_softmax(x).value()[i], -1.0986123F);
}

}  // namespace
