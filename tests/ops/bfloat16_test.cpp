// Ops over bfloat16 give what they give over float on the same, rounded values, to a rounding of the result: they
// compute in float inside.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <remat/core/eigen.hpp>
#include <remat/ops/activation.hpp>
#include <remat/ops/arithmetic.hpp>
#include <remat/ops/attention.hpp>
#include <remat/ops/cast.hpp>
#include <remat/ops/clamp.hpp>
#include <remat/ops/combine_rows.hpp>
#include <remat/ops/compare.hpp>
#include <remat/ops/concat.hpp>
#include <remat/ops/cross_entropy.hpp>
#include <remat/ops/dropout.hpp>
#include <remat/ops/embedding.hpp>
#include <remat/ops/layer_norm.hpp>
#include <remat/ops/linear.hpp>
#include <remat/ops/linear_cross_entropy.hpp>
#include <remat/ops/load_balancing_loss.hpp>
#include <remat/ops/matmul.hpp>
#include <remat/ops/positions.hpp>
#include <remat/ops/pow.hpp>
#include <remat/ops/reduce.hpp>
#include <remat/ops/rms_norm.hpp>
#include <remat/ops/skip_add.hpp>
#include <remat/ops/slice.hpp>
#include <remat/ops/softmax.hpp>
#include <remat/ops/softmax_over.hpp>
#include <remat/ops/take_rows.hpp>
#include <remat/ops/transpose.hpp>
#include <remat/ops/unary.hpp>
#include <remat/ops/unary_activations.hpp>
#include <remat/ops/where.hpp>
#include <remat/params/registry.hpp>
#include <string>
#include <vector>

