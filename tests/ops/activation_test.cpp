#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <limits>
#include <ops/try_op.hpp>
#include <remat/ops/activation.hpp>
#include <remat/ops/arithmetic.hpp>
#include <remat/ops/reduce.hpp>
#include <sstream>

namespace {

using namespace remat;
using remat_test::error_of, remat_test::random_tensor, remat_test::weigh, remat_test::weight_of;

constexpr Activation all_kinds[] = {Activation::relu, Activation::gelu, Activation::gelu_tanh, Activation::silu,
                                    Activation::squared_relu};

double reference(Activation kind, double x) {
  switch (kind) {
    case Activation::relu: return std::max(x, 0.0);
    case Activation::gelu: return x * 0.5 * std::erfc(-x / std::sqrt(2.0));
    case Activation::gelu_tanh: return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case Activation::silu: return x / (1 + std::exp(-x));
    case Activation::squared_relu: return std::pow(std::max(x, 0.0), 2);
  }
  return 0;
}

TEST(Activation, Values) {
  const auto x = random_tensor<float>({3, 100}, 1), gate = random_tensor<float>({3, 100}, 2);
  for (const Activation kind : all_kinds) {
    Tape tape;
    const auto y = activate(tape.input(x), kind).value();
    const auto gated = gated_activate(tape.input(gate), tape.input(x), kind).value();
    for (Index i = 0; i < x.size(); ++i) {
      EXPECT_NEAR(y[i], reference(kind, double{x[i]}), 1e-6) << kind << " of " << x[i];
      EXPECT_NEAR(gated[i], reference(kind, double{gate[i]}) * double{x[i]}, 2e-6) << kind << " of " << gate[i];
    }
  }
}

TEST(Activation, DropoutIsThatOfTheDropoutOp) {
  const auto x = random_tensor<double>({1000}, 1);
  for (const Activation kind : all_kinds) {
    Tape fused({.seed = 3, .step = 5}), apart({.seed = 3, .step = 5});
    const auto a = fused.input(x, {.wants_gradient = true}), b = apart.input(x, {.wants_gradient = true});
    const auto y = activate(a, kind, 0.3), z = dropout(activate(b, kind), 0.3);
    for (Index i = 0; i < x.size(); ++i) EXPECT_DOUBLE_EQ(y.value()[i], z.value()[i]);
    fused.backward(weigh(y));
    apart.backward(weigh(z));
    for (Index i = 0; i < x.size(); ++i) EXPECT_NEAR(fused.grad(a)[i], apart.grad(b)[i], 1e-14);
  }
}

TEST(Activation, ReluKeepsItsResultAndTheOthersTheirInput) {
  for (const Activation kind : all_kinds) {
    Tape tape({.step = 0});
    const auto x = tape.input(random_tensor<float>({16}, 1), {.wants_gradient = true});
    const auto h = dropout(x, 0.5);
    const auto y = activate(h, kind);
    tape.backward(weigh(dropout(y, 0.5)));
    EXPECT_EQ(tape.stats().saved_bytes, 64U);
    EXPECT_THROW(y.value(), Error);
  }
}

/// What `kind` and its gradient are at x, alone and as a gate of 1.
template <class T>
std::array<T, 4> ends(Activation kind, T x) {
  Tape tape;
  const auto alone = tape.input(Tensor<T>({17}, x), {.wants_gradient = true}),
             gate = tape.input(alone.value(), {.wants_gradient = true});
  const auto y = activate(alone, kind), z = gated_activate(gate, tape.input(Tensor<T>({17}, T(1))), kind);
  const std::array<T, 2> values{y.value()[16], z.value()[16]};
  tape.backward(sum(y) + sum(z));
  return {values[0], values[1], tape.grad(alone)[16], tape.grad(gate)[16]};
}

// PyTorch has NaN for the value of gelu and silu at -infinity, and for their derivatives at both: they may stay.
TEST(Activation, EndsAreLimits) {
  const auto check = []<class T>(T) {
    constexpr T inf = std::numeric_limits<T>::infinity(), most = std::numeric_limits<T>::max();
    for (const Activation kind : all_kinds) {
      SCOPED_TRACE(to_string(kind));
      const bool squares = kind == Activation::squared_relu, piecewise = squares || kind == Activation::relu;
      for (const T x : {T(1e15), T(1e30), most, inf}) {
        const auto up = ends(kind, x), down = ends(kind, -x);
        for (const int i : {0, 1}) {
          EXPECT_EQ(up[i], squares ? x * x : x);
          if (!piecewise && x == inf) continue;
          EXPECT_EQ(down[i], 0) << x;
          EXPECT_EQ(up[2 + i], squares ? 2 * x : 1) << x;
          EXPECT_EQ(down[2 + i], 0) << x;
        }
      }
      EXPECT_TRUE(std::isnan(ends(kind, std::numeric_limits<T>::quiet_NaN())[0]));
      EXPECT_TRUE(std::isnan(ends(kind, std::numeric_limits<T>::quiet_NaN())[1]));
    }
  };
  check(1.0F);
  check(1.0);
}

TEST(Activation, NamesReadBack) {
  for (const Activation kind : all_kinds) {
    std::ostringstream text;
    text << kind;
    EXPECT_EQ(parse_activation(text.str()), kind);
  }
  EXPECT_EQ(error_of([] { parse_activation("gelu_new"); }),
            "activation: no \"gelu_new\"; there are relu, gelu, gelu_tanh, silu, squared_relu");
}

TEST(Activation, RefusesWhatDoesNotFit) {
  Tape tape({.mode = Mode::evaluate});
  const auto x = tape.input(Tensor<float>({2, 3}, 0.0F)), y = tape.input(Tensor<float>({3, 2}, 0.0F));
  EXPECT_EQ(error_of([&] { gated_activate(y, x, Activation::silu); }),
            "gated_activate: gate has shape [3, 2], x has [2, 3]");
  EXPECT_EQ(error_of([&] { activate(x, Activation::silu, 1); }), "activate: dropout rate 1 is not in [0, 1)");
}

TEST(Dropout, KeepsAndScalesByCounter) {
  constexpr Index count = 100000;
  Tape tape({.seed = 7, .step = 2});
  const auto x = tape.input(Tensor<float>({count}, 1.0F), {.wants_gradient = true});
  const auto y = dropout(x, 0.25), z = dropout(x, 0.25);
  const DropoutMask mask{{.seed = 7, .step = 2, .site = 0}, 0.25};
  Index kept = 0, equal = 0;
  for (Index i = 0; i < count; ++i) {
    EXPECT_EQ(y.value()[i], mask.factor<float>(static_cast<std::uint64_t>(i)));
    kept += y.value()[i] != 0;
    equal += y.value()[i] == z.value()[i];
  }
  EXPECT_NEAR(static_cast<double>(kept) / count, 0.75, 0.01);
  EXPECT_NEAR(static_cast<double>(equal) / count, 0.625, 0.01);  // two sites are independent
  const auto value = y.value();
  tape.backward(weigh(y));
  EXPECT_EQ(tape.stats().saved_bytes, 0U);
  for (Index i = 0; i < count; ++i) EXPECT_EQ(tape.grad(x)[i], value[i] * weight_of<float>(i));
}

TEST(Dropout, IsNoOpAtRateZeroAndInEvaluateMode) {
  Tape train, evaluate({.mode = Mode::evaluate});
  const auto x = random_tensor<float>({5}, 1);
  EXPECT_TRUE(same_bits(dropout(train.input(x), 0).value(), x));
  EXPECT_TRUE(same_bits(dropout(evaluate.input(x), 0.5).value(), x));
  EXPECT_TRUE(same_bits(activate(evaluate.input(x), Activation::gelu, 0.5).value(),
                        activate(train.input(x), Activation::gelu).value()));
  EXPECT_EQ(train.stats().ops_recorded, 1);
}

TEST(Dropout, RefusesBadRates) {
  for (const Mode mode : {Mode::train, Mode::evaluate}) {
    Tape tape({.mode = mode});
    const auto x = tape.input(Tensor<float>({5}, 1.0F));
    EXPECT_EQ(error_of([&] { dropout(x, 1); }), "dropout: dropout rate 1 is not in [0, 1)");
    EXPECT_EQ(error_of([&] { dropout(x, -0.5); }), "dropout: dropout rate -0.5 is not in [0, 1)");
    EXPECT_EQ(error_of([&] { dropout(x, std::nan("")); }), "dropout: dropout rate nan is not in [0, 1)");
  }
}

}  // namespace
