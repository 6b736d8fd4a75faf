// An encoder-decoder told by its config is T5 (version 1.1): logits, loss and every gradient that transformers computes
// (tests/golden/t5; softmax and norms in float even there), padding in the source and one table of relative biases for
// each stack.
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <remat/io/model_weights.hpp>
#include <remat/models/encoder_decoder.hpp>
#include <string>
#include <variant>
#include <vector>

namespace {

using namespace remat;

std::string golden(const std::string& name) { return REMAT_SOURCE_DIR "/tests/golden/t5/" + name; }

models::EncoderDecoderConfig t5() {
  nn::TransformerLayerConfig layer{.hidden_dims = 10, .num_heads = 2, .norm = nn::NormKind::rms_norm};
  layer.attention = {.head_dims = 3, .bias = false, .scale = 1};
  layer.attention.relative_buckets = 8, layer.attention.relative_max_distance = 10;
  layer.ffn = {.activation = Activation::gelu_tanh, .gated = true, .bias = false};
  models::EncoderDecoderConfig config{.vocabulary = 13, .model_dims = 8};
  layer.attention.relative_shared_weight_id = "of_source", config.encoder = {layer, layer};
  layer.attention.relative_shared_weight_id = "of_target", config.decoder = {layer, layer};
  config.norm = nn::NormKind::rms_norm;
  return config;
}

/// Each parameter and its name in transformers.
template <class T>
std::vector<io::NamedWeight<T>> weights_of(const models::EncoderDecoder<T>& model) {
  std::vector<io::NamedWeight<T>> all{{model.embedding.table, "shared.weight", {}}};
  const auto norm = [&](const nn::Norm<T>& of, const std::string& name) {
    all.push_back({std::get<nn::RmsNorm<T>>(of.layer).scale, name + ".weight", {}});
  };
  const auto linear = [&](const nn::Linear<T>& of, const std::string& name) {
    all.push_back({of.w, name + ".weight", {.transposed = true}});
  };
  const auto attention = [&](const nn::MultiHeadAttention<T>& of, const std::string& name) {
    linear(*of.query, name + ".q"), linear(*of.key, name + ".k"), linear(*of.value, name + ".v");
    linear(*of.out, name + ".o");
  };
  for (const bool is_decoder : {false, true}) {
    const std::string stack = is_decoder ? "decoder." : "encoder.";
    const auto& layers = is_decoder ? model.decoder.layers : model.encoder.layers;
    all.push_back({layers[0].attention.relative_bias,
                   stack + "block.0.layer.0.SelfAttention.relative_attention_bias.weight",
                   {}});
    for (std::size_t i = 0; i < layers.size(); ++i) {
      const nn::TransformerLayer<T>& layer = layers[i];
      const std::string block = stack + "block." + std::to_string(i) + ".layer.", last = is_decoder ? "2." : "1.";
      norm(layer.attention_norm, block + "0.layer_norm");
      attention(layer.attention, block + "0.SelfAttention");
      if (is_decoder) {
        norm(*layer.cross_attention_norm, block + "1.layer_norm");
        attention(*layer.cross_attention, block + "1.EncDecAttention");
      }
      norm(layer.ffn_norm, block + last + "layer_norm");
      linear(*layer.ffn.gate, block + last + "DenseReluDense.wi_0");
      linear(*layer.ffn.ffn1, block + last + "DenseReluDense.wi_1");
      linear(*layer.ffn.ffn2, block + last + "DenseReluDense.wo");
    }
    norm(is_decoder ? model.decoder_norm : model.encoder_norm, stack + "final_layer_norm");
  }
  return all;
}

TEST(EncoderDecoder, IsTheT5OfTransformers) {
  const auto json = nlohmann::json::parse(std::ifstream(golden("expected.json")));
  const auto ids = [&](const char* name, Index count) {
    auto values = json.at(name).get<std::vector<std::int32_t>>();
    for (std::int32_t& value : values)
      if (value == -100) value = -1;  // what does not count
    return Tensor<std::int32_t>({2, count}, std::span<const std::int32_t>(values));
  };
  ParameterRegistry parameters;
  const models::EncoderDecoder<double> model(parameters / "t5", t5());
  const io::SafetensorsShards file(golden("model.safetensors"));
  io::ModelWeights<double> weights(io::weights_of<double>(file));
  for (const auto& weight : weights_of(model)) weights.add(weight);
  weights.load();
  EXPECT_EQ(parameters.entries().size(), file.names().size());

  models::SourceBatch batch{.source = ids("input_ids", 9)};
  batch.source_lengths = Tensor<std::int32_t>({2}, {6, 9});
  batch.inputs = ids("decoder_input_ids", 6), batch.targets = ids("labels", 6);
  Tape look({.mode = Mode::evaluate});
  const Tensor<double> logits = model.logits(look, batch).value();
  const auto expected = json.at("logits").get<std::vector<double>>();
  ASSERT_EQ(static_cast<std::size_t>(logits.size()), expected.size());
  for (Index i = 0; i < logits.size(); ++i) EXPECT_NEAR(logits[i], expected[static_cast<std::size_t>(i)], 1e-5) << i;

  Tape tape;
  const auto loss = model.loss(tape, batch);
  EXPECT_NEAR(loss.item(), json.at("loss").get<double>(), 1e-6);
  tape.backward(loss);
  const io::SafetensorsFile gradients(golden("gradients.safetensors"));
  for (const auto& weight : weights_of(model)) {
    const Tensor<double> wanted = gradients.read_as<double>(weight.name), ours = weight.parameter.grad();
    const Index outputs = ours.shape().back(), inputs = ours.size() / outputs;
    double error = 0, size = 0;
    for (Index k = 0; k < ours.size(); ++k) {
      const double should = wanted[weight.layout.transposed ? k % outputs * inputs + k / outputs : k];
      error += std::pow(ours[k] - should, 2), size += std::pow(should, 2);
    }
    EXPECT_LE(std::sqrt(error), 2e-5 * std::sqrt(size)) << weight.name;
    EXPECT_GT(size, 0) << weight.name;
  }
}

}  // namespace
