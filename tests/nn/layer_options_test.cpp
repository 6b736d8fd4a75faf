// What a layer may have beyond the plain one: norms of queries and keys, norms in other places, by 1 + w, branches
// side by side, ALiBi as Falcon has it. Each is what
// its formula says, gives the same bits under every policy, and the same by chunks of queries.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <remat/autodiff/gradient_check.hpp>
#include <remat/nn/stacked_transformer.hpp>
#include <remat/ops/attention.hpp>
#include <remat/ops/concat.hpp>
#include <remat/ops/reduce.hpp>
#include <remat/ops/slice.hpp>
#include <remat/policy/parse.hpp>
#include <remat/policy/phrase_book.hpp>
#include <string>
#include <vector>

#include "core/expect_error.hpp"
#include "nn/random_tensor.hpp"

namespace {

using namespace remat;
using remat_test::expect_error;
using remat_test::random_tensor;
using Config = nn::TransformerLayerConfig;

constexpr Index B = 2, T = 7, D = 8;

struct Option {
  const char* name;
  std::function<void(Config&)> change;
};
void PrintTo(const Option& option, std::ostream* out) { *out << option.name; }

const Option options[] = {
    {"NormOfEachHead",
     [](Config& c) { c.attention.query_key_norm = nn::QueryKeyNorm::each_head, c.attention.rotary_base = 100; }},
    {"NormOfTheWholeProjection",
     [](Config& c) { c.attention.query_key_norm = nn::QueryKeyNorm::whole_projection, c.attention.rotary_base = 100; }},
    {"NormOfEachHeadOfACombinedProjection",
     [](Config& c) { c.attention.query_key_norm = nn::QueryKeyNorm::each_head, c.attention.combined_qkv = true; }},
    {"NormOfEachHeadOfPlainAttention",
     [](Config& c) {
       c.attention.query_key_norm = nn::QueryKeyNorm::each_head;
       c.attention.fused = false, c.attention.num_kv_heads = 4;
     }},
    {"SandwichOfRmsNorms",
     [](Config& c) { c.norm_placement = nn::NormPlacement::sandwich, c.norm = nn::NormKind::rms_norm; }},
    {"SandwichOfLayerNorms", [](Config& c) { c.norm_placement = nn::NormPlacement::sandwich; }},
    {"NormsOfBranchOutputs",
     [](Config& c) { c.norm_placement = nn::NormPlacement::branch_output, c.norm = nn::NormKind::rms_norm; }},
    {"OnePlusWeight",
     [](Config& c) {
       c.norm = nn::NormKind::rms_norm, c.norm_scale = nn::NormScale::one_plus_weight;
       c.norm_placement = nn::NormPlacement::sandwich, c.attention.query_key_norm = nn::QueryKeyNorm::each_head;
     }},
    {"OnePlusWeightBehind",
     [](Config& c) {
       c.norm = nn::NormKind::rms_norm, c.norm_scale = nn::NormScale::one_plus_weight;
       c.norm_placement = nn::NormPlacement::post;
     }},
    {"ScaledRotary",
     [](Config& c) {
       c.attention.rotary_base = 10, c.attention.rotary_scaling = {RotaryScaling::llama3, 8, 1, 4, 16};
     }},
    {"Sinks", [](Config& c) { c.attention.sinks = true; }},
    {"RelativeBuckets",
     [](Config& c) { c.attention.relative_buckets = 6, c.attention.relative_shared_weight_id = "positions"; }},
    {"RelativeBucketsOfBothSidesCombined",
     [](Config& c) {
       c.attention.relative_buckets = 6, c.attention.relative_max_distance = 4;
       c.attention.causal = false, c.attention.combined_qkv = true;
     }},
    {"SinksOfACombinedProjection", [](Config& c) { c.attention.sinks = c.attention.combined_qkv = true; }},
    {"OutputGate", [](Config& c) { c.attention.output_gate = true; }},
    {"NarrowValues", [](Config& c) { c.attention.value_head_dims = 1, c.attention.rotary_base = 100; }},
    {"WideValues", [](Config& c) { c.attention.value_head_dims = 5, c.attention.rotary_base = 100; }},
    {"WindowOfTwoSides",
     [](Config& c) { c.attention.causal = false, c.attention.window = 2, c.attention.window_right = 4; }},
    {"InterleavedYarn",
     [](Config& c) {
       c.attention.rotary_base = 10, c.attention.rotary_interleaved = true;
       c.attention.rotary_scaling = {RotaryScaling::yarn, 8, 1, 4, 64};
     }},
    {"Parallel", [](Config& c) { c.parallel = true, c.attention.rotary_base = 100; }},
    {"ParallelWithOneNorm", [](Config& c) { c.parallel = c.parallel_one_norm = true; }},
    {"ParallelOfACombinedProjection",
     [](Config& c) { c.parallel = c.parallel_one_norm = c.attention.combined_qkv = true; }},
    {"ResidualMultiplier", [](Config& c) { c.residual_multiplier = 0.3, c.attention.rotary_base = 100; }},
    {"ResidualMultiplierOfASandwich",
     [](Config& c) { c.residual_multiplier = 0.3, c.norm_placement = nn::NormPlacement::sandwich; }},
    {"AlibiByKeyPosition",
     [](Config& c) { c.attention.alibi = true, c.attention.alibi_form = AlibiForm::bfloat16_key_position; }},
    {"AlibiByKeyPositionOfACombinedProjection",
     [](Config& c) {
       c.attention.alibi = c.attention.combined_qkv = true;
       c.attention.alibi_form = AlibiForm::bfloat16_key_position;
     }},
};

Config config_with(const std::function<void(Config&)>& change) {
  Config config{.model_dims = D, .hidden_dims = 12, .num_heads = 4, .dropout = 0};
  config.attention.num_kv_heads = 2;
  change(config);
  return config;
}

/// The direction in which the i-th of x and the parameters is moved.
Tensor<double> direction(const Shape& shape, std::size_t i) { return random_tensor<double>(shape, 100 + i); }

/// The loss, then the gradients of x and of every parameter, of two layers; x and parameters are moved by `distance`.
std::vector<Tensor<double>> step(const Config& config, const Policy& policy, int every = 1, double distance = 0) {
  const auto moved = [distance](const Shape& shape, std::uint64_t seed, std::size_t i) {
    Tensor<double> value = random_tensor<double>(shape, seed);
    const Tensor<double> to = direction(shape, i);
    for (Index k = 0; k < value.size(); ++k) value.write()[k] += distance * to[k];
    return value;
  };
  ParameterRegistry parameters(3);
  const nn::StackedTransformer<double> stack(parameters / "net",
                                             {.layers = {config, config}, .remat = policy, .remat_every = every});
  std::size_t i = 1;
  for (const auto& entry : parameters.entries())  // biases and scales, too
    Parameter<double>(entry).set_value(moved(entry->value.shape, entry->path.size(), i++));
  Tape tape({.seed = 5, .step = 2});
  const auto x = tape.input(moved({B, T, D}, 1, 0), {.wants_gradient = true});
  const auto y = stack(x * 1.0);
  const auto loss = sum(y * tape.input(random_tensor<double>({B, T, D}, 4)));
  std::vector<Tensor<double>> all{loss.value()};
  tape.backward(loss);
  all.push_back(tape.grad(x));
  for (const auto& entry : parameters.entries()) {
    all.push_back(Parameter<double>(entry).grad());
    EXPECT_TRUE(std::any_of(all.back().begin(), all.back().end(), [](double g) { return g != 0; })) << entry->path;
  }
  return all;
}

class LayerOption : public testing::TestWithParam<Option> {};
INSTANTIATE_TEST_SUITE_P(All, LayerOption, testing::ValuesIn(options),
                         [](const auto& info) { return std::string(info.param.name); });

TEST_P(LayerOption, GivesTheSameBitsUnderEveryPolicy) {
  Config config = config_with(GetParam().change);
  if (config.attention.fused) config.attention.dropout = 0.2;
  config.dropout = 0.1;
  const auto plain = step(config, policy::everything);
  std::vector<Policy> policies{policy::nothing, policy::parse("dots"), policy::parse("names(*)"),
                               policy::parse("!names(*)"),
                               Policy([](const SlotInfo& slot) { return slot.index % 2 == 1; })};
  for (const policy::Phrase& phrase : policy::phrase_book()) policies.push_back(phrase.policy);
  for (std::size_t p = 0; p < policies.size(); ++p) {
    const auto other = step(config, policies[p], 1 + static_cast<int>(p % 2));
    ASSERT_EQ(other.size(), plain.size());
    for (std::size_t i = 0; i < plain.size(); ++i)
      EXPECT_TRUE(same_bits(plain[i], other[i])) << "tensor " << i << ", policy " << p;
  }
}

// As the loss grows along one direction of x and of all parameters, to a ten-millionth.
TEST_P(LayerOption, HasTheGradientsOfDifferences) {
  Config config = config_with(GetParam().change);
  config.dropout = 0.1;
  const auto loss_at = [&](double distance) { return step(config, policy::nothing, 1, distance)[0]; };
  const double numeric = remat::detail::derivative(loss_at, 1e-4)[0];
  const auto all = step(config, policy::nothing);
  double analytic = 0, squares = 0;
  for (std::size_t i = 1; i < all.size(); ++i) {
    const Tensor<double> to = direction(all[i].shape(), i - 1);
    for (Index k = 0; k < to.size(); ++k) analytic += all[i][k] * to[k], squares += std::pow(all[i][k] * to[k], 2);
  }
  EXPECT_NEAR(analytic, numeric, 1e-7 * std::sqrt(squares));
}

TEST_P(LayerOption, ByChunksOfQueriesIsTheWhole) {
  Config config = config_with(GetParam().change);
  if (config.attention.combined_qkv) {
    config.blockwise.query_chunk = 3;
    ParameterRegistry parameters;
    return expect_error({"net: blockwise.query_chunk 3", "combined_qkv = false"},
                        [&] { nn::TransformerLayer<double>(parameters / "net", config); });
  }
  const auto whole = step(config, policy::everything);
  for (const nn::BlockwiseConfig& blockwise :
       {nn::BlockwiseConfig{.query_chunk = 3}, nn::BlockwiseConfig{.query_chunk = 2, .key_chunk = 3, .ffn_chunk = 1}}) {
    config.blockwise = blockwise;
    const auto chunked = step(config, policy::nothing);
    ASSERT_EQ(chunked.size(), whole.size());
    for (std::size_t i = 0; i < whole.size(); ++i)
      for (Index k = 0; k < whole[i].size(); ++k)
        EXPECT_NEAR(chunked[i][k], whole[i][k], 1e-9 * (1 + std::abs(whole[i][k]))) << "tensor " << i;
  }
}

/// x / sqrt(mean square + epsilon) * scale, row by row.
Var<double> by_hand(const Var<double>& x, const Parameter<double>& scale, double epsilon) {
  return x / sqrt(mean(square(x), {-1}, true) + epsilon) * scale;
}

TEST(QueryKeyNorm, StandsBehindTheProjectionsOfEachHeadOrOfAll) {
  for (const bool is_each : {true, false}) {
    ParameterRegistry parameters(3);
    const nn::MultiHeadAttention<double> layer(
        parameters / "a", {.model_dims = D,
                           .num_heads = 4,
                           .num_kv_heads = 2,
                           .rotary_base = 100,
                           .query_key_norm = is_each ? nn::QueryKeyNorm::each_head : nn::QueryKeyNorm::whole_projection,
                           .query_key_norm_epsilon = 0.1});
    const auto query_scale = parameters.at<double>("a/query_norm/scale"),
               key_scale = parameters.at<double>("a/key_norm/scale");
    EXPECT_EQ(query_scale.shape(), Shape{is_each ? 2 : 8});
    EXPECT_EQ(key_scale.shape(), Shape{is_each ? 2 : 4});
    query_scale.set_value(random_tensor<double>(query_scale.shape(), 1));
    key_scale.set_value(random_tensor<double>(key_scale.shape(), 2));
    Tape tape;
    const auto x = tape.input(random_tensor<double>({B, T, D}, 3));
    const auto heads = [&](const nn::Linear<double>& projection, const Parameter<double>* scale, Index count) {
      const auto y = projection(x), by_heads = y.reshape({B, T, count, 2});
      if (scale == nullptr) return by_heads;
      return is_each ? by_hand(by_heads, *scale, 0.1) : by_hand(y, *scale, 0.1).reshape({B, T, count, 2});
    };
    const auto context = attention(heads(*layer.query, &query_scale, 4), heads(*layer.key, &key_scale, 2),
                                   heads(*layer.value, nullptr, 2), {.causal = true, .rotary_base = 100});
    const auto expected = (*layer.out)(context.reshape({B, T, D})).value(), y = layer(x).value();
    for (Index i = 0; i < y.size(); ++i) EXPECT_NEAR(y[i], expected[i], 1e-12);
  }
}

TEST(QueryKeyNorm, OfACombinedProjectionIsThatOfSeparateOnes) {
  ParameterRegistry parameters(3);
  nn::AttentionConfig config{
      .model_dims = D, .num_heads = 4, .num_kv_heads = 2, .query_key_norm = nn::QueryKeyNorm::each_head};
  const nn::MultiHeadAttention<double> apart(parameters / "apart", config);
  config.combined_qkv = true;
  const nn::MultiHeadAttention<double> combined(parameters / "combined", config);
  Tensor<double> all({D, 16});
  for (Index i = 0; i < D; ++i)
    for (Index j = 0; j < 16; ++j)
      all.write()[i * 16 + j] = j < 8    ? apart.query->w.value()[i * 8 + j]
                                : j < 12 ? apart.key->w.value()[i * 4 + j - 8]
                                         : apart.value->w.value()[i * 4 + j - 12];
  combined.qkv->w.set_value(all);
  combined.out->w.set_value(apart.out->w.value());
  Tape tape;
  const auto x = tape.input(random_tensor<double>({B, T, D}, 3));
  const auto a = apart(x).value(), b = combined(x).value();
  for (Index i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], b[i], 1e-12);
}