namespace {

using namespace remat;

/// Operands of the compute type, operands that stay float, and ids in [0, 5).
struct Shapes {
  std::vector<Shape> x, exact = {};
  Shape ids = {1};
};

template <class T>
struct Given {
  Tape& tape;
  std::vector<Var<T>> x;
  std::vector<Var<Accum<T>>> exact;
  Var<std::int32_t> ids;
  const Var<T>& operator[](std::size_t i) const { return x[i]; }
};

/// The result, then the gradient of every operand, as floats.
using Outcome = std::vector<Tensor<float>>;

template <class T>
Tensor<float> as_floats(const Tensor<T>& x) {
  Tensor<float> y(x.shape());
  for (Index i = 0; i < x.size(); ++i) y.write()[i] = static_cast<float>(x[i]);
  return y;
}

/// Numbers in [-1.5, 1.5] that bfloat16 holds exactly.
template <class T>
Tensor<T> values(const Shape& shape, std::uint32_t site) {
  Tensor<T> x(shape);
  const RandomStream stream{.seed = 5, .site = site};
  for (Index i = 0; i < x.size(); ++i)
    x.write()[i] = static_cast<T>(
        static_cast<float>(static_cast<bfloat16>(3 * stream.uniform(static_cast<std::uint64_t>(i)) - 1.5F)));
  return x;
}

template <class T, class Fn>
Outcome outcome(const Shapes& shapes, const Fn& fn) {
  Tape tape({.seed = 3, .step = 2});
  Given<T> in{tape, {}, {}, {}};
  std::uint32_t site = 0;
  for (const Shape& shape : shapes.x) in.x.push_back(tape.input(values<T>(shape, site++), {.wants_gradient = true}));
  for (const Shape& shape : shapes.exact)
    in.exact.push_back(tape.input(values<Accum<T>>(shape, site++), {.wants_gradient = true}));
  Tensor<std::int32_t> ids(shapes.ids);
  for (Index i = 0; i < ids.size(); ++i) ids.write()[i] = static_cast<std::int32_t>(i * i % 5);
  in.ids = tape.input(ids);
  const auto y = fn(in);
  using Y = typename std::decay_t<decltype(y)>::value_type;
  Outcome all{as_floats(y.value())};
  tape.backward(sum(y * values<Y>(y.shape(), 99)));
  for (const auto& x : in.x) all.push_back(as_floats(tape.grad(x)));
  for (const auto& x : in.exact) all.push_back(as_floats(tape.grad(x)));
  return all;
}

/// Within `roundings` times 2^-8 of the greatest magnitude, gradients within twice that (one rounding is 2^-9).
template <class Fn>
void expect_like_float(const Shapes& shapes, const Fn& fn, float roundings = 1) {
  const Outcome exact = outcome<float>(shapes, fn), rounded = outcome<bfloat16>(shapes, fn);
  ASSERT_EQ(exact.size(), rounded.size());
  for (std::size_t k = 0; k < exact.size(); ++k) {
    ASSERT_EQ(exact[k].shape(), rounded[k].shape());
    float scale = 0;
    for (Index i = 0; i < exact[k].size(); ++i) scale = std::max(scale, std::abs(exact[k][i]));
    const float tolerance = scale * roundings * (k == 0 ? 0x1p-8F : 0x1p-7F) + 1e-30F;
    for (Index i = 0; i < exact[k].size(); ++i)
      ASSERT_NEAR(exact[k][i], rounded[k][i], tolerance) << (k == 0 ? "result" : "gradient ") << k << ", element " << i;
  }
}

TEST(Bfloat16Ops, ElementByElement) {
  const Shapes one{.x = {{3, 41}}}, two{.x = {{3, 41}, {3, 41}}}, stretched{.x = {{3, 41}, {41}}};
  expect_like_float(one, [](const auto& in) { return -in[0]; });
  expect_like_float(one, [](const auto& in) { return exp(in[0]); });
  expect_like_float(one, [](const auto& in) { return tanh(in[0]); });
  expect_like_float(one, [](const auto& in) { return sin(in[0]); });
  expect_like_float(one, [](const auto& in) { return square(in[0]); });
  expect_like_float(one, [](const auto& in) { return gelu(in[0]); });
  expect_like_float(one, [](const auto& in) { return sigmoid(in[0]); });
  expect_like_float(one, [](const auto& in) { return softplus(in[0]); });
  expect_like_float(one, [](const auto& in) { return clamp(in[0], -0.5, 0.75); });
  expect_like_float(one, [](const auto& in) { return pow(in[0], 3); });
  for (const Shapes& shapes : {two, stretched}) {
    expect_like_float(shapes, [](const auto& in) { return minimum(in[0], in[1]); });
    expect_like_float(shapes, [](const auto& in) { return where(less(in[0], in[1]), in[0], in[1]); });
    expect_like_float(
        shapes, [](const auto& in) { return pow(square(in[0]) + 1, in[1]); }, 3);
    expect_like_float(shapes, [](const auto& in) { return in[0] + in[1]; });
    expect_like_float(shapes, [](const auto& in) { return in[0] - in[1]; });
    expect_like_float(shapes, [](const auto& in) { return in[0] * in[1]; });
    expect_like_float(
        shapes, [](const auto& in) { return in[0] / (square(in[1]) + 1); }, 3);
  }
  expect_like_float(
      one, [](const auto& in) { return 2.5F * in[0] + 1; }, 2);
}

TEST(Bfloat16Ops, Activations) {
  for (const Activation kind : {Activation::relu, Activation::gelu, Activation::gelu_tanh, Activation::silu}) {
    expect_like_float({.x = {{7, 300}}}, [=](const auto& in) { return activate(in[0], kind, 0.25); });
    expect_like_float({.x = {{7, 300}, {7, 300}}},
                      [=](const auto& in) { return gated_activate(in[0], in[1], kind, 0.25); });
  }
  expect_like_float({.x = {{7, 300}}}, [](const auto& in) { return dropout(in[0], 0.25); });
}

TEST(Bfloat16Ops, Reductions) {
  expect_like_float({.x = {{70, 130}}}, [](const auto& in) { return sum(in[0]); });
  expect_like_float({.x = {{70, 130}}}, [](const auto& in) { return mean(in[0], {0}); });
  expect_like_float({.x = {{70, 130}}}, [](const auto& in) { return sum(in[0], {1}, true); });
}

// 40000 ones: a sum in bfloat16 would stand still at 256.
TEST(Bfloat16Ops, SumsAreFloat) {
  Tape tape;
  const auto ones = tape.input(Tensor<bfloat16>({40000}, static_cast<bfloat16>(1)));
  EXPECT_EQ(static_cast<float>(sum(ones).item()), static_cast<float>(static_cast<bfloat16>(40000)));
}

TEST(Bfloat16Ops, Shapes) {
  expect_like_float({.x = {{3, 8, 5}, {3, 4, 5}}}, [](const auto& in) { return concat({in[0], in[1]}, 1); });
  expect_like_float({.x = {{3, 8, 5}}}, [](const auto& in) { return slice(in[0], 1, 2, 6) + slice(in[0], 1, 4, 8); });
  expect_like_float({.x = {{3, 8, 5}}}, [](const auto& in) { return transpose(in[0], {2, 0, 1}); });
}

TEST(Bfloat16Ops, Norms) {
  expect_like_float({.x = {{33, 70}}, .exact = {{70}, {70}}},
                    [](const auto& in) { return layer_norm(in[0], in.exact[0], in.exact[1]); });
  expect_like_float({.x = {{33, 70}}, .exact = {{70}}}, [](const auto& in) { return rms_norm(in[0], in.exact[0]); });
  expect_like_float({.x = {{33, 70}}}, [](const auto& in) { return softmax(in[0]); });
  expect_like_float(
      {.x = {{33, 70}}}, [](const auto& in) { return log_softmax(in[0]); }, 2);
  expect_like_float({.x = {{3, 33, 70}}}, [](const auto& in) { return softmax(in[0], 1); });
  expect_like_float(
      {.x = {{3, 33, 70}}}, [](const auto& in) { return log_softmax(in[0], 1); }, 2);
}

// A float skip connection beside bfloat16 branches. Their gradients are rounded once, that of the skip connection
// never.
TEST(Bfloat16Ops, SkipConnections) {
  expect_like_float({.x = {{33, 70}}}, [](const auto& in) { return sin(cast<float>(in[0])); });
  expect_like_float(
      {.x = {{1, 1}}, .exact = {{33, 70}}},
      [](const auto& in) {
        using T = typename std::decay_t<decltype(in[0])>::value_type;
        return layer_norm<T>(in.exact[0]) + rms_norm<T>(in.exact[0]) * in[0] + sin(cast<T>(in.exact[0]));
      },
      4);
  for (const double rate : {0.0, 0.25}) {
    const Shapes shapes{.x = {{33, 70}}, .exact = {{33, 70}, {70}, {70}}};
    expect_like_float({.x = {{33, 70}}, .exact = {{33, 70}}},
                      [=](const auto& in) { return skip_add(in.exact[0], in[0], rate); });
    expect_like_float(shapes, [=](const auto& in) {
      const auto both = skip_layer_norm(in.exact[0], in[0], rate, in.exact[1], in.exact[2]);
      return both.sum * cast<float>(both.normal);
    });
    expect_like_float(shapes, [=](const auto& in) {
      const auto both = skip_rms_norm(in.exact[0], in[0], rate, in.exact[1]);
      return both.sum * cast<float>(both.normal);
    });
    expect_like_float(shapes, [=](const auto& in) {  // as layers with norms behind the sum do
      using T = typename std::decay_t<decltype(in[0])>::value_type;
      return skip_layer_norm<T, float>(in.exact[0], in[0], rate, in.exact[1], in.exact[2]).normal;
    });
  }
}

TEST(Bfloat16Ops, SkipConnectionsAreNotRounded) {
  const Shape shape{3, 16};
  Tape tape;
  const auto x = tape.input(Tensor<float>(shape, 1.0F), {.wants_gradient = true});
  const auto branch = tape.input(Tensor<bfloat16>(shape, static_cast<bfloat16>(0x1p-12F)), {.wants_gradient = true});
  const Var<float> sum_alone = skip_add(x, branch);
  const auto [sums, normal] = skip_layer_norm(x, branch);
  EXPECT_EQ(sum_alone.value()[0], 1 + 0x1p-12F);
  EXPECT_EQ(sums.value()[0], 1 + 0x1p-12F);
  tape.backward(sum(sums) * (1 + 0x1p-12F) + cast<float>(sum(normal)));
  EXPECT_EQ(tape.grad(x)[0], 1 + 0x1p-12F);
  EXPECT_EQ(static_cast<float>(tape.grad(branch)[0]), 1);
}

// What the gradient of a branch goes through on its way is float, whether that of the skip connection is wanted or not.
TEST(Bfloat16Ops, BranchesHaveOneGradientWhoeverElseWantsOne) {
  for (const double rate : {0.0, 0.25}) {
    std::vector<Tensor<bfloat16>> gradients;
    for (const bool wants_x : {false, true}) {
      Tape tape({.seed = 3, .step = 0});
      const auto x = tape.input(values<float>({40, 70}, 1), {.wants_gradient = wants_x});
      const auto branch = tape.input(values<bfloat16>({40, 70}, 2), {.wants_gradient = true});
      const auto scale = tape.input(values<float>({70}, 3), {.wants_gradient = true});
      const auto [sums, normal] = skip_layer_norm(x, branch, rate, scale);
      tape.backward(sum(sums * values<float>({40, 70}, 4)) + cast<float>(sum(sin(normal))));
      gradients.push_back(tape.grad(branch).copy());
    }
    EXPECT_TRUE(same_bits(gradients[0], gradients[1])) << rate;
  }
}

TEST(Bfloat16Ops, CastsKeepNothingAndCostNothingWhereTypesAgree) {
  Tape tape;
  const auto x = tape.input(values<float>({5}, 1), {.wants_gradient = true});
  const Index before = tape.stats().ops_recorded;
  EXPECT_EQ(cast<float>(x).where().slot, x.where().slot);
  EXPECT_EQ(tape.stats().ops_recorded, before);
  tape.backward(sum(cast<float>(cast<bfloat16>(x * 3.0F))));
  EXPECT_EQ(tape.stats().saved_bytes, 0U);
  EXPECT_EQ(tape.grad(x)[2], 3.0F);
}

TEST(Bfloat16Ops, Products) {
  expect_like_float({.x = {{2, 17, 30}, {30, 40}}, .exact = {{40}}},
                    [](const auto& in) { return linear(in[0], in[1], in.exact[0]); });
  expect_like_float({.x = {{2, 17, 30}, {40, 30}}},
                    [](const auto& in) { return linear(in[0], in[1], {}, {.transposed = true}); });
  expect_like_float({.x = {{2, 17, 30}, {2, 30, 9}}}, [](const auto& in) { return matmul(in[0], in[1]); });
  expect_like_float({.x = {{1, 17, 30}, {2, 30, 9}}}, [](const auto& in) { return matmul(in[0], in[1]); });
}

TEST(Bfloat16Ops, Tables) {
  expect_like_float({.x = {{2, 6, 40}}, .exact = {{9, 40}}},
                    [](const auto& in) { return add_positions(in[0], in.exact[0], 2); });
  expect_like_float({.x = {{30}}, .exact = {{5, 30}}, .ids = {4, 7}}, [](const auto& in) {
    using T = typename std::decay_t<decltype(in[0])>::value_type;
    return embedding<T>(in.ids, in.exact[0]) + in[0];
  });
}

TEST(Bfloat16Ops, Attention) {
  const AttentionOptions causal{.causal = true, .dropout = 0.2, .rotary_base = 100};
  for (const Index length : {5, 150}) {
    expect_like_float(
        {.x = {{2, length, 4, 8}, {2, length, 2, 8}, {2, length, 2, 8}}},
        [=](const auto& in) { return attention(in[0], in[1], in[2], causal); }, 2);
    expect_like_float(
        {.x = {{2, length, 64}}}, [=](const auto& in) { return attention_qkv(in[0], 4, 2, causal); }, 2);
    expect_like_float(
        {.x = {{2, length, 64}}, .exact = {{1, 4, length, length}, {8, 4}}},
        [](const auto& in) {
          return attention_qkv(in[0], 4, 2, {.soft_cap = 3}, {.bias = in.exact[0], .relative_bias = in.exact[1]});
        },
        3);
  }
}

// The gradient of a query is summed over 200 tiles of keys in float.
TEST(Bfloat16Ops, LongAttention) {
  expect_like_float(
      {.x = {{1, 1, 1, 16}, {1, 12800, 1, 16}, {1, 12800, 1, 16}}},
      [](const auto& in) { return attention(in[0], in[1], in[2]); }, 0.6F);
}

TEST(Bfloat16Ops, Losses) {
  const auto plain = [](const auto& in) { return cross_entropy(in[0], in.ids, {.label_smoothing = 0.1}); };
  expect_like_float({.x = {{3, 11, 6}}, .ids = {3, 11}}, plain);
  const auto capped = [](const auto& in) { return cross_entropy(in[0], in.ids, {.z_loss = 0.01, .soft_cap = 2}); };
  expect_like_float({.x = {{3, 11, 6}}, .ids = {3, 11}}, capped);
  for (const Index chunk : {0, 4})
    for (const bool keeps : {false, true})
      expect_like_float({.x = {{3, 11, 20}, {50, 20}}, .exact = {{50}}, .ids = {3, 11}}, [=](const auto& in) {
        return linear_cross_entropy(in[0], in[1], in.exact[0], in.ids,
                                    {.transposed = true, .chunk = chunk, .keep_gradients = keeps});
      });
}

TEST(Bfloat16Ops, Experts) {
  expect_like_float({.x = {{5, 300}}, .ids = {2, 4}}, [](const auto& in) { return take_rows(in[0], in.ids); });
  expect_like_float({.x = {{5, 300}, {7, 3}}, .ids = {7, 3}}, [](const auto& in) {
    using T = typename std::decay_t<decltype(in[0])>::value_type;
    return combine_rows<T>(in[0], in.ids, in[1]);
  });
  expect_like_float({.x = {{7, 5}}, .ids = {7, 2}}, [](const auto& in) { return load_balancing_loss(in[0], in.ids); });
}

// The gradient of a row that 300 places took: a sum in bfloat16 would stand still at 256.
TEST(Bfloat16Ops, SumsOfRowsAreFloat) {
  const auto one = static_cast<bfloat16>(1);
  for (const bool weighted : {false, true}) {
    Tape tape;
    const auto x = tape.input(Tensor<bfloat16>({1, 3}, one), {.wants_gradient = true});
    const Tensor<std::int32_t> rows({300, 1}, 0);
    tape.backward(
        sum(weighted ? combine_rows<bfloat16>(x, rows, Tensor<bfloat16>({300, 1}, one)) : take_rows(x, rows)));
    for (Index i = 0; i < 3; ++i) EXPECT_EQ(static_cast<float>(tape.grad(x)[i]), 300.0F);
  }
}

// The gradient of a float master is summed in float: 300 equal terms of 1/256 beside 1 would vanish in bfloat16.
TEST(MasterWeights, GetFloatGradients) {
  ParameterRegistry parameters;
  const auto w = (parameters / "layer").parameter<float>("w", {1, 1}, init::ones());
  Tape tape;
  Tensor<bfloat16> x({300, 1}, static_cast<bfloat16>(1.0F / 256));
  x.write()[0] = static_cast<bfloat16>(1);
  tape.backward(sum(linear<bfloat16>(tape.input(x), w)));
  EXPECT_EQ(w.grad()[0], 1.0F + 299.0F / 256);
}

TEST(MasterWeights, AreCastOnceATapeOutsideItsAccount) {
  ParameterRegistry parameters;
  const auto w = (parameters / "layer").parameter<float>("w", {64, 64}, init::normal(1));
  Tape tape;
  Var<bfloat16> h = tape.input(Tensor<bfloat16>({8, 64}, static_cast<bfloat16>(1)));
  const std::size_t input = pool().live_bytes();
  for (int i = 0; i < 3; ++i) h = tape.checkpoint(policy::nothing, [&] { return linear<bfloat16>(h, w); });
  const Var<bfloat16> loss = sum(h);
  EXPECT_EQ(pool().live_bytes() - input - tape.program().account->live_bytes, 2U * 64 * 64);
  tape.backward(loss);
  EXPECT_TRUE(w.has_grad());
}

// Tapes that follow each other, as in generation, read one cast; a new value gets a new one.
TEST(MasterWeights, AreCastOnceForEachValue) {
  ParameterRegistry parameters;
  const auto w = (parameters / "layer").parameter<float>("w", {1, 1}, init::ones());
  const auto read = [&] {
    Tape tape({.mode = Mode::evaluate});
    const auto x = tape.input(Tensor<bfloat16>({1}, static_cast<bfloat16>(1)));
    return static_cast<float>(linear<bfloat16>(x, w).item());
  };
  EXPECT_EQ(read(), 1.0F);
  const std::byte* const cast = w.entry()->cast.data();
  EXPECT_EQ(read(), 1.0F);
  EXPECT_EQ(w.entry()->cast.data(), cast);

  w.set_value(Tensor<float>({1, 1}, 2.0F));
  EXPECT_EQ(read(), 2.0F);
  *reinterpret_cast<float*>(w.entry()->value.mutable_data()) = 3;
  EXPECT_EQ(read(), 3.0F);

  optim::AdamW adamw(parameters, {.weight_decay = 0});
  const std::byte* const value = w.entry()->value.data();
  w.set_grad(Tensor<float>({1, 1}, 1.0F));
  adamw.step(1);
  EXPECT_EQ(w.entry()->value.data(), value);  // no copy for the cast's sake
  EXPECT_EQ(read(), 2.0F);
}

// One parameter, read as it is by one op and cast by another, as a tied embedding is.
TEST(MasterWeights, SumGradientsOfBothForms) {
  ParameterRegistry parameters;
  const auto table = (parameters / "embedding").parameter<float>("table", {5, 8}, init::normal(1));
  const auto gradient = [&]<class T>(T) {
    parameters.zero_grad();
    Tape tape;
    const auto ids = tape.input(Tensor<std::int32_t>({3}, {1, 4, 1}));
    tape.backward(sum(linear<T>(embedding<T>(ids, table), table, {}, {.transposed = true})));
    return table.grad().copy();
  };
  const Tensor<float> exact = gradient(float{}), mixed = gradient(bfloat16{});
  for (Index i = 0; i < exact.size(); ++i) EXPECT_NEAR(mixed[i], exact[i], 0.05) << i;
}

TEST(MasterWeights, OfOtherTypesAreRefused) {
  ParameterRegistry parameters;
  const auto w = (parameters / "layer").parameter<double>("w", {1, 1}, init::ones());
  Tape tape;
  EXPECT_THROW(tape.program().parameter_slot(w.entry(), DType::bfloat16), Error);
}

}  // namespace
