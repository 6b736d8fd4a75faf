#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <limits>
#include <remat/kernels/activations.hpp>

namespace {

using namespace remat::kernels;

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float nan = std::numeric_limits<float>::quiet_NaN();

// The greatest error, in units in the last place, over every 1009th finite float in [low, high].
template <class Fast, class Exact>
double worst_ulps(Fast fast, Exact exact, float low, float high) {
  double worst = 0;
  for (std::uint32_t bits = 0; bits < 0x7f800000U; bits += 1009) {
    for (const std::uint32_t sign : {0U, 0x80000000U}) {
      const float x = std::bit_cast<float>(bits | sign);
      if (x < low || x > high) continue;
      const double expected = exact(static_cast<double>(x));
      int exponent = 0;
      std::frexp(std::max(std::fabs(expected), double{std::numeric_limits<float>::min()}), &exponent);
      worst = std::max(worst, std::fabs(static_cast<double>(fast(x)) - expected) / std::ldexp(1.0, exponent - 24));
    }
  }
  return worst;
}

TEST(VectorMath, ErrorsAreSmall) {
  const auto exp = [](double x) { return std::exp(x); };
  const auto tanh = [](double x) { return std::tanh(x); };
  const auto erf = [](double x) { return std::erf(x); };
  EXPECT_LT(worst_ulps([](float x) { return fast_exp(x); }, exp, -87.3365F, 88.7228F), 1.5);
  EXPECT_LT(worst_ulps([](float x) { return fast_tanh(x); }, tanh, -infinity, infinity), 1.5);
  EXPECT_LT(worst_ulps([](float x) { return fast_erf(x); }, erf, -infinity, infinity), 1.5);
}

TEST(VectorMath, Ends) {
  EXPECT_EQ(fast_exp(-infinity), 0.0F);
  EXPECT_EQ(fast_exp(infinity), infinity);
  EXPECT_TRUE(std::isnan(fast_exp(nan)));
  EXPECT_TRUE(std::isnan(fast_exp(-nan)));
  EXPECT_EQ(fast_exp(0.0F), 1.0F);
  EXPECT_EQ(fast_exp(-0.0F), 1.0F);
  EXPECT_EQ(fast_exp(89.0F), infinity);
  EXPECT_EQ(fast_exp(3e38F), infinity);
  EXPECT_EQ(fast_exp(-88.0F), 0.0F);
  EXPECT_EQ(fast_exp(-3e38F), 0.0F);
  for (float x = -110; x < 110; x += 0.01F) {  // never negative or NaN around the ends of the range
    ASSERT_GE(fast_exp(x), 0.0F) << x;
  }
  for (const float sign : {1.0F, -1.0F}) {
    EXPECT_EQ(fast_tanh(sign * infinity), sign);
    EXPECT_EQ(fast_erf(sign * infinity), sign);
    EXPECT_EQ(fast_tanh(sign * 20.0F), sign);
    EXPECT_EQ(fast_erf(sign * 20.0F), sign);
    EXPECT_EQ(std::signbit(fast_tanh(sign * 0.0F)), sign < 0);
    EXPECT_EQ(std::signbit(fast_erf(sign * 0.0F)), sign < 0);
  }
  EXPECT_TRUE(std::isnan(fast_tanh(nan)));
  EXPECT_TRUE(std::isnan(fast_erf(nan)));
}

// Absolute errors, in the tails relative ones too: those of a GELU's derivative.
TEST(VectorMath, NormalDistribution) {
  double worst = 0, worst_in_tails = 0;
  for (float x = -14; x < 14; x += 1.7e-4F) {
    const auto [below, density] = fast_normal(x);
    const double exact = 0.5 * std::erfc(-static_cast<double>(x) * std::sqrt(0.5));
    worst = std::max(worst, std::fabs(below - exact));
    worst = std::max(worst, std::fabs(density - std::exp(-0.5 * x * x) / std::sqrt(2 * M_PI)));
    if (x > -12 && x < -1) worst_in_tails = std::max(worst_in_tails, std::fabs(below / exact - 1));
  }
  EXPECT_LT(worst, 2e-7);
  EXPECT_LT(worst_in_tails, 1e-5);
  EXPECT_EQ(fast_normal(-3e38F).below, 0.0F);
  EXPECT_EQ(fast_normal(infinity).below, 1.0F);
  EXPECT_EQ(fast_normal(-infinity).below, 0.0F);
  EXPECT_TRUE(std::isnan(fast_normal(nan).below));
}

// Of denormal numbers and infinity too, unlike the quick square roots that processors have.
TEST(VectorMath, SquareRoots) {
  EXPECT_LT(worst_ulps([](float x) { return fast_sqrt(x); }, [](double x) { return std::sqrt(x); }, 0, FLT_MAX), 1.5);
  EXPECT_EQ(fast_sqrt(infinity), infinity);
  EXPECT_TRUE(std::isnan(fast_sqrt(nan)));
  for (int exponent = -1074; exponent < 1024; ++exponent)
    for (const double mantissa : {1.0, 1.25, 1.5, 1.999}) {
      const double x = std::ldexp(mantissa, exponent), root = std::sqrt(x);
      ASSERT_NEAR(fast_sqrt(x), root, 4e-16 * root) << x;
      if (const auto f = static_cast<float>(x); f <= FLT_MAX) {
        ASSERT_NEAR(fast_sqrt(f), std::sqrt(f), 1.5e-7F * std::sqrt(f)) << f;
      }
    }
  EXPECT_EQ(fast_sqrt(0.0), 0.0);
  EXPECT_EQ(fast_sqrt(std::numeric_limits<double>::infinity()), std::numeric_limits<double>::infinity());
}

TEST(VectorMath, DoubleIsStandard) {
  EXPECT_EQ(fast_exp(1.25), std::exp(1.25));
  EXPECT_EQ(fast_tanh(1.25), std::tanh(1.25));
  EXPECT_EQ(fast_erf(1.25), std::erf(1.25));
}

template <class A>
class ActivationTest : public testing::Test {};
using Activations = testing::Types<Gelu, GeluTanh, Silu, Relu>;
TYPED_TEST_SUITE(ActivationTest, Activations);

TYPED_TEST(ActivationTest, FloatFollowsDoubleAndDerivativeFollowsValue) {
  for (double x = -12.03; x < 12; x += 0.07) {
    constexpr double h = 1e-5;
    EXPECT_NEAR((TypeParam::value(x + h) - TypeParam::value(x - h)) / (2 * h), TypeParam::derivative(x), 1e-9) << x;
    const double tolerance = 6e-7 * (1 + std::fabs(x));
    EXPECT_NEAR(TypeParam::value(static_cast<float>(x)), TypeParam::value(x), tolerance) << x;
    EXPECT_NEAR(TypeParam::derivative(static_cast<float>(x)), TypeParam::derivative(x), tolerance) << x;
  }
}

TYPED_TEST(ActivationTest, FarEnds) {
  EXPECT_EQ(TypeParam::value(1e4F), 1e4F);
  EXPECT_EQ(TypeParam::value(-1e4F), 0.0F);
  EXPECT_EQ(TypeParam::derivative(1e4F), 1.0F);
  EXPECT_EQ(TypeParam::derivative(-1e4F), 0.0F);
  EXPECT_EQ(TypeParam::value(0.0F), 0.0F);
  EXPECT_TRUE(std::isnan(TypeParam::value(nan)));
}

// No finite number makes NaN: 1 + 3 c x^2 of the tanh approximation overflows from 1e20 on, where its factor is 0.
TYPED_TEST(ActivationTest, LimitsOfFiniteNumbers) {
  const auto check = []<class T>(T largest) {
    for (const T x : {T(1e9), T(1e15), T(3e19), T(1e30), T(3e38), largest}) {
      EXPECT_EQ(TypeParam::value(x), x);
      EXPECT_EQ(TypeParam::value(-x), 0) << x;
      EXPECT_EQ(TypeParam::derivative(x), 1) << x;
      EXPECT_EQ(TypeParam::derivative(-x), 0) << x;
    }
    constexpr T inf = std::numeric_limits<T>::infinity();
    EXPECT_EQ(TypeParam::value(inf), inf);
    EXPECT_TRUE(std::isnan(TypeParam::value(std::numeric_limits<T>::quiet_NaN())));
    if (std::is_same_v<TypeParam, Relu>) return;  // its derivative of NaN is 0
    EXPECT_TRUE(std::isnan(TypeParam::derivative(std::numeric_limits<T>::quiet_NaN())));
  };
  check(FLT_MAX);
  check(DBL_MAX);
}

TEST(Activations, KnownValues) {
  EXPECT_NEAR(Gelu::value(1.0), 0.84134474606854293, 1e-15);
  EXPECT_NEAR(GeluTanh::value(1.0), 0.84119199060827676, 1e-12);
  EXPECT_NEAR(Silu::value(1.0), 0.73105857863000488, 1e-15);
  EXPECT_EQ(Relu::derivative(0.0), 0.0);
}

}  // namespace