TEST(QueryKeyNorm, HasTheEpsilonOfTheLayersRmsNorms) {
  ParameterRegistry parameters;
  Config config = config_with([](Config& c) {
    c.attention.query_key_norm = nn::QueryKeyNorm::each_head, c.norm = nn::NormKind::rms_norm, c.norm_epsilon = 1e-3;
  });
  EXPECT_EQ(nn::TransformerLayer<double>(parameters / "a", config).attention.query_norm->epsilon, 1e-3);
  config.norm = nn::NormKind::layer_norm;
  EXPECT_EQ(nn::TransformerLayer<double>(parameters / "b", config).attention.key_norm->epsilon, 1e-6);
  config.attention.query_key_norm_epsilon = 0.5;
  EXPECT_EQ(nn::TransformerLayer<double>(parameters / "c", config).attention.key_norm->epsilon, 0.5);
}

TEST(NormPlacement, ASandwichHasNormsBeforeAndBehindABranch) {
  ParameterRegistry parameters(3);
  Config config = config_with([](Config& c) { c.norm_placement = nn::NormPlacement::sandwich; });
  config.cross_attention = {.memory_dims = D};
  const nn::TransformerLayer<double> layer(parameters / "net", config);
  Tape tape;
  const auto x = tape.input(random_tensor<double>({B, T, D}, 3)),
             memory = tape.input(random_tensor<double>({B, 4, D}, 5));
  auto h = x + (*layer.attention_out_norm)(layer.attention(layer.attention_norm(x)));
  h = h + (*layer.cross_attention_out_norm)((*layer.cross_attention)((*layer.cross_attention_norm)(h), memory));
  h = h + (*layer.ffn_out_norm)(layer.ffn(layer.ffn_norm(h)));
  EXPECT_TRUE(same_bits(layer(x, memory).value(), h.value()));
  for (const char* path :
       {"net/attention_out_norm/scale", "net/cross_attention_out_norm/bias", "net/ffn_out_norm/scale"})
    EXPECT_EQ(parameters.at<double>(path).shape(), Shape{D});
}

