// Settings of an encoder-decoder transformer, and what a step gives it.
#pragma once

#include <optional>
#include <remat/nn/stacked_transformer.hpp>
#include <string>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace models {

/// Settings of an `EncoderDecoder`; vocabulary and model_dims must be given, and layers, one config each.
struct EncoderDecoderConfig {
  Index vocabulary = 0;                               // V, the number of tokens there are
  Index model_dims = 0;                               // D, of every token
  Index context = 0;                                  // rows of learned positions, of source and target each; 0: none
  std::vector<nn::TransformerLayerConfig> encoder{};  // which see all of the source, whatever `causal` they have
  std::vector<nn::TransformerLayerConfig> decoder{};  // causal; cross_attention is made where there is none
  nn::NormKind norm = nn::NormKind::layer_norm;       // of the norms behind both stacks
  std::optional<double> norm_epsilon{};               // of them; empty: 1e-5 of layer norms, 1e-6 of RMS norms
  double dropout = 0;                                 // on embeddings
  bool shared_embedding = true;                       // one table for source and target
  bool tied_head = true;                              // the head is the target's table, transposed
  Index head_chunk = 0;                               // tokens whose logits exist at one time in a loss; 0: by size
  double init_deviation = 0.02;                       // of the tables
  double embedding_multiplier = 1;                    // of token embeddings (Vaswani et al. 2017: sqrt(D))
  Policy remat = policy::everything;                  // what survives until backward in each region of both stacks
  Index remat_every = 1;                              // layers to a region
};

/// A source ids [B, S] of which row b has `lengths[b]` tokens, all where left out, and what is to come of it.
struct SourceBatch {
  Tensor<std::int32_t> source;               // [B, S]
  Tensor<std::int32_t> source_lengths{};     // [B]
  Tensor<std::int32_t> inputs{}, targets{};  // [B, T]; a target of -1 does not count
  Tensor<std::int32_t> target_lengths{};     // [B]: of inputs, behind which is padding that takes no expert's slot
};

namespace detail {

inline nn::StackedTransformerConfig stack_of(const EncoderDecoderConfig& c, bool is_decoder) {
  nn::StackedTransformerConfig stack{
      .layers = is_decoder ? c.decoder : c.encoder, .remat = c.remat, .remat_every = c.remat_every};
  for (nn::TransformerLayerConfig& layer : stack.layers) {
    if (layer.model_dims == 0) layer.model_dims = c.model_dims;
    layer.attention.causal = is_decoder;
    if (is_decoder && !layer.cross_attention) layer.cross_attention = nn::cross_attention_like(layer.attention);
  }
  return stack;
}
/// An `Error` names the first setting that is out of its range.
inline const EncoderDecoderConfig& checked(const EncoderDecoderConfig& c, const std::string& path) {
  require(c.vocabulary > 0 && c.model_dims > 0, path, ": vocabulary ", c.vocabulary, " and model_dims ", c.model_dims,
          " must be > 0");
  nn::detail::check_not_negative(path, "context", c.context);
  nn::detail::check_rate(path, "dropout", c.dropout);
  nn::detail::check_not_negative(path, "head_chunk", c.head_chunk);
  nn::detail::check_not_negative(path, "init_deviation", c.init_deviation);
  nn::detail::check_positive(path, "embedding_multiplier", c.embedding_multiplier);
  require(c.remat_every > 0, path, ": remat_every must be > 0, got ", c.remat_every);
  require(!c.encoder.empty() && !c.decoder.empty(), path, ": has ", c.encoder.size(), " encoder and ", c.decoder.size(),
          " decoder layers; both need one");
  for (const bool is_decoder : {false, true}) {
    const std::vector<nn::TransformerLayerConfig> layers = stack_of(c, is_decoder).layers;
    for (std::size_t i = 0; i < layers.size(); ++i) {
      const std::string layer = path + (is_decoder ? "/decoder/layer_" : "/encoder/layer_") + std::to_string(i);
      require(layers[i].model_dims == c.model_dims, layer, ": model_dims ", layers[i].model_dims,
              " is not the model's ", c.model_dims);
      require(!is_decoder || !layers[i].routed || !layers[i].routed->expert_choice, layer,
              ": experts that choose tokens see those to come, which a decoder must not; leave out expert_choice");
      require(is_decoder || !layers[i].cross_attention, layer, ": an encoder has no memory; leave out cross_attention");
      nn::completed(layers[i], layer);
    }
  }
  return c;
}

/// Of keys with so many tokens each, all where nothing is said.
template <class T>
AttentionMasks<T> masks_of(Tape& tape, const Tensor<std::int32_t>& lengths) {
  AttentionMasks<T> masks;
  if (lengths.size() > 0) masks.key_lengths = tape.input(lengths);
  return masks;
}
/// x through a stack, at `memory` where that is not null. The losses of layers with experts are added to `auxiliary`;
/// where it is null they are an `Error` in training.
template <class T>
Var<Accum<T>> through_stack(const nn::StackedTransformer<T>& stack, const Var<Accum<T>>& x,
                            const AttentionMasks<T>& masks, const Var<T>* memory, const AttentionMasks<T>& memory_masks,
                            Var<Accum<T>>* auxiliary) {
  if (auxiliary == nullptr || !stack.has_experts())
    return memory != nullptr ? stack(x, *memory, masks, memory_masks) : stack(x, masks);
  const auto [y, loss] = stack.with_auxiliary(x, masks, memory, memory_masks);
  *auxiliary = *auxiliary ? *auxiliary + loss : loss;
  return y;
}

}  // namespace detail

}}}  // namespace remat::models
