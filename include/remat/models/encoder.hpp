// BERT: a bidirectional transformer encoder (Devlin et al. 2018), with the settings of Hugging Face's transformers.
#pragma once

#include <optional>
#include <remat/models/encoder_config.hpp>
#include <remat/models/encoder_options.hpp>
#include <remat/nn/embedding.hpp>
#include <remat/nn/linear.hpp>
#include <remat/nn/stacked_transformer.hpp>
#include <remat/ops/dropout.hpp>
#include <remat/ops/positions.hpp>
#include <remat/ops/slice.hpp>
#include <remat/ops/unary.hpp>
#include <string>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace models {

/// Embeddings of tokens, positions and types; layers of norms behind their branches; and a pooler. Heads of several
/// kinds are in `encoder_heads.hpp`.
/// A copy is a handle to the same weights: for weights of its own, build it on a registry of its own and `copy_values`.
template <class T>
struct Encoder {
  const EncoderConfig config;                            // as built
  std::string path;                                      // the model's path in the registry
  nn::Embedding<T> embedding;                            // of tokens: [V, D]
  nn::Embedding<T> type_embedding;                       // of types: [token_types, D]
  Parameter<Accum<T>> positions;                         // [context, D]
  nn::LayerNorm<T> embedding_norm;                       // of the sum of the three
  nn::StackedTransformer<T> encoder;                     // the layers
  std::optional<nn::Linear<T>> pooler;                   // [D, D], where there is one
  std::optional<GradientCheckpointing> checkpointing{};  // of the steps recorded from now on; empty: all is kept

  /// Makes its parameters in `where`. An `Error` names the first setting that is out of its range.
  Encoder(const Scope& where, const EncoderConfig& c)
      : Encoder(LayerScope(where), detail::checked(c, where.use_path()), 0) {}

  /// Layers are recomputed in backward from the next step on, embeddings, pooler and heads are not: the same bits for
  /// less memory. An `Error` unless every_n_layers is above 0.
  void enable_gradient_checkpointing(const GradientCheckpointing& how = {}) {
    require(how.every_n_layers > 0, path, ": enable_gradient_checkpointing: every_n_layers is ", how.every_n_layers,
            ", must be > 0");
    checkpointing = how;
  }
  /// The same, nothing kept of each n-th layer but what it makes, which waits in memory or on disk.
  void activation_checkpointing_enable(Index every_n_layers = 1, bool is_offloaded = false) {
    enable_gradient_checkpointing(nn::activation_checkpointing(every_n_layers, is_offloaded));
  }
  /// All is kept from the next step on, as at first.
  void disable_gradient_checkpointing() { checkpointing.reset(); }

  /// What each token has become: [B, T, D]. An `Error` names an input that does not fit.
  Var<T> operator()(Tape& tape, const EncoderInput& input, const EncoderOptions<T>& options = {}) const;
  /// tanh of a linear of each sequence's first token: hidden [B, T, D] -> [B, D]. An `Error` without a pooler.
  Var<T> pooled(const Var<T>& hidden) const {
    require(pooler.has_value(), path, ": has no pooler; set pooler = true");
    const auto here = hidden.tape().layer(path);
    require(hidden.tape().ring() == nullptr, path, ": its pooler reads token 0, which one rank of a ring alone has");
    return tanh((*pooler)(slice(hidden, 1, 0, 1).reshape({hidden.shape()[0], config.model_dims})));
  }

 private:
  Encoder(const LayerScope& scope, const EncoderConfig& c, int);
  /// h [B, T, D] through layer `i`, and the weights of its attentions where somebody asks for them.
  std::pair<Var<Accum<T>>, std::vector<Var<T>>> through(std::size_t i, const Var<Accum<T>>& h,
                                                        detail::EncoderVisibility<T> seen,
                                                        const EncoderOptions<T>& options) const;
};

