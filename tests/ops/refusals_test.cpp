// What ops refuse of shapes and numbers, in words: operands of adapters, experts, axes, lengths that no int32 numbers.
#include <gtest/gtest.h>

#include <core/expect_error.hpp>
#include <limits>
#include <ops/try_op.hpp>
#include <remat/ops/argmax.hpp>
#include <remat/ops/arithmetic.hpp>
#include <remat/ops/attention.hpp>
#include <remat/ops/custom_gradient.hpp>
#include <remat/ops/dora.hpp>
#include <remat/ops/grouped_matmul.hpp>
#include <remat/ops/low_rank.hpp>
#include <remat/ops/matmul.hpp>
#include <remat/ops/rotary.hpp>
#include <remat/ops/route.hpp>
#include <remat/ops/slice.hpp>
#include <remat/ops/stack.hpp>
#include <remat/ops/top_k.hpp>
#include <remat/ops/transpose.hpp>
#include <vector>

namespace {

using namespace remat;
using remat_test::expect_error;
using Vars = std::vector<Var<float>>;

Var<float> of(Tape& tape, const Shape& shape, bool wants_gradient = false) {
  return tape.input(Tensor<float>(shape, 0.5F), {.wants_gradient = wants_gradient});
}

TEST(Refusals, AxesAndParts) {
  Tape tape;
  const Var<float> x = of(tape, {2, 3});
  expect_error({"slice: [1, 4) of axis 1 of x, which has shape [2, 3]"}, [&] { slice(x, 1, 1, 4); });
  expect_error({"slice: [2, 1) of axis 1"}, [&] { slice(x, 1, 2, 1); });
  expect_error({"slice: [-1, 1) of axis 1"}, [&] { slice(x, 1, -1, 1); });
  expect_error({"transpose: axes name 1 axes, x has shape [2, 3]"}, [&] { transpose(x, {0}); });
  expect_error({"transpose: axes name one axis twice"}, [&] { transpose(x, {1, -1}); });
  expect_error({"transpose: x has shape [3], swapping"}, [&] { transpose(of(tape, {3})); });
  expect_error({"split: a part cannot have length -1"}, [&] { split(x, std::vector<Index>{4, -1}, 1); });
  expect_error({"split: the parts have 4 elements together, axis 1 of [2, 3] has 3"}, [&] {
    split(x, std::vector<Index>{2, 2}, 1);
  });
  expect_error({"matmul: a and b have shapes [3] and [2, 3]; both need at least 2 axes"},
               [&] { matmul(of(tape, {3}), x); });
}

// A plan has shapes without bytes, so that an axis may be longer than memory is.
TEST(Refusals, AxesThatNoInt32Numbers) {
  Tape tape({.mode = Mode::plan});
  const Var<float> x = (of(tape, {65536, 1}) + of(tape, {1, 32769})).reshape({65536 * Index{32769}});
  expect_error({"argmax: an axis of 2147549184 elements is too long to number by int32"}, [&] { argmax(x, 0); });
  expect_error({"top_k: rows of 2147549184 elements are too long to number by int32"}, [&] { top_k(x, 1); });
}

TEST(Refusals, RotaryFrequencies) {
  Tape tape;
  const Var<float> x = of(tape, {1, 2, 1, 4});
  const RotaryScalingOptions wrong{.kind = RotaryScaling::linear, .factor = 0};
  expect_error({"attention: rotary_scaling.factor must be > 0 and finite"},
               [&] { attention(x, x, x, {.rotary_base = 100, .rotary_scaling = wrong}); });
  expect_error({"rotary: rotary_scaling.factor must be > 0 and finite"}, [&] { rotary(x, {.scaling = wrong}); });
}

TEST(Refusals, Experts) {
  Tape tape;
  const Var<float> x = of(tape, {4, 3}), w = of(tape, {2, 3, 5});
  const auto counts = [](std::vector<std::int32_t> of_each) {
    return Tensor<std::int32_t>({static_cast<Index>(of_each.size())}, std::span<const std::int32_t>(of_each));
  };
  expect_error({"grouped_matmul: x has shape [4, 3, 1], a matrix"}, [&] {
    grouped_matmul(x.reshape({4, 3, 1}), w, counts({2, 2}));
  });
  expect_error({"grouped_matmul: w has shape [3, 2, 5], x of shape [4, 3] needs [E, 3, F]"}, [&] {
    grouped_matmul(x, of(tape, {3, 2, 5}), counts({2, 2, 0}));
  });
  expect_error({"grouped_matmul: counts have shape [3], [2] is needed"}, [&] {
    grouped_matmul(x, w, counts({2, 2, 0}));
  });
  expect_error({"grouped_matmul: counts are 5 rows in all, x has 4"}, [&] { grouped_matmul(x, w, counts({2, 3})); });

  const auto refuses = [&](const char* what, const RouteOptions& options, const Var<float>& by = {},
                           const Like<std::int32_t>& lengths = {}) {
    expect_error({"route: ", what}, [&] { route(x, options, by, lengths); });
  };
  refuses("top_k is 0, there are 3 experts", {.top_k = 0, .capacity = 1});
  refuses("top_k is 4, there are 3 experts", {.top_k = 4, .capacity = 1});
  refuses("an expert has a capacity of -1", {.capacity = -1});
  refuses("4 tokens are not 3 equal groups", {.capacity = 1, .groups = 3});
  refuses("dropless is of tokens that choose experts", {.capacity = 1, .dropless = true, .expert_choice = true});
  refuses("3 experts are not 2 equal groups", {.capacity = 1, .expert_groups = 2});
  refuses("top_groups is 2, there are 1 groups", {.capacity = 1, .top_groups = 2});
  refuses("top_k is 2, but 1 groups have 1 experts", {.top_k = 2, .capacity = 1, .expert_groups = 3, .top_groups = 1});
  refuses("what is compared has shape [3, 4], scores have [4, 3]", {.capacity = 1}, of(tape, {3, 4}));
  refuses("lengths have shape [3], of 4 tokens", {.capacity = 1}, {}, counts({1, 1, 1}));
  refuses("are too many to number", {.capacity = Index{1} << 31});
  expect_error({"route: scores have shape [12]"}, [&] { route(x.reshape({12}), {.capacity = 1}); });
}

TEST(Refusals, OperandsOfAdapters) {
  using O = ops::AdaptedLinear<float>;
  Tape tape;
  const Var<float> x = of(tape, {2, 3}), w = of(tape, {3, 4}), none;
  const Var<float> down = of(tape, {3, 2}), up = of(tape, {2, 4});
  const auto refuses = [&](const char* what, const std::vector<Var<float>>& o, std::vector<MatrixPart> parts = {}) {
    expect_error({"linear: ", what}, [&] {
      const auto given = [&](std::size_t i) { return o[i] ? Argument<float>(o[i]) : Argument<float>(); };
      record(O(ops::ProductWeight<float>(false), 1, false, std::move(parts)), o[0], given(1), given(2), given(3),
             given(4), given(5));
    });
  };
  refuses("w has shape [12], a matrix is needed", {x, w.reshape({12}), none, down, up, none});
  refuses("x has shape [3, 2], w expects 3 features", {x.reshape({3, 2}), w, none, down, up, none});
  refuses("b has shape [3], w makes 4 features", {x, w, of(tape, {3}), down, up, none});
  refuses("down has shape [3, 2] and up [3, 4], w needs [3, R] and [R, 4]", {x, w, none, down, of(tape, {3, 4}), none});
  refuses("w needs [3, 2 R] and [R, 4]", {x, w, none, down, up, none}, {{"a", 0, 2}, {"b", 2, 4}});
  refuses("b is columns [1, 3) of w, which has 4", {x, w, none, of(tape, {3, 4}), up, none},
          {{"a", 0, 2}, {"b", 1, 3}});
  refuses("z has shape [3, 2], x has [2, 3]", {x, w, none, down, up, x.reshape({3, 2})});
}

TEST(Refusals, OperandsOfMagnitudes) {
  using O = ops::Dora<float>;
  Tape tape;
  const Var<float> v = of(tape, {2, 4}), four = of(tape, {4}), trained = of(tape, {4}, true);
  const auto refuses = [&](const char* what, const Var<float>& of_v, const Var<float>& m, const Argument<float>& b,
                           const Var<float>& norms) {
    expect_error({"dora: ", what}, [&] { record(O({}), of_v, m, b, norms); });
  };
  refuses("v is a number, a last axis is needed", of(tape, {}), four, {}, four);
  refuses("m has shape [3] and norms [4], both must be [4]", v, of(tape, {3}), {}, four);
  refuses("b has shape [3], v has 4 features", v, four, of(tape, {3}), four);
  refuses("norms are constants", v, four, {}, trained);
  expect_error({"dora_norms: lengths are constants"}, [&] {
    record(ops::DoraNorms<float>(ops::ProductWeight<float>(false), 1, {}), of(tape, {3, 2}, true), of(tape, {2, 4}),
           of(tape, {3, 4}));
  });
}

TEST(Refusals, FunctionsThatChangeTheirMinds) {
  Tape tape({.step = 1});
  const Var<float> x = of(tape, {3}, true);
  const auto pass = [](const CustomBackward<float>& from) { return Vars{from.gradient}; };
  expect_error({"mine", "a Var that was never given a value"}, [&] {
    custom_gradient<float>(
        "mine", {x}, [](Tape&, const Vars&) { return Var<float>(); }, pass);
  });
  int calls = 0;
  expect_error({"mine", "its functions gave other shapes than when it was recorded"}, [&] {
    custom_gradient<float>(
        "mine", {x},
        [&](Tape&, const Vars& in) {
          return ++calls == 1 ? in[0] * 2.0F : in[0].reshape({3, 1}) * 2.0F;
        },
        pass);
  });
}

}  // namespace
