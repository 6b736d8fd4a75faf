// A decoder is told by its config; token by token with a cache it gives what the whole sequence gives.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <remat/models/decoder.hpp>
#include <remat/models/generation.hpp>
#include <string>
#include <vector>

#include "core/expect_error.hpp"

namespace {

using namespace remat;
using remat_test::expect_error;
using Ids = std::vector<std::int32_t>;

constexpr Index vocabulary = 23, length = 11;

nn::TransformerLayerConfig llama_layer() {
  nn::TransformerLayerConfig layer{.hidden_dims = 24, .num_heads = 4, .norm = nn::NormKind::rms_norm};
  layer.attention = {.num_kv_heads = 2, .bias = false, .rotary_base = 100};
  layer.ffn = {.activation = Activation::silu, .gated = true, .bias = false};
  return layer;
}
models::DecoderConfig llama(Index layers = 3) {
  models::DecoderConfig config{.vocabulary = vocabulary, .model_dims = 16};
  config.layers.assign(static_cast<std::size_t>(layers), llama_layer());
  config.init_deviation = 0.5;
  return config;
}
Tensor<std::int32_t> ids_of(Index batch, Index from, Index count) {
  Ids ids;
  for (Index b = 0; b < batch; ++b)
    for (Index t = from; t < from + count; ++t)
      ids.push_back(static_cast<std::int32_t>((7 * t * t + 3 * b + t) % vocabulary));
  return {{batch, count}, std::span<const std::int32_t>(ids)};
}

struct Case {
  const char* name;
  std::function<void(models::DecoderConfig&)> change;
};
void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

template <class Change>
Case each_layer(const char* name, Change change) {
  return {name, [change](models::DecoderConfig& c) {
            for (nn::TransformerLayerConfig& layer : c.layers) change(layer);
          }};
}

class Decoding : public testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(
    Configs, Decoding,
    testing::Values(
        Case{"Llama", [](auto&) {}},
        each_layer("CombinedQkv", [](auto& layer) { layer.attention.combined_qkv = true; }),
        each_layer("MultiQuery", [](auto& layer) { layer.attention.num_kv_heads = 1; }),
        each_layer("Window", [](auto& layer) { layer.attention.window = 3; }),
        each_layer("PartRotary", [](auto& layer) { layer.attention.rotary_dims = 2; }),
        each_layer("Alibi", [](auto& layer) { layer.attention.rotary_base = 0, layer.attention.alibi = true; }),
        each_layer("SoftCapAndScale", [](auto& layer) { layer.attention.soft_cap = 2, layer.attention.scale = 0.3; }),
        each_layer("PostNorm", [](auto& layer) { layer.norm_placement = nn::NormPlacement::post; }),
        each_layer("Unfused", [](auto& layer) { layer.attention = {.combined_qkv = true, .fused = false}; }),
        each_layer("Blockwise", [](auto& layer) { layer.blockwise.query_chunk = 4; }),
        each_layer("NormOfEachHead", [](auto& layer) { layer.attention.query_key_norm = nn::QueryKeyNorm::each_head; }),
        each_layer("NormOfProjectionsCombined",
                   [](auto& layer) {
                     layer.attention.query_key_norm = nn::QueryKeyNorm::whole_projection;
                     layer.attention.combined_qkv = true;
                   }),
        each_layer("Sandwich",
                   [](auto& layer) {
                     layer.norm_placement = nn::NormPlacement::sandwich;
                     layer.norm_scale = nn::NormScale::one_plus_weight;
                   }),
        each_layer("BranchOutputNorm", [](auto& layer) { layer.norm_placement = nn::NormPlacement::branch_output; }),
        Case{"EmbeddingMultiplier", [](auto& c) { c.embedding_multiplier = 4; }},
        Case{"LogitMultiplierAndSoftCap", [](auto& c) { c.logit_multiplier = 0.5, c.logit_soft_cap = 2; }},
        each_layer("ResidualMultiplier", [](auto& layer) { layer.residual_multiplier = 0.3; }),
        each_layer("Parallel", [](auto& layer) { layer.parallel = true; }),
        each_layer("ParallelWithOneNormCombined",
                   [](auto& layer) { layer.parallel = layer.parallel_one_norm = layer.attention.combined_qkv = true; }),
        each_layer("AlibiByKeyPosition",
                   [](auto& layer) {
                     layer.attention.rotary_base = 0, layer.attention.alibi = layer.attention.combined_qkv = true;
                     layer.attention.alibi_form = AlibiForm::bfloat16_key_position;
                   }),
        Case{"TwentyFourLayersOfSixAttentions",
             [](models::DecoderConfig& c) {
               c.layers.assign(24, llama_layer());
               for (std::size_t i = 0; i < 24; ++i) {
                 nn::TransformerLayerConfig& layer = c.layers[i];
                 layer.attention.shared_weight_id = "attention_" + std::to_string(i % 6);
                 // Weights are shared, what depends on positions is not.
                 layer.attention.window = i % 3 == 0 ? 4 : 0;
                 layer.attention.rotary_base = i % 4 == 3 ? 0 : 100;
                 layer.norm_placement = i % 2 == 0 ? nn::NormPlacement::pre : nn::NormPlacement::sandwich;
               }
             }},
        each_layer("ExpertsWithoutDrops",
                   [](auto& layer) {
                     layer.routed = nn::RoutedFeedForwardConfig{.num_experts = 4, .top_k = 2, .dropless = true};
                     layer.routed->shared_hidden_dims = 6;
                   }),
        each_layer("SinksAndGate", [](auto& layer) { layer.attention.sinks = layer.attention.output_gate = true; }),
        each_layer("RelativeBuckets",
                   [](auto& layer) {
                     layer.attention.rotary_base = 0, layer.attention.relative_buckets = 6;
                     layer.attention.relative_max_distance = 9, layer.attention.window = 7;
                     layer.attention.relative_shared_weight_id = "positions";
                   }),
        each_layer("WideValues", [](auto& layer) { layer.attention.value_head_dims = 7; }),
        each_layer("NarrowValuesInAWindow",
                   [](auto& layer) { layer.attention.value_head_dims = 2, layer.attention.window = 4; }),
        each_layer("InterleavedYarn",
                   [](auto& layer) {
                     layer.attention.rotary_interleaved = true;
                     layer.attention.rotary_scaling = {RotaryScaling::yarn, 4, 1, 4, 16};
                   }),
        each_layer("Longrope",
                   [](auto& layer) {
                     layer.attention.rotary_scaling = {RotaryScaling::longrope, 4, 1, 4, 16};
                     layer.attention.rotary_scaling.factors = {1, 3};
                   }),
        each_layer("Proportional",
                   [](auto& layer) {
                     layer.attention.rotary_dims = 2, layer.attention.rotary_scaling = {RotaryScaling::proportional, 2};
                   }),
        each_layer("ScaledRotary",
                   [](auto& layer) {
                     layer.attention.rotary_scaling = {RotaryScaling::llama3, 8, 1, 4, 16};
                   }),
        each_layer("SharedAttention", [](auto& layer) { layer.attention.shared_weight_id = "one"; }),
        Case{"LearnedPositionsAndLayerNorms",
             [](models::DecoderConfig& c) {
               c.learned_positions = true, c.context = length, c.norm = nn::NormKind::layer_norm, c.tied_head = false;
               for (auto& layer : c.layers) layer.norm = nn::NormKind::layer_norm, layer.attention.rotary_base = 0;
             }}),
    [](const auto& info) { return std::string(info.param.name); });

// Prefill in one piece or in two, then one token at a time, for two sequences at once.
TEST_P(Decoding, WithACacheEqualsTheWholeSequence) {
  models::DecoderConfig config = llama();
  GetParam().change(config);
  ParameterRegistry parameters;
  const models::Decoder<double> model(parameters / "m", config);
  Tape whole({.mode = Mode::evaluate});
  const Tensor<double> expected = model.logits(whole, ids_of(2, 0, length)).value();
  for (const std::vector<Index>& parts : {std::vector<Index>{5, 1, 1, 1, 1, 1, 1}, {1, 3, 1, 6}, {length}}) {
    nn::KeyValueCache<double> cache(length);
    Index begin = 0;
    for (const Index count : parts) {
      Tape tape({.mode = Mode::evaluate});
      const Tensor<double> logits = model.next_logits(tape, ids_of(2, begin, count), cache).value();
      begin += count;
      ASSERT_EQ(cache.length(), begin);
      for (Index b = 0; b < 2; ++b)
        for (Index v = 0; v < vocabulary; ++v)
          EXPECT_NEAR(logits(b, v), expected(b, begin - 1, v), 1e-12) << "token " << begin << " of row " << b;
    }
  }
}

// Prompts of unlike lengths, then token by token, of which each row has another; prompts in chunks; rows in a new
// order.
TEST_P(Decoding, BatchesOfUnlikePromptsEqualEachSequenceAlone) {
  models::DecoderConfig config = llama();
  GetParam().change(config);
  constexpr Index whole = 40;
  if (config.context > 0) config.context = whole;
  ParameterRegistry parameters;
  const models::Decoder<double> model(parameters / "m", config);
  std::vector<Tensor<double>> expected;  // [1, whole, V] of each row
  std::vector<Tensor<std::int32_t>> texts;
  for (Index row = 0; row < 3; ++row) {
    texts.push_back(ids_of(1, 5 * row, whole));
    Tape tape({.mode = Mode::evaluate});
    expected.push_back(model.logits(tape, texts.back()).value());
  }
  for (const Index chunk : {Index{0}, Index{4}}) {
    const std::vector<Index> prompts{3, 29, 12};
    nn::KeyValueCache<double> cache(whole);
    std::vector<std::size_t> rows{0, 1, 2};
    std::vector<Index> seen = prompts;
    const auto expect = [&](const Tensor<double>& logits, const std::vector<Index>& counts) {
      for (std::size_t b = 0; b < rows.size(); ++b)
        for (Index v = 0; v < vocabulary && counts[b] > 0; ++v)
          ASSERT_NEAR(logits(static_cast<Index>(b), v), expected[rows[b]](0, seen[b] - 1, v), 1e-11)
              << "token " << seen[b] << " of row " << rows[b];
    };
    Tensor<std::int32_t> ids({3, 29}, 1);  // what lies behind a prompt is no padding id
    for (std::size_t b = 0; b < 3; ++b)
      for (Index t = 0; t < prompts[b]; ++t) ids.write()[b * 29 + static_cast<std::size_t>(t)] = texts[b](0, t);
    if (!config.layers[0].attention.fused) {
      expect_error({"fused = false", "set fused = true"}, [&] {
        models::prefill(model, ids, cache, chunk, prompts);
        Tape tape({.mode = Mode::evaluate});
        model.next_logits(tape, ids_of(3, 0, 1), cache);
      });
      continue;
    }
    expect(models::prefill(model, ids, cache, chunk, prompts), prompts);
    const auto go_on = [&](const std::vector<Index>& counts) {  // of each row so many more
      const Index most = *std::max_element(counts.begin(), counts.end());
      Tensor<std::int32_t> more({static_cast<Index>(rows.size()), most}, 2);
      for (std::size_t b = 0; b < rows.size(); ++b)
        for (Index t = 0; t < counts[b]; ++t)
          more.write()[b * static_cast<std::size_t>(most) + static_cast<std::size_t>(t)] =
              texts[rows[b]](0, seen[b] + t);
      Tape tape({.mode = Mode::evaluate});
      const Tensor<double> logits = model.next_logits(tape, more, cache, counts).value();
      for (std::size_t b = 0; b < rows.size(); ++b) seen[b] += counts[b];
      expect(logits, counts);
      EXPECT_EQ(cache.lengths(), seen);
    };
    for (int i = 0; i < 5; ++i) go_on({1, 1, 1});
    go_on({2, 1, 3});
    cache.reorder({2, 0, 2, 1});  // a beam twice
    rows = {2, 0, 2, 1}, seen = {seen[2], seen[0], seen[2], seen[1]};
    for (int i = 0; i < 5; ++i) go_on({1, 1, 1, 1});
    go_on({1, 20, 3, 0});
  }
}

// Of a layer with a window no more than the window stays, and a little, so that most tokens move nothing.
TEST(KeyValueCache, KeepsOfAWindowNoMoreThanTheWindow) {
  models::DecoderConfig config = llama(2);
  config.layers[1].attention.window = 5;
  ParameterRegistry parameters;
  const models::Decoder<float> model(parameters / "m", config);
  nn::KeyValueCache<float> cache(1000);
  for (const Index count : {Index{100}, Index{1}, Index{1}, Index{40}, Index{1}}) {
    Tape tape({.mode = Mode::evaluate});
    model.next_logits(tape, ids_of(1, cache.length(), count), cache);
    EXPECT_EQ(cache.layer(0).keys.shape(), (Shape{1, 1000, 8}));
    EXPECT_EQ(cache.layer(1).keys.shape(), (Shape{1, 5 - 1 + 16, 8}));
  }
  EXPECT_EQ(cache.length(), 143);
}

// K heads of keys and of values for each position and layer, and not a byte more.
TEST(KeyValueCache, HoldsKeyValueHeadsOnly) {
  ParameterRegistry parameters;
  const models::Decoder<float> model(parameters / "m", llama());
  nn::KeyValueCache<float> cache(32);
  Tape tape({.mode = Mode::evaluate});
  model.next_logits(tape, ids_of(2, 0, 4), cache);
  EXPECT_EQ(cache.bytes(), 3 * 2 * (2 * 32 * 2 * 4) * sizeof(float));  // layers, keys and values, [B, capacity, K H]
}

TEST(KeyValueCache, RefusesWhatItCannotHold) {
  ParameterRegistry parameters;
  const models::Decoder<float> model(parameters / "m", llama(1));
  const auto next = [&](Index batch, Index count, nn::KeyValueCache<float>& cache, Mode mode = Mode::evaluate) {
    Tape tape({.mode = mode});
    model.next_logits(tape, ids_of(batch, 0, count), cache);
  };
  nn::KeyValueCache<float> cache(4);
  next(1, 3, cache);
  expect_error({"m/decoder/layer_0/attention: the cache has room for 4 positions, 3 are taken and 2 more were given"},
               [&] { next(1, 2, cache); });
  expect_error({"m/decoder/layer_0/attention: the cache holds [1, 4, 8], was given keys of shape [2, 1, 8]"},
               [&] { next(2, 1, cache); });
  expect_error({"on a tape of Mode::evaluate only"}, [&] { next(1, 1, cache, Mode::train); });
  EXPECT_EQ(cache.length(), 3);
  next(1, 1, cache);
  EXPECT_EQ(cache.length(), 4);
  expect_error({"capacity 0 must be > 0"}, [] { nn::KeyValueCache<float>{0}; });
}

// Generation by a cache chooses what looking at the whole window each time would choose, also once the window slides.
TEST(DecoderGeneration, EqualsLookingAtTheWholeWindow) {
  models::DecoderConfig config = llama();
  config.context = 8;
  ParameterRegistry parameters;
  const models::Decoder<double> model(parameters / "m", config);
  const Ids prompt{3, 1, 4}, got = model.generate(prompt, {.length = 12, .temperature = 0});
  Ids expected = prompt;
  while (expected.size() < got.size()) {
    const std::size_t seen = std::min<std::size_t>(expected.size(), 8);
    Tape tape({.mode = Mode::evaluate});
    const Tensor<double> logits =
        model.logits(tape, {{1, static_cast<Index>(seen)}, std::span<const std::int32_t>(expected).last(seen)}).value();
    std::int32_t best = 0;
    for (std::int32_t v = 1; v < vocabulary; ++v)
      if (logits(0, -1 + static_cast<Index>(seen), v) > logits(0, -1 + static_cast<Index>(seen), best)) best = v;
    expected.push_back(best);
  }
  EXPECT_EQ(got, expected);
  EXPECT_EQ(got.size(), 15U);
}

TEST(DecoderGeneration, EndsWhenToldTo) {
  ParameterRegistry parameters;
  const models::Decoder<float> model(parameters / "m", llama(1));
  Ids told;
  const Ids got = model.generate({1, 2}, {.length = 9}, [&](std::int32_t id) {
    told.push_back(id);
    return told.size() < 4;
  });
  EXPECT_EQ(got.size(), 6U);
  EXPECT_EQ(told, Ids(got.begin() + 2, got.end()));
}

// Each prompt of a batch is followed by what follows it alone, though some end before others.
TEST(BatchGeneration, ChoosesForEachPromptWhatIsChosenForItAlone) {
  models::DecoderConfig config = llama();
  config.layers[1].attention.window = 3;
  ParameterRegistry parameters;
  const models::Decoder<double> model(parameters / "m", config);
  const std::vector<Ids> prompts{{3, 1, 4, 1, 5, 9, 2, 6}, {5}, {8, 9, 7}};
  const auto got = models::generate(model, prompts, {.length = 30, .temperature = 0}, 3);
  ASSERT_EQ(got.size(), 3U);
  for (std::size_t i = 0; i < 3; ++i) EXPECT_EQ(got[i], model.generate(prompts[i], {.length = 30, .temperature = 0}));
  std::vector<std::size_t> left{7, 2, 12};
  const auto ended = models::generate(model, prompts, {.length = 30, .temperature = 0}, 0,
                                      [&](std::size_t row, std::int32_t) { return --left[row] > 0; });
  const std::vector<std::size_t> lengths{7, 2, 12};
  for (std::size_t i = 0; i < 3; ++i)
    EXPECT_EQ(ended[i], Ids(got[i].begin(), got[i].begin() + static_cast<Index>(prompts[i].size() + lengths[i])));
  expect_error({"m: generate needs a prompt of at least one token"}, [&] {
    models::generate(model, {{1}, {}}, {.length = 1});
  });
  expect_error({"m: prefill: row 1 has 3 of 2 tokens"}, [&] {
    nn::KeyValueCache<double> cache(4);
    models::prefill(model, ids_of(2, 0, 2), cache, 0, {1, 3});
  });
  expect_error({"key/value cache: reorder: there is no row 2 among 2"}, [&] {
    nn::KeyValueCache<double> cache(4);
    models::prefill(model, ids_of(2, 0, 2), cache);
    cache.reorder({0, 2});
  });
}

// Each is one sentence that names the model or the layer.
TEST(DecoderConfig, SettingsThatDoNotHoldTogetherAreRefused) {
  const auto build = [](auto&& change) {
    models::DecoderConfig config = llama(2);
    change(config);
    ParameterRegistry parameters;
    const models::Decoder<float> model(parameters / "m", config);
  };
  expect_error({"m: learned_positions need a table of context rows; set context"},
               [&] { build([](auto& c) { c.learned_positions = true; }); });
  expect_error({"m/decoder/layer_1: model_dims 12 is not the model's 16"},
               [&] { build([](auto& c) { c.layers[1].model_dims = 12; }); });
  expect_error({"m: embedding_multiplier must be > 0"}, [&] { build([](auto& c) { c.embedding_multiplier = 0; }); });
  expect_error({"m: logit_multiplier must be > 0 and finite, got -1"},
               [&] { build([](auto& c) { c.logit_multiplier = -1; }); });
  expect_error({"m: logit_soft_cap must be >= 0 and finite, got inf"},
               [&] { build([](auto& c) { c.logit_soft_cap = HUGE_VAL; }); });
  expect_error({"m/decoder/layer_1: residual_multiplier must be > 0 and finite, got 0"},
               [&] { build([](auto& c) { c.layers[1].residual_multiplier = 0; }); });
  expect_error({"m: norm_scale one_plus_weight is of RMS norms"}, [&] {
    build([](auto& c) { c.norm = nn::NormKind::layer_norm, c.norm_scale = nn::NormScale::one_plus_weight; });
  });
  expect_error({"m: vocabulary 0"}, [&] { build([](auto& c) { c.vocabulary = 0; }); });
  expect_error({"m/decoder/layer_0/attention: scale"},
               [&] { build([](auto& c) { c.layers[0].attention.scale = -1; }); });
  expect_error({"epsilon"}, [&] { build([](auto& c) { c.layers[0].norm_epsilon = -1; }); });
}

// A decoder whose layers have experts trains with their losses, by their weights, and is judged without.
TEST(DecoderLoss, OfExpertsHoldsTheirLossesInTraining) {
  models::DecoderConfig config = llama(2);
  const auto loss_of = [&](double balance, double z, Mode mode) {
    for (auto& layer : config.layers) {
      layer.routed = nn::RoutedFeedForwardConfig{.num_experts = 4, .top_k = 2, .balance_weight = balance};
      layer.routed->z_loss_weight = z;
    }
    ParameterRegistry parameters(1);
    const models::Decoder<double> model(parameters / "m", config);
    Tape tape({.mode = mode});
    return model.loss(tape, ids_of(2, 0, 5), ids_of(2, 1, 5)).item();
  };
  const double plain = loss_of(0, 0, Mode::train);
  EXPECT_EQ(plain, loss_of(1, 1, Mode::evaluate));
  const double balance = loss_of(1, 0, Mode::train) - plain, z = loss_of(0, 1, Mode::train) - plain;
  EXPECT_GT(balance, 1.5);  // about 1 of each layer
  EXPECT_GT(z, 0.1);
  EXPECT_NEAR(loss_of(0.5, 0.25, Mode::train), plain + 0.5 * balance + 0.25 * z, 1e-12);
}

// The multiplier is of token embeddings alone: a table 3 times as great does the same.
TEST(DecoderConfig, EmbeddingMultiplierIsOfWhatIsLookedUp) {
  ParameterRegistry greater, multiplied;
  models::DecoderConfig config = llama(1);
  config.tied_head = false;
  const models::Decoder<double> plain(greater / "m", config);
  config.embedding_multiplier = 3;
  const models::Decoder<double> times(multiplied / "m", config);
  Tensor<double> table = plain.embedding.table.value();
  for (Index i = 0; i < table.size(); ++i) table.write()[i] *= 3;
  plain.embedding.table.set_value(table);
  Tape tape({.mode = Mode::evaluate});
  const auto a = plain.logits(tape, ids_of(2, 0, 5)).value(), b = times.logits(tape, ids_of(2, 0, 5)).value();
  EXPECT_TRUE(same_bits(a, b));
}

/// Loss of two rows, in which every seventh target does not count, and the gradients of all parameters.
std::vector<Tensor<double>> trained(models::DecoderConfig config, std::uint64_t seed = 2) {
  ParameterRegistry parameters(seed);
  const models::Decoder<double> model(parameters / "m", config);
  Tensor<std::int32_t> targets = ids_of(2, 1, 9);
  for (std::size_t i = 0; i < 18; i += 7) targets.write()[i] = -1;
  Tape tape;
  const Var<double> loss = model.loss(tape, ids_of(2, 0, 9), targets);
  std::vector<Tensor<double>> all{loss.value()};
  tape.backward(loss);
  for (const auto& entry : parameters.entries()) all.push_back(Parameter<double>(entry).grad());
  return all;
}

// Logits are those of the plain model, multiplied and then capped; so are those of the next token, and the loss is
// theirs.
TEST(DecoderConfig, LogitsAreMultipliedAndCapped) {
  ParameterRegistry parameters(2);
  models::DecoderConfig config = llama(2);
  const models::Decoder<double> plain(parameters / "m", config);
  const auto ids = ids_of(2, 0, 9), targets = ids_of(2, 1, 9);
  for (const auto& [factor, cap] : {std::pair{0.25, 0.0}, {1.0, 1.5}, {3.0, 1.5}}) {
    config.logit_multiplier = factor, config.logit_soft_cap = cap;
    ParameterRegistry same(2);
    const models::Decoder<double> model(same / "m", config);
    Tape tape({.mode = Mode::evaluate});
    const Tensor<double> before = plain.logits(tape, ids).value(), after = model.logits(tape, ids).value();
    nn::KeyValueCache<double> cache(9);
    const Tensor<double> next = model.next_logits(tape, ids, cache).value();
    const auto expected = [&, factor = factor, cap = cap](Index b, Index t, Index v) {
      const double x = factor * before(b, t, v);
      return cap > 0 ? cap * std::tanh(x / cap) : x;
    };
    double loss = 0;
    for (Index b = 0; b < 2; ++b)
      for (Index t = 0; t < 9; ++t) {
        double sum = 0;
        for (Index v = 0; v < vocabulary; ++v) {
          EXPECT_NEAR(after(b, t, v), expected(b, t, v), 1e-12);
          if (t == 8) {
            EXPECT_NEAR(next(b, v), expected(b, t, v), 1e-12);
          }
          sum += std::exp(expected(b, t, v));
        }
        loss += (std::log(sum) - expected(b, t, targets(b, t))) / 18;
      }
    EXPECT_NEAR(model.loss(tape, ids, targets).item(), loss, 1e-12);
  }
}

// In chunks, with gradients that are kept or made anew, with layers that are recomputed: one loss, one gradient.
TEST(DecoderConfig, LogitMultiplierAndSoftCapTrainAlikeHoweverTheHeadIsComputed) {
  models::DecoderConfig config = llama(2);
  config.logit_multiplier = 0.5, config.logit_soft_cap = 2;
  for (auto& layer : config.layers) layer.residual_multiplier = 0.3;
  const auto expected = trained(config);
  config.remat = policy::nothing;
  const auto remat = trained(config);
  for (std::size_t i = 0; i < expected.size(); ++i) EXPECT_TRUE(same_bits(remat[i], expected[i])) << i;
  config.head_chunk = 5;
  for (const bool keeps : {false, true}) {
    config.keep_head_gradients = keeps;
    const auto chunked = trained(config);
    for (std::size_t i = 0; i < expected.size(); ++i)
      for (Index k = 0; k < expected[i].size(); ++k) EXPECT_NEAR(chunked[i][k], expected[i][k], 1e-12) << i;
  }
}

// What a branch gives is multiplied wherever its norms are: a layer whose last matrices are as much smaller does the
// same where no norm stands behind them.
TEST(DecoderConfig, ResidualMultiplierIsOfEachBranch) {
  for (const bool is_parallel : {false, true}) {
    models::DecoderConfig config = llama(2);
    for (auto& layer : config.layers) layer.parallel = is_parallel;
    ParameterRegistry smaller(2), multiplied(2);
    const models::Decoder<double> plain(smaller / "m", config);
    for (auto& layer : config.layers) layer.residual_multiplier = 0.25;
    const models::Decoder<double> times(multiplied / "m", config);
    for (const auto& layer : plain.decoder.layers)
      for (const nn::Linear<double>* last : {&*layer.attention.out, &*layer.ffn.ffn2}) {
        Tensor<double> w = last->w.value();
        for (double& value : w.write()) value *= 0.25;
        last->w.set_value(w);
      }
    Tape tape({.mode = Mode::evaluate});
    const auto a = plain.logits(tape, ids_of(2, 0, 5)).value(), b = times.logits(tape, ids_of(2, 0, 5)).value();
    for (Index i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], b[i], 1e-12);
  }
}

