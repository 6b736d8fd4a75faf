// Transformer layers: where norms stand, cross attention, and what is refused.
#include <gtest/gtest.h>

#include <remat/remat.hpp>
#include <set>

#include "core/expect_error.hpp"
#include "nn/random_tensor.hpp"

namespace {

using namespace remat;
using remat_test::expect_error;
using remat_test::random_tensor;

constexpr Index B = 2, S = 5, L = 3, D = 8, Dm = 6;  // sequences of 3 tokens look at memories of 5

nn::TransformerLayerConfig config() { return {.model_dims = D, .hidden_dims = 12, .num_heads = 2}; }
nn::TransformerLayerConfig decoder_config() {
  nn::TransformerLayerConfig decoder = config();
  decoder.cross_attention = {.memory_dims = Dm};
  return decoder;
}

class TransformerLayers : public testing::Test {
 protected:
  ParameterRegistry parameters_{3};
  Tape tape_;
  Var<double> x_ = tape_.input(random_tensor<double>({B, L, D}, 1), {.wants_gradient = true});
  Var<double> memory_ = tape_.input(random_tensor<double>({B, S, Dm}, 2), {.wants_gradient = true});
};

TEST_F(TransformerLayers, CrossAttentionTakesKeysAndValuesFromAllOfTheMemory) {
  const nn::MultiHeadAttention<double> layer(
      parameters_ / "cross", {.model_dims = D, .num_heads = 2, .num_kv_heads = 1, .memory_dims = Dm, .causal = true});
  const auto heads = [&](const Var<double>& from, const nn::Linear<double>& projection, Index count) {
    const auto y = linear<double>(from, projection.w, projection.b);
    return y.reshape({B, y.shape()[1], count, D / 2});
  };
  const auto context =
      attention(heads(x_, *layer.query, 2), heads(memory_, *layer.key, 1), heads(memory_, *layer.value, 1));
  const auto expected = linear<double>(context.reshape({B, L, D}), layer.out->w, layer.out->b);
  const auto y = layer(x_, memory_);
  EXPECT_TRUE(same_bits(y.value(), expected.value()));
  EXPECT_EQ(parameters_.at<double>("cross/key/w").shape(), (Shape{Dm, D / 2}));
  // The first query already sees the last key.
  tape_.backward(sum(square(y.slice(0, 1).reshape({L, D}).slice(0, 1))));
  const auto gradient = tape_.grad(memory_);
  for (Index i = 0; i < B * S; ++i) EXPECT_EQ(gradient[i * Dm] != 0, i < S) << i;
}

TEST_F(TransformerLayers, PreNormIsInsideTheBranchPostNormBehindTheSum) {
  nn::TransformerLayerConfig post_config = decoder_config();
  post_config.norm_placement = nn::NormPlacement::post;
  const nn::TransformerLayer<double> pre(parameters_ / "pre", decoder_config()),
      post(parameters_ / "post", post_config);
  auto h = x_ + pre.attention(pre.attention_norm(x_));
  h = h + (*pre.cross_attention)((*pre.cross_attention_norm)(h), memory_);
  h = h + pre.ffn(pre.ffn_norm(h));
  EXPECT_TRUE(same_bits(pre(x_, memory_).value(), h.value()));
  h = post.attention_norm(x_ + post.attention(x_));
  h = (*post.cross_attention_norm)(h + (*post.cross_attention)(h, memory_));
  h = post.ffn_norm(h + post.ffn(h));
  EXPECT_TRUE(same_bits(post(x_, memory_).value(), h.value()));
}

TEST_F(TransformerLayers, BothPlacementsHaveTheSameLabels) {
  for (const auto placement : {nn::NormPlacement::pre, nn::NormPlacement::post}) {
    Tape tape;
    nn::TransformerLayerConfig layer = config();
    layer.norm_placement = placement;
    ParameterRegistry parameters;
    const nn::StackedTransformer<double> stack(parameters / "stack", {.layers = {layer}});
    const auto y = stack(tape.input(random_tensor<double>({B, L, D}, 1)));
    std::set<std::string> labels;
    for (const auto& each : tape.program().labels) labels.insert(each.begin(), each.end());
    EXPECT_EQ(labels, (std::set<std::string>{"iteration_input", "query_proj", "key_proj", "value_proj", "context",
                                             "out_proj", "ffn1", "ffn2", "transformer_layer_out"}));
    EXPECT_TRUE(tape.program().describe(y.where().slot).has_label("transformer_layer_out"));
  }
}

// Praxis clones the self attention with its id, and both get the same weights.
TEST_F(TransformerLayers, CrossAttentionNeverSharesWithSelfAttentionUnasked) {
  nn::TransformerLayerConfig layer = config();
  layer.attention = {.num_kv_heads = 1, .combined_qkv = true, .dropout = 0.25, .shared_weight_id = "attention"};
  layer.cross_attention = cross_attention_like(layer.attention);
  EXPECT_EQ(layer.cross_attention->num_kv_heads, 1);
  EXPECT_EQ(layer.cross_attention->dropout, 0.25);
  const nn::StackedTransformer<double> decoder(parameters_ / "decoder", {.layers = {layer, layer}});
  EXPECT_EQ(parameters_.at<double>("shared/attention/qkv/w").entry()->users.size(), 2U);
  for (const char* path : {"decoder/layer_0/cross_attention/key/w", "decoder/layer_1/cross_attention/key/w",
                           "decoder/layer_0/cross_attention_norm/scale"})
    EXPECT_EQ(parameters_.at<double>(path).entry()->users.size(), 1U) << path;
}

TEST_F(TransformerLayers, TheMemoryReachesEveryLayerOfAStackWhateverItsRegions) {
  const auto gradients = [&](const Policy& policy, int every) {
    ParameterRegistry parameters(3);
    const nn::StackedTransformer<double> stack(
        parameters / "stack",
        {.layers = {decoder_config(), decoder_config(), decoder_config()}, .remat = policy, .remat_every = every});
    Tape tape;
    const auto x = tape.input(random_tensor<double>({B, L, D}, 1));
    const auto memory = tape.input(random_tensor<double>({B, S, Dm}, 2), {.wants_gradient = true});
    tape.backward(sum(square(stack(x, memory * 1.0))));
    for (int i = 0; i < 3; ++i)
      EXPECT_TRUE(parameters.at<double>("stack/layer_" + std::to_string(i) + "/cross_attention/key/w").has_grad());
    return tape.grad(memory);
  };
  const auto plain = gradients(policy::everything, 1);
  EXPECT_TRUE(same_bits(plain, gradients(policy::nothing, 1)));
  EXPECT_TRUE(same_bits(plain, gradients(policy::save_context, 2)));
}

TEST_F(TransformerLayers, RefuseWhatDoesNotFit) {
  const nn::TransformerLayer<double> encoder(parameters_ / "encoder", config()),
      decoder(parameters_ / "decoder", decoder_config());
  expect_error({"encoder: ", "no cross_attention"}, [&] { encoder(x_, memory_); });
  expect_error({"decoder: ", "needs a memory"}, [&] { decoder(x_); });
  const auto other = tape_.input(random_tensor<double>({B + 1, S, Dm}, 2));
  expect_error({"decoder/cross_attention: ", "[3, 5, 6]", "[2, S, 6]"}, [&] { decoder(x_, other); });
  expect_error({"decoder/cross_attention: ", "[2, 3, 8]", "[2, S, 6]"}, [&] { decoder(x_, x_); });
  expect_error({"encoder/attention: ", "[6, 8]", "[B, T, D]"}, [&] { encoder(x_.reshape({B * L, D})); });
  nn::TransformerLayerConfig combined = decoder_config();
  combined.cross_attention->combined_qkv = true;
  expect_error({"broken: ", "combined_qkv = false"},
               [&] { nn::TransformerLayer<double>(parameters_ / "broken", combined); });
  const nn::MultiHeadAttention<double> fused(parameters_ / "fused",
                                             {.model_dims = D, .num_heads = 2, .combined_qkv = true});
  expect_error({"fused: ", "combined_qkv = false"}, [&] { fused(x_, x_); });
  expect_error({"fused: queries are projected apart"}, [&] { fused.keys_values(x_); });
  const nn::MultiHeadAttention<double> apart(parameters_ / "apart", {.model_dims = D, .num_heads = 2});
  expect_error({"apart: x has shape [6, 8], [B, T, D] is needed"}, [&] { apart(x_.reshape({B * L, D}), x_); });
  expect_error({"encoder: has no experts"}, [&] { encoder.with_auxiliary(x_); });
  const nn::StackedTransformer<double> stack(parameters_ / "stack", {.layers = {config()}});
  expect_error({"stack: no layer has experts"}, [&] { stack.with_auxiliary(x_); });
  nn::TransformerLayerConfig routed = config();
  routed.routed = {.num_experts = 2};
  const nn::TransformerLayer<double> experts(parameters_ / "experts", routed);
  expect_error({"experts: cross attention needs a memory, and a memory cross attention"},
               [&] { experts.with_auxiliary(x_, {}, &memory_); });
}

TEST_F(TransformerLayers, RefuseWhatTheyCannotDecode) {
  using Cache = nn::KeyValueCache<double>;
  const nn::TransformerLayer<double> encoder(parameters_ / "encoder", config()),
      decoder(parameters_ / "decoder", decoder_config());
  Cache::Layer cache;
  expect_error({"decoder: has cross attention, so it needs a memory: layer(x, memory, cache)"},
               [&] { decoder(x_, cache); });
  expect_error({"encoder: was given a memory, but its config has no cross_attention"},
               [&] { encoder(x_, memory_, cache); });
  const nn::MultiHeadAttention<double> both(parameters_ / "both", {.model_dims = D, .num_heads = 2, .causal = false}),
      causal(parameters_ / "causal", {.model_dims = D, .num_heads = 2, .causal = true});
  expect_error({"causal: decodes with a cache on a tape of Mode::evaluate only"}, [&] { causal.decode(x_, cache); });
  Tape tape({.mode = Mode::evaluate});
  const auto x = tape.input(random_tensor<double>({B, L, D}, 1));
  expect_error({"both: decodes token by token, so causal must be true"}, [&] { both.decode(x, cache); });
  expect_error({"causal: x has shape [6, 8], [B, T, D] is needed"}, [&] {
    causal.decode(x.reshape({B * L, D}), cache);
  });
  expect_error({"capacity 0 must be > 0"}, [] { Cache(0); });
  cache.capacity = 4;
  cache.fresh = {1};
  expect_error({"causal: the cache expects tokens of 1 rows, was given 2"}, [&] { causal.decode(x, cache); });
  cache.fresh = {1, L + 1};
  expect_error({"causal: row 1 was said to have 4 tokens, there are 3"}, [&] { causal.decode(x, cache); });
  cache.fresh = {};
  causal.decode(x, cache);
  expect_error({"causal: the cache has room for 4 positions, 3 are taken and 3 more were given"},
               [&] { causal.decode(x, cache); });
  expect_error({"causal: the cache holds [2, ", "was given keys of shape [1, 3, 8]"},
               [&] { causal.decode(slice(x, 0, 0, 1), cache); });
}

TEST(Norms, HaveSomethingToNormalize) {
  const ParameterRegistry parameters;
  expect_error({"layer: layer norm needs model_dims > 0, got 0"},
               [&] { nn::LayerNorm<float>(parameters / "layer", {}); });
  expect_error({"rms: RMS norm needs model_dims > 0, got 0"}, [&] { nn::RmsNorm<float>(parameters / "rms", {}); });
}

}  // namespace
