// The skip connections of bfloat16 layers are float or bfloat16, as the config says; x may be of either.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <remat/core/eigen.hpp>
#include <remat/nn/stacked_transformer.hpp>
#include <remat/ops/reduce.hpp>
#include <string>
#include <type_traits>
#include <vector>

#include "core/expect_error.hpp"
#include "nn/random_tensor.hpp"

namespace {

using namespace remat;
using nn::NormPlacement, nn::SkipStream;
using remat_test::expect_error;
using remat_test::random_tensor;

constexpr Index B = 2, T = 7, S = 5, D = 8, Dm = 6;
constexpr NormPlacement placements[] = {NormPlacement::pre, NormPlacement::post, NormPlacement::sandwich,
                                        NormPlacement::branch_output};

nn::TransformerLayerConfig config(NormPlacement placement, SkipStream stream, bool has_memory = false, int chunk = 0) {
  nn::TransformerLayerConfig c{.model_dims = D,
                               .hidden_dims = 12,
                               .num_heads = 2,
                               .norm_placement = placement,
                               .dropout = 0.1,
                               .blockwise = {.query_chunk = chunk},
                               .skip_stream = stream};
  if (has_memory) c.cross_attention = nn::AttentionConfig{.memory_dims = Dm};
  return c;
}

template <class X>
struct Outcome {
  Tensor<X> y, dx;
  Tensor<float> dw;  // of the feed-forward's last matrix
};

/// A stack of two layers of bfloat16 on an x and a memory of `X`, which hold the same values for both X.
template <class X>
Outcome<X> outcome(const nn::TransformerLayerConfig& layer, const Policy& remat = policy::everything) {
  ParameterRegistry parameters(3);
  const nn::StackedTransformer<bfloat16> stack(parameters / "stack", {.layers = {layer, layer}, .remat = remat});
  Tape tape({.seed = 5, .step = 0});
  const auto input = [&](const Shape& shape, std::uint32_t site) {
    const auto exact = random_tensor<float>(shape, site);
    Tensor<X> x(shape);
    for (Index i = 0; i < x.size(); ++i)
      x.write()[i] = static_cast<X>(static_cast<float>(static_cast<bfloat16>(exact[i])));
    return tape.input(x, {.wants_gradient = true});
  };
  const Var<X> x = input({B, T, D}, 1), memory = input({B, S, Dm}, 2);
  const auto y = layer.cross_attention ? stack(x, memory) : stack(x);
  static_assert(std::is_same_v<decltype(y), const Var<X>>);
  tape.keep(y);
  tape.backward(sum(cast<float>(y) * random_tensor<float>({B, T, D}, 4)));
  if (layer.cross_attention) {
    EXPECT_EQ(tape.grad(memory).shape(), (Shape{B, S, Dm}));
  }
  return {y.value(), tape.grad(x), parameters.at<float>("stack/layer_0/ffn/ffn2/w").grad().copy()};
}

template <class X>
bool same(const Outcome<X>& a, const Outcome<X>& b) {
  return same_bits(a.y, b.y) && same_bits(a.dx, b.dx) && same_bits(a.dw, b.dw);
}

/// Greatest difference over greatest magnitude.
template <class X, class Y>
float distance(const Tensor<X>& a, const Tensor<Y>& b) {
  float off = 0, greatest = 0;
  for (Index i = 0; i < a.size(); ++i) {
    off = std::max(off, std::abs(static_cast<float>(a[i]) - static_cast<float>(b[i])));
    greatest = std::max(greatest, std::abs(static_cast<float>(b[i])));
  }
  return off / greatest;
}

TEST(SkipStreams, TakeAndGiveEitherType) {
  for (const auto placement : placements)
    for (const auto stream : {SkipStream::accum, SkipStream::compute})
      for (const bool has_memory : {false, true}) {
        const auto wide = outcome<float>(config(placement, stream, has_memory));
        const auto narrow = outcome<bfloat16>(config(placement, stream, has_memory));
        // One stream for both: they differ by the rounding of what comes out, or of its gradient.
        for (Index i = 0; i < wide.y.size(); ++i)
          ASSERT_EQ(static_cast<float>(static_cast<bfloat16>(wide.y[i])), static_cast<float>(narrow.y[i])) << i;
        EXPECT_LT(distance(narrow.dx, wide.dx), 0.03F);
      }
}

TEST(SkipStreams, HoldByChunksAndUnderRemat) {
  for (const auto placement : placements)
    for (const auto stream : {SkipStream::accum, SkipStream::compute}) {
      const auto whole = outcome<float>(config(placement, stream, true));
      const auto chunks = outcome<float>(config(placement, stream, true, 3));
      EXPECT_LT(distance(chunks.y, whole.y), 0.02F);
      EXPECT_LT(distance(chunks.dx, whole.dx), 0.05F);
      EXPECT_LT(distance(chunks.dw, whole.dw), 0.05F);
      for (const Policy& remat : {policy::nothing, policy::dots}) {
        EXPECT_TRUE(same(outcome<float>(config(placement, stream, true), remat), whole));
        EXPECT_TRUE(same(outcome<float>(config(placement, stream, true, 3), remat), chunks));
      }
    }
}

/// How often ops of each of these names are on the tape.
std::vector<Index> counts(const Tape& tape, const std::vector<std::string>& names) {
  std::vector<Index> found;
  for (const std::string& name : names)
    found.push_back(std::count_if(tape.program().nodes.begin(), tape.program().nodes.end(),
                                  [&](const auto& node) { return node.op->name() == name; }));
  return found;
}

// By ops one after another: the float stream of norms before and behind.
TEST(SkipStreams, AreFloatFromLayerToLayer) {
  for (const auto placement : {NormPlacement::pre, NormPlacement::post}) {
    ParameterRegistry parameters(3);
    nn::TransformerLayerConfig c = config(placement, SkipStream::accum);
    c.dropout = 0;
    const nn::TransformerLayer<bfloat16> layer(parameters / "layer", c);
    Tape tape({.step = 0});
    const auto x = tape.input(random_tensor<float>({B, T, D}, 1));
    Var<float> h;
    if (placement == NormPlacement::pre) {
      h = skip_add(x, layer.attention(layer.attention_norm(x)));
      h = skip_add(h, layer.ffn(layer.ffn_norm(h)));
    } else {
      h = layer.attention_norm.behind(x, layer.attention(cast<bfloat16>(x)), 0);
      h = layer.ffn_norm.behind(h, layer.ffn(cast<bfloat16>(h)), 0);
    }
    EXPECT_TRUE(same_bits(layer(x).value(), h.value()));
  }
}

TEST(SkipStreams, OfAStackAreCastOnceAtEachEnd) {
  const auto casts = []<class X>(SkipStream stream, X) {
    ParameterRegistry parameters;
    const auto layer = config(NormPlacement::pre, stream);
    const nn::StackedTransformer<bfloat16> stack(parameters / "stack", {.layers = {layer, layer, layer}});
    Tape tape({.step = 0});
    stack(tape.input(Tensor<X>({B, T, D}, static_cast<X>(1))));
    return counts(tape, {"cast"})[0];
  };
  EXPECT_EQ(casts(SkipStream::accum, float{}), 0);
  EXPECT_EQ(casts(SkipStream::accum, bfloat16{}), 2);
  EXPECT_EQ(casts(SkipStream::compute, float{}), 2);
  EXPECT_EQ(casts(SkipStream::compute, bfloat16{}), 0);
}

TEST(SkipStreams, ChangeNothingInFloat) {
  for (const auto placement : {NormPlacement::pre, NormPlacement::post})
    for (const auto stream : {SkipStream::accum, SkipStream::compute}) {
      ParameterRegistry parameters;
      const nn::TransformerLayer<float> layer(parameters / "layer", config(placement, stream));
      Tape tape({.step = 0});
      layer(tape.input(Tensor<float>({B, T, D}, 1.0F)));
      const bool is_pre = placement == NormPlacement::pre;
      EXPECT_EQ(counts(tape, {"cast", "skip_add", "layer_norm", "skip_layer_norm", "add", "dropout"}),
                (is_pre ? std::vector<Index>{0, 0, 1, 1, 1, 1} : std::vector<Index>{0, 0, 0, 2, 0, 0}));
    }
}

TEST(SkipStreams, AreOneForAStack) {
  ParameterRegistry parameters;
  const auto accum = config(NormPlacement::pre, SkipStream::accum),
             compute = config(NormPlacement::pre, SkipStream::compute);
  const nn::StackedTransformer<float> stack(parameters / "stack",
                                            {.layers = {accum, compute}, .skip_stream = SkipStream::compute});
  for (const auto& layer : stack.layers) EXPECT_EQ(layer.config.skip_stream, SkipStream::compute);
  expect_error({"mixed: ", "layer_1", "skip_stream"}, [&] {
    nn::StackedTransformer<float>(parameters / "mixed", {.layers = {accum, compute}});
  });
}

}  // namespace
