// Composite ops: their own derivative is used, they keep only what it reads, and plans know what they take.
#include <gtest/gtest.h>

#include <core/expect_error.hpp>
#include <remat/autodiff/gradient_check.hpp>
#include <remat/ops/arithmetic.hpp>
#include <remat/ops/custom_gradient.hpp>
#include <remat/ops/dropout.hpp>
#include <remat/ops/matmul.hpp>
#include <remat/ops/reduce.hpp>
#include <remat/ops/transpose.hpp>
#include <remat/ops/unary.hpp>
#include <remat/params/registry.hpp>

namespace {

using namespace remat;
template <class T>
using Vars = std::vector<Var<T>>;

/// 30 tanh(x / 30), whose derivative is made from its result alone.
template <class T>
Var<T> soft_cap(const Var<T>& x) {
  return custom_gradient<T>(
      "soft_cap", {x}, [](Tape&, const Vars<T>& in) { return tanh(in[0] * (1.0 / 30)) * 30.0; },
      [](const CustomBackward<T>& of) {
        const Var<T> share = of.result * (1.0 / 30);
        return Vars<T>{of.gradient * (1.0 - share * share)};
      });
}

/// a b, with its derivatives written out; those that are not wanted are not computed.
Var<double> product(const Var<double>& a, const Var<double>& b, int* of_a = nullptr) {
  return custom_gradient<double>(
      "product", {a, b}, [](Tape&, const Vars<double>& in) { return matmul(in[0], in[1]); },
      [of_a](const CustomBackward<double>& of) {
        Vars<double> gradients(2);
        if (of.wanted[0]) gradients[0] = matmul(of.gradient, transpose(of.inputs[1], {1, 0}));
        if (of.wanted[1]) gradients[1] = matmul(transpose(of.inputs[0], {1, 0}), of.gradient);
        if (of_a != nullptr && of.wanted[0]) ++*of_a;
        return gradients;
      });
}

Tensor<double> filled(const Shape& shape, double first) {
  Tensor<double> x(shape);
  for (Index i = 0; i < x.size(); ++i)
    x.write()[static_cast<std::size_t>(i)] = std::sin(first + 0.7 * static_cast<double>(i));
  return x;
}

TEST(CustomGradient, IsThatOfItsOwnFunction) {
  EXPECT_TRUE(gradient_check([](Tape&, const Vars<double>& in) { return soft_cap(in[0] * 40.0); }, {filled({3, 5}, 0)})
                  .ok(1e-7));
  EXPECT_TRUE(gradient_check([](Tape&, const Vars<double>& in) { return product(in[0], in[1]); },
                             {filled({3, 5}, 0), filled({5, 2}, 1)})
                  .ok(1e-7));

  // A straight-through estimator: its gradient is not the derivative of what it computes.
  Tape tape;
  const Var<float> x = tape.input(Tensor<float>({3}, {-0.4F, 0.4F, 1.6F}), {.wants_gradient = true});
  const Var<float> y = custom_gradient<float>(
      "sign", {x}, [](Tape&, const Vars<float>& in) { return in[0] * 0.0F + 1.0F; },
      [](const CustomBackward<float>& of) { return Vars<float>{of.gradient * of.inputs[0]}; });
  EXPECT_EQ(y.value()[2], 1);
  tape.backward(sum(y * 2.0F));
  EXPECT_EQ(tape.grad(x)[2], 3.2F);
}

TEST(CustomGradient, KeepsOnlyWhatItsDerivativeReads) {
  const Index count = 4096;
  const auto saved = [&](auto fn) {
    Tape tape;
    const Var<double> x = tape.input(Tensor<double>({count}, 1), {.wants_gradient = true});
    tape.backward(sum(fn(x * 2.0)));
    return tape.stats().saved_bytes;
  };
  const std::size_t one = count * sizeof(double);
  EXPECT_EQ(saved([](const Var<double>& x) { return soft_cap(x); }), one);  // its result, not x * 2
  EXPECT_EQ(saved([](const Var<double>& x) {
              return custom_gradient<double>(
                  "twice", {x}, [](Tape&, const Vars<double>& in) { return exp(in[0]) * 0.0 + in[0] * 2.0; },
                  [](const CustomBackward<double>& of) { return Vars<double>{of.gradient * 2.0}; });
            }),
            0U);
  int of_a = 0;
  Tape tape;
  const Var<double> a = tape.input(filled({3, 5}, 0));
  const Var<double> b = tape.input(filled({5, 2}, 1), {.wants_gradient = true});
  tape.backward(sum(product(a, b, &of_a)));
  EXPECT_EQ(of_a, 0);
  EXPECT_NE(tape.grad(b)[0], 0);
}

/// Two composite ops of which the first is computed again in a region.
template <class T>
Var<T> in_a_region(Tape& tape, const Var<T>& x) {
  const Var<T> kept = tape.checkpoint(policy::nothing, [&] { return soft_cap(exp(soft_cap(x * 3.0))); });
  return sum(kept * kept);
}

TEST(CustomGradient, ItsMemoryIsInThePlan) {
  const Tensor<double> value = filled({37, 19}, 0);
  const auto stats_in = [&](Mode mode, Tensor<double>* gradient) {
    Tape tape({.mode = mode});
    const Var<double> x = tape.input(value, {.wants_gradient = true});
    tape.backward(in_a_region(tape, x));
    if (gradient != nullptr) *gradient = tape.grad(x);
    return tape.stats();
  };
  Tensor<double> replayed;
  const TapeStats plan = stats_in(Mode::plan, nullptr), run = stats_in(Mode::train, &replayed);
  EXPECT_EQ(plan.peak_bytes, run.peak_bytes);
  EXPECT_EQ(plan.saved_bytes, run.saved_bytes);
  EXPECT_EQ(plan.replayed_by_op, run.replayed_by_op);
  EXPECT_GT(run.replayed_by_op.at("soft_cap"), 0);

  Tape tape;
  const Var<double> x = tape.input(value, {.wants_gradient = true});
  const Var<double> y = soft_cap(exp(soft_cap(x * 3.0)));
  tape.backward(sum(y * y));
  const Tensor<double> kept = tape.grad(x);
  for (Index i = 0; i < value.size(); ++i) ASSERT_EQ(kept[i], replayed[i]);
}

TEST(CustomGradient, WhatItTakesInsideIsCounted) {
  const auto peak = [](auto fn) {
    Tape tape({.mode = Mode::evaluate});
    const Var<float> x = tape.input(Tensor<float>({1 << 14}, 1.0F));
    const Var<float> y = fn(x);
    return tape.stats().peak_bytes;
  };
  const std::size_t one = sizeof(float) << 14;
  // Inside: exp, its square beside it; outside: the result.
  EXPECT_EQ(peak([](const Var<float>& x) {
              return custom_gradient<float>(
                  "squares", {x},
                  [](Tape&, const Vars<float>& in) {
                    const Var<float> e = exp(in[0]);
                    return e * e;
                  },
                  [](const CustomBackward<float>& of) { return Vars<float>{of.gradient}; });
            }),
            3 * one);
}

TEST(CustomGradient, MistakesAreNamed) {
  Tape tape({.step = 1});
  ParameterRegistry parameters(1);
  const Parameter<float> w = (parameters / "scale").parameter<float>("w", {3}, init::ones());
  const Var<float> x = tape.input(Tensor<float>({3}, 1.0F), {.wants_gradient = true});
  const auto same = [](Tape&, const Vars<float>& in) { return in[0] * 2.0F; };
  const auto pass = [](const CustomBackward<float>& of) { return Vars<float>{of.gradient}; };
  remat_test::expect_error({"mine", "scale/w", "inputs"}, [&] {
    custom_gradient<float>(
        "mine", {x}, [&](Tape&, const Vars<float>& in) { return in[0] * w; }, pass);
  });
  remat_test::expect_error({"mine", "random"}, [&] {
    custom_gradient<float>(
        "mine", {x}, [](Tape&, const Vars<float>& in) { return dropout(in[0], 0.5); }, pass);
  });
  remat_test::expect_error({"mine", "0 gradients for 1"}, [&] {
    custom_gradient<float>("mine", {x}, same, [](const CustomBackward<float>&) { return Vars<float>{}; });
  });
  remat_test::expect_error({"mine", "input 0", "unset"}, [&] {
    custom_gradient<float>("mine", {x}, same, [](const CustomBackward<float>&) { return Vars<float>(1); });
  });
  remat_test::expect_error({"mine", "input 0", "[3]"}, [&] {
    custom_gradient<float>("mine", {x}, same,
                           [](const CustomBackward<float>& of) { return Vars<float>{sum(of.gradient)}; });
  });
  remat_test::expect_error({"mine", "operand"}, [&] { custom_gradient<float>("mine", Vars<float>{}, same, pass); });
}

}  // namespace
