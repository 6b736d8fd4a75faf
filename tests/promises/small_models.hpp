// Three kinds of models, so small that a thousand trainings take seconds, and twenty steps of training one.
#pragma once

#include <utility>
#include <vector>

#include "promises/small_gpt.hpp"

namespace remat_test {

struct SmallConfig {
  double dropout = 0;
  remat::Policy remat = remat::policy::everything;
  int remat_every = 1;  // of two layers
};

namespace small {

using remat::Index, remat::Parameter, remat::Scope, remat::Tape, remat::Var;
namespace nn = remat::nn;
inline constexpr int vocabulary = 11, length = 13, dims = 16;

inline nn::TransformerLayerConfig layer(double dropout) {
  nn::TransformerLayerConfig config{.model_dims = dims, .hidden_dims = 20, .num_heads = 2, .dropout = dropout};
  config.attention = {.num_kv_heads = 1, .dropout = dropout};
  config.ffn.dropout = dropout;
  return config;
}

/// Token and position embeddings, and the loss of predictions made with the same table.
struct Vocabulary {
  nn::Embedding<float> embedding;
  Parameter<float> positions;

  explicit Vocabulary(const Scope& scope)
      : embedding(scope / "embedding", {.vocabulary = vocabulary, .model_dims = dims}),
        positions((scope / "positions").parameter<float>("table", {length, dims}, remat::init::normal(0.02))) {}
  Var<float> embed(Tape& tape, const Tokens& tokens) const {
    return remat::add_positions<float>(embedding(tape.input(tokens.inputs)), positions);
  }
  Var<float> loss(const Var<float>& h, const Tokens& tokens) const {
    return remat::cross_entropy(remat::linear<float>(h, embedding.table, {}, {.transposed = true}), tokens.targets);
  }
};

}  // namespace small

struct SmallGpt {
  static constexpr const char* first_matrix = "ffn1";  // the label of its feed-forwards' first products
  remat::models::Gpt<float> model;

  SmallGpt(const remat::Scope& scope, const SmallConfig& c)
      : model(scope, {.vocabulary = small::vocabulary,
                      .context = small::length,
                      .num_layers = 2,
                      .model_dims = small::dims,
                      .num_heads = 2,
                      .hidden_dims = 20,
                      .dropout = c.dropout,
                      .remat = c.remat,
                      .remat_every = c.remat_every}) {}
  remat::Var<float> loss(remat::Tape& tape, const Tokens& tokens) const { return model.loss(tape, tokens); }
};

/// As the first transformer was: norms behind the branches, an encoder that sees everything, a decoder that looks at
/// it.
struct SmallEncoderDecoder {
  static constexpr const char* first_matrix = "ffn1";
  small::Vocabulary vocabulary;
  remat::nn::StackedTransformer<float> encoder, decoder;

  SmallEncoderDecoder(const remat::Scope& scope, const SmallConfig& c)
      : vocabulary(scope), encoder(scope / "encoder", stack(c, false)), decoder(scope / "decoder", stack(c, true)) {}
  remat::Var<float> loss(remat::Tape& tape, const Tokens& tokens) const {
    const auto memory = encoder(vocabulary.embed(tape, tokens));
    return vocabulary.loss(decoder(vocabulary.embed(tape, tokens), memory), tokens);
  }

 private:
  static remat::nn::StackedTransformerConfig stack(const SmallConfig& c, bool is_decoder) {
    remat::nn::TransformerLayerConfig layer = small::layer(c.dropout);
    layer.norm_placement = remat::nn::NormPlacement::post;
    layer.attention.causal = is_decoder;
    if (is_decoder) layer.cross_attention = cross_attention_like(layer.attention);
    return {.layers = {layer, layer}, .remat = c.remat, .remat_every = c.remat_every};
  }
};

/// Two experts: the first layer sends each token to one and has slots for not all of them, the second sends each to
/// both.
struct SmallRouted {
  static constexpr const char* first_matrix = "moe_ffn1";
  struct Layer {
    double dropout;
    remat::nn::Norm<float> attention_norm;
    remat::nn::MultiHeadAttention<float> attention;
    remat::nn::Norm<float> ffn_norm;
    remat::nn::RoutedFeedForward<float> ffn;

