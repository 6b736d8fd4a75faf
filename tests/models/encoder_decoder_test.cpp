// An encoder-decoder: what its parts say, the same bits under every policy, decoding that equals the whole, patterns
// over depth and shared blocks, and a layer without its first norm.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <remat/models/encoder_decoder.hpp>
#include <remat/ops/reduce.hpp>
#include <remat/policy/phrase_book.hpp>
#include <vector>

#include "core/expect_error.hpp"
#include "nn/random_tensor.hpp"

namespace {

using namespace remat;
using remat_test::expect_error;
using remat_test::random_tensor;

constexpr Index vocabulary = 19;

models::EncoderDecoderConfig small() {
  nn::TransformerLayerConfig layer{.hidden_dims = 20, .num_heads = 4};
  layer.attention.num_kv_heads = 2;
  models::EncoderDecoderConfig config{.vocabulary = vocabulary, .model_dims = 12, .context = 10};
  config.encoder = {layer, layer}, config.decoder = {layer, layer, layer};
  config.decoder[1].attention.window = 3;
  config.init_deviation = 0.5;
  return config;
}
Tensor<std::int32_t> ids_of(Index batch, Index count, Index salt) {
  Tensor<std::int32_t> ids({batch, count});
  for (Index i = 0; i < ids.size(); ++i)
    ids.write()[static_cast<std::size_t>(i)] = static_cast<std::int32_t>((7 * i * i + 3 * salt + i) % vocabulary);
  return ids;
}
models::SourceBatch batch_of(Index rows) {
  models::SourceBatch batch{.source = ids_of(rows, 6, 1)};
  batch.source_lengths = Tensor<std::int32_t>({rows}, 6);
  batch.source_lengths.write()[0] = 4;
  batch.inputs = ids_of(rows, 7, 2), batch.targets = ids_of(rows, 7, 3);
  return batch;
}

TEST(EncoderDecoder, IsWhatItsPartsSay) {
  ParameterRegistry parameters;
  const models::EncoderDecoder<double> model(parameters / "m", small());
  EXPECT_NO_THROW(parameters.at<double>("m/embedding/table"));
  EXPECT_FALSE(model.encoder.layers[0].config.attention.causal);
  EXPECT_TRUE(model.decoder.layers[0].config.attention.causal);
  ASSERT_TRUE(model.decoder.layers[0].cross_attention.has_value());
  const models::SourceBatch batch = batch_of(2);
  Tape tape({.mode = Mode::evaluate});
  const auto embed = [&](const Tensor<std::int32_t>& ids, const nn::Embedding<double>& places) {
    return add_positions(model.embedding(tape.input(ids)), places.table);
  };
  const AttentionMasks<double> masks{.key_lengths = batch.source_lengths};
  const auto memory = model.encoder_norm(model.encoder(embed(batch.source, *model.source_positions), masks));
  const auto h = model.decoder_norm(model.decoder(embed(batch.inputs, *model.positions), memory, {}, masks));
  const auto expected = linear<double>(h, model.embedding.table, {}, {.transposed = true});
  EXPECT_TRUE(same_bits(model.logits(tape, batch).value(), expected.value()));
}

TEST(EncoderDecoder, GivesTheSameBitsUnderEveryPolicyWithSharedEmbeddingsAndWithout) {
  for (const bool is_shared : {true, false}) {
    const auto run = [&](const Policy& policy) {
      models::EncoderDecoderConfig config = small();
      config.remat = policy, config.dropout = 0.1, config.shared_embedding = config.tied_head = is_shared;
      for (auto* layers : {&config.encoder, &config.decoder})
        for (auto& layer : *layers) layer.dropout = 0.1, layer.attention.dropout = 0.2;
      ParameterRegistry parameters(3);
      const models::EncoderDecoder<float> model(parameters / "m", config);
      Tape tape({.seed = 5, .step = 2});
      const auto loss = model.loss(tape, batch_of(2));
      std::vector<Tensor<float>> all{loss.value()};
      tape.backward(loss);
      for (const auto& entry : parameters.entries()) {
        EXPECT_TRUE(entry->has_grad) << entry->path;
        all.push_back(Tensor<float>(entry->grad_or_zeros()));
      }
      return all;
    };
    const auto plain = run(policy::everything);
    for (const policy::Phrase& phrase : policy::phrase_book()) {
      const auto other = run(phrase.policy);
      for (std::size_t i = 0; i < plain.size(); ++i) EXPECT_TRUE(same_bits(plain[i], other[i])) << "tensor " << i;
    }
  }
}

// Layers of both stacks are recomputed without changing a bit, and what was recorded before is recorded again.
TEST(EncoderDecoder, RecomputesItsLayersByGradientCheckpointing) {
  models::EncoderDecoderConfig config = small();
  config.dropout = 0.1;
  for (auto* layers : {&config.encoder, &config.decoder})
    for (auto& layer : *layers) layer.dropout = 0.1, layer.attention.dropout = 0.2;
  ParameterRegistry parameters(3);
  models::EncoderDecoder<float> model(parameters / "m", config);
  struct Outcome {
    std::vector<Tensor<float>> values;
    TapeStats stats;
  };
  const auto run = [&] {
    parameters.zero_grad();
    Tape tape({.seed = 5, .step = 2});
    const auto loss = model.loss(tape, batch_of(2));
    Outcome out{{loss.value()}, {}};
    tape.backward(loss);
    out.stats = tape.stats();
    for (const auto& entry : parameters.entries()) out.values.push_back(Tensor<float>(entry->grad_or_zeros()).copy());
    return out;
  };
  run();  // from here on parameters have a gradient, which no tape counts
  const Outcome plain = run();
  const auto expect_same = [&](const Outcome& other) {
    for (std::size_t i = 0; i < plain.values.size(); ++i) EXPECT_TRUE(same_bits(plain.values[i], other.values[i])) << i;
  };
  model.enable_gradient_checkpointing();
  const Outcome all = run();
  expect_same(all);
  EXPECT_LT(all.stats.saved_bytes, plain.stats.saved_bytes);
  EXPECT_EQ(all.stats.replayed_by_op.count("linear_cross_entropy"), 0U);
  model.enable_gradient_checkpointing({.every_n_layers = 2});
  const Outcome half = run();
  expect_same(half);
  EXPECT_LT(half.stats.ops_replayed, all.stats.ops_replayed);
  model.activation_checkpointing_enable(1, true);
  const Outcome on_disk = run();
  expect_same(on_disk);
  EXPECT_GT(on_disk.stats.offloaded_bytes, 0U);
  model.disable_gradient_checkpointing();
  const Outcome again = run();
  expect_same(again);
  EXPECT_EQ(again.stats.saved_bytes, plain.stats.saved_bytes);
  EXPECT_EQ(again.stats.ops_replayed, 0);
  expect_error({"every_n_layers is 0"}, [&] { model.enable_gradient_checkpointing({.every_n_layers = 0}); });
}

// Token by token, memory projected once, rows reordered, equals the whole.
void expect_decoding_of_the_whole(const models::EncoderDecoderConfig& config) {
  ParameterRegistry parameters;
  const models::EncoderDecoder<double> model(parameters / "m", config);
  models::SourceBatch batch = batch_of(3);
  Tape whole({.mode = Mode::evaluate});
  const Tensor<double> expected = model.logits(whole, batch).value(),
                       memory = model.encode(whole, batch.source, batch.source_lengths).value();
  nn::KeyValueCache<double> cache(7);
  std::vector<Index> rows{0, 1, 2};
  Tensor<std::int32_t> lengths = batch.source_lengths;
  Tensor<double> seen = memory;
  for (Index t = 0; t < 7; ++t) {
    if (t == 3) {
      rows = {2, 0, 0};
      cache.reorder(rows);
      lengths = Tensor<std::int32_t>({3}, {6, 4, 4});
      for (std::size_t b = 0; b < 3; ++b)
        std::copy_n(memory.data() + rows[b] * 72, 72, seen.write().data() + static_cast<Index>(b) * 72);
    }
    Tensor<std::int32_t> ids({3, 1});
    for (std::size_t b = 0; b < 3; ++b) ids.write()[b] = batch.inputs(rows[b], t);
    Tape tape({.mode = Mode::evaluate});
    const Tensor<double> logits = model.next_logits(tape, ids, tape.input(seen), cache, lengths).value();
    for (Index b = 0; b < 3; ++b)
      for (Index v = 0; v < vocabulary; ++v)
        EXPECT_NEAR(logits(b, v), expected(rows[static_cast<std::size_t>(b)], t, v), 1e-11) << t << " of row " << b;
  }
}

TEST(EncoderDecoder, DecodingWithACacheEqualsTheWhole) { expect_decoding_of_the_whole(small()); }

// Positions as T5 has them: a table of biases for each stack, which its layers share.
TEST(EncoderDecoder, DecodingWithRelativeBiasesEqualsTheWhole) {
  models::EncoderDecoderConfig config = small();
  config.context = 0;
  for (auto& layer : config.encoder)
    layer.attention.relative_buckets = 8, layer.attention.relative_shared_weight_id = "of_source";
  for (auto& layer : config.decoder)
    layer.attention.relative_buckets = 4, layer.attention.relative_shared_weight_id = "of_target";
  expect_decoding_of_the_whole(config);
  ParameterRegistry parameters;
  const models::EncoderDecoder<double> model(parameters / "m", config);
  EXPECT_EQ(parameters.at<double>("shared/of_source/table").entry(),
            model.encoder.layers[1].attention.relative_bias.entry());
  EXPECT_EQ(parameters.at<double>("shared/of_target/table").entry(),
            model.decoder.layers[2].attention.relative_bias.entry());
  EXPECT_FALSE(model.decoder.layers[0].cross_attention->relative_bias);
}

/// Of T5's kind, with experts in the second layer of each stack (Switch, Fedus et al. 2021).
models::EncoderDecoderConfig switched() {
  models::EncoderDecoderConfig config = small();
  config.context = 0;
  for (auto* layers : {&config.encoder, &config.decoder})
    for (auto& layer : *layers) {
      layer.norm = nn::NormKind::rms_norm;
      layer.attention.relative_buckets = 8;
      layer.attention.relative_shared_weight_id = layers == &config.encoder ? "of_source" : "of_target";
    }
  config.norm = nn::NormKind::rms_norm;
  config.encoder[1].routed = {.num_experts = 4, .top_k = 2, .balance_weight = 0.3, .z_loss_weight = 0.1};
  config.decoder[1].routed = {.num_experts = 3, .gated = true, .dropless = true, .balance_weight = 0.2};
  return config;
}

// Routing and jitter, dropout and biases that a stack's layers share: the same bits under every policy, and the plan of
// each is the step, to the byte.
TEST(EncoderDecoder, WithExpertsAndRelativeBiasesGivesTheSameBitsUnderEveryPolicyAndItsPlan) {
  struct Outcome {
    std::vector<Tensor<float>> values;
    TapeStats stats, planned;
  };
  const auto run = [&](const Policy& policy) {
    models::EncoderDecoderConfig config = switched();
    config.remat = policy, config.dropout = 0.1;
    for (auto* layers : {&config.encoder, &config.decoder})
      for (auto& layer : *layers) {
        layer.dropout = 0.1, layer.attention.dropout = 0.2;
        if (layer.routed) layer.routed->jitter = 0.1, layer.routed->dropout = 0.1;
      }
    ParameterRegistry parameters(3);
    const models::EncoderDecoder<float> model(parameters / "m", config);
    Outcome out;
    const auto step = [&](Mode mode) {
      Tape tape({.seed = 5, .step = 2, .mode = mode});
      const auto loss = model.loss(tape, batch_of(2));
      if (mode != Mode::plan) out.values = {loss.value()};
      tape.backward(loss);
      return tape.stats();
    };
    step(Mode::train);  // from here on parameters have a gradient, which no tape counts
    parameters.zero_grad();
    out.stats = step(Mode::train), out.planned = step(Mode::plan);
    for (const auto& entry : parameters.entries()) {
      EXPECT_TRUE(entry->has_grad) << entry->path;
      out.values.push_back(Tensor<float>(entry->grad_or_zeros()));
    }
    return out;
  };
  const Outcome plain = run(policy::everything);
  for (const policy::Phrase& phrase : policy::phrase_book()) {
    const Outcome other = run(phrase.policy);
    ASSERT_EQ(plain.values.size(), other.values.size());
    for (std::size_t i = 0; i < plain.values.size(); ++i)
      EXPECT_TRUE(same_bits(plain.values[i], other.values[i])) << phrase.name << ", tensor " << i;
    EXPECT_EQ(other.planned.peak_bytes, other.stats.peak_bytes) << phrase.name;
    EXPECT_EQ(other.planned.saved_bytes, other.stats.saved_bytes) << phrase.name;
    EXPECT_EQ(other.planned.replayed_by_op, other.stats.replayed_by_op) << phrase.name;
  }
}

// The auxiliary losses of both stacks are added once, in training alone; padding takes no slot and changes nothing.
TEST(EncoderDecoder, AddsTheLossesOfItsExpertsOnce) {
  ParameterRegistry parameters;
  const models::EncoderDecoder<double> model(parameters / "m", switched());
  models::SourceBatch batch = batch_of(2);
  const auto loss = [&](Mode mode) {
    Tape tape({.mode = mode});
    return model.loss(tape, batch).item();
  };
  Tape tape;
  const auto embed = [&](const Tensor<std::int32_t>& ids) { return model.embedding(tape.input(ids)); };
  const AttentionMasks<double> masks{.key_lengths = batch.source_lengths};
  const auto [encoded, of_encoder] = model.encoder.with_auxiliary(embed(batch.source), masks);
  const auto memory = model.encoder_norm(encoded);
  const auto [decoded, of_decoder] = model.decoder.with_auxiliary(embed(batch.inputs), {}, &memory, masks);
  EXPECT_GT(of_encoder.item(), 0.1);
  EXPECT_NEAR(loss(Mode::train), loss(Mode::evaluate) + of_encoder.item() + of_decoder.item(), 1e-12);
  Tape train;
  expect_error({"m/encoder: has experts, whose auxiliary losses would be lost"}, [&] { model.logits(train, batch); });

  const double before = loss(Mode::train);
  batch.source = batch.source.copy();
  batch.source.write()[4] = 1, batch.source.write()[5] = 2;  // behind the four tokens of row 0
  EXPECT_EQ(loss(Mode::train), before);
  // The same of the target, whose padding is nobody's to learn.
  batch.targets = batch.targets.copy(), batch.inputs = batch.inputs.copy();
  batch.target_lengths = Tensor<std::int32_t>({2}, {5, 7});
  batch.targets.write()[5] = batch.targets.write()[6] = -1;
  const double shorter = loss(Mode::train);
  batch.inputs.write()[5] = 3, batch.inputs.write()[6] = 4;
  EXPECT_EQ(loss(Mode::train), shorter);
  batch.target_lengths = {};
  EXPECT_NE(loss(Mode::train), shorter) << "else it takes slots and is counted";
}

TEST(EncoderDecoder, DecodingWithExpertsEqualsTheWhole) { expect_decoding_of_the_whole(switched()); }

TEST(EncoderDecoder, TranslatesEachRowUntilItsEnd) {
  ParameterRegistry parameters;
  const models::EncoderDecoder<double> model(parameters / "m", small());
  const auto texts = model.translate(batch_of(3), 6, 1, -1);
  ASSERT_EQ(texts.size(), 3U);
  for (std::size_t row = 0; row < 3; ++row) {
    ASSERT_EQ(texts[row].size(), 6U);
    std::vector<std::int32_t> seen{1};
    for (const std::int32_t token : texts[row]) {
      models::SourceBatch batch = batch_of(3);
      batch.inputs = Tensor<std::int32_t>({3, static_cast<Index>(seen.size())}, 0);
      std::copy(seen.begin(), seen.end(), batch.inputs.write().data() + row * seen.size());
      Tape tape({.mode = Mode::evaluate});
      const Tensor<double> logits = model.logits(tape, batch).value();
      const double* last = logits.data() + static_cast<Index>((row + 1) * seen.size() - 1) * vocabulary;
      EXPECT_EQ(token, std::max_element(last, last + vocabulary) - last);
      seen.push_back(token);
    }
  }
  const auto ended = model.translate(batch_of(3), 6, 1, texts[1][2]);
  const auto at = std::find(texts[1].begin(), texts[1].end(), texts[1][2]);
  EXPECT_EQ(ended[1], std::vector<std::int32_t>(texts[1].begin(), at + 1));
}

TEST(EncoderDecoder, TokensAreRowsOfABatch) {
  ParameterRegistry parameters;
  const models::EncoderDecoder<float> model(parameters / "m", small());
  models::SourceBatch batch = batch_of(3);
  batch.inputs = batch.inputs.reshape({-1});
  Tape tape({.mode = Mode::evaluate});
  expect_error({"m: ids have shape [", "[batch, length] is needed"}, [&] { model.logits(tape, batch); });
}

TEST(EncoderDecoder, SettingsThatDoNotHoldTogetherAreRefused) {
  const auto refuse = [](std::initializer_list<std::string_view> parts, auto&& change) {
    models::EncoderDecoderConfig c = small();
    change(c);
    ParameterRegistry parameters;
    expect_error(parts, [&] { models::EncoderDecoder<float>(parameters / "m", c); });
    EXPECT_EQ(parameters.entries().size(), 0U);
  };
  refuse({"m: vocabulary 0"}, [](auto& c) { c.vocabulary = 0; });
  refuse({"m: has 0 encoder and 3 decoder layers"}, [](auto& c) { c.encoder.clear(); });
  refuse({"m: dropout"}, [](auto& c) { c.dropout = 1; });
  refuse({"m: context"}, [](auto& c) { c.context = -1; });
  refuse({"m: embedding_multiplier"}, [](auto& c) { c.embedding_multiplier = 0; });
  refuse({"m: remat_every"}, [](auto& c) { c.remat_every = 0; });
  refuse({"m: init_deviation"}, [](auto& c) { c.init_deviation = -1; });
  refuse({"m: head_chunk"}, [](auto& c) { c.head_chunk = -1; });
  refuse({"m/encoder/layer_1: model_dims 8", "12"}, [](auto& c) { c.encoder[1].model_dims = 8; });
  refuse({"m/encoder/layer_0", "cross_attention"}, [](auto& c) { c.encoder[0].cross_attention.emplace(); });
  refuse({"m/decoder/layer_2/ffn", "of 0 experts"}, [](auto& c) { c.decoder[2].routed.emplace(); });
  refuse({"m/decoder/layer_2: experts that choose tokens"},
         [](auto& c) { c.decoder[2].routed = {.num_experts = 4, .expert_choice = true}; });
  refuse({"m/decoder/layer_0/attention: num_heads 5"}, [](auto& c) { c.decoder[0].num_heads = 5; });
}

// ModernBERT: what enters the first attention is as it is.
TEST(AttentionNorm, MayBeLeftOutBeforeAttention) {
  nn::TransformerLayerConfig config{.model_dims = 8, .hidden_dims = 12, .num_heads = 2};
  config.attention_norm = false;
  ParameterRegistry parameters(3);
  const nn::TransformerLayer<double> layer(parameters / "net", config);
  Tape tape;
  const auto x = tape.input(random_tensor<double>({2, 5, 8}, 1));
  const auto h = x + layer.attention(x);
  EXPECT_TRUE(same_bits(layer(x).value(), (h + layer.ffn(layer.ffn_norm(h))).value()));
  for (const auto& entry : parameters.entries())
    EXPECT_EQ(entry->path.find("attention_norm"), std::string::npos) << entry->path;
  const nn::TransformerLayer<double> whole(parameters / "one", config);
  config.blockwise.query_chunk = 2;
  const nn::TransformerLayer<double> chunked(parameters / "two", config);
  for (const auto& entry : parameters.entries())
    if (entry->path.rfind("two", 0) == 0)
      Parameter<double>(entry).set_value(parameters.at<double>("one" + entry->path.substr(3)).value());
  const Tensor<double> a = whole(x).value(), b = chunked(x).value();
  for (Index i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], b[i], 1e-12);
  for (const auto placement :
       {nn::NormPlacement::post, nn::NormPlacement::sandwich, nn::NormPlacement::branch_output}) {
    config.norm_placement = placement;
    expect_error({"bad: attention_norm = false", "NormPlacement::pre"},
                 [&] { nn::TransformerLayer<double>(parameters / "bad", config); });
  }
}