TEST(NormPlacement, OfBranchOutputsNothingStandsBeforeABranch) {
  ParameterRegistry parameters(3);
  Config config = config_with([](Config& c) { c.norm_placement = nn::NormPlacement::branch_output; });
  config.cross_attention = {.memory_dims = D};
  const nn::TransformerLayer<double> layer(parameters / "net", config);
  Tape tape;
  const auto x = tape.input(random_tensor<double>({B, T, D}, 3)),
             memory = tape.input(random_tensor<double>({B, 4, D}, 5));
  auto h = x + layer.attention_norm(layer.attention(x));
  h = h + (*layer.cross_attention_norm)((*layer.cross_attention)(h, memory));
  h = h + layer.ffn_norm(layer.ffn(h));
  EXPECT_TRUE(same_bits(layer(x, memory).value(), h.value()));
}

TEST(ParallelBranches, AreBothOfTheLayersInput) {
  ParameterRegistry parameters(3);
  Config config = config_with([](Config& c) { c.parallel = true; });
  const nn::TransformerLayer<double> two(parameters / "two", config);
  config.parallel_one_norm = true;
  const nn::TransformerLayer<double> one(parameters / "one", config);
  Tape tape;
  const auto x = tape.input(random_tensor<double>({B, T, D}, 3));
  for (const auto* layer : {&two, &one}) {
    for (const auto& entry : parameters.entries())
      if (entry->path.ends_with("norm/scale"))
        Parameter<double>(entry).set_value(random_tensor<double>({D}, entry->path.size()));
    const auto& ffn_norm = layer == &one ? layer->attention_norm : layer->ffn_norm;
    const auto expected = (x + (layer->attention(layer->attention_norm(x)) + layer->ffn(ffn_norm(x)))).value();
    EXPECT_TRUE(same_bits((*layer)(x).value(), expected));
  }
  EXPECT_NO_THROW(parameters.at<double>("two/ffn_norm/scale"));
  expect_error({"one/ffn_norm/scale"}, [&] { parameters.at<double>("one/ffn_norm/scale"); });
}

