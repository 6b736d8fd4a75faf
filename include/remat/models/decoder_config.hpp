// Settings of a decoder-only transformer, and which of them hold together.
#pragma once

#include <optional>
#include <remat/nn/stacked_transformer.hpp>
#include <string>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace models {

/// Settings of a `Decoder`; vocabulary and model_dims must be given, and layers, one config each.
struct DecoderConfig {
  Index vocabulary = 0;                              // V, the number of tokens there are
  Index model_dims = 0;                              // D, of every token between embedding and head
  Index context = 0;                                 // the longest sequence; 0: any, without learned_positions
  bool learned_positions = false;                    // a table of `context` rows, added to the embedding (GPT-2)
  std::vector<nn::TransformerLayerConfig> layers{};  // first to last; model_dims comes from above where 0
  nn::NormKind norm = nn::NormKind::rms_norm;        // of the one norm before the head
  bool norm_bias = true;                             // of it, where it is a layer norm
  std::optional<double> norm_epsilon{};              // of it; empty: 1e-5 of layer norms, 1e-6 of RMS norms
  double dropout = 0;                                // on embeddings
  bool tied_head = true;                             // the head is the transposed embedding
  Index head_chunk = 0;                              // tokens whose logits exist at one time in a loss; 0: by size
  bool keep_head_gradients = false;                  // no product of the head twice, for memory of its weights' size
  double init_deviation = 0.02;                      // of the tables
  Policy remat = policy::everything;                 // what survives until backward in each region
  Index remat_every = 1;                             // layers to a region
  std::optional<nn::SkipStream> skip_stream{};       // from the embedding to the last norm; empty: the layers' own
  nn::NormScale norm_scale = nn::NormScale::weight;  // of the norm before the head, where it is an RMS norm
  double embedding_multiplier = 1;                   // of token embeddings, in the stream's type (Gemma: sqrt(D))
  double logit_multiplier = 1;                       // of what the head gives (Granite: 1 / logits_scaling)
  double logit_soft_cap = 0;                         // logits become cap tanh(logits / cap) (Gemma 2); 0: none
};

namespace detail {

inline nn::StackedTransformerConfig stack_of(const DecoderConfig& c) {
  nn::StackedTransformerConfig stack{
      .layers = c.layers, .remat = c.remat, .remat_every = c.remat_every, .skip_stream = c.skip_stream};
  for (nn::TransformerLayerConfig& layer : stack.layers)
    if (layer.model_dims == 0) layer.model_dims = c.model_dims;
  return stack;
}
/// An `Error` names the first setting that is out of its range, before any parameter is made.
inline const DecoderConfig& checked(const DecoderConfig& c, const std::string& path) {
  require(c.vocabulary > 0 && c.model_dims > 0, path, ": vocabulary ", c.vocabulary, " and model_dims ", c.model_dims,
          " must be > 0");
  nn::detail::check_not_negative(path, "context", c.context);
  require(!c.learned_positions || c.context > 0, path, ": learned_positions need a table of context rows; set context");
  nn::detail::check_rate(path, "dropout", c.dropout);
  nn::detail::check_not_negative(path, "init_deviation", c.init_deviation);
  nn::detail::check_positive(path, "embedding_multiplier", c.embedding_multiplier);
  nn::detail::check_positive(path, "logit_multiplier", c.logit_multiplier);
  nn::detail::check_not_negative(path, "logit_soft_cap", c.logit_soft_cap);
  require(c.norm_scale == nn::NormScale::weight || c.norm == nn::NormKind::rms_norm, path,
          ": norm_scale one_plus_weight is of RMS norms; set norm = NormKind::rms_norm");
  nn::detail::check_not_negative(path, "head_chunk", c.head_chunk);
  require(c.remat_every > 0, path, ": remat_every must be > 0, got ", c.remat_every);
  const std::vector<nn::TransformerLayerConfig> layers = stack_of(c).layers;
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const std::string layer = path + "/decoder/layer_" + std::to_string(i);
    require(layers[i].model_dims == c.model_dims, layer, ": model_dims ", layers[i].model_dims, " is not the model's ",
            c.model_dims);
    nn::completed(layers[i], layer);
  }
  return c;
}

}  // namespace detail

}}}  // namespace remat::models
