// What BERT gives beside its loss and is given beside its tokens: hidden states, attention weights, head masks, a feed
// forward by chunks, a memory that a decoder looks at; values and gradients as transformers computes them
// (tests/golden/bert_options), the same bits under every policy.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <remat/autodiff/report.hpp>
#include <remat/io/pretrained_bert.hpp>
#include <remat/ops/reduce.hpp>
#include <remat/params/copy_values.hpp>
#include <remat/policy/phrase_book.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/expect_error.hpp"
#include "nn/random_tensor.hpp"

namespace {

using namespace remat;
using remat_test::expect_error;
using remat_test::random_tensor;

std::string golden(const std::string& head) { return REMAT_SOURCE_DIR "/tests/golden/bert_options/" + head; }

constexpr Index rows = 2, length = 6, dims = 8, heads = 2, layers = 2, memory_length = 4;

struct Expected {
  nlohmann::json json;
  explicit Expected(const std::string& head)
      : json(nlohmann::json::parse(std::ifstream(golden(head) + "/expected.json"))) {}

  Tensor<std::int32_t> ids(const char* name, const Shape& shape = {rows, length}) const {
    auto values = json.at(name).get<std::vector<std::int32_t>>();
    for (std::int32_t& value : values)
      if (value == -100) value = -1;  // what does not count
    return Tensor<std::int32_t>(shape, std::span<const std::int32_t>(values));
  }
  template <class T>
  Tensor<T> numbers(const char* name, const Shape& shape) const {
    const auto values = json.at(name).get<std::vector<T>>();
    return Tensor<T>(shape, std::span<const T>(values));
  }
  models::EncoderInput input() const {
    return {.ids = ids("input_ids"), .token_types = ids("token_type_ids"), .mask = ids("attention_mask")};
  }
  template <class T>
  Tensor<T> memory() const {
    return numbers<T>("encoder_hidden_states", {rows, memory_length, dims});
  }
  /// Of tokens that are no padding: what others become means nothing.
  template <class T>
  void compare(const Tensor<T>& ours, const nlohmann::json& values, double tolerance) const {
    const auto wanted = values.get<std::vector<double>>();
    ASSERT_EQ(static_cast<std::size_t>(ours.size()), wanted.size());
    const Tensor<std::int32_t> mask = ids("attention_mask");
    const Shape& shape = ours.shape();  // [B, T, D], or [B, N, T, S]
    const Index width = shape.back(), tokens = shape[shape.rank() - 2], per_row = ours.size() / rows;
    for (Index i = 0; i < ours.size(); ++i)
      if (mask(i / per_row, i / width % tokens) == 1) {
        EXPECT_NEAR(static_cast<double>(ours[i]), wanted[static_cast<std::size_t>(i)], tolerance) << i;
      }
  }
};

template <class T>
using MaskedModel = models::MaskedLanguageModel<T>;
template <class T>
using DecoderModel = models::CausalLanguageModel<T>;

// Everything at once, in float and in double: logits, loss, hidden states, weights of both attentions, and the gradient
// of every tensor, of the head mask and of the memory too.
template <class T, template <class> class Model>
void expect_transformers(const std::string& head, bool with_weights, double tolerance, double relative) {
  const Expected e(head);
  const ParameterRegistry parameters;
  const auto model = models::load_bert<Model<T>>(parameters / "m", golden(head), {.dropout = 0});
  const bool is_decoder = model.encoder.config.is_decoder;
  EXPECT_EQ(model.encoder.config.blockwise.ffn_chunk, is_decoder ? 0 : 2);
  Tape tape;
  models::EncoderOutputs<T> outputs{.output_attentions = with_weights};
  const auto head_mask = tape.input(e.numbers<T>("head_mask", {layers, heads}), {.wants_gradient = true});
  models::EncoderOptions<T> options{.head_mask = head_mask, .outputs = &outputs};
  if (is_decoder) {
    options.memory = tape.input(e.memory<T>(), {.wants_gradient = true});
    options.memory_mask = e.ids("encoder_attention_mask", {rows, memory_length});
  }
  {
    Tape look({.mode = Mode::evaluate});
    models::EncoderOptions<T> same{.head_mask = head_mask.value()};
    if (is_decoder) same.memory = look.input(e.memory<T>()), same.memory_mask = options.memory_mask;
    e.compare(model.logits(look, e.input(), same).value(), e.json.at("logits"), tolerance);
  }
  const auto loss = model.loss(tape, e.input(), e.ids("labels"), options);
  EXPECT_NEAR(loss.item(), e.json.at("loss").get<double>(), tolerance);
  ASSERT_EQ(outputs.hidden_states.size(), layers + 1U);
  for (std::size_t i = 0; i <= layers; ++i)
    e.compare(outputs.hidden_states[i].value(), e.json.at("hidden_states")[i], tolerance);
  ASSERT_EQ(outputs.attentions.size(), with_weights ? layers : 0U);
  ASSERT_EQ(outputs.cross_attentions.size(), with_weights && is_decoder ? layers : 0U);
  for (std::size_t i = 0; i < outputs.attentions.size(); ++i)
    e.compare(outputs.attentions[i].value(), e.json.at("attentions")[i], tolerance);
  for (std::size_t i = 0; i < outputs.cross_attentions.size(); ++i)
    e.compare(outputs.cross_attentions[i].value(), e.json.at("cross_attentions")[i], tolerance);
  tape.backward(loss);

  const io::SafetensorsFile gradients(golden(head) + "/gradients.safetensors");
  const auto compare = [&](const std::string& name, const Tensor<T>& ours, bool transposed) {
    const Tensor<double> wanted = gradients.template read_as<double>(name);
    const Index outs = ours.shape().back(), ins = ours.size() / outs;
    double error = 0, size = 0;
    for (Index k = 0; k < ours.size(); ++k) {
      const double should = wanted[transposed ? k % outs * ins + k / outs : k];
      error += std::pow(static_cast<double>(ours[k]) - should, 2), size += std::pow(should, 2);
    }
    EXPECT_LE(std::sqrt(error), relative * std::sqrt(size) + relative * 1e-2) << name;
  };
  std::size_t count = 0;
  const io::families::BertWeights<T> weights(model);
  for (const auto* part : {&weights.encoder, &weights.cross_attention, &weights.pooler, &weights.head})
    for (const auto& weight : *part) {
      compare(weight.name, weight.parameter.grad(), weight.layout.transposed);
      ++count;
    }
  compare("head_mask", tape.grad(head_mask), false), ++count;
  if (is_decoder) compare("encoder_hidden_states", tape.grad(options.memory), false), ++count;
  EXPECT_EQ(count, gradients.names().size());
}

TEST(BertOptions, AreThoseOfTransformersInAnEncoder) {
  for (const bool with_weights : {false, true}) {
    expect_transformers<double, models::MaskedLanguageModel>("MaskedLM", with_weights, 1e-7, 1e-6);
    expect_transformers<float, models::MaskedLanguageModel>("MaskedLM", with_weights, 1e-5, 1e-4);
  }
}
TEST(BertOptions, AreThoseOfTransformersInADecoderWithCrossAttention) {
  for (const bool with_weights : {false, true}) {
    expect_transformers<double, models::CausalLanguageModel>("LMHeadModel", with_weights, 1e-7, 1e-6);
    expect_transformers<float, models::CausalLanguageModel>("LMHeadModel", with_weights, 1e-5, 1e-4);
  }
}

/// The decoder with dropout, and what it is given.
struct Step {
  Expected e{"LMHeadModel"};
  ParameterRegistry parameters;
  DecoderModel<float> model = models::load_bert<DecoderModel<float>>(parameters / "m", golden("LMHeadModel"));

