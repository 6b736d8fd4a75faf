// Settings of BERT's encoder, and what a step gives it.
#pragma once

#include <optional>
#include <remat/nn/config_checks.hpp>
#include <remat/nn/stacked_transformer.hpp>
#include <string>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace models {

/// Settings of an `Encoder`; vocabulary, context, num_layers, model_dims and num_heads must be given.
struct EncoderConfig {
  Index vocabulary = 0;                      // V, the number of tokens there are
  Index context = 0;                         // the longest sequence: positions are learned
  Index token_types = 2;                     // kinds of tokens: of the first and of the second text
  Index num_layers = 0;                      // each of self attention and feed-forward
  Index model_dims = 0;                      // D, of every token
  Index num_heads = 0;                       // N, each of model_dims / N
  Index hidden_dims = 0;                     // 0: 4 model_dims
  Activation activation = Activation::gelu;  // of feed-forwards and of the head for masked tokens
  double norm_epsilon = 1e-12;               // of every norm
  double dropout = 0.1;                      // on embeddings, and on every branch
  double attention_dropout = 0.1;            // on attention probabilities
  bool pooler = true;                        // what makes one vector of a sequence, from its first token
  double init_deviation = 0.02;              // of matrices and tables; biases begin as zeros
  bool is_decoder = false;                   // a token sees none behind it
  bool cross_attention = false;              // of a decoder: every layer looks at a memory, too (add_cross_attention)
  nn::BlockwiseConfig blockwise{};  // of every layer; ffn_chunk is transformers' chunk_size_feed_forward, of any length
};

/// Tokens that an `Encoder` reads, and what may be left out of that. Padding is hidden from all tokens, by lengths or
/// by a mask.
struct EncoderInput {
  Tensor<std::int32_t> ids;            // [B, T] in [0, V)
  Tensor<std::int32_t> token_types{};  // [B, T]; all 0 where left out
  Tensor<std::int32_t> lengths{};      // [B]: tokens from there on are padding
  Tensor<std::int32_t> mask{};         // [B, T] of 1, and of 0 for padding, wherever it is
};

/// Of an `Encoder`, as of a decoder's stack.
using nn::GradientCheckpointing;

namespace detail {

inline std::vector<nn::TransformerLayerConfig> layers_of(const EncoderConfig& c) {
  nn::TransformerLayerConfig layer{.model_dims = c.model_dims,
                                   .hidden_dims = c.hidden_dims,
                                   .num_heads = c.num_heads,
                                   .norm_placement = nn::NormPlacement::post,
                                   .norm_epsilon = c.norm_epsilon,
                                   .dropout = c.dropout};
  layer.attention.causal = c.is_decoder, layer.attention.dropout = c.attention_dropout;
  layer.ffn.activation = c.activation;
  layer.attention.init = layer.attention.out_init = layer.ffn.init = layer.ffn.out_init =
      init::normal(c.init_deviation);
  if (c.cross_attention) layer.cross_attention = nn::cross_attention_like(layer.attention);
  layer.blockwise = c.blockwise;
  return std::vector<nn::TransformerLayerConfig>(static_cast<std::size_t>(c.num_layers), layer);
}
/// An `Error` names the first setting that is out of its range.
inline const EncoderConfig& checked(const EncoderConfig& c, const std::string& path) {
  require(c.vocabulary > 0 && c.context > 0 && c.token_types > 0 && c.model_dims > 0 && c.num_layers >= 0, path,
          ": vocabulary ", c.vocabulary, ", context ", c.context, ", token_types ", c.token_types, " and model_dims ",
          c.model_dims, " must be > 0, num_layers ", c.num_layers, " >= 0");
  nn::detail::check_positive(path, "norm_epsilon", c.norm_epsilon);
  nn::detail::check_rate(path, "dropout", c.dropout);
  nn::detail::check_rate(path, "attention_dropout", c.attention_dropout);
  nn::detail::check_not_negative(path, "init_deviation", c.init_deviation);
  require(!c.cross_attention || c.is_decoder, path,
          ": cross_attention is of decoders, which look at what an encoder made; set is_decoder = true");
  for (const nn::TransformerLayerConfig& layer : layers_of(c)) nn::completed(layer, path + "/encoder/layer_0");
  return c;
}

}  // namespace detail

}}}  // namespace remat::models
