// What a tape is given from outside: Vars that were never set or lie elsewhere, ops that record, values nobody can use.
#include <gtest/gtest.h>

#include <algorithm>
#include <optional>
#include <remat/autodiff/report.hpp>
#include <remat/autodiff/tape.hpp>
#include <remat/ops/arithmetic.hpp>
#include <remat/ops/reduce.hpp>
#include <remat/ops/softmax.hpp>
#include <remat/ops/unary.hpp>
#include <remat/params/registry.hpp>
#include <remat/plan/plan.hpp>
#include <tuple>
#include <vector>

#include "core/expect_error.hpp"

namespace {

using namespace remat;
using remat_test::expect_error;
using V = Var<float>;

const InputOptions wanted{.wants_gradient = true};
V input(Tape& tape, Index size = 4, float value = 0.5F) { return tape.input(Tensor<float>({size}, value), wanted); }

// Such a Var has no place on the tape: its slot was read out of bounds, or another value of that number was taken.
TEST(Boundary, ARegionReturnsOnlySetVarsOfItsTape) {
  for (const bool is_place : {false, true})
    for (const Mode mode : {Mode::train, Mode::evaluate, Mode::plan}) {
      Tape a({.mode = mode}), b({.mode = mode});
      const V x = input(a);
      V other = input(b);
      for (int i = 0; i < 20; ++i) other = sin(other);
      const auto region = [&](auto fn) {
        is_place ? (void)a.plannable_region(fn) : (void)a.checkpoint(policy::nothing, fn);
      };
      expect_error({"never given a value"}, [&] { region([&] { return std::pair{sin(x), V()}; }); });
      expect_error({"never given a value"}, [&] { region([&] { return std::vector<V>(3); }); });
      expect_error({"never given a value"}, [&] { region([&] { return std::optional<V>(V()); }); });
      expect_error({"another tape"}, [&] { region([&] { return other; }); });
      // The tape goes on: the region is closed.
      V y = sin(x);
      region([&] { return y = sin(y); });
      if (mode == Mode::train && is_place) a.backward(sum(y));
    }
}

TEST(Boundary, AVarOfAnotherTapeHasNoGradientHere) {
  Tape a, b;
  const V x = input(a), y = input(b, 2, 7);
  V z = y;
  for (int i = 0; i < 50; ++i) z = sin(z);
  a.backward(sum(sin(x)));
  expect_error({"grad", "another tape"}, [&] { a.grad(y); });
  expect_error({"grad", "another tape"}, [&] { a.grad(z); });
  expect_error({"before a value"}, [&] { a.grad(V()); });
  expect_error({"before a value"}, [&] { V().reshape({1}); });
  expect_error({"before a value"}, [&] { stop_gradient(V()); });
}

TEST(Boundary, ASliceOfAParameterHasTheGradientOfItsRows) {
  ParameterRegistry parameters;
  const auto w = (parameters / "layer").parameter<float>("w", {4, 2}, init::ones());
  Tape tape;
  const V whole = tape.parameter(w), part = whole.slice(1, 3);
  tape.backward(sum(part * tape.input(Tensor<float>({2, 2}, {1, 2, 3, 4}))));
  const Tensor<float> expected({2, 2}, {1, 2, 3, 4});
  EXPECT_TRUE(same_bits(tape.grad(part), expected));
  EXPECT_TRUE(same_bits(tape.grad(whole).slice(1, 3), expected));
  const Tensor<float> all = tape.grad(whole);
  EXPECT_EQ(all[0], 0);
}

/// y = 2 x, by a tape of its own: an implicit layer in small.
struct Twice : Op {
  static constexpr In<float> x{0};
  static constexpr Out<float> y{0};
  Twice() : Op("twice") {}
  Specs infer(const Operands& in) const override { return {y(in[x].shape)}; }
  Residuals residuals(const Wanted&) const override { return {}; }
  void forward(Frame& f) const override { by_inner_tape(f[x].data(), f[y].data(), f[x].size()); }
  void backward(Frame& f) const override { by_inner_tape(f.grad(y).data(), f.grad(x).data(), f[x].size()); }
  void update_state(Frame& f) const override {
    Tape inner({.mode = Mode::evaluate});
    sin(inner.input(Tensor<float>({7}, 1.F)));
    EXPECT_EQ(f[y].data()[0], 2 * f[x].data()[0]);
  }
  static void by_inner_tape(const float* from, float* to, Index size) {
    const Tensor<float> copy({size}, std::span(from, static_cast<std::size_t>(size)));
    Tape inner;
    const V v = inner.input(copy, wanted), twice = v * 2.F;
    inner.backward(sum(twice));
    const Tensor<float> grad = inner.grad(v);
    EXPECT_EQ(grad[0], 2);
    Tape again({.mode = Mode::evaluate});
    const Tensor<float> result = (again.input(copy) * 2.F).value();
    std::copy_n(result.data(), size, to);
  }
};

// All ops of a thread shared one frame, so that an inner op changed what the outer one read.
TEST(Boundary, AnOpMayUseATapeOfItsOwn) {
  for (const Policy& policy : {policy::everything, policy::nothing}) {
    Tape tape;
    const V x = tape.input(Tensor<float>({3}, {1, 2, 3}), wanted);
    const V y =
        tape.checkpoint(policy, [&] { return sin(record(Twice(), sin(record(Twice(), x)[Twice::y]))[Twice::y]); });
    Tape plain;
    const V u = plain.input(Tensor<float>({3}, {1, 2, 3}), wanted);
    const V v = sin(sin(u * 2.F) * 2.F);
    EXPECT_TRUE(same_bits(y.value(), v.value()));
    tape.backward(sum(y));
    plain.backward(sum(v));
    EXPECT_TRUE(same_bits(tape.grad(x), plain.grad(u)));
  }
}

/// Records on the tape that is running it.
struct Meddler : Op {
  static constexpr In<float> x{0};
  static constexpr Out<float> y{0};
  V other;
  explicit Meddler(V var) : Op("meddler"), other(std::move(var)) {}
  Specs infer(const Operands& in) const override { return {y(in[x].shape)}; }
  Residuals residuals(const Wanted&) const override { return {}; }
  void forward(Frame&) const override { sin(other); }
  void backward(Frame&) const override {}
};
TEST(Boundary, AnOpCannotRecordOnTheTapeThatRunsIt) {
  Tape tape;
  const V x = input(tape);
  expect_error({"meddler", "tape of its own"}, [&] { record(Meddler(x), x); });
  tape.backward(sum(sin(x)));  // and is usable afterwards
}

struct Print : Op {
  static constexpr In<float> x{0};
  Print() : Op("print") {}
  Specs infer(const Operands&) const override { return {}; }
  Residuals residuals(const Wanted&) const override { return {x}; }
  void forward(Frame&) const override {}
  void backward(Frame&) const override { fail("has no backward"); }
};
// Plans waited for the slot of a result that never came.
TEST(Boundary, AnOpWithoutResultsCanBePlanned) {
  const auto step = [](Tape& tape) {
    V x = input(tape, 1000);
    const auto made = tape.checkpoint(policy::nothing, [&] {
      const V h = sin(x);
      record(Print(), h);
      return sin(h);
    });
    const V y = made * 2.F;
    record(Print(), y);
    return sum(square(y));
  };
  Tape tape;
  tape.backward(step(tape));
  const Plan planned = plan(step, CostModel{});
  EXPECT_EQ(planned.rows().front().stats.peak_bytes, tape.stats().peak_bytes);
  EXPECT_EQ(planned.rows().front().stats.saved_bytes, tape.stats().saved_bytes);
}

// Work of one region was done again for every region around it: cubic in depth.
TEST(Boundary, AThousandNestedRegionsTakeNotMuchLongerThanTheyHaveOps) {
  int asked = 0;
  const Policy policy = [&asked](const SlotInfo&) {
    ++asked;
    return false;
  };
  Tape tape;
  const auto nest = [&](const auto& self, const V& x, int depth) -> V {
    if (depth == 0) return sin(x);
    return tape.checkpoint(policy, [&] { return self(self, sin(x), depth - 1); });
  };
  const V x = input(tape);
  tape.backward(sum(nest(nest, x, 1000)));
  EXPECT_EQ(tape.stats().ops_replayed, 1000);
  EXPECT_EQ(asked, 1000 * 1001 / 2 + 1000);  // each level once about each value inside it
}

/// Peak of ten steps h -> 0.5 (0.9 h), none of which needs a residual, with or without something logged on the way.
std::size_t peak_with(bool region, const std::function<void(Tape&, const V&)>& log) {
  Tape tape;
  V h = input(tape, 1024);
  for (int i = 0; i < 10; ++i) {
    const auto step = [&] {
      const V u = h * 0.9F;
      log(tape, u);
      return u * 0.5F;
    };
    h = region ? tape.checkpoint(policy::nothing, step) : step();
  }
  const V loss = sum(h);
  h = V();
  tape.backward(loss);
  return tape.stats().peak_bytes;
}
// A logged metric held all that its backward would have read, though no loss could ever reach it.
TEST(Boundary, AMetricThatNobodyUsesHoldsNothing) {
  float seen = 0;
  for (const bool region : {false, true}) {
    const std::size_t without = peak_with(region, [](Tape&, const V&) {});
    const std::size_t with = peak_with(region, [&](Tape&, const V& u) { seen += mean(square(u)).item(); });
    EXPECT_LE(with, without + 2 * 4096) << region;  // square(u) for a moment, and what the mean needs
    // A chain, one with two results, a nested region, and a region that only the metric needed.
    const std::size_t deeper = peak_with(region, [&](Tape& tape, const V& u) {
      const V probe = tape.checkpoint(policy::everything, [&] { return exp(sin(square(u))); });
      seen += mean(tape.checkpoint(policy::nothing, [&] { return square(log_softmax(sin(probe * u))); })).item();
    });
    EXPECT_LE(deeper, without + 6 * 4096) << region;
  }
}
// Also when the metric outlives its step: its last Var decides.
TEST(Boundary, WhatOnlyADeadVarNeededGoesWithIt) {
  Tape tape;
  const V x = input(tape, 1024);
  const auto live = [&] { return std::size_t{tape.program().account->live_bytes}; };
  const V y = sin(x);
  const std::size_t before = live();
  {
    V metric = tape.checkpoint(policy::nothing, [&] { return exp(sin(exp(y))); });
    metric = square(metric);
    EXPECT_GT(live(), before);
  }
  EXPECT_EQ(live(), before);
  tape.backward(sum(y));
  EXPECT_EQ(tape.stats().saved_bytes, 0U);  // sin reads x, an input
}
TEST(Boundary, WhatDiesEarlyChangesNoGradientAndNoPlan) {
  const auto step = [](Tape& tape) {
    V h = input(tape, 64);
    for (int i = 0; i < 4; ++i) {
      h = tape.checkpoint(policy::names("kept"), [&] {
        const V u = checkpoint_name(sin(h), "kept"), v = exp(u);
        V logged = sum(square(v * u));
        logged = logged * 2.F;
        return u * v;
      });
      mean(square(h));
    }
    return sum(h);
  };
  Tape tape;
  tape.backward(step(tape));
  const Plan planned = plan(step, CostModel{});
  EXPECT_EQ(planned.rows().front().stats.peak_bytes, tape.stats().peak_bytes);
  EXPECT_EQ(planned.rows().front().stats.saved_bytes, tape.stats().saved_bytes);
  EXPECT_EQ(planned.rows().front().stats.ops_replayed, tape.stats().ops_replayed);
}

TEST(Boundary, StopGradientReadsTheValueAsAConstant) {
  for (const Policy& policy : {policy::everything, policy::nothing}) {
    Tape tape;
    const V x = tape.input(Tensor<float>({2}, {0.3F, 0.7F}), wanted);
    const V y = tape.checkpoint(policy, [&] {
      const V s = sin(x);
      return s * stop_gradient(s).reshape({2}).slice(0, 2);
    });
    tape.backward(sum(y));
    Tape plain;
    const V u = plain.input(Tensor<float>({2}, {0.3F, 0.7F}), wanted);
    const V s = sin(u);
    plain.backward(sum(s * plain.input(s.value())));
    EXPECT_TRUE(same_bits(tape.grad(x), plain.grad(u)));
  }
  Tape tape;
  const V x = input(tape), loss = sum(sin(x));
  expect_error({"depends on no parameter"}, [&] { tape.backward(sum(stop_gradient(loss))); });
  expect_error({"stop_gradient"}, [&] { tape.backward(stop_gradient(loss)); });
}
TEST(Boundary, WhatIsReadOnlyAsAConstantHoldsNoResiduals) {
  Tape tape;
  const V x = input(tape, 1024), y = sin(x);
  const std::size_t before = tape.program().account->live_bytes;
  const V target = stop_gradient(exp(sin(exp(y))));
  EXPECT_EQ(tape.program().account->live_bytes, before + 4096);  // its value, for its Var
  tape.backward(sum(y * target));
}

// Constants have no Var whose death would free them.
TEST(Boundary, EvaluationOfAnyLengthHoldsWhatIsLive) {
  Tape tape({.mode = Mode::evaluate});
  V x = input(tape, 1 << 18);
  const std::size_t before = pool().live_bytes();
  for (int i = 0; i < 100; ++i) {
    x = x + Tensor<float>({1 << 18}, 1.F);
    expect_error({"broadcast"}, [&] { x + Tensor<float>({3}, 1.F); });
  }
  EXPECT_LE(pool().live_bytes(), before + (2U << 20));

  V y = input(tape);
  Program& p = tape.program();
  const auto turn = [&] {
    const auto here = tape.layer("net/layer_0");
    y = checkpoint_name(log_softmax(y * 0.5F), "y");  // two results
    y = tape.checkpoint(policy::nothing, [&] { return sin(y); });
    const auto other = tape.layer("net/layer_1");
    y = y + 1.F;
  };
  for (int i = 0; i < 10; ++i) turn();
  const auto sizes = [&] { return std::tuple(p.slots.size(), p.regions.size(), p.paths.size(), p.labels.size()); };
  const auto after_ten = sizes();
  for (int i = 0; i < 1000; ++i) turn();
  EXPECT_EQ(sizes(), after_ten);
}

// The policy of a region that has closed was never told of a later label.
TEST(Boundary, ALabelGivenAfterTheCloseCounts) {
  // Returned values alone can be labelled late; here the second result's replay starts from the first.
  for (const bool late : {false, true}) {
    Tape tape;
    const V x = input(tape, 1024);
    std::vector<V> both = tape.checkpoint(policy::names("name"), [&] {
      const V a = sin(exp(x));
      return std::vector{late ? a : checkpoint_name(a, "name"), sin(sin(sin(a)))};
    });
    if (late) checkpoint_name(both[0], "name");
    const V loss = sum(both[1]);
    both.clear();
    tape.backward(loss);
    EXPECT_EQ(tape.stats().ops_replayed, 3) << late;  // exp, for the backward of sin; two sines of three
    EXPECT_EQ(tape.stats().saved_bytes, 4096U) << late;
  }
  Tape tape;
  const V x = input(tape);
  V inner;
  tape.checkpoint(policy::nothing, [&] { return inner = sin(x), exp(inner); });
  expect_error({"checkpoint_name", "\"late\"", "inside the region"}, [&] { checkpoint_name(inner, "late"); });
}

TEST(Boundary, AReportSaysThatASlicesLabelKeepsTheWhole) {
  Tape tape;
  const V x = tape.input(Tensor<float>({4, 8}, 0.5F), wanted);
  const V y = tape.checkpoint(policy::names("part"), [&] {
    const V h = sin(x);
    checkpoint_name(h.slice(0, 1), "part");
    return sin(h);
  });
  tape.backward(sum(y));
  const auto saved = saved_residuals(tape);
  ASSERT_EQ(saved.size(), 1U);
  EXPECT_EQ(saved[0].bytes, 128U);
  EXPECT_TRUE(saved[0].labelled_part);
  std::ostringstream text;
  text << saved;
  EXPECT_NE(text.str().find("slice"), std::string::npos) << text.str();
}

// It could never be read.
TEST(Boundary, KeptValuesMustBeReturned) {
  Tape tape;
  const V x = input(tape);
  expect_error({"keep", "exp", "return it"}, [&] {
    tape.checkpoint(policy::nothing, [&] {
      const V h = exp(x);
      tape.keep(h);
      return sin(h);
    });
  });
  const auto [kept, y] = tape.checkpoint(policy::nothing, [&] {
    const V h = exp(x);
    tape.keep(h.slice(0, 2));
    return std::pair{h, sin(h)};
  });
  tape.backward(sum(y));
  EXPECT_EQ(kept.value().size(), 4);
  Tape evaluating({.mode = Mode::evaluate});  // there is no backward to keep it from
  EXPECT_EQ(evaluating
                .checkpoint(policy::nothing,
                            [&] {
                              const V h = exp(input(evaluating));
                              evaluating.keep(h);
                              return sin(h);
                            })
                .value()
                .size(),
            4);
}

}  // namespace