    Layer(const remat::Scope& scope, const remat::nn::TransformerLayerConfig& c, int top_k)
        : dropout(c.dropout),
          attention_norm(scope / "attention_norm", remat::nn::NormKind::rms_norm, c.model_dims),
          attention(scope / "attention", {.model_dims = c.model_dims, .num_heads = c.num_heads, .dropout = c.dropout}),
          ffn_norm(scope / "ffn_norm", remat::nn::NormKind::rms_norm, c.model_dims),
          ffn(scope / "ffn", {.model_dims = c.model_dims,
                              .hidden_dims = c.hidden_dims,
                              .num_experts = 2,
                              .top_k = top_k,
                              .capacity_factor = 1,
                              .gated = top_k == 2,
                              .dropout = c.dropout}) {}
    std::pair<remat::Var<float>, remat::Var<float>> operator()(const remat::Var<float>& x) const {
      const auto h = x + remat::dropout(attention(attention_norm(x)), dropout);
      const auto [y, balance] = ffn(ffn_norm(h));
      return {h + remat::dropout(y, dropout), balance};
    }
  };
  SmallConfig config;
  small::Vocabulary vocabulary;
  std::vector<Layer> layers;

  SmallRouted(const remat::Scope& scope, const SmallConfig& c) : config(c), vocabulary(scope) {
    for (int i = 0; i < 2; ++i)
      layers.emplace_back(scope / ("layer_" + std::to_string(i)), small::layer(c.dropout), i + 1);
  }
  remat::Var<float> loss(remat::Tape& tape, const Tokens& tokens) const {
    auto h = vocabulary.embed(tape, tokens);
    remat::Var<float> balance;
    for (std::size_t first = 0; first < layers.size(); first += static_cast<std::size_t>(config.remat_every)) {
      std::tie(h, balance) = tape.checkpoint(config.remat, [&, h = h, balance = balance]() mutable {
        for (std::size_t i = first; i < first + static_cast<std::size_t>(config.remat_every); ++i) {
          const auto [y, more] = layers[i](remat::checkpoint_name(h, "iteration_input"));
          h = y;
          balance = balance ? balance + more : more;
        }
        return std::pair(h, balance);
      });
    }
    return vocabulary.loss(h, tokens) + 0.01 * balance;
  }
};

/// What twenty steps of training with AdamW gave.
struct Trained {
  std::vector<float> losses;
  std::vector<remat::Tensor<float>> values;  // of all parameters, in order of path
  remat::TapeStats last_step;
};

template <class Model>
Trained train(const SmallConfig& config, int steps = 20) {
  remat::ParameterRegistry parameters(5);
  const Model model(parameters / "model", config);
  remat::optim::AdamW adamw(parameters);
  const Tokens batch = tokens(2, small::length, small::vocabulary);
  Trained trained;
  for (int step = 0; step < steps; ++step) {
    remat::Tape tape({.seed = 11, .step = step});
    const auto loss = model.loss(tape, batch);
    tape.backward(loss);
    trained.losses.push_back(loss.item());
    trained.last_step = tape.stats();
    adamw.step(1e-2, remat::optim::clip_scale(remat::optim::global_norm(parameters), 1.0));
  }
  for (const auto& entry : parameters.entries()) trained.values.push_back(remat::Parameter<float>(entry).value());
  return trained;
}

/// How many losses and parameters differ in any bit.
inline int count_differences(const Trained& a, const Trained& b) {
  int count = a.values.size() != b.values.size() || a.losses.size() != b.losses.size() ? 1 : 0;
  for (std::size_t i = 0; i < std::min(a.losses.size(), b.losses.size()); ++i)
    count += std::memcmp(&a.losses[i], &b.losses[i], sizeof(float)) != 0;
  for (std::size_t i = 0; i < std::min(a.values.size(), b.values.size()); ++i)
    count += !same_bits(a.values[i], b.values[i]);
  return count;
}

}  // namespace remat_test
