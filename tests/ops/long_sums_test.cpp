// Ops that sum over a million numbers give in float32 what they give in float64.
#include <gtest/gtest.h>

#include <cmath>
#include <ops/try_op.hpp>
#include <remat/ops/arithmetic.hpp>
#include <remat/ops/layer_norm.hpp>
#include <remat/ops/linear.hpp>
#include <remat/ops/positions.hpp>
#include <remat/ops/reduce.hpp>
#include <remat/ops/rms_norm.hpp>
#include <vector>

namespace {

using namespace remat;
using remat_test::parameter_of;

/// In [0, 1): a sum grows with its length, and with it the rounding of a plain one.
template <class T>
Tensor<T> positive(const Shape& shape) {
  Tensor<T> x(shape);
  T* const to = x.write().data();
  std::uint32_t state = 7;
  for (Index i = 0; i < x.size(); ++i)
    to[i] = static_cast<T>((state = state * 1664525U + 1013904223U) >> 8) * static_cast<T>(0x1p-24);
  return x;
}

template <class T>
std::vector<double> as_doubles(const Tensor<T>& x) {
  return {x.span().begin(), x.span().end()};
}

/// `program.operator()<T>()` gives numbers; those of float are near those of double, relative to the greatest.
template <class Program>
void expect_exact(const char* what, Program program, double tolerance) {
  const std::vector<double> rough = program.template operator()<float>(), exact = program.template operator()<double>();
  ASSERT_EQ(rough.size(), exact.size());
  double scale = 0, worst = 0;
  for (std::size_t i = 0; i < exact.size(); ++i) {
    scale = std::max(scale, std::fabs(exact[i]));
    worst = std::max(worst, std::fabs(rough[i] - exact[i]));
  }
  EXPECT_LT(worst, tolerance * scale) << what;
}

TEST(LongSumOps, OfAllElements) {
  expect_exact(
      "mean",
      []<class T>() {
        Tape tape;
        return as_doubles(mean(tape.input(positive<T>({2000000}))).value());
      },
      1e-6);
}

TEST(LongSumOps, NormsOfWideRows) {
  const auto norm = [](bool rms) {
    return [rms]<class T>() {
      constexpr Index features = 300000;
      ParameterRegistry registry;
      const auto scale = parameter_of(registry, "scale", positive<T>({features}));
      Tape tape;
      const auto x = tape.input(positive<T>({1, features}), {.wants_gradient = true});
      const auto y = rms ? rms_norm<T>(x, scale) : layer_norm<T>(x, scale);
      auto numbers = as_doubles(y.value());
      tape.backward(sum(y * y));
      const auto gradient = as_doubles(tape.grad(x));
      numbers.insert(numbers.end(), gradient.begin(), gradient.end());
      return numbers;
    };
  };
  expect_exact("layer_norm", norm(false), 2e-6);
  expect_exact("rms_norm", norm(true), 2e-6);
}

constexpr Index rows = 150000, d = 3;

TEST(LongSumOps, GradientsOverManyRows) {
  expect_exact(
      "scale of layer_norm",
      []<class T>() {
        ParameterRegistry registry;
        const auto scale = parameter_of(registry, "scale", Tensor<T>({d}, T(1)));
        Tape tape;
        const auto y = layer_norm<T>(tape.input(positive<T>({rows, d})), scale);
        tape.backward(sum(y * y));
        return as_doubles(scale.grad());
      },
      3e-6);
  expect_exact(
      "biases",
      []<class T>() {
        ParameterRegistry registry;
        const auto b = parameter_of(registry, "b", Tensor<T>({d}, T(0))), c = parameter_of(registry, "c", b.value());
        Tape tape;
        const Tensor<T> x({rows, 2}, T(1));
        const auto y = layer_norm<T>(linear<T>(tape.input(x), Tensor<T>({2, d}, T(0)), b), {}, c);
        tape.backward(sum(y * T(0.1)));
        auto numbers = as_doubles(c.grad());
        Tape second;
        second.backward(sum(linear<T>(second.input(x), Tensor<T>({2, d}, T(0)), b) * T(0.1)));
        const auto db = as_doubles(b.grad());
        numbers.insert(numbers.end(), db.begin(), db.end());
        return numbers;
      },
      2e-6);
}

TEST(LongSumOps, PositionsOverManySequences) {
  expect_exact(
      "positions",
      []<class T>() {
        constexpr Index batch = 100000, t = 2;
        ParameterRegistry registry;
        const auto table = parameter_of(registry, "table", Tensor<T>({4, d}, T(0)));
        Tape tape;
        const auto y = add_positions<T>(tape.input(Tensor<T>({batch, t, d}, T(0))), table, 1);
        tape.backward(sum(y * positive<T>({batch, t, d})));
        return as_doubles(table.grad());
      },
      1e-6);
}

}  // namespace