// Both forms differ by a constant of each query, which softmax does not see, and by rounding.
TEST(AlibiByKeyPosition, IsNearlyThatByDistanceAndRefusesWhatItWouldRoundOtherwise) {
  ParameterRegistry parameters(3);
  nn::AttentionConfig config{.model_dims = 24, .num_heads = 12, .alibi = true};
  const nn::MultiHeadAttention<double> distance(parameters / "a", config);
  config.alibi_form = AlibiForm::bfloat16_key_position;
  config.scale = 1;  // by which its biases are multiplied
  config.shared_weight_id.clear();
  const nn::MultiHeadAttention<double> keys(parameters / "b", config);
  for (const char* part : {"query", "key", "value", "out"})
    for (const char* name : {"/w", "/b"})
      parameters.at<double>(std::string("b/") + part + name)
          .set_value(parameters.at<double>(std::string("a/") + part + name).value());
  const auto query = parameters.at<double>("b/query/w");
  Tensor<double> scaled = query.value();
  for (Index i = 0; i < scaled.size(); ++i) scaled.write()[i] /= std::sqrt(2.0);
  query.set_value(scaled);
  Tape tape;
  const auto x = tape.input(random_tensor<double>({B, 20, 24}, 3));
  const auto a = distance(x).value(), b = keys(x).value();
  double greatest = 0;
  for (Index i = 0; i < a.size(); ++i) greatest = std::max(greatest, std::abs(a[i] - b[i]));
  EXPECT_LT(greatest, 0.05);
  EXPECT_GT(greatest, 1e-6);
  expect_error({"b", "alibi_form bfloat16_key_position", "AlibiForm::distance"}, [&] {
    keys(x, {.query_segments = Tensor<std::int32_t>({B, 20}, 1)});
  });
}

