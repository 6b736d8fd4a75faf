// GPT: a decoder-only transformer language model (Radford et al. 2019), with the settings of nanoGPT.
#pragma once

#include <algorithm>
#include <cmath>
#include <remat/models/decoder.hpp>
#include <string>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace models {

/// Settings of a `Gpt`; vocabulary, context, model_dims and, with layers, num_heads must be given.
struct GptConfig {
  Index vocabulary = 0;                      // V, the number of tokens there are
  Index context = 0;                         // the longest sequence
  Index num_layers = 0;                      // 0: embeddings, a norm and the head
  Index model_dims = 0;                      // D, of every token between embedding and head
  Index num_heads = 0;                       // N, each of model_dims / N
  Index num_kv_heads = 0;                    // 0: num_heads
  Index hidden_dims = 0;                     // 0: 4 model_dims
  double dropout = 0;                        // on embeddings, attention probabilities and both branches
  bool bias = true;                          // of linear layers and norms
  Activation activation = Activation::gelu;  // of the feed-forwards
  bool tied_head = true;                     // the head is the transposed embedding
  Index head_chunk = 0;                      // tokens whose logits exist at one time in a loss; 0: chosen by size
  bool keep_head_gradients = false;          // no product of the head twice, for memory of the size of its weights
  double init_deviation = 0.02;       // of matrices and tables; of those that end a branch 1 / sqrt(2 num_layers) of it
  Policy remat = policy::everything;  // what survives until backward in each region; everything: no regions
  Index remat_every = 1;              // layers to a region
  std::vector<std::string> attention_shared_ids{};     // a shared_weight_id for each layer, or empty
  bool combined_qkv = true;                            // one projection for query, key and value
  bool fused_attention = true;                         // false: scores exist whole, to compare with; without dropout
  nn::BlockwiseConfig blockwise{};                     // of every layer; needs combined_qkv = false
  nn::SkipStream skip_stream = nn::SkipStream::accum;  // from the embedding to the last norm
};

/// The decoder that a `GptConfig` is short for: token and position embeddings, pre-norm layers, a norm, and a head tied
/// to the token embedding. An `Error` names the first setting that is out of its range, of the model at `path`.
inline DecoderConfig decoder_config(const GptConfig& c, const std::string& path) {
  require(c.vocabulary > 0 && c.context > 0 && c.model_dims > 0 && c.num_layers >= 0, path, ": vocabulary ",
          c.vocabulary, ", context ", c.context, " and model_dims ", c.model_dims, " must be > 0, num_layers ",
          c.num_layers, " >= 0");
  require(c.attention_shared_ids.empty() || static_cast<Index>(c.attention_shared_ids.size()) == c.num_layers, path,
          ": ", c.attention_shared_ids.size(), " attention_shared_ids for ", c.num_layers, " layers");
  nn::detail::check_not_negative(path, "init_deviation", c.init_deviation);
  nn::detail::check(path, c.blockwise);
  require(c.blockwise.query_chunk == 0 || !c.combined_qkv, path, ": blockwise.query_chunk ", c.blockwise.query_chunk,
          " has keys and values projected before queries; set combined_qkv = false");
  const Initializer init = init::normal(c.init_deviation);
  // Each layer adds two branches to the stream: scaled so that its variance does not grow with depth.
  const Initializer out =
      init::normal(c.init_deviation / std::sqrt(2.0 * static_cast<double>(std::max<Index>(1, c.num_layers))));
  nn::TransformerLayerConfig layer{.model_dims = c.model_dims,
                                   .hidden_dims = c.hidden_dims,
                                   .num_heads = c.num_heads,
                                   .norm_bias = c.bias,
                                   .dropout = c.dropout};
  layer.attention = {.num_kv_heads = c.num_kv_heads,
                     .combined_qkv = c.combined_qkv,
                     .bias = c.bias,
                     .dropout = c.dropout,
                     .fused = c.fused_attention,
                     .init = init,
                     .out_init = out};
  layer.blockwise = c.blockwise;
  layer.ffn = {.activation = c.activation, .bias = c.bias, .init = init, .out_init = out};
  DecoderConfig decoder{.vocabulary = c.vocabulary, .model_dims = c.model_dims, .context = c.context};
  decoder.learned_positions = true;
  decoder.norm = nn::NormKind::layer_norm, decoder.norm_bias = c.bias;
  decoder.dropout = c.dropout;
  decoder.tied_head = c.tied_head;
  decoder.head_chunk = c.head_chunk, decoder.keep_head_gradients = c.keep_head_gradients;
  decoder.init_deviation = c.init_deviation;
  decoder.remat = c.remat, decoder.remat_every = c.remat_every;
  decoder.skip_stream = c.skip_stream;
  decoder.layers.assign(static_cast<std::size_t>(c.num_layers), layer);
  for (std::size_t i = 0; i < c.attention_shared_ids.size(); ++i)
    decoder.layers[i].attention.shared_weight_id = c.attention_shared_ids[i];
  return decoder;
}

/// A `Decoder` of these settings.
/// A copy is a handle to the same weights: for weights of its own, build it on a registry of its own and `copy_values`.
template <class T>
struct Gpt : Decoder<T> {
  const GptConfig config;  // as built; what still rules is set by set_remat and in the parts

  /// Makes its parameters in `where`. An `Error` names the first setting that is out of its range.
  Gpt(const Scope& where, const GptConfig& c) : Gpt(LayerScope(where), c, 0) {}

 private:
  Gpt(const LayerScope& scope, const GptConfig& c, int)
      : Decoder<T>(scope, decoder_config(c, scope.use_path())), config(c) {}
};

}}}  // namespace remat::models
