// blockwise: the same as the whole sequence at once, for any length, chunk and axis, in less memory.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <remat/autodiff/tape.hpp>
#include <remat/ops/activation.hpp>
#include <remat/ops/arithmetic.hpp>
#include <remat/ops/blockwise.hpp>
#include <remat/ops/linear.hpp>
#include <remat/ops/reduce.hpp>
#include <remat/ops/unary.hpp>
#include <remat/params/registry.hpp>
#include <remat/plan/plan.hpp>
#include <remat/policy/phrase_book.hpp>

#include "core/expect_error.hpp"

namespace {

using namespace remat;
using remat_test::expect_error;

Tensor<double> values(const Shape& shape, int seed = 0) {
  Tensor<double> tensor(shape);
  const RandomStream random{static_cast<std::uint64_t>(seed), 0, 0};
  for (Index i = 0; i < tensor.size(); ++i) tensor.write()[i] = random.normal(static_cast<std::uint64_t>(i));
  return tensor;
}

double distance(const Tensor<double>& a, const Tensor<double>& b) {
  EXPECT_EQ(a.shape(), b.shape());
  double worst = 0;
  for (Index i = 0; i < a.size(); ++i) worst = std::max(worst, std::abs(a[i] - b[i]));
  return worst;
}

struct Outcome {
  Tensor<double> y, dx, dshared, dw;
  TapeStats stats;
};

/// dropout(gelu(x w)) * shared, summed with weights; by chunks where `chunk` is not 0.
Outcome run(const Shape& shape, int axis, Index chunk, double rate, const Policy& policy = policy::nothing) {
  ParameterRegistry parameters(3);
  const auto w = (parameters / "net").parameter<double>("w", {shape.back(), shape.back()}, init::normal(0.5));
  Tape tape({.seed = 5, .step = 2});
  const auto x = tape.input(values(shape, 1), {.wants_gradient = true});
  const auto shared = tape.input(values({shape.back()}, 2), {.wants_gradient = true});
  const auto layer = [&](const Var<double>& part) {
    return activate(linear<double>(part, w, {}), Activation::gelu, rate) * shared;
  };
  const auto y =
      chunk == 0 ? layer(x) : blockwise(x, axis, chunk, policy, [&](const auto& part, Index) { return layer(part); });
  tape.keep(y);
  tape.backward(sum(y * tape.input(values(shape, 4))));
  return {y.value(), tape.grad(x), tape.grad(shared), w.grad(), tape.stats()};
}

TEST(Blockwise, EqualsTheWholeForAnyLengthChunkAndAxis) {
  constexpr Index chunk = 4;
  for (const Index length : {Index{1}, chunk - 1, chunk, chunk + 1, 2 * chunk + 3})
    for (const int axis : {0, 1, -2}) {
      Shape shape{3, 2, 5};
      shape[axis < 0 ? 1 : axis] = length;
      const Outcome whole = run(shape, axis, 0, 0);
      for (const Index size : {Index{1}, chunk, Index{100}}) {
        const Outcome parts = run(shape, axis, size, 0);
        EXPECT_LE(distance(parts.y, whole.y), 1e-14) << shape << axis << ' ' << size;
        EXPECT_LE(distance(parts.dx, whole.dx), 1e-14);
        EXPECT_LE(distance(parts.dshared, whole.dshared), 1e-13);
        EXPECT_LE(distance(parts.dw, whole.dw), 1e-13);
      }
    }
}

TEST(Blockwise, OfNothingIsNothing) {
  const Outcome parts = run({2, 0, 5}, 1, 4, 0.5);
  EXPECT_EQ(parts.y.shape(), Shape({2, 0, 5}));
  EXPECT_EQ(distance(parts.dw, Tensor<double>({5, 5}, 0.0)), 0);
}

// The masks of a chunk are those that the whole would have there: bitwise, since each element is computed alike.
TEST(Blockwise, DropoutDoesNotDependOnTheChunk) {
  const auto dropped = [](const Tensor<double>& y) { return std::count(y.data(), y.data() + y.size(), 0.0); };
  for (const Shape& shape : {Shape{1, 37, 6}, Shape{3, 37, 6}}) {
    const Outcome whole = run(shape, 1, 0, 0.4);
    EXPECT_GT(dropped(whole.y), 0);
    for (const Index chunk : {1, 5, 16, 36, 37}) {
      const Outcome parts = run(shape, 1, chunk, 0.4);
      EXPECT_LE(distance(parts.y, whole.y), 1e-14) << chunk;
      EXPECT_LE(distance(parts.dx, whole.dx), 1e-14) << chunk;
      EXPECT_EQ(dropped(parts.y), dropped(whole.y));
    }
  }
}

TEST(Blockwise, WhatComesAfterDrawsTheSameMasksAsAfterTheWhole) {
  const auto after = [](Index chunk) {
    Tape tape({.seed = 5, .step = 0});
    const auto x = tape.input(values({12, 3}));
    const auto layer = [](const Var<double>& part) { return dropout(dropout(part, 0.3), 0.3); };
    const auto y = chunk == 0
                       ? layer(x)
                       : blockwise(x, 0, chunk, policy::nothing, [&](const auto& part, Index) { return layer(part); });
    return dropout(y, 0.5).value();
  };
  EXPECT_TRUE(same_bits(after(0), after(5)));
}

// A mask that only some chunks draw must not come again behind the sequence.
TEST(Blockwise, WhatComesAfterRepeatsNoMaskOfAnyChunk) {
  for (const Index extra_at : {0, 4, 8}) {
    Tape tape({.seed = 5, .step = 0});
    const auto x = tape.input(Tensor<double>({12, 64}, 1.0));
    Tensor<double> extra;
    blockwise(x, 0, 4, policy::everything, [&](const auto& part, Index offset) {
      const auto h = dropout(part, 0.5);
      if (offset != extra_at) return h;
      const auto second = dropout(part, 0.5);
      extra = second.value().copy();
      return h + second;
    });
    const Tensor<double> after = dropout(x, 0.5).value();
    const auto place = static_cast<std::size_t>(extra_at * 64);
    EXPECT_FALSE(std::equal(extra.span().begin(), extra.span().end(), after.span().begin() + place)) << extra_at;
  }
}

TEST(Blockwise, PolicyAndThreadsChangeNoBit) {
  const Outcome kept = run({2, 37, 6}, 1, 5, 0.4, policy::everything);
  EXPECT_EQ(kept.stats.ops_replayed, 0);
  for (const Policy& policy : {policy::nothing, policy::dots, offload(policy::everything)}) {
    const Outcome other = run({2, 37, 6}, 1, 5, 0.4, policy);
    EXPECT_TRUE(same_bits(kept.y, other.y) && same_bits(kept.dx, other.dx) && same_bits(kept.dshared, other.dshared) &&
                same_bits(kept.dw, other.dw))
        << policy;
  }
}

TEST(Blockwise, OneChunkLivesAtATime) {
  // x W of width 64 x 16 tokens: only one chunk's is alive, forward and backward.
  const auto peak = [](Index chunk) {
    ParameterRegistry parameters;
    const auto wide = (parameters / "net").parameter<double>("wide", {4, 512}, init::normal(1));
    const auto narrow = (parameters / "net").parameter<double>("narrow", {512, 4}, init::normal(1));
    Tape tape;
    const auto x = tape.input(values({1, 256, 4}), {.wants_gradient = true});
    const auto ffn = [&](const Var<double>& part, Index) {
      return linear<double>(activate(linear<double>(part, wide, {}), Activation::gelu), narrow, {});
    };
    tape.backward(sum(chunk == 0 ? ffn(x, 0) : blockwise(x, 1, chunk, policy::nothing, ffn)));
    return tape.stats().peak_bytes;
  };
  const std::size_t hidden = 512 * sizeof(double), token = 4 * sizeof(double);
  EXPECT_GT(peak(0), 2 * 256 * hidden);
  EXPECT_LT(peak(16), 4 * 16 * hidden + 4 * 256 * token);
}

TEST(Blockwise, GivesSeveralResults) {
  Tape tape;
  const auto x = tape.input(values({2, 7, 3}), {.wants_gradient = true});
  const auto [s, c] =
      blockwise(x, 1, 3, policy::nothing, [](const auto& part, Index) { return std::tuple(sin(part), cos(part)); });
  EXPECT_TRUE(same_bits(s.value(), sin(x).value()));
  EXPECT_TRUE(same_bits(c.value(), cos(x).value()));
  tape.backward(sum(s) + sum(c));
  for (Index i = 0; i < x.shape().size(); ++i)
    EXPECT_NEAR(tape.grad(x)[i], std::cos(values({2, 7, 3})[i]) - std::sin(values({2, 7, 3})[i]), 1e-14);
}

TEST(Blockwise, TellsWhereTheSliceBegins) {
  Tape tape;
  const auto x = tape.input(Tensor<double>({1, 7, 1}, 1.0));
  const auto y = blockwise(x, 1, 3, policy::nothing,
                           [](const auto& part, Index offset) { return part * static_cast<double>(offset); });
  const double expected[] = {0, 0, 0, 3, 3, 3, 6};
  EXPECT_TRUE(std::equal(y.value().data(), y.value().data() + 7, expected));
}

TEST(Blockwise, NestsAlongOneAxis) {
  const auto layer = [](const Var<double>& part, Index) { return dropout(sin(part), 0.5); };
  const auto run = [&](bool nested) {
    Tape tape({.seed = 4, .step = 0});
    const auto x = tape.input(values({2, 29, 3}), {.wants_gradient = true});
    const auto y =
        nested ? blockwise(x, 1, 10, policy::nothing,
                           [&](const auto& part, Index) { return blockwise(part, 1, 4, policy::nothing, layer); })
               : layer(x, 0);
    tape.backward(sum(y));
    return tape.grad(x);
  };
  EXPECT_EQ(distance(run(true), run(false)), 0);
}

TEST(Blockwise, PlansArePreciseAndSumsKeepTheirOrder) {
  const auto step = [](Tape& tape) {
    const auto x = tape.input(values({2, 29, 3}), {.wants_gradient = true});
    const auto scale = tape.input(values({3}), {.wants_gradient = true});
    const auto y = tape.checkpoint(policy::nothing, [&] {
      const auto k = blockwise(x, 1, 8, policy::nothing, [](const auto& part, Index) { return sin(sin(part)); });
      return blockwise(x, 1, 5, policy::nothing,
                       [&](const auto& part, Index) { return cos(part) * scale + mean(k) * part; });
    });
    return sum(y);
  };
  Tape tape;
  tape.backward(step(tape));
  const Plan planned = plan(step);
  EXPECT_EQ(planned.rows()[0].stats.peak_bytes, tape.stats().peak_bytes);
  EXPECT_EQ(planned.rows()[0].stats.ops_replayed, tape.stats().ops_replayed);
}

TEST(Blockwise, RefusesWhatItCannotDo) {
  Tape tape({.step = 0});
  const auto x = tape.input(values({2, 7, 3}), {.wants_gradient = true});
  const auto same = [](const auto& part, Index) { return sin(part); };
  expect_error({"chunk 0"}, [&] { blockwise(x, 1, 0, policy::nothing, same); });
  expect_error({"axis 3", "3 axes"}, [&] { blockwise(x, 3, 2, policy::nothing, same); });
  expect_error({"blockwise", "for a slice of 2 elements of axis 1"},
               [&] { blockwise(x, 1, 2, policy::nothing, [&](const auto&, Index) { return sin(x); }); });
  expect_error({"dropout", "no such axis"}, [&] {
    blockwise(x, 1, 2, policy::nothing,
              [&](const auto& part, Index) { return part * sum(dropout(part.reshape({-1 + 13}), 0.5)); });
  });
  expect_error({"dropout", "two axes"}, [&] {
    blockwise(x, 0, 1, policy::nothing, [](const auto& part, Index) {
      return blockwise(part, 1, 2, policy::nothing, [](const auto& p, Index) { return dropout(p, 0.5); });
    });
  });
  // Whatever failed, the tape goes on, and its chunks are forgotten.
  EXPECT_FALSE(tape.chunk().has_value());
  EXPECT_NO_THROW(tape.backward(sum(dropout(x, 0.5))));
}

}  // namespace