// A norm behind a branch would undo a smaller matrix, so there the multiplier is one of the norm's weights.
TEST(DecoderConfig, ResidualMultiplierStandsBehindTheNormsOfASandwich) {
  models::DecoderConfig config = llama(1);
  config.layers[0].norm_placement = nn::NormPlacement::sandwich;
  ParameterRegistry smaller(2), multiplied(2);
  const models::Decoder<double> plain(smaller / "m", config);
  config.layers[0].residual_multiplier = 0.25;
  const models::Decoder<double> times(multiplied / "m", config);
  for (const auto& norm : {plain.decoder.layers[0].attention_out_norm, plain.decoder.layers[0].ffn_out_norm})
    std::get<nn::RmsNorm<double>>(norm->layer).scale.set_value(Tensor<double>({16}, 0.25));
  Tape tape({.mode = Mode::evaluate});
  const auto a = plain.logits(tape, ids_of(2, 0, 5)).value(), b = times.logits(tape, ids_of(2, 0, 5)).value();
  for (Index i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], b[i], 1e-12);
}

// The epsilon of every norm is that of the config: with a huge one, norms divide by its root.
TEST(DecoderConfig, EpsilonReachesEveryNorm) {
  ParameterRegistry parameters;
  models::DecoderConfig config = llama(1);
  config.norm_epsilon = config.layers[0].norm_epsilon = 1e-3;
  const models::Decoder<float> model(parameters / "m", config);
  const auto epsilon = [](const nn::Norm<float>& norm) {
    return std::visit([](const auto& n) { return n.epsilon; }, norm.layer);
  };
  EXPECT_EQ(epsilon(model.final_norm), 1e-3);
  EXPECT_EQ(epsilon(model.decoder.layers[0].attention_norm), 1e-3);
  EXPECT_EQ(epsilon(model.decoder.layers[0].ffn_norm), 1e-3);
}

}  // namespace
