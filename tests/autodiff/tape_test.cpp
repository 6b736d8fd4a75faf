// The tape: modes, lifetimes, views, gradients, and the errors a user meets.
#include <gtest/gtest.h>
#include <pthread.h>

#include <cmath>
#include <functional>
#include <remat/autodiff/report.hpp>
#include <remat/autodiff/tape.hpp>
#include <remat/ops/arithmetic.hpp>
#include <remat/ops/reduce.hpp>
#include <remat/ops/unary.hpp>
#include <remat/params/registry.hpp>
#include <sstream>

#include "core/expect_error.hpp"

namespace {

using namespace remat;
using remat_test::expect_error;

Tensor<double> values(std::initializer_list<double> list) { return {Shape{static_cast<Index>(list.size())}, list}; }

TEST(Tape, GradientOfAChain) {
  Tape tape;
  const auto x = tape.input(values({0.3, -0.7}), {.wants_gradient = true});
  tape.backward(sum(sin(square(x))));
  const auto grad = tape.grad(x);
  for (int i = 0; i < 2; ++i) {
    const double v = i == 0 ? 0.3 : -0.7;
    EXPECT_NEAR(grad[i], std::cos(v * v) * 2 * v, 1e-15);
  }
}

// An input that the loss ignores has a zero gradient, not garbage.
TEST(Tape, GradientOfUnusedInputIsZero) {
  Tape tape;
  const auto x = tape.input(values({1, 2}), {.wants_gradient = true});
  const auto unused = tape.input(values({3, 4}), {.wants_gradient = true});
  tape.backward(sum(sin(x)));
  EXPECT_TRUE(same_bits(tape.grad(unused), values({0, 0})));
}

// Protects aliasing of passed-on gradients: x + x passes one gradient twice, x * x writes two buffers.
TEST(Tape, OneVarUsedTwiceByOneOp) {
  Tape tape;
  const auto x = tape.input(values({3, 5}), {.wants_gradient = true});
  tape.backward(sum((x + x) * (x * x)));  // 2 x^3
  EXPECT_TRUE(same_bits(tape.grad(x), values({54, 150})));
}

TEST(Tape, ViewsShareTheGradientOfTheirSlot) {
  Tape tape;
  const auto x = tape.input(Tensor<double>({3, 2}, {1, 2, 3, 4, 5, 6}), {.wants_gradient = true});
  const auto y = x * 1.0;
  // Rows 1 and 2 once more, and everything as [6].
  tape.backward(sum(square(y.slice(1, 3))) + sum(y.reshape({6})));
  EXPECT_TRUE(same_bits(tape.grad(x), Tensor<double>({3, 2}, {1, 1, 7, 9, 11, 13})));
}

TEST(Tape, ParameterGradientsAddOverTapes) {
  ParameterRegistry parameters;
  const auto w = (parameters / "layer").parameter<double>("w", {2}, init::constant(3));
  for (int use = 0; use < 2; ++use) {
    Tape tape;
    tape.backward(sum(square(tape.parameter(w))));
  }
  EXPECT_TRUE(same_bits(w.grad(), values({12, 12})));
  w.zero_grad();
  EXPECT_TRUE(same_bits(w.grad(), values({0, 0})));
}

TEST(Tape, EvaluateKeepsNothing) {
  const auto before = pool().live_bytes();
  Tape tape({.mode = Mode::evaluate});
  auto x = tape.input(values({0.5, 0.25}), {.wants_gradient = true});
  for (int i = 0; i < 1000; ++i) x = sin(x);
  EXPECT_LE(pool().live_bytes(), before + 128);  // the value at hand, and nothing of the 1000 before
  EXPECT_LT(tape.program().slots.size(), 10U);   // slots are used again
  expect_error({"evaluate"}, [&] { tape.backward(sum(x)); });
}

TEST(Tape, PlanComputesNothingAndCountsTheSame) {
  const auto step = [](Tape& tape) {
    const auto x = tape.input(Tensor<double>({100, 3}, 0.5), {.wants_gradient = true});
    const auto y = tape.checkpoint(policy::nothing, [&] { return sin(exp(sin(x))); });
    tape.backward(sum(y * x));
  };
  Tape train, plan({.mode = Mode::plan});
  step(train);
  const auto before = pool().live_bytes();
  step(plan);
  EXPECT_LE(pool().live_bytes(), before + 2400 + 64);  // the input
  EXPECT_EQ(plan.stats().peak_bytes, train.stats().peak_bytes);
  EXPECT_EQ(plan.stats().saved_bytes, train.stats().saved_bytes);
  EXPECT_EQ(plan.stats().ops_replayed, train.stats().ops_replayed);
}

TEST(Tape, PlanRefusesToReadValues) {
  Tape tape({.mode = Mode::plan});
  const auto x = tape.input(values({1}), {.wants_gradient = true}), y = sin(x);
  expect_error({"plan mode"}, [&] { y.value(); });
  tape.backward(sum(y));
  expect_error({"grad: a tape in plan mode"}, [&] { tape.grad(x); });
}

// The design's word: from backward on only residuals and kept values live, whatever Vars are in scope.
TEST(Tape, VarsInScopeHoldNoMemoryAfterBackward) {
  Tape tape;
  const auto x = tape.input(Tensor<double>({1000}, 0.5), {.wants_gradient = true});
  const auto y = sin(x), z = sin(y), kept = sin(z);
  tape.keep(kept);
  const auto loss = sum(kept);
  tape.backward(loss);
  EXPECT_EQ(tape.program().account->live_bytes, round_up(8000) /* kept */ + round_up(8000) /* grad of x */ + 64);
  expect_error({"freed"}, [&] { y.value(); });
  EXPECT_EQ(kept.value().size(), 1000);
  EXPECT_GT(loss.item(), 0);
}

// A value no backward reads dies with its last Var.
TEST(Tape, UnreadValuesDieWithTheirVars) {
  Tape tape;
  const auto x = tape.input(Tensor<double>({1000}, 0.5), {.wants_gradient = true});
  auto y = x + 1.0;
  const auto live = tape.program().account->live_bytes;
  y = y + 1.0;  // addition reads neither operand
  EXPECT_EQ(tape.program().account->live_bytes, live);
}

TEST(Tape, VarsMayOutliveTheirTape) {
  Var<double> y;
  {
    Tape tape;
    y = sin(tape.input(values({1, 2})));
  }
  expect_error({"tape is gone"}, [&] { y.value(); });
  expect_error({"tape is gone"}, [&] { sin(y); });
}

struct Throws final : Op {
  static constexpr In<double> x{0};
  static constexpr Out<double> y{0};
  Throws() : Op("throws") {}
  Specs infer(const Operands& in) const override { return {y(in[x].shape)}; }
  Residuals residuals(const Wanted&) const override { return {}; }
  void forward(Frame&) const override { fail("always"); }
  void backward(Frame&) const override {}
};

// Protects slots that are used again: an op that throws takes back its own slot and no other.
TEST(Tape, AThrowingForwardLeavesEvaluateModeWhole) {
  for (const Mode mode : {Mode::evaluate, Mode::train}) {
    Tape tape({.mode = mode});
    const auto x = tape.input(values({0.5}));
    auto gap = sin(x);
    const auto y = sin(gap), z = sin(y);
    gap = {};  // its slot is free now, below y and z
    expect_error({"throws: always"}, [&] { record(Throws(), z); });
    EXPECT_EQ(sin(z).item(), std::sin(z.item()));
    EXPECT_EQ(y.item(), std::sin(std::sin(0.5)));
  }
}

// Copy on write: what a recorded op still reads never changes under it.
TEST(Tape, WritingToAnInputCopiesFirst) {
  Tape tape;
  auto tensor = values({0.3, 0.6});
  const auto x = tape.input(tensor, {.wants_gradient = true});
  const auto loss = sum(sin(x));
  tensor.write()[0] = 100;
  tape.backward(loss);
  EXPECT_NEAR(tape.grad(x)[0], std::cos(0.3), 1e-15);
  EXPECT_EQ(tensor[0], 100);
}

// A pointer for writing that was taken before, too: the derivative of x^2 at 1 was 200.
TEST(Tape, ASpanTakenBeforeChangesNoInput) {
  Tape tape;
  auto tensor = values({1});
  double* const kept = tensor.write().data();
  const auto x = tape.input(tensor, {.wants_gradient = true}), y = x + tensor;
  const auto loss = sum(square(x)) + sum(y);
  *kept = 100;
  EXPECT_EQ(y.item(), 2);
  tape.backward(loss);
  EXPECT_EQ(tape.grad(x)[0], 3);
}

TEST(Tape, RefusesMisuse) {
  Tape tape, other;
  const auto x = tape.input(values({1, 2}), {.wants_gradient = true});
  expect_error({"one number"}, [&] { tape.backward(sin(x)); });
  expect_error({"two tapes"}, [&] { sin(x) + other.input(values({1, 2})); });
  expect_error({"depends on no parameter"}, [&] { tape.backward(sum(tape.input(values({1})))); });
  expect_error({"another tape"}, [&] { other.backward(sum(x)); });
  expect_error({"backward first"}, [&] { tape.grad(x); });
  expect_error({"2 elements"}, [&] { x.value().item(); });
  expect_error({"the loss is a slice"}, [&] { tape.backward((x * x).slice(0, 1)); });
  expect_error({"backward: a checkpoint region is still open"},
               [&] { tape.checkpoint(policy::nothing, [&] { return tape.backward(sum(x)), x; }); });
  expect_error({"saved_residuals: a checkpoint region is still open"},
               [&] { tape.checkpoint(policy::nothing, [&] { return saved_residuals(tape), x; }); });
  expect_error({"checkpoint_name: an empty label"}, [&] { checkpoint_name(x, ""); });
  Var<double> inner;
  tape.checkpoint(policy::nothing, [&] { return inner = sin(x), cos(inner); });
  expect_error({"keep: made inside a checkpoint region that did not return it"}, [&] { tape.keep(inner); });
  expect_error({"grad: the input lies on another tape"}, [&] { other.grad(x); });
  expect_error({"keep: the value lies on another tape"}, [&] { other.keep(x); });
  const auto loss = sum(x * x);
  tape.backward(loss);
  expect_error({"only inputs made with {.wants_gradient = true}"}, [&] { tape.grad(loss); });
  expect_error({"already"}, [&] { tape.backward(loss); });
  expect_error({"ended the recording"}, [&] { sin(x); });
  expect_error({"checkpoint: backward has ended the recording"},
               [&] { tape.checkpoint(policy::nothing, [&] { return x; }); });
  expect_error({"before a value"}, [&] { Var<double>().value(); });
}

TEST(Tape, ErrorsNameTheLayer) {
  Tape tape;
  const auto x = tape.input(values({1, 2}));
  const auto here = tape.layer("decoder/layer_3");
  expect_error({"decoder/layer_3"}, [&] { x + tape.input(values({1, 2, 3})); });
}

// Whatever an op throws, the tape goes on as if the op had not been asked for, and nothing leaks.
TEST(Tape, AFailingAllocationLeavesTheTapeWhole) {
  const auto before = pool().live_bytes();
  for (int fail_at = 0;; ++fail_at) {
    bool failed = false;
    {
      Tape tape;
      const auto x = tape.input(values({0.1, 0.2}), {.wants_gradient = true});
      pool().set_limit(pool().live_bytes() + static_cast<std::size_t>(fail_at) * 64);
      try {
        const auto y = tape.checkpoint(policy::nothing, [&] { return sin(exp(sin(x))); });
        tape.backward(sum(y * x));
      } catch (const Error&) {
        failed = true;
      }
      pool().set_limit();
    }
    EXPECT_EQ(pool().live_bytes(), before) << "block " << fail_at;
    if (!failed) {
      EXPECT_GT(fail_at, 3);
      break;
    }
  }
}

/// Runs `work` on a stack of 256 KiB.
void on_small_stack(const std::function<void()>& work) {
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  ASSERT_EQ(pthread_attr_setstacksize(&attributes, 256 * 1024), 0);
  const auto call = [](void* given) -> void* {
    (*static_cast<const std::function<void()>*>(given))();
    return nullptr;
  };
  pthread_t thread;
  ASSERT_EQ(pthread_create(&thread, &attributes, call, const_cast<std::function<void()>*>(&work)), 0);
  pthread_join(thread, nullptr);
  pthread_attr_destroy(&attributes);
}

// Depth costs no stack: recording, backward, replay and destruction walk lists.
TEST(Tape, AMillionOpsFitASmallStack) {
#if defined(REMAT_POOL_GUARD)
  constexpr int count = 10'000;  // a block is two mappings there, and the system gives 65530
#else
  constexpr int count = 1'000'000;
#endif
  double plain_gradient = 0, replayed_gradient = 0;
  on_small_stack([&] {
    for (double* gradient : {&plain_gradient, &replayed_gradient}) {
      Tape tape;
      const auto x = tape.input(values({0.5}), {.wants_gradient = true});
      const auto chain = [&] {
        auto y = x;
        for (int i = 0; i < count; ++i) y = sin(y);
        return y;
      };
      const auto y = gradient == &plain_gradient ? chain() : tape.checkpoint(policy::nothing, chain);
      tape.backward(sum(y));
      *gradient = tape.grad(x)[0];
    }
  });
  EXPECT_GT(plain_gradient, 0);
  EXPECT_EQ(plain_gradient, replayed_gradient);
}

// Nor do layers, each a region, or regions in regions, but for the user's own calls; a tape may be left half recorded.
TEST(Tape, TenThousandLayersAndNestedRegionsFitASmallStack) {
  double gradient_of_layers = 0, gradient_of_nest = 0;
  on_small_stack([&] {
    Tape tape, left;
    const auto x = tape.input(values({0.5}), {.wants_gradient = true});
    auto y = x, z = left.input(values({0.5}), {.wants_gradient = true});
    for (int i = 0; i < 10'000; ++i) {
      y = tape.checkpoint(policy::nothing, [&] { return sin(sin(y)); });
      z = left.checkpoint(policy::everything, [&] { return sin(sin(z)); });
    }
    tape.backward(sum(y));
    gradient_of_layers = tape.grad(x)[0];
  });
  on_small_stack([&] {
    Tape tape;
    const auto nest = [&](const auto& self, const Var<double>& x, int depth) -> Var<double> {
      if (depth == 0) return sin(x);
      return tape.checkpoint(policy::nothing, [&] { return sin(self(self, sin(x), depth - 1)); });
    };
    const auto x = tape.input(values({0.5}), {.wants_gradient = true});
    tape.backward(sum(nest(nest, x, 64)));
    gradient_of_nest = tape.grad(x)[0];
  });
  const auto gradient_of_sines = [](int count) {
    double gradient = 1;
    for (double y = 0.5; count > 0; --count) gradient *= std::cos(y), y = std::sin(y);
    return gradient;
  };
  EXPECT_NEAR(gradient_of_layers / gradient_of_sines(20'000), 1, 1e-9);
  EXPECT_NEAR(gradient_of_nest / gradient_of_sines(129), 1, 1e-12);
}

TEST(Tape, VarsAreCutWhereTheyHaveRows) {
  Tape tape;
  const auto x = tape.input(Tensor<float>({4, 2}, 1.0F));
  EXPECT_EQ(x.slice(1, 4).shape(), (Shape{3, 2}));
  expect_error({"slice: rows [1, 5) of shape [4, 2]"}, [&] { x.slice(1, 5); });
  expect_error({"slice: rows [3, 2) of shape [4, 2]"}, [&] { x.slice(3, 2); });
  expect_error({"slice: rows [-1, 2)"}, [&] { x.slice(-1, 2); });
}

TEST(Tape, Prints) {
  ParameterRegistry parameters;
  const auto w = (parameters / "layer").parameter<double>("w", {2}, init::constant(3));
  Tape tape;
  const auto x = tape.input(values({1, 2}));
  const auto y = tape.checkpoint(policy::names("product"), [&] {
    const auto here = tape.layer("net/layer_0");
    return sin(checkpoint_name(x * w, "product"));
  });
  const auto loss = sum(y);
  std::ostringstream program;
  program << tape;
  EXPECT_NE(program.str().find("%0 = input : float64[2] 16 B"), std::string::npos) << program.str();
  EXPECT_NE(program.str().find("(%0, layer/w) \"product\" : float64[2] 16 B save region 0  (net/layer_0)"),
            std::string::npos)
      << program.str();
  tape.backward(loss);
  const auto saved = saved_residuals(tape);
  ASSERT_EQ(saved.size(), 1U);
  EXPECT_EQ(saved[0].labels, std::vector<std::string>{"product"});
  EXPECT_EQ(saved[0].why, "backward of sin (net/layer_0)");
  EXPECT_EQ(saved[0].bytes, 16U);
  EXPECT_EQ(saved[0].verdict, Verdict::save);
  std::ostringstream report;
  report << saved;
  EXPECT_NE(report.str().find("read by backward of sin"), std::string::npos) << report.str();
}

}  // namespace