// As transformers computes it: a bias of [1, N, 1, S], also where positions do not fit into bfloat16.
TEST(AlibiByKeyPosition, IsTheBiasThatTransformersAdds) {
  constexpr Index heads = 12, length = 300;
  const auto rounded = [](double x) { return static_cast<double>(static_cast<bfloat16>(static_cast<float>(x))); };
  Tensor<double> bias({1, heads, 1, length});
  for (Index n = 0; n < heads; ++n)
    for (Index s = 0; s < length; ++s) {
      const double slope = n < 8 ? std::exp2(-1.0 - static_cast<double>(n)) : std::exp2(7.5 - static_cast<double>(n));
      bias.write()[n * length + s] = rounded(rounded(slope) * rounded(static_cast<double>(s))) / std::sqrt(2.0);
    }
  const auto run = [&](const AttentionOptions& options, const AttentionMasks<double>& masks) {
    Tape tape;
    const auto x = tape.input(random_tensor<double>({1, length, heads, 2}, 3), {.wants_gradient = true});
    const auto y = attention(x, x, x, options, masks);
    const Tensor<double> value = y.value();
    tape.backward(sum(y * tape.input(random_tensor<double>({1, length, heads, 2}, 4))));
    return std::pair(value, tape.grad(x));
  };
  AttentionOptions options{.causal = true};
  const auto [value, gradient] = run(options, {.bias = bias});
  options.alibi = true, options.alibi_form = AlibiForm::bfloat16_key_position;
  const auto [y, dx] = run(options, {});
  for (Index i = 0; i < y.size(); ++i) EXPECT_NEAR(y[i], value[i], 1e-11);
  for (Index i = 0; i < y.size(); ++i) EXPECT_NEAR(dx[i], gradient[i], 1e-10);
}

