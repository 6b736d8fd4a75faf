#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <remat/core/random.hpp>
#include <remat/kernels/reduce.hpp>
#include <vector>

namespace {

using remat::Index;
namespace kernels = remat::kernels;

template <class T>
class ReduceTest : public testing::Test {
 protected:
  static std::vector<T> values(std::size_t count, std::uint64_t seed) {
    std::vector<T> result(count);
    const remat::RandomStream stream{.seed = seed};
    for (std::size_t i = 0; i < count; ++i) result[i] = static_cast<T>(stream.uniform(i) - 0.4F);
    return result;
  }
};
using Types = testing::Types<float, double>;
TYPED_TEST_SUITE(ReduceTest, Types);

TYPED_TEST(ReduceTest, EqualsPlainLoops) {
  using T = TypeParam;
  for (Index n = 0; n < 100; ++n) {
    const std::vector<T> x = this->values(static_cast<std::size_t>(n), 1),
                         y = this->values(static_cast<std::size_t>(n), 2);
    double sum = 0, squares = 0, dot = 0;
    T greatest = -std::numeric_limits<T>::infinity();
    for (std::size_t i = 0; i < x.size(); ++i) {
      sum += double{x[i]};
      squares += double{x[i]} * double{x[i]};
      dot += double{x[i]} * double{y[i]};
      greatest = std::max(greatest, x[i]);
    }
    const double tolerance = 50 * std::numeric_limits<T>::epsilon();
    EXPECT_NEAR(kernels::sum(x.data(), n), sum, tolerance) << n;
    EXPECT_NEAR(kernels::sum_squares(x.data(), n), squares, tolerance) << n;
    EXPECT_NEAR(kernels::dot(x.data(), y.data(), n), dot, tolerance) << n;
    EXPECT_EQ(kernels::max(x.data(), n), greatest) << n;
    const auto difference = [&](Index i) { return x[static_cast<std::size_t>(i)] - y[static_cast<std::size_t>(i)]; };
    EXPECT_NEAR((kernels::sum_of<T>(n, difference)), sum - kernels::sum(y.data(), n), tolerance) << n;
  }
}

TYPED_TEST(ReduceTest, BitsDoNotDependOnAlignment) {
  using T = TypeParam;
  constexpr std::size_t n = 1000;
  const std::vector<T> x = this->values(n, 3);
  const T expected = kernels::sum(x.data(), n), squares = kernels::sum_squares(x.data(), n);
  for (std::size_t offset = 0; offset < 20; ++offset) {
    std::vector<T> shifted(n + offset);
    std::copy(x.begin(), x.end(), shifted.begin() + static_cast<std::ptrdiff_t>(offset));
    EXPECT_EQ(kernels::sum(shifted.data() + offset, n), expected);
    EXPECT_EQ(kernels::sum_squares(shifted.data() + offset, n), squares);
  }
}

// The order itself is fixed: a compiler that reassociated would break replay between differently compiled loops.
TEST(Reduce, AddsInLanesFoldedInHalves) {
  std::vector<float> x(37);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = std::ldexp(1.0F, static_cast<int>(i * 7 % 23)) + 0.3F;
  float lane[16] = {};
  for (std::size_t i = 0; i < x.size(); ++i) lane[i % 16] += x[i];
  for (int half = 8; half > 0; half /= 2)
    for (int l = 0; l < half; ++l) lane[l] += lane[l + half];
  EXPECT_EQ(kernels::sum(x.data(), 37), lane[0]);
}

TEST(Reduce, MaxPassesOverNan) {
  const float x[] = {std::nanf(""), -2, std::nanf(""), -1};
  EXPECT_EQ(kernels::max(x, 4), -1.0F);
  // Wherever it lies, in each lane and behind them all.
  for (const std::size_t n : {1U, 2U, 16U, 33U, 70U})
    for (std::size_t at = 0; at < n; ++at) {
      std::vector<float> row(n);
      for (std::size_t i = 0; i < n; ++i) row[i] = -1.0F - static_cast<float>(i);
      row[at] = std::nanf("");
      const float expected = n == 1 ? -std::numeric_limits<float>::infinity() : at == 0 ? -2.0F : -1.0F;
      EXPECT_EQ(kernels::max(row.data(), static_cast<Index>(n)), expected) << at << " of " << n;
    }
}

}  // namespace
