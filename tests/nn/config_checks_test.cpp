// What a layer cannot honour is refused by name when it is built, before it makes a parameter.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <remat/models/gpt.hpp>
#include <remat/nn/dropout.hpp>
#include <remat/nn/routed_feed_forward.hpp>
#include <string>
#include <vector>

#include "core/expect_error.hpp"
#include "nn/random_tensor.hpp"

namespace {

using namespace remat;
using remat_test::error_of;

constexpr double nan = std::numeric_limits<double>::quiet_NaN(), inf = std::numeric_limits<double>::infinity();

template <class Config>
struct Refused {
  std::function<void(Config&)> change;
  std::vector<std::string> says;
};

/// `Layer` is built of `base`, and of no changed one.
template <class Layer, class Config>
void expect_refused(const Config& base, const std::vector<Refused<Config>>& table) {
  {
    ParameterRegistry parameters;
    EXPECT_NO_THROW(Layer(parameters / "net", base));
  }
  for (const auto& [change, says] : table) {
    Config config = base;
    change(config);
    ParameterRegistry parameters;
    const std::string message = error_of([&] { Layer(parameters / "net", config); });
    EXPECT_EQ(message.rfind("net", 0), 0U) << message;
    for (const std::string& part : says) EXPECT_NE(message.find(part), std::string::npos) << message << "\n" << part;
    EXPECT_EQ(parameters.entries().size(), 0U) << message;
    EXPECT_TRUE(parameters.shared_ids().empty()) << message;
  }
}

// Protects sizes that come from shapes, which are of Index: no cast and no narrowing when a config is written of them.
TEST(ConfigChecks, SizesAreOfIndex) {
  const Index dims = 8, heads = 2, far = Index{1} << 40;
  const int layers = 1;
  ParameterRegistry parameters;
  const nn::TransformerLayerConfig layer{.model_dims = dims,
                                         .hidden_dims = dims,
                                         .num_heads = heads,
                                         .attention = {.num_kv_heads = heads, .rotary_dims = 0, .key_chunk = far},
                                         .blockwise = {.query_chunk = far, .key_chunk = far, .ffn_chunk = far}};
  const nn::TransformerLayer<float> built(parameters / "layer", layer);
  EXPECT_EQ(built.config.ffn.blockwise.ffn_chunk, far);
  const nn::StackedTransformerConfig stack{.layers = {layer}, .remat_every = dims};
  const nn::EmbeddingConfig embedding{.vocabulary = dims, .model_dims = dims};
  const nn::LinearConfig linear{.input_dims = dims, .output_dims = dims};
  const nn::LayerNormConfig layer_norm{.model_dims = dims};
  const nn::RmsNormConfig rms_norm{.model_dims = dims};
  const nn::FeedForwardConfig ffn{.model_dims = dims, .hidden_dims = dims};
  const nn::RoutedFeedForwardConfig routed{
      .model_dims = dims, .hidden_dims = dims, .num_experts = heads, .top_k = Index{1}};
  const models::GptConfig gpt{.vocabulary = dims,
                              .context = dims,
                              .num_layers = layers,
                              .model_dims = dims,
                              .num_heads = heads,
                              .head_chunk = far,
                              .remat_every = heads};
  EXPECT_EQ(stack.remat_every + embedding.vocabulary + linear.input_dims + layer_norm.model_dims + rms_norm.model_dims +
                ffn.hidden_dims + routed.num_experts + gpt.context,
            7 * dims + heads);
  for (const Index size : {far, std::numeric_limits<Index>::max()}) {
    ParameterRegistry none;
    EXPECT_NE(error_of([&] {
                nn::MultiHeadAttention<float>(none / "net", {.model_dims = size, .num_heads = size});
              }).find("is above"),
              std::string::npos);
    EXPECT_TRUE(none.entries().empty());
  }
}

TEST(ConfigChecks, Attention) {
  using C = nn::AttentionConfig;
  const C base{.model_dims = 8, .num_heads = 2};
  std::vector<Refused<C>> table = {
      {[](C& c) { c.model_dims = 0; }, {"model_dims"}},
      {[](C& c) { c.num_heads = -1; }, {"num_heads"}},
      {[](C& c) { c.num_heads = 3; }, {"num_heads 3", "head_dims"}},
      {[](C& c) { c.num_kv_heads = -1; }, {"num_kv_heads"}},
      {[](C& c) { c.num_heads = 4, c.num_kv_heads = 3; }, {"num_kv_heads 3", "num_heads 4"}},
      {[](C& c) { c.head_dims = -4; }, {"head_dims", "-4"}},
      {[](C& c) { c.head_dims = 1 << 30; }, {"head_dims", "is above"}},
      {[](C& c) { c.memory_dims = -1; }, {"memory_dims", "-1"}},
      {[](C& c) { c.memory_dims = 6, c.combined_qkv = true; }, {"memory_dims 6", "combined_qkv"}},
      {[](C& c) { c.dropout = 1.5; }, {"dropout", "1.5"}},
      {[](C& c) { c.dropout = 1; }, {"dropout"}},
      {[](C& c) { c.dropout = -0.1; }, {"dropout", "-0.1"}},
      {[](C& c) { c.dropout = nan; }, {"dropout", "nan"}},
      {[](C& c) { c.window = -1; }, {"window", "-1"}},
      {[](C& c) { c.soft_cap = -1; }, {"soft_cap"}},
      {[](C& c) { c.soft_cap = nan; }, {"soft_cap"}},
      {[](C& c) { c.rotary_base = -1; }, {"rotary_base"}},
      {[](C& c) { c.rotary_base = inf; }, {"rotary_base"}},
      {[](C& c) { c.rotary_dims = 2; }, {"rotary_dims 2", "rotary_base"}},
      {[](C& c) { c.rotary_base = 100, c.rotary_dims = 3; }, {"rotary_dims", "3"}},
      {[](C& c) { c.rotary_base = 100, c.rotary_dims = 6; }, {"rotary_dims", "6", "head_dims 4"}},
      {[](C& c) { c.rotary_base = 100, c.rotary_dims = -2; }, {"rotary_dims", "-2"}},
      {[](C& c) { c.rotary_base = 100, c.head_dims = 3; }, {"rotary_base", "head_dims 3"}},
      {[](C& c) { c.key_chunk = -1; }, {"key_chunk"}},
      {[](C& c) { c.query_key_norm_epsilon = 1e-5; }, {"query_key_norm_epsilon", "set query_key_norm"}},
      {[](C& c) {
         c.rotary_scaling = {RotaryScaling::linear, 2};
       },
       {"rotary_scaling", "rotary_base"}},
      {[](C& c) {
         c.rotary_base = 100, c.rotary_scaling = {RotaryScaling::linear, 0};
       },
       {"rotary_scaling.factor"}},
      {[](C& c) {
         c.rotary_base = 100, c.rotary_scaling = {RotaryScaling::llama3, 2, 4, 4};
       },
       {"rotary_scaling.high_frequency_factor"}},
      {[](C& c) {
         c.rotary_base = 100, c.rotary_scaling = {RotaryScaling::llama3, 2, 1, 4, 0};
       },
       {"rotary_scaling.original_context"}},
      {[](C& c) { c.alibi_form = AlibiForm::bfloat16_key_position; }, {"alibi_form", "set alibi = true"}},
      {[](C& c) { c.query_key_norm_scale = nn::NormScale::weight; }, {"query_key_norm_scale", "set query_key_norm"}},
      {[](C& c) { c.query_key_norm = nn::QueryKeyNorm::each_head, c.query_key_norm_epsilon = 0; },
       {"query_key_norm_epsilon must be > 0", "0"}},
      {[](C& c) { c.init = init::normal(-1); }, {"init is normal(-1)"}},
      {[](C& c) { c.out_init = init::uniform(nan); }, {"out_init is uniform(nan)"}},
      {[](C& c) { c.shared_weight_id = "a/b"; }, {"shared_weight_id"}},
  };
  const std::pair<const char*, std::function<void(C&)>> plain_lacks[] = {
      {"dropout", [](C& c) { c.dropout = 0.1; }},        {"window", [](C& c) { c.window = 4; }},
      {"soft_cap", [](C& c) { c.soft_cap = 1; }},        {"rotary_base", [](C& c) { c.rotary_base = 100; }},
      {"alibi", [](C& c) { c.alibi = true; }},           {"key_chunk", [](C& c) { c.key_chunk = 4; }},
      {"num_kv_heads", [](C& c) { c.num_kv_heads = 1; }}};
  for (const auto& [name, change] : plain_lacks)
    for (const bool combined : {false, true})
      table.push_back({[change = change, combined](C& c) {
                         c.fused = false, c.combined_qkv = combined;
                         change(c);
                       },
                       {"fused = false", name}});
  expect_refused<nn::MultiHeadAttention<float>>(base, table);
}

TEST(ConfigChecks, FeedForward) {
  using C = nn::FeedForwardConfig;
  expect_refused<nn::FeedForward<float>>(C{.model_dims = 8, .hidden_dims = 12},
                                         {{[](C& c) { c.hidden_dims = 0; }, {"hidden_dims"}},
                                          {[](C& c) { c.model_dims = -8; }, {"model_dims", "-8"}},
                                          {[](C& c) { c.dropout = 1.5; }, {"dropout", "1.5"}},
                                          {[](C& c) { c.dropout = nan; }, {"dropout"}},
                                          {[](C& c) { c.init = init::normal(inf); }, {"init"}},
                                          {[](C& c) { c.out_init = init::constant(nan); }, {"out_init"}},
                                          {[](C& c) { c.blockwise.ffn_chunk = -1; }, {"ffn_chunk"}},
                                          {[](C& c) { c.ffn2_shared_weight_id = "a/b"; }, {"shared_weight_id"}}});
}

TEST(ConfigChecks, RoutedFeedForward) {
  using C = nn::RoutedFeedForwardConfig;
  expect_refused<nn::RoutedFeedForward<float>>(C{.model_dims = 8, .hidden_dims = 12, .num_experts = 4, .top_k = 2},
                                               {{[](C& c) { c.hidden_dims = 0; }, {"hidden_dims"}},
                                                {[](C& c) { c.top_k = 5; }, {"top_k"}},
                                                {[](C& c) { c.top_k = 0; }, {"top_k"}},
                                                {[](C& c) { c.num_experts = -1; }, {"num_experts"}},
                                                {[](C& c) { c.capacity_factor = 0; }, {"capacity_factor"}},
                                                {[](C& c) { c.capacity_factor = nan; }, {"capacity_factor"}},
                                                {[](C& c) { c.dropout = -1; }, {"dropout"}},
                                                {[](C& c) { c.init = init::normal(-1); }, {"init"}},
                                                {[](C& c) { c.out_init = init::normal(-1); }, {"out_init"}}});
}

TEST(ConfigChecks, SmallLayers) {
  expect_refused<nn::Linear<float>>(
      nn::LinearConfig{.input_dims = 8, .output_dims = 4},
      {{[](auto& c) { c.input_dims = 0; }, {"input_dims"}}, {[](auto& c) { c.init = init::normal(-1); }, {"init"}}});
  expect_refused<nn::Embedding<float>>(
      nn::EmbeddingConfig{.vocabulary = 8, .model_dims = 4},
      {{[](auto& c) { c.vocabulary = 0; }, {"vocabulary"}}, {[](auto& c) { c.init = init::uniform(-1); }, {"init"}}});
  const std::vector<double> no_epsilons = {0, -1, nan, inf};
  for (const double epsilon : no_epsilons) {
    expect_refused<nn::LayerNorm<float>>(nn::LayerNormConfig{.model_dims = 8},
                                         {{[=](auto& c) { c.epsilon = epsilon; }, {"epsilon"}}});
    expect_refused<nn::RmsNorm<float>>(nn::RmsNormConfig{.model_dims = 8},
                                       {{[=](auto& c) { c.epsilon = epsilon; }, {"epsilon"}}});
  }
  const std::vector<double> no_rates = {1, 1.5, -0.5, nan};
  for (const double rate : no_rates)
    expect_refused<nn::Dropout<float>>(nn::DropoutConfig{}, {{[=](auto& c) { c.rate = rate; }, {"dropout"}}});
}

TEST(ConfigChecks, TransformerLayer) {
  using C = nn::TransformerLayerConfig;
  const C base{.model_dims = 8, .num_heads = 2, .cross_attention = nn::AttentionConfig{.memory_dims = 6}};
  expect_refused<nn::TransformerLayer<float>>(
      base, {{[](C& c) { c.model_dims = 0; }, {"model_dims"}},
             {[](C& c) { c.model_dims = 1 << 30; }, {"hidden_dims"}},
             {[](C& c) { c.hidden_dims = -1; }, {"hidden_dims"}},
             {[](C& c) { c.num_heads = 0; }, {"num_heads"}},
             {[](C& c) { c.dropout = 1.5; }, {"net: dropout", "1.5"}},
             {[](C& c) { c.norm_scale = nn::NormScale::one_plus_weight; }, {"net: norm_scale", "RMS norms"}},
             {[](C& c) { c.parallel = true; }, {"net: parallel", "cross_attention"}},
             {[](C& c) { c.parallel = true, c.cross_attention.reset(), c.norm_placement = nn::NormPlacement::post; },
              {"net: parallel", "NormPlacement::pre"}},
             {[](C& c) { c.parallel_one_norm = true; }, {"net: parallel_one_norm", "set parallel = true"}},
             {[](C& c) { c.attention.model_dims = 16; }, {"attention.model_dims 16", "model_dims 8"}},
             {[](C& c) { c.attention.memory_dims = 6; }, {"attention.memory_dims", "6"}},
             {[](C& c) { c.attention.dropout = nan; }, {"net/attention: dropout"}},
             {[](C& c) { c.cross_attention->model_dims = 16; }, {"cross_attention.model_dims 16"}},
             {[](C& c) { c.cross_attention->combined_qkv = true; }, {"cross_attention", "combined_qkv = false"}},
             {[](C& c) { c.cross_attention->window = 4; }, {"cross_attention", "window"}},
             {[](C& c) { c.cross_attention->rotary_base = 100; }, {"cross_attention", "rotary_base"}},
             {[](C& c) { c.cross_attention->alibi = true; }, {"cross_attention", "alibi"}},
             {[](C& c) { c.cross_attention->dropout = 2; }, {"net/cross_attention: dropout"}},
             {[](C& c) { c.ffn.model_dims = 16; }, {"ffn.model_dims 16"}},
             {[](C& c) { c.ffn.dropout = -1; }, {"net/ffn: dropout"}},
             {[](C& c) { c.blockwise.query_chunk = -1; }, {"query_chunk"}},
             {[](C& c) { c.blockwise.key_chunk = -1; }, {"key_chunk"}},
             {[](C& c) { c.blockwise.ffn_chunk = -1; }, {"ffn_chunk"}},
             {[](C& c) { c.blockwise.query_chunk = 4, c.attention.combined_qkv = true; }, {"query_chunk 4"}},
             {[](C& c) { c.attention.key_chunk = 4, c.attention.fused = false; }, {"fused = false", "key_chunk"}}});
}

TEST(ConfigChecks, StackedTransformer) {
  using C = nn::StackedTransformerConfig;
  const nn::TransformerLayerConfig layer{.model_dims = 8, .num_heads = 2}, wide{.model_dims = 16, .num_heads = 2};
  nn::TransformerLayerConfig cross = layer, other = layer;
  cross.cross_attention.emplace();
  other.cross_attention = {.memory_dims = 6};
  expect_refused<nn::StackedTransformer<float>>(
      C{.layers = {layer, layer}},
      {{[](C& c) { c.remat_every = 0; }, {"remat_every"}},
       {[&](C& c) { c.layers[1] = wide; }, {"layer_1 has model_dims 16", "8"}},
       {[&](C& c) { c.layers[1] = cross; }, {"layer_1", "cross_attention"}},
       {[&](C& c) {
          c.layers = {cross, other};
        },
        {"layer_1", "memory_dims"}},
       {[](C& c) { c.layers[1].attention.dropout = 1.5; }, {"net/layer_1/attention: dropout"}}});
}

TEST(ConfigChecks, Gpt) {
  using C = models::GptConfig;
  const C base{.vocabulary = 16, .context = 8, .num_layers = 2, .model_dims = 8, .num_heads = 2};
  expect_refused<models::Gpt<float>>(
      base, {{[](C& c) { c.vocabulary = 0; }, {"vocabulary"}},
             {[](C& c) { c.context = -1; }, {"context"}},
             {[](C& c) { c.num_layers = -1; }, {"num_layers"}},
             {[](C& c) { c.model_dims = 0; }, {"model_dims"}},
             {[](C& c) { c.num_heads = 3; }, {"num_heads 3"}},
             {[](C& c) { c.num_kv_heads = -1; }, {"num_kv_heads"}},
             {[](C& c) { c.hidden_dims = -1; }, {"hidden_dims"}},
             {[](C& c) { c.dropout = 1.5; }, {"net: dropout", "1.5"}},
             {[](C& c) { c.dropout = nan; }, {"net: dropout"}},
             {[](C& c) { c.head_chunk = -1; }, {"head_chunk"}},
             {[](C& c) { c.init_deviation = -1; }, {"init_deviation"}},
             {[](C& c) { c.init_deviation = nan; }, {"init_deviation"}},
             {[](C& c) { c.remat_every = 0; }, {"remat_every"}},
             {[](C& c) { c.attention_shared_ids = {"a"}; }, {"attention_shared_ids"}},
             {[](C& c) { c.fused_attention = false, c.dropout = 0.1; }, {"fused = false", "dropout"}},
             {[](C& c) { c.fused_attention = false, c.num_kv_heads = 1; }, {"fused = false", "num_kv_heads"}},
             {[](C& c) { c.blockwise.query_chunk = 4; }, {"query_chunk 4", "combined_qkv = false"}},
             {[](C& c) { c.blockwise.ffn_chunk = -4; }, {"ffn_chunk"}}});
}

TEST(ConfigChecks, InitializersOfOwnLayers) {
  ParameterRegistry parameters;
  remat_test::expect_error({"own/w", "normal(-1)"},
                           [&] { (parameters / "own").parameter<float>("w", {2}, init::normal(-1)); });
  EXPECT_EQ(parameters.entries().size(), 0U);
}

// What depends on positions is of self attention: asked for a memory it was left out in silence.
TEST(ConfigChecks, CrossAttentionKnowsNoPositions) {
  ParameterRegistry parameters;
  const nn::AttentionConfig config{
      .model_dims = 8, .num_heads = 2, .window = 4, .rotary_base = 100, .rotary_dims = 2, .alibi = true};
  const nn::MultiHeadAttention<double> self(parameters / "self", config);
  const nn::MultiHeadAttention<double> cross(parameters / "cross", cross_attention_like(config));
  Tape tape;
  const auto x = tape.input(remat_test::random_tensor<double>({2, 3, 8}, 1));
  EXPECT_NO_THROW(self(x));
  EXPECT_NO_THROW(cross(x, x));
  remat_test::expect_error({"self: ", "rotary_base"}, [&] { self(x, x); });
}

// `fused = false` was fused all the same where queries, keys and values have one projection.
TEST(PlainAttention, IsHonouredBesideACombinedProjection) {
  for (const bool causal : {false, true}) {
    nn::AttentionConfig config{.model_dims = 8, .num_heads = 2, .causal = causal, .combined_qkv = true};
    const auto run = [&](bool fused) {
      config.fused = fused;
      ParameterRegistry parameters(3);
      const nn::MultiHeadAttention<double> layer(parameters / "net", config);
      Tape tape;
      const auto x = tape.input(remat_test::random_tensor<double>({2, 5, 8}, 1), {.wants_gradient = true});
      const auto y = layer(x);
      bool has_fused = false;
      for (const Node& n : tape.program().nodes) has_fused = has_fused || std::string_view(n.op->name()) == "attention";
      EXPECT_EQ(has_fused, fused);
      const Tensor<double> value = y.value();
      tape.backward(sum(square(y)));
      return std::vector{value, tape.grad(x).copy(), parameters.at<double>("net/qkv/w").grad().copy()};
    };
    const auto fused = run(true), plain = run(false);
    for (std::size_t k = 0; k < fused.size(); ++k)
      for (Index i = 0; i < fused[k].size(); ++i) EXPECT_NEAR(fused[k][i], plain[k][i], 1e-12);
  }
}

// A layer's blocks of keys are of fused attention; the plain one beside them has none.
TEST(PlainAttention, LeavesALayersKeyChunkAlone) {
  ParameterRegistry parameters;
  nn::TransformerLayerConfig config{.model_dims = 8, .num_heads = 2, .blockwise = {.query_chunk = 2, .key_chunk = 3}};
  EXPECT_EQ(nn::TransformerLayer<float>(parameters / "fused", config).attention.config.key_chunk, 3);
  config.attention.fused = false;
  EXPECT_EQ(nn::TransformerLayer<float>(parameters / "plain", config).attention.config.key_chunk, 0);
}

TEST(PlainAttention, OfAGptNeedsNoOtherSetting) {
  ParameterRegistry parameters;
  const models::Gpt<float> gpt(
      parameters / "gpt",
      {.vocabulary = 16, .context = 8, .num_layers = 1, .model_dims = 8, .num_heads = 2, .fused_attention = false});
  Tape tape;
  gpt.logits(tape, Tensor<std::int32_t>({1, 8}, 3));
  for (const Node& n : tape.program().nodes) EXPECT_NE(std::string_view(n.op->name()), "attention");
}

}  // namespace