// All positions of one table are those of the other divided by its factor.
TEST(RotaryScaling, LinearDividesPositions) {
  Tape tape;
  const auto x = [&](Index keys, std::uint64_t seed) {
    return tape.input(random_tensor<double>({1, keys, 1, 4}, seed));
  };
  const auto q = x(1, 1), k = x(3, 2), v = x(3, 3);  // the key between is hidden
  const double hidden = -std::numeric_limits<double>::infinity();
  const auto far = attention(q, k, v, {.offset = 10, .rotary_base = 7, .rotary_scaling = {RotaryScaling::linear, 2}},
                             {.bias = Tensor<double>({1, 1, 1, 3}, {0.0, hidden, 0.0})})
                       .value();
  const auto ends = [](const Var<double>& y) { return concat({slice(y, 1, 0, 1), slice(y, 1, 2, 3)}, 1); };
  const auto near = attention(q, ends(k), ends(v), {.offset = 5, .rotary_base = 7}).value();
  for (Index i = 0; i < 4; ++i) EXPECT_NEAR(far[i], near[i], 1e-12);
  expect_error({"rotary_scaling.factor must be > 0"}, [&] {
    attention(q, k, v, {.rotary_base = 7, .rotary_scaling = {RotaryScaling::linear, -1}});
  });
}

// Weights of 1 + w begin at 0, and with 1 less they give what plain weights give, and their gradients.
TEST(NormScale, OnePlusWeightIsTheWeightLessOne) {
  const auto run = [](nn::NormScale scale) {
    ParameterRegistry parameters(3);
    const nn::RmsNorm<double> norm(parameters / "n", {.model_dims = D, .epsilon = 0.1, .scale = scale});
    const double first = norm.scale.value()[0];
    Tensor<double> w = random_tensor<double>({D}, 1);
    for (Index i = 0; scale == nn::NormScale::one_plus_weight && i < D; ++i) w.write()[i] -= 1;
    norm.scale.set_value(w);
    Tape tape;
    const auto x = tape.input(random_tensor<double>({B, T, D}, 3), {.wants_gradient = true});
    const auto y = norm(x);
    const auto both = norm(y, x, 0);
    const auto loss = sum(both.normal * tape.input(random_tensor<double>({B, T, D}, 4)));
    std::vector<Tensor<double>> all{y.value(), both.normal.value()};
    tape.backward(loss);
    all.push_back(tape.grad(x)), all.push_back(norm.scale.grad());
    return std::pair(first, all);
  };
  const auto [one, plain] = run(nn::NormScale::weight);
  const auto [zero, plus] = run(nn::NormScale::one_plus_weight);
  EXPECT_EQ(one, 1);
  EXPECT_EQ(zero, 0);
  for (std::size_t i = 0; i < plain.size(); ++i)
    for (Index k = 0; k < plain[i].size(); ++k) EXPECT_NEAR(plus[i][k], plain[i][k], 1e-12);
}

}  // namespace
