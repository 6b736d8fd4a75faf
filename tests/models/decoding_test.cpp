// Token by token with a cache a decoder gives what the whole sequence gives, whatever its options; what is generated.
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <ostream>
#include <remat/models/decoder.hpp>
#include <remat/models/generation.hpp>
#include <string>
#include <vector>

#include "core/expect_error.hpp"
#include "models/small_decoder.hpp"

namespace {

using namespace remat;
using namespace remat_test::decoder;
using remat_test::expect_error;
using Ids = std::vector<std::int32_t>;

constexpr Index length = 11;

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

TEST(Decoding, RefusesTokensThatAreNotThere) {
  models::DecoderConfig config = llama();
  config.context = 8;
  ParameterRegistry parameters;
  const models::Decoder<double> model(parameters / "m", config);
  const Tensor<std::int32_t> none({2, 0}), ids = ids_of(2, 0, 2);
  nn::KeyValueCache<double> cache(8);
  Tape tape({.mode = Mode::evaluate});
  expect_error({"m: prefill was given ids of shape [2, 0]"}, [&] { models::prefill(model, none, cache); });
  expect_error({"m: prefill was given ids of shape [4]"}, [&] { models::prefill(model, ids.reshape({4}), cache); });
  expect_error({"m: prefill was given 1 lengths and ids of shape [2, 2]"},
               [&] { models::prefill(model, ids, cache, 0, {1}); });
  expect_error({"m: next_logits was given ids of shape [2, 0]"}, [&] { model.next_logits(tape, none, cache); });
  expect_error({"m: next_logits was given 3 lengths and ids of shape [2, 2]"}, [&] {
    model.next_logits(tape, ids, cache, {1, 1, 1});
  });
  expect_error({"m: generate: a prompt of 3 tokens and 6 more do not fit into the context of 8"}, [&] {
    models::generate(model, {{1}, {1, 2, 3}}, {.length = 6});
  });
  Tape training({.step = 1});
  expect_error({"m: a batch of shape [2, 0] has no tokens to learn"}, [&] { model.loss(training, none, none); });
}

}  // namespace
