// What ops refuse of shapes and numbers, in words: operands of adapters, experts, axes, lengths that no int32 numbers.
#include <gtest/gtest.h>

#include <core/expect_error.hpp>
#include <memory>
#include <ops/try_op.hpp>
#include <remat/ops/argmax.hpp>
#include <remat/ops/arithmetic.hpp>
#include <remat/ops/attention.hpp>
#include <remat/ops/blockwise.hpp>
#include <remat/ops/cast.hpp>
#include <remat/ops/combine_rows.hpp>
#include <remat/ops/concat.hpp>
#include <remat/ops/cross_entropy.hpp>
#include <remat/ops/custom_gradient.hpp>
#include <remat/ops/dora.hpp>
#include <remat/ops/drop_path.hpp>
#include <remat/ops/grouped_matmul.hpp>
#include <remat/ops/jitter.hpp>
#include <remat/ops/linear.hpp>
#include <remat/ops/linear_cross_entropy.hpp>
#include <remat/ops/load_balancing_loss.hpp>
#include <remat/ops/low_rank.hpp>
#include <remat/ops/matmul.hpp>
#include <remat/ops/plain_attention.hpp>
#include <remat/ops/positions.hpp>
#include <remat/ops/rms_norm.hpp>
#include <remat/ops/rotary.hpp>
#include <remat/ops/route.hpp>
#include <remat/ops/router_z_loss.hpp>
#include <remat/ops/skip_add.hpp>
#include <remat/ops/slice.hpp>
#include <remat/ops/softmax.hpp>
#include <remat/ops/stack.hpp>
#include <remat/ops/take_rows.hpp>
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
  const RotaryScalingOptions one{.kind = RotaryScaling::longrope, .factors = {2}};
  expect_error({"attention: rotary_scaling has 1 factors, one a pair is needed: 2"},
               [&] { attention(x, x, x, {.rotary_base = 100, .rotary_scaling = one}); });
  expect_error({"rotary: scaling has 1 factors, one a pair is needed: 2"}, [&] { rotary(x, {.scaling = one}); });
}

TEST(Refusals, PositionsAndTurns) {
  Tape tape;
  const Var<float> x = of(tape, {2, 3, 2, 4}), table = of(tape, {8, 4});
  expect_error({"rotary: x has shape [6, 8], [B, T, N, H] is needed"}, [&] { rotary(x.reshape({6, 8})); });
  expect_error({"rotary: positions have shape [3, 2], x of shape [2, 3, 2, 4] needs [2, 3]"}, [&] {
    rotary(x, {}, Tensor<std::int32_t>({3, 2}, 1));
  });
  expect_error({"rotary: base 0 is not above 0"}, [&] { rotary(x, {.base = 0}); });
  expect_error({"rotary: heads 3 is not in [0, 2]"}, [&] { rotary(x, {.heads = 3}); });
  expect_error({"rotary: dims 3 is not an even part of 4"}, [&] { rotary(x, {.dims = 3}); });
  expect_error({"add_positions: x has shape [4], axes [..., T, D] are needed"},
               [&] { add_positions<float>(of(tape, {4}), table); });
  expect_error({"add_positions: the table has shape [32], a matrix is needed"},
               [&] { add_positions<float>(x, table.reshape({32})); });
}

TEST(Refusals, Attention) {
  Tape tape({.step = 1});
  const Var<float> x = of(tape, {2, 3, 2, 4}), qkv = of(tape, {2, 3, 7});
  const auto refuses = [&](const char* what, const AttentionOptions& options, const AttentionMasks<float>& masks = {}) {
    expect_error({"attention: ", what}, [&] { attention(x, x, x, options, masks); });
  };
  const Tensor<std::int32_t> ids({2, 3}, 1);
  Var<float> weights;
  refuses("window_right -1 is negative, or beside no window", {.window_right = -1});
  refuses("window_right 2 is negative, or beside no window", {.window_right = 2});
  refuses("sinks have shape [3], [2] is needed", {}, {.sinks = of(tape, {3})});
  refuses("alibi_form bfloat16_key_position rounds by position",
          {.alibi = true, .alibi_form = AlibiForm::bfloat16_key_position}, {.query_segments = ids});
  refuses("query_offsets say nothing to rotary", {.rotary_base = 100}, {.query_offsets = Tensor<std::int32_t>({2}, 1)});
  expect_error({"plain_attention: q [2, 3, 2, 4], k [2, 3, 4, 2] and v [2, 3, 4, 2]"}, [&] {
    plain_attention(x, x.reshape({2, 3, 4, 2}), x.reshape({2, 3, 4, 2}));
  });
  const char* const of_heads = "attention: qkv has shape [2, 3, 7], [B, T, a multiple of 4] is needed";
  expect_error({of_heads}, [&] { attention_qkv(qkv, 2, 1, {}, {.weights = &weights}); });
  expect_error({of_heads}, [&] { attention_qkv(qkv, 2, 1, {.rotary_base = 100}, {.positions = ids}); });
  const auto of_heads_apart = [&](Var<float>* to) {
    blockwise(x, 2, 1, policy::everything, [&](const Var<float>& part, Index) {
      return attention(part, part, part, {.dropout = 0.5}, {.weights = to});
    });
  };
  expect_error({"dropout inside blockwise over axis 2 in chunks of 1, but queries have shape [2, 3, 1, 4]"},
               [&] { of_heads_apart(nullptr); });
  expect_error({"dropout inside blockwise over axis 2 in chunks of 1, but there are 3 queries"},
               [&] { of_heads_apart(&weights); });
}