  struct Outcome {
    float loss;
    std::vector<Tensor<float>> gradients{}, outputs{};
    std::size_t saved, slots;
    Index replayed;
  };
  Outcome run(bool with_weights, bool with_states = true, bool with_head_mask = true) {
    parameters.zero_grad();
    Tape tape({.seed = 3, .step = 1});
    models::EncoderOutputs<float> outputs{.output_attentions = with_weights};
    const auto memory = tape.input(e.memory<float>(), {.wants_gradient = true});
    const auto head_mask = tape.input(e.numbers<float>("head_mask", {layers, heads}), {.wants_gradient = true});
    models::EncoderOptions<float> options{.memory = memory};
    if (with_head_mask) options.head_mask = head_mask;
    options.memory_lengths = Tensor<std::int32_t>({rows}, {4, 3});
    if (with_states) options.outputs = &outputs;
    auto loss = model.loss(tape, e.input(), e.ids("labels"), options);
    // What was asked for is part of what is learned, so that its gradients are of the test.
    for (const auto* some : {&outputs.attentions, &outputs.cross_attentions})
      for (const auto& weights : *some) loss = loss + mean(square(weights));
    for (const auto& states : outputs.hidden_states) loss = loss + mean(square(states)) * 0.1F;
    Outcome out{.loss = loss.item(), .saved = 0, .slots = tape.program().slots.size(), .replayed = 0};
    for (const auto* some : {&outputs.attentions, &outputs.cross_attentions})
      for (const auto& weights : *some) out.outputs.push_back(weights.value().copy());
    for (const auto& states : outputs.hidden_states) out.outputs.push_back(states.value().copy());
    outputs = {};
    tape.backward(loss);
    out.saved = tape.stats().saved_bytes, out.replayed = tape.stats().ops_replayed;
    for (const auto& entry : parameters.entries()) out.gradients.push_back(Parameter<float>(entry).grad().copy());
    out.gradients.push_back(tape.grad(memory).copy());
    if (with_head_mask) out.gradients.push_back(tape.grad(head_mask).copy());
    return out;
  }
};

void expect_same(const Step::Outcome& a, const Step::Outcome& b) {
  EXPECT_EQ(a.loss, b.loss);
  ASSERT_EQ(a.gradients.size(), b.gradients.size());
  for (std::size_t i = 0; i < a.gradients.size(); ++i) EXPECT_TRUE(same_bits(a.gradients[i], b.gradients[i])) << i;
  for (std::size_t i = 0; i < a.outputs.size(); ++i) EXPECT_TRUE(same_bits(a.outputs[i], b.outputs[i])) << i;
}

// Dropout 0.1 in the decoder, weights asked for or not: recomputing changes no bit of a loss, an output or a gradient.
TEST(BertOptions, GiveTheSameBitsUnderEveryPolicy) {
  Step step;
  for (const bool with_weights : {false, true}) {
    const auto plain = step.run(with_weights);
    EXPECT_EQ(plain.replayed, 0);
    for (const policy::Phrase& phrase : policy::phrase_book()) {
      step.model.enable_gradient_checkpointing({.policy = phrase.policy});
      expect_same(step.run(with_weights), plain);
    }
    step.model.enable_gradient_checkpointing({.every_n_layers = 2});
    const auto half = step.run(with_weights);
    expect_same(half, plain);
    EXPECT_GT(half.replayed, 0);
    step.model.disable_gradient_checkpointing();
  }
}

// Dropout draws the masks of the fused op where weights are asked for, so that asking changes a training by rounding
// alone.
TEST(BertOptions, AskingForWeightsChangesByRoundingAlone) {
  Step step;
  const auto loss = [&](bool with_weights) {
    Tape tape({.seed = 3, .step = 1});
    models::EncoderOutputs<float> outputs{.output_attentions = with_weights};
    models::EncoderOptions<float> options{.memory = tape.input(step.e.memory<float>()), .outputs = &outputs};
    return step.model.loss(tape, step.e.input(), step.e.ids("labels"), options).item();
  };
  EXPECT_NEAR(loss(true), loss(false), 1e-5);
}

// What is not asked for is not on the tape: hidden states are values that are there anyway.
TEST(BertOptions, CostNothingWhereTheyAreNotAskedFor) {
  Step step;
  const auto plain = step.run(false, false, false);
  const auto slots = [&](bool with_states) {
    Tape tape({.seed = 3, .step = 1});
    models::EncoderOutputs<float> outputs;
    models::EncoderOptions<float> options{.memory = tape.input(step.e.memory<float>())};
    if (with_states) options.outputs = &outputs;
    const auto loss = step.model.loss(tape, step.e.input(), step.e.ids("labels"), options);
    return tape.program().slots.size();
  };
  EXPECT_EQ(slots(true), slots(false));
  EXPECT_GT(step.run(true, true, false).slots, plain.slots);
}

// The plan of a step that gives all of it is its peak, to the byte.
TEST(BertOptions, ArePlannedToTheByte) {
  Step step;
  const auto loss = [&](Tape& tape) {
    models::EncoderOutputs<float> outputs{.output_attentions = true};
    models::EncoderOptions<float> options{.memory = tape.input(step.e.memory<float>()), .outputs = &outputs};
    options.head_mask = step.e.numbers<float>("head_mask", {layers, heads});
    options.memory_mask = step.e.ids("encoder_attention_mask", {rows, memory_length});
    const auto made = step.model.loss(tape, step.e.input(), step.e.ids("labels"), options);
    return made + mean(outputs.attentions.front()) + mean(outputs.cross_attentions.back());
  };
  for (const bool is_checkpointed : {false, true}) {
    if (is_checkpointed) step.model.enable_gradient_checkpointing();
    const auto peak = [&](Mode mode) {
      Tape tape({.seed = 1, .step = 0, .mode = mode});
      tape.backward(loss(tape));
      return tape.stats().peak_bytes;
    };
    peak(Mode::train);  // from here on parameters have a gradient, which no tape counts
    EXPECT_EQ(peak(Mode::plan), peak(Mode::train));
  }
}

// Token by token beside a memory whose keys and values are kept, equals the whole.
TEST(BertDecoder, WithACacheEqualsTheWhole) {
  const Expected e("LMHeadModel");
  const ParameterRegistry parameters;
  const auto model = models::load_bert<DecoderModel<double>>(parameters / "m", golden("LMHeadModel"));
  const Tensor<std::int32_t> ids = e.ids("input_ids"), types = e.ids("token_type_ids"),
                             memory_mask = e.ids("encoder_attention_mask", {rows, memory_length});
  Tape whole({.mode = Mode::evaluate});
  const Tensor<double> expected = model
                                      .logits(whole, {.ids = ids, .token_types = types},
                                              {.memory = whole.input(e.memory<double>()), .memory_mask = memory_mask})
                                      .value();
  nn::KeyValueCache<double> cache(length);
  for (Index t = 0; t < length; ++t) {
    Tape tape({.mode = Mode::evaluate});
    const auto of_token = [&](const Tensor<std::int32_t>& all) {
      return Tensor<std::int32_t>({rows, 1}, {all(0, t), all(1, t)});
    };
    models::EncoderOptions<double> options{.memory = tape.input(e.memory<double>()), .memory_mask = memory_mask};
    options.cache = &cache;
    const Tensor<double> logits =
        model.logits(tape, {.ids = of_token(ids), .token_types = of_token(types)}, options).value();
    for (Index b = 0; b < rows; ++b)
      for (Index v = 0; v < logits.shape()[2]; ++v) EXPECT_NEAR(logits(b, 0, v), expected(b, t, v), 1e-12) << t;
  }
}

// Chunks change a result by rounding alone, of any length; and those of queries cannot give weights, which are whole.
TEST(BertChunks, OfAnyLengthGiveTheSame) {
  const Expected e("MaskedLM");
  const ParameterRegistry parameters;
  const auto folder = models::load_bert<MaskedModel<double>>(parameters / "m", golden("MaskedLM"), {.dropout = 0});
  const auto loss = [&](const nn::BlockwiseConfig& chunks) {
    models::EncoderConfig config = folder.encoder.config;
    config.blockwise = chunks;
    ParameterRegistry own;
    const MaskedModel<double> model(own / "m", config);
    copy_values(parameters, own);
    Tape tape;
    const auto made =
        model.loss(tape, e.input(), e.ids("labels"), {.head_mask = e.numbers<double>("head_mask", {layers, heads})});
    tape.backward(made);
    std::vector<Tensor<double>> all{made.value().copy()};
    for (const auto& entry : own.entries()) all.push_back(Parameter<double>(entry).grad().copy());
    return all;
  };
  const auto whole = loss({});
  for (const nn::BlockwiseConfig& chunks : {nn::BlockwiseConfig{.ffn_chunk = 4}, nn::BlockwiseConfig{.ffn_chunk = 99},
                                            nn::BlockwiseConfig{.query_chunk = 4, .ffn_chunk = 3}}) {
    const auto parts = loss(chunks);
    for (std::size_t k = 0; k < whole.size(); ++k)
      for (Index i = 0; i < whole[k].size(); ++i) EXPECT_NEAR(parts[k][i], whole[k][i], 1e-12) << k;
  }
  models::EncoderConfig config = folder.encoder.config;
  config.blockwise = {.query_chunk = 4};
  const ParameterRegistry own;
  const MaskedModel<double> model(own / "m", config);
  models::EncoderOutputs<double> outputs{.output_attentions = true};
  Tape tape;
  expect_error({"m/encoder/encoder/layer_0", "attention weights exist whole", "query_chunk = 0"},
               [&] { model.logits(tape, e.input(), {.outputs = &outputs}); });
}

TEST(BertDecoder, IsWrittenAsItIsRead) {
  const std::string copy = std::filesystem::temp_directory_path() / ("bert_decoder_" + std::to_string(getpid()));
  ParameterRegistry parameters, others, news;
  const auto model = models::load_bert<DecoderModel<float>>(parameters / "m", golden("LMHeadModel"));
  io::save_bert(model, copy);
  const auto read = models::load_bert<DecoderModel<float>>(others / "m", copy);
  EXPECT_TRUE(read.encoder.config.is_decoder && read.encoder.config.cross_attention);
  const auto entries = parameters.entries(), again = others.entries();
  ASSERT_EQ(entries.size(), again.size());
  for (std::size_t i = 0; i < entries.size(); ++i)
    EXPECT_TRUE(same_bits(Parameter<float>(entries[i]).value(), Parameter<float>(again[i]).value())) << again[i]->path;
  const auto config = nlohmann::json::parse(std::ifstream(copy + "/config.json"));
  EXPECT_EQ(config.at("architectures")[0], "BertLMHeadModel");
  std::filesystem::remove_all(copy);
  // An encoder becomes a decoder, whose cross attention is new where the folder has none.
  io::BertOptions as_decoder{.is_decoder = true, .cross_attention = true};
  expect_error({"crossattention.self.query.weight is missing"},
               [&] { models::load_bert<DecoderModel<float>>(news / "m", golden("MaskedLM"), as_decoder); });
  as_decoder.new_head = true;
  ParameterRegistry third;
  const auto made = models::load_bert<DecoderModel<float>>(third / "m", golden("MaskedLM"), as_decoder);
  EXPECT_TRUE(made.encoder.encoder.layers[1].cross_attention.has_value());
  EXPECT_TRUE(made.encoder.encoder.layers[1].config.attention.causal);
}

TEST(BertOptions, ThatDoNotFitAreRefused) {
  const Expected e("LMHeadModel");
  const ParameterRegistry parameters;
  const auto decoder = models::load_bert<DecoderModel<float>>(parameters / "d", golden("LMHeadModel"));
  const auto encoder = models::load_bert<MaskedModel<float>>(parameters / "e", golden("MaskedLM"));
  Tape tape({.mode = Mode::evaluate});
  const auto memory = tape.input(e.memory<float>());
  const auto ids = e.ids("input_ids");
  nn::KeyValueCache<float> cache(4);
  const auto refuses = [&](const auto& model, std::initializer_list<std::string_view> words,
                           const models::EncoderOptions<float>& options) {
    expect_error(words, [&] { model.logits(tape, {.ids = ids}, options); });
  };
  refuses(decoder, {"d/encoder: has cross attention, so it needs a memory"}, {});
  refuses(encoder, {"e/encoder: was given a memory, but its config has no cross_attention"}, {.memory = memory});
  refuses(decoder, {"d/encoder: memory has shape [2, 32]"}, {.memory = memory.reshape({2, 32})});
  refuses(decoder, {"the memory_mask has shape [2, 6], [2, 4] is needed"},
          {.memory = memory, .memory_mask = e.ids("attention_mask")});
  refuses(decoder, {"memory_lengths and a memory_mask"},
          {.memory = memory,
           .memory_lengths = Tensor<std::int32_t>({2}, {4, 4}),
           .memory_mask = e.ids("encoder_attention_mask", {rows, memory_length})});
  refuses(encoder, {"e/encoder: head_mask has shape [3], [2] or [2, 2] is needed"},
          {.head_mask = Tensor<float>({3}, 1.0F)});
  refuses(encoder, {"e/encoder: decodes token by token"}, {.cache = &cache});
  expect_error({"d/encoder: lengths, mask, head_mask and output_attentions"}, [&] {
    decoder.logits(tape, {.ids = ids, .mask = e.ids("attention_mask")}, {.memory = memory, .cache = &cache});
  });
  expect_error({"d/encoder: labels have shape [2, 4]"}, [&] {
    decoder.loss(tape, {.ids = ids}, e.ids("encoder_attention_mask", {rows, memory_length}), {.memory = memory});
  });
  Var<float> weights;  // of which layer?
  expect_error({"d/encoder/encoder: attention weights are of one layer"},
               [&] { decoder.encoder.encoder(memory, memory, {}, {.weights = &weights}); });
  using Config = models::EncoderConfig;
  const Config good{.vocabulary = 5, .context = 4, .num_layers = 1, .model_dims = 8, .num_heads = 2};
  Config c = good;
  c.cross_attention = true;
  expect_error({"x: cross_attention is of decoders"}, [&] { models::Encoder<float>(ParameterRegistry() / "x", c); });
  c = good, c.blockwise.ffn_chunk = -1;
  expect_error({"x", "blockwise.ffn_chunk"}, [&] { models::Encoder<float>(ParameterRegistry() / "x", c); });
  expect_error({"x: tells each token", "is_decoder"}, [&] { DecoderModel<float>(ParameterRegistry() / "x", good); });
}

}  // namespace