TEST(Depth, PatternsAndRepeatedBlocks) {
  const auto layers = nn::layers_by_index(6, [](Index i) {
    nn::TransformerLayerConfig layer{.model_dims = 8, .hidden_dims = 12, .num_heads = 2};
    layer.attention.window = i % 3 == 2 ? 0 : 4;  // two of three are local
    return layer;
  });
  EXPECT_EQ(layers[1].attention.window, 4);
  EXPECT_EQ(layers[5].attention.window, 0);
  const std::vector<nn::TransformerLayerConfig> block(layers.begin() + 1, layers.begin() + 3);
  ParameterRegistry own, shared;
  const nn::StackedTransformer<double> a(own / "net", {.layers = nn::repeated(block, 3)}),
      b(shared / "net", {.layers = nn::repeated(block, 3, "block")});
  EXPECT_EQ(own.entries().size(), 3 * shared.entries().size());
  EXPECT_EQ(a.layers[4].config.attention.window, 4);
  EXPECT_EQ(b.layers[5].config.attention.window, 0);
  Tape tape;
  const auto x = tape.input(random_tensor<double>({2, 5, 8}, 1));
  auto h = x;
  for (int i = 0; i < 3; ++i) h = b.layers[1](b.layers[0](h));
  EXPECT_TRUE(same_bits(b(x).value(), h.value()));
}

}  // namespace