template <class T>
Encoder<T>::Encoder(const LayerScope& scope, const EncoderConfig& c, int)
    : config(c),
      path(scope.use_path()),
      embedding(scope / "embedding",
                {.vocabulary = c.vocabulary, .model_dims = c.model_dims, .init = init::normal(c.init_deviation)}),
      type_embedding(scope / "type_embedding",
                     {.vocabulary = c.token_types, .model_dims = c.model_dims, .init = init::normal(c.init_deviation)}),
      positions((scope / "positions")
                    .template parameter<Accum<T>>("table", {c.context, c.model_dims}, init::normal(c.init_deviation))),
      embedding_norm(scope / "embedding_norm", {.model_dims = c.model_dims, .epsilon = c.norm_epsilon}),
      encoder(scope / "encoder", {.layers = detail::layers_of(c)}) {
  if (c.pooler)
    pooler.emplace(scope / "pooler", nn::LinearConfig{.input_dims = c.model_dims,
                                                      .output_dims = c.model_dims,
                                                      .init = init::normal(c.init_deviation)});
}

template <class T>
Var<T> Encoder<T>::operator()(Tape& tape, const EncoderInput& input, const EncoderOptions<T>& options) const {
  const auto here = tape.layer(path);
  detail::check(config, input, options, path);
  const bool has_types = input.token_types.size() > 0;
  const Tensor<std::int32_t> types = has_types ? input.token_types : Tensor<std::int32_t>(input.ids.shape(), 0);
  const auto sum = embedding.template rows<Accum<T>>(tape.input(input.ids)) +
                   type_embedding.template rows<Accum<T>>(tape.input(types));
  const auto seen = detail::encoder_masks<T>(sum, input, options, path);
  const Index first = options.cache != nullptr ? options.cache->length() : 0;
  auto h = cast<Accum<T>>(dropout(embedding_norm(add_positions<Accum<T>>(sum, positions, first)), config.dropout));
  EncoderOutputs<T>* const outputs = options.outputs;
  if (outputs != nullptr) outputs->hidden_states = {h}, outputs->attentions.clear(), outputs->cross_attentions.clear();
  for (std::size_t i = 0; i < encoder.layers.size(); ++i) {
    const bool is_kept = !checkpointing || static_cast<Index>(i) % checkpointing->every_n_layers != 0;
    const auto layer = [&] { return through(i, h, seen, options); };
    const auto [made, weights] = tape.region(is_kept ? Policy(policy::everything) : checkpointing->policy, layer);
    h = made;
    if (outputs == nullptr) continue;
    outputs->hidden_states.push_back(h);
    if (!weights.empty()) outputs->attentions.push_back(weights.front());
    if (weights.size() > 1) outputs->cross_attentions.push_back(weights.back());
  }
  if (options.cache != nullptr) options.cache->expect({});
  return cast<T>(h);
}

template <class T>
std::pair<Var<Accum<T>>, std::vector<Var<T>>> Encoder<T>::through(std::size_t i, const Var<Accum<T>>& h,
                                                                  detail::EncoderVisibility<T> seen,
                                                                  const EncoderOptions<T>& options) const {
  const nn::TransformerLayer<T>& layer = encoder.layers[i];
  const auto x = checkpoint_name(h, "iteration_input");
  seen.choose(i);
  Var<T> weights, weights_of_memory;
  const bool is_asked = options.outputs != nullptr && options.outputs->output_attentions;
  if (is_asked) seen.own.weights = &weights, seen.of_memory.weights = &weights_of_memory;
  std::pair<Var<Accum<T>>, std::vector<Var<T>>> made;
  if (options.cache != nullptr)
    made.first = config.cross_attention ? layer(x, options.memory, options.cache->layer(i), seen.of_memory)
                                        : layer(x, options.cache->layer(i));
  else
    made.first = config.cross_attention ? layer(x, options.memory, seen.own, seen.of_memory) : layer(x, seen.own);
  if (is_asked) made.second = {weights};
  if (is_asked && config.cross_attention) made.second.push_back(weights_of_memory);
  return made;
}

}}}  // namespace remat::models