TEST(Refusals, NumbersAndRows) {
  Tape tape({.step = 1});
  const Var<float> one = of(tape, {}), x = of(tape, {4, 3});
  const Tensor<std::int32_t> rows({4, 2}, 1), row({4}, 1);
  const Tensor<float> weights({4, 2}, 0.5F);
  const auto refuses = [](const char* what, auto&& use) { expect_error({what}, use); };
  refuses("softmax: x has shape [], softmax runs over the last axis", [&] { softmax(one); });
  refuses("rms_norm: x is a number, a last axis", [&] { rms_norm(one); });
  refuses("cross_entropy: logits are a number, a last axis of classes", [&] { cross_entropy(one, row); });
  refuses("linear: x is a number, a last axis of 4 features", [&] { linear<float>(one, x); });
  refuses("drop_path: x is a number, a first axis of sequences", [&] { drop_path(one, 0.5); });
  refuses("jitter: jitter 1 is not in [0, 1)", [&] { jitter(x, 1); });
  refuses("skip_add: branch has shape [3, 4], x has [4, 3]", [&] { skip_add(x, cast<bfloat16>(x.reshape({3, 4}))); });
  refuses("matmul: a has 3 columns, b has 4 rows", [&] { matmul(x, x); });
  refuses("matmul: a has 4 columns when transposed, b has 3 rows when transposed",
          [&] { matmul(x, x, {.transposed_a = true, .transposed_b = true}); });
  refuses("take_rows: x has shape [12], a matrix", [&] { take_rows(x.reshape({12}), row); });
  refuses("combine_rows: x has shape [12], a matrix", [&] { combine_rows<float>(x.reshape({12}), rows, weights); });
  refuses("combine_rows: rows have shape [4], [N, k] is needed", [&] { combine_rows<float>(x, row, weights); });
  refuses("combine_rows: weights have shape [2, 4], rows have [4, 2]", [&] {
    combine_rows<float>(x, rows, Tensor<float>({2, 4}, 0.5F));
  });
  refuses("concat: operand 1 has shape [12], operand 0 has [4, 3]", [&] { concat({x, x.reshape({12})}); });
  refuses("concat: operand 1 has shape [3, 4], operand 0 has [4, 3]; they may differ along axis 0 only", [&] {
    concat({x, x.reshape({3, 4})});
  });
  refuses("load_balancing_loss: probabilities have shape [12]", [&] { load_balancing_loss(x.reshape({12}), rows); });
  refuses("load_balancing_loss: experts have shape [4], probabilities of shape [4, 3] need [4, k]",
          [&] { load_balancing_loss(x, row); });
  refuses("router_z_loss: logits have shape [12]", [&] { router_z_loss(x.reshape({12}), rows); });
  refuses("router_z_loss: experts have shape [4], logits of shape [4, 3] need [4, k]", [&] { router_z_loss(x, row); });
  Tape other;
  refuses("an op's operands lie on two tapes", [&] { linear<float>(x, of(other, {3, 4})); });
  refuses("transpose: no operand is on a tape", [] {
    record(ops::Transpose<float>({1, 0}), Argument<float>(Tensor<float>({2, 2}, 1.0F)));
  });
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

// Adapters are of the product that they were made for: of x w, or of a head's, which reads w transposed.
TEST(Refusals, ProductsTheOtherWay) {
  ParameterRegistry registry;
  const auto w = remat_test::parameter_of(registry, "w", Tensor<float>({4, 4}, 0.5F));
  const auto adapter = std::make_shared<LowRankAdapter>();
  adapter->down = remat_test::parameter_of(registry, "down", Tensor<float>({4, 2}, 0.5F)).entry();
  adapter->up = remat_test::parameter_of(registry, "up", Tensor<float>({2, 4}, 0.5F)).entry();
  Tape tape;
  const Var<float> x = of(tape, {3, 4});
  const Tensor<std::int32_t> targets({3}, 1);
  w.entry()->adapter = adapter;
  expect_error({"test/w: has an adapter, but is read transposed"},
               [&] { linear<float>(x, w, {}, {.transposed = true}); });
  expect_error({"test/w: has an adapter, which only linear and embedding add"}, [&] { matmul<float>(x, w); });
  w.entry()->adapter = nullptr, w.entry()->head_adapter = adapter;
  expect_error({"test/w: has an adapter of a head, which is read transposed"}, [&] { linear<float>(x, w); });
  expect_error({"test/w: has an adapter of a head, which is read transposed"},
               [&] { linear_cross_entropy<float>(x, w, {}, targets); });
  using O = ops::LinearCrossEntropy<float>;
  expect_error({"linear_cross_entropy: an adapter of the head has low [3, 2] and up [2, 5]"}, [&] {
    record(O(LinearCrossEntropyOptions{}), x, of(tape, {4, 4}), Argument<float>(), Argument<std::int32_t>(targets),
           Argument<float>(), of(tape, {3, 2}), of(tape, {2, 5}));
  });
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
