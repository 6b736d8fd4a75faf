// Regions: what may be used afterwards, what policies are asked and told, nesting.
#include <gtest/gtest.h>

#include <remat/autodiff/report.hpp>
#include <remat/autodiff/tape.hpp>
#include <remat/ops/arithmetic.hpp>
#include <remat/ops/reduce.hpp>
#include <remat/ops/unary.hpp>
#include <remat/policy/phrase_book.hpp>
#include <tuple>

#include "core/expect_error.hpp"

namespace {

using namespace remat;
using remat_test::expect_error;

Var<double> input(Tape& tape, Index size = 4) {
  Tensor<double> tensor({size});
  for (Index i = 0; i < size; ++i) tensor.write()[i] = 0.1 + 0.2 * static_cast<double>(i);
  return tape.input(tensor, {.wants_gradient = true});
}

// The promise that random numbers, counters and prints in user code happen once.
TEST(Region, UserCodeRunsOnce) {
  Tape tape;
  const auto x = input(tape);
  int entered = 0;
  const auto y = tape.checkpoint(policy::nothing, [&] {
    ++entered;
    return sin(sin(x));
  });
  tape.backward(sum(y));
  EXPECT_EQ(entered, 1);
  EXPECT_GT(tape.stats().ops_replayed, 0);
}

TEST(Region, OnlyReturnedVarsMayBeUsedAfterwards) {
  Tape tape;
  const auto x = input(tape);
  Var<double> smuggled;
  const auto [y, z] = tape.checkpoint(policy::everything, [&] {
    smuggled = sin(x);
    return std::tuple(sin(smuggled), exp(smuggled));
  });
  expect_error({"did not return it"}, [&] { sin(smuggled); });
  expect_error({"did not return it"}, [&] { smuggled.value(); });
  tape.backward(sum(y * z));
  const auto leaked = [&] {
    Tape nested;
    const auto a = input(nested);
    nested.checkpoint(policy::nothing, [&] {
      Var<double> inner;
      nested.checkpoint(policy::nothing, [&] { return inner = sin(a), exp(a); });
      return inner;
    });
  };
  expect_error({"did not return"}, [&] { leaked(); });
}

TEST(Region, ReturnsRangesAndOptionals) {
  Tape tape;
  const auto x = input(tape);
  const auto list = tape.checkpoint(policy::nothing, [&] { return std::vector{sin(x), exp(x)}; });
  const auto maybe = tape.checkpoint(policy::nothing, [&] { return std::optional(sin(list[0])); });
  tape.backward(sum(*maybe * list[1]));
  EXPECT_EQ(tape.grad(x).size(), 4);
}

// A policy is asked once per slot and nesting level, and told the truth.
TEST(Region, PolicyIsAskedOncePerSlotAndLevel) {
  std::map<Index, int> outer, inner;
  Tape tape;
  const auto x = input(tape);
  const auto y = tape.checkpoint(
      [&](const SlotInfo& slot) {
        ++outer[slot.index];
        if (slot.op == "exp") {
          EXPECT_EQ(slot.layer_path, "net/layer_1");
          EXPECT_EQ(slot.bytes, 32U);
          EXPECT_TRUE(slot.has_label("hot"));
          EXPECT_FALSE(slot.dot);
        }
        return false;
      },
      [&] {
        const auto h = tape.checkpoint(
            [&](const SlotInfo& slot) {
              ++inner[slot.index];
              return false;
            },
            [&] { return sin(sin(x)); });
        const auto here = tape.layer("net/layer_1");
        return sin(checkpoint_name(exp(h), "hot"));
      });
  tape.backward(sum(y));
  ASSERT_EQ(outer.size(), 4U);
  for (const auto& [slot, count] : outer) EXPECT_EQ(count, 1) << slot;
  for (const auto& [slot, count] : inner) EXPECT_EQ(count, 1) << slot;
}

// Values that policies drop are gone while the forward still runs, not only when the region closes.
TEST(Region, DroppedValuesDieInsideTheOpenRegion) {
  Tape tape;
  const auto x = input(tape, 1000);
  const auto y = tape.checkpoint(policy::nothing, [&] {
    auto h = x;
    for (int i = 0; i < 50; ++i) h = sin(h);
    return h;
  });
  EXPECT_LE(tape.stats().peak_bytes, 2 * 8000U);
  EXPECT_EQ(tape.program().account->live_bytes, round_up(8000));
}

// What a policy saves and nobody reads is dropped at the close.
TEST(Region, SavedButUnreadValuesAreDropped) {
  Tape tape;
  const auto x = input(tape, 1000);
  const auto y = tape.checkpoint(policy::everything, [&] { return (x + 1.0) + 2.0; });
  EXPECT_EQ(tape.program().account->live_bytes, round_up(8000));  // y, by its Var
  tape.backward(sum(y));
  EXPECT_EQ(tape.stats().saved_bytes, 0U);
}

// A label may be given before or after a value is read; the value is held once.
TEST(Region, LabelsFormASetAndTheValueIsHeldOnce) {
  Tape tape;
  const auto x = input(tape, 1000);
  const auto y = tape.checkpoint(policy::names("b"), [&] {
    const auto h = sin(x);
    const auto before = sin(h);
    checkpoint_name(checkpoint_name(h, "a"), "b");
    return before + sin(checkpoint_name(h, "b"));
  });
  tape.backward(sum(y));
  const auto saved = saved_residuals(tape);
  ASSERT_EQ(saved.size(), 1U);
  EXPECT_EQ(saved[0].labels, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(tape.stats().saved_bytes, 8000U);
  EXPECT_EQ(tape.stats().ops_replayed, 0);
}

TEST(Region, ANameThatMatchesNothingIsAnError) {
  const auto step = [](const Policy& policy) {
    Tape tape;
    const auto x = input(tape);
    tape.backward(sum(tape.checkpoint(policy, [&] { return sin(checkpoint_name(sin(x), "context")); })));
  };
  EXPECT_NO_THROW(step(policy::names("context")));
  EXPECT_NO_THROW(step(policy::save_qkv_out_proj));  // phrases are exempt
  expect_error({"did you mean \"context\""}, [&] { step(policy::names("contxt")); });
}

// `ops("liner")` matched nothing in silence. What counts is the whole step, not the region that is asked.
TEST(Region, ASlipInTheNameOfAnOpIsAnError) {
  const auto step = [](const Policy& inner, const Policy& outer = policy::nothing) {
    Tape tape;
    const auto x = input(tape);
    const auto y = tape.checkpoint(policy::nothing, [&] { return sin(exp(x)); });
    tape.backward(sum(tape.checkpoint(outer, [&] { return tape.checkpoint(inner, [&] { return tanh(square(y)); }); })));
  };
  for (const Policy& fine :
       {policy::ops("exp"), policy::ops("sum", "tanh"), !policy::ops("square"), policy::dots | policy::names("*"),
        policy::save_dot_only, policy::dots | policy::ops("dropout")})  // of other models
    EXPECT_NO_THROW(step(fine)) << fine;
  expect_error({"no op of this step is named \"tahn\"", "did you mean \"tanh\"", "exp, sin, square, sum, tanh"},
               [&] { step(policy::ops("exp", "tahn")); });
  for (const Policy& wrong :
       {!policy::ops("sqare"), policy::dots & offload(policy::ops("sqare")), policy::lossy::int8(policy::ops("sqare")),
        policy::save_dot_only | policy::ops("sqare")}) {
    expect_error({"\"sqare\"", "\"square\""}, [&] { step(wrong); });
    expect_error({"\"sqare\"", "\"square\""}, [&] { step(policy::nothing, wrong); });
  }
}

// An exception in a region's function closes the region; the tape can be dropped, and nothing leaks.
TEST(Region, ExceptionsLeaveNoRegionOpen) {
  const auto before = pool().live_bytes();
  {
    Tape tape;
    const auto x = input(tape);
    EXPECT_THROW(tape.checkpoint(policy::nothing,
                                 [&]() -> Var<double> {
                                   const auto y = sin(x);
                                   throw std::runtime_error("user");
                                 }),
                 std::runtime_error);
    tape.backward(sum(sin(x)));
  }
  EXPECT_EQ(pool().live_bytes(), before);
}

// A policy may be asked in the destructor of a Var: what it throws there comes out at the next use of the tape.
TEST(Region, APolicyMayThrow) {
  Tape tape;
  const auto x = input(tape);
  expect_error({"no opinion on exp"}, [&] {
    tape.checkpoint(
        [](const SlotInfo& slot) {
          if (slot.op == "exp") fail("no opinion on exp");
          return false;
        },
        [&] { return sin(exp(x)); });
  });
}

// JAX's rule: the outermost policy governs while the forward runs, an inner one when the level above is replayed.
TEST(Region, NestedPoliciesRuleByLevel) {
  const auto run = [](const Policy& outer, const Policy& inner) {
    Tape tape;
    const auto x = input(tape) * 1.0;
    const auto y = tape.checkpoint(outer, [&] {
      const auto h = tape.checkpoint(inner, [&] { return exp(sin(exp(sin(x)))); });
      return sin(h);
    });
    tape.backward(sum(y));
    return std::pair(tape.stats().ops_replayed, tape.stats().saved_bytes);
  };
  // exp reads its result, sin its operand: x and both results of exp are read.
  const std::size_t value = 32;
  EXPECT_EQ(run(policy::everything, policy::nothing), std::pair(Index{0}, 3 * value));
  EXPECT_EQ(run(policy::save_everything, policy::nothing), std::pair(Index{0}, 3 * value));
  EXPECT_EQ(run(policy::ops("sin"), policy::nothing), std::pair(Index{2}, 3 * value));  // both exp again
  EXPECT_EQ(run(policy::nothing, policy::everything), std::pair(Index{4}, value));
  EXPECT_EQ(run(policy::nothing, policy::nothing), std::pair(Index{6}, value));  // 4, then the first 2 again
}

// An integer result is a decision: replaying must not be able to make another one.
struct Pick final : Op {
  static constexpr In<double> x{0};
  static constexpr Out<double> y{0};
  static constexpr Out<std::int32_t> chosen{1};
  Pick() : Op("pick") {}
  Specs infer(const Operands& in) const override { return {y(in[x].shape), chosen(Shape{1})}; }
  Residuals residuals(const Wanted&) const override { return {chosen}; }
  void forward(Frame& f) const override {
    *f[chosen].data() = 2;
    for (Index i = 0; i < f[x].size(); ++i) f[y].data()[i] = i == 2 ? f[x].data()[i] : 0;
  }
  void backward(Frame& f) const override {
    for (Index i = 0; i < f[x].size(); ++i) f.grad(x).data()[i] = i == *f[chosen].data() ? f.grad(y).data()[i] : 0;
  }
};

TEST(Region, DiscreteDecisionsAreAlwaysKept) {
  Tape tape;
  const auto x = input(tape);
  const auto y = tape.checkpoint(policy::nothing, [&] { return record(Pick(), x)[Pick::y]; });
  tape.backward(sum(y));
  EXPECT_EQ(tape.stats().ops_replayed, 0);
  EXPECT_EQ(tape.stats().saved_bytes, 4U);
  EXPECT_EQ(tape.grad(x)[2], 1);
}

// Regions inside loops and conditions that look at data.
TEST(Region, MayDependOnData) {
  const auto gradient = [](bool remat) {
    Tape tape;
    auto x = input(tape);
    auto y = x;
    while (sum(y).item() > 0.5) {
      const auto body = [&] { return sin(y) * 0.75; };
      y = remat ? tape.checkpoint(policy::nothing, body) : body();
    }
    tape.backward(sum(y));
    return tape.grad(x);
  };
  EXPECT_TRUE(same_bits(gradient(true), gradient(false)));
}

}  // namespace
