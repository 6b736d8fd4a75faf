// GPT: a decoder-only transformer language model (Radford et al. 2019), with the settings of nanoGPT.
#pragma once

#include <algorithm>
#include <cmath>
#include <remat/models/sampling.hpp>
#include <remat/nn/embedding.hpp>
#include <remat/nn/stacked_transformer.hpp>
#include <remat/ops/linear_cross_entropy.hpp>
#include <remat/ops/positions.hpp>
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

/// Token and position embeddings, a stack of pre-norm layers, a norm, and a head tied to the token embedding.
/// A copy is a handle to the same weights: for weights of its own, build it on a registry of its own and `copy_values`.
template <class T>
struct Gpt {
  const GptConfig config;                   // as built; what still rules is set by set_remat and in the parts
  std::string path;                         // the model's path in the registry
  nn::Embedding<T> embedding;               // of tokens: [V, D]
  Parameter<Accum<T>> positions;            // [context, D]
  nn::StackedTransformer<T> decoder;        // the layers
  nn::Norm<T> final_norm;                   // before the head
  std::optional<Parameter<Accum<T>>> head;  // [V, D] when not tied

  /// Makes its parameters in `where`. An `Error` names the first setting that is out of its range.
  Gpt(const Scope& where, const GptConfig& c) : Gpt(LayerScope(where), checked(c, where.use_path()), 0) {}

  /// Of the steps recorded from now on.
  void set_remat(const Policy& policy) { decoder.set_remat(policy); }

  /// ids [B, T] -> logits [B, T, V]
  Var<T> logits(Tape& tape, const Tensor<std::int32_t>& ids) const {
    const auto here = tape.layer(path);
    return linear<T>(hidden(tape, ids), head_table(), {}, {.transposed = true});
  }
  /// Mean negative log-likelihood of `batch.targets` after `batch.inputs`, both [B, T], in nats. Logits never exist
  /// whole.
  template <class Batch>
  Var<Accum<T>> loss(Tape& tape, const Batch& batch) const {
    require(batch.targets.size() > 0, path, ": a batch of shape ", batch.targets.shape(),
            " has no tokens to learn; its loss would be 0 whatever the weights");
    const auto here = tape.layer(path);
    return linear_cross_entropy<T>(
        hidden(tape, batch.inputs), head_table(), {}, tape.input(batch.targets),
        {.transposed = true, .chunk = config.head_chunk, .keep_gradients = config.keep_head_gradients});
  }

  /// How `generate` chooses tokens.
  struct Generation {
    Index length = 500;        // tokens behind the prompt
    double temperature = 0.8;  // 0: the likeliest token
    Index top_k = 0;           // 0: all tokens
    std::uint64_t seed = 1;    // of the choices
  };
  /// `prompt` (not empty) followed by `length` sampled tokens; the last `context` tokens are looked at. An `Error` for
  /// options and ids out of range, before any work, and for logits that are NaN or infinite, which names the token.
  std::vector<std::int32_t> generate(std::vector<std::int32_t> prompt, const Generation& options) const;

 private:
  Gpt(const LayerScope& scope, const GptConfig& c, int);

  /// ids [B, T] -> [B, T, D], what the head reads
  Var<T> hidden(Tape& tape, const Tensor<std::int32_t>& ids) const;
  /// The same by a skip stream of X.
  template <class X>
  Var<T> hidden_by(Tape& tape, const Tensor<std::int32_t>& ids) const;
  const Parameter<Accum<T>>& head_table() const { return head ? *head : embedding.table; }

  /// Before any parameter is made.
  static const GptConfig& checked(const GptConfig& c, const std::string& path);
  static nn::StackedTransformerConfig stack(const GptConfig& c);
};

template <class T>
Gpt<T>::Gpt(const LayerScope& scope, const GptConfig& c, int)
    : config(c),
      path(scope.use_path()),
      embedding(scope / "embedding",
                {.vocabulary = c.vocabulary, .model_dims = c.model_dims, .init = init::normal(c.init_deviation)}),
      positions((scope / "positions")
                    .template parameter<Accum<T>>("table", {c.context, c.model_dims}, init::normal(c.init_deviation))),
      decoder(scope / "decoder", stack(c)),
      final_norm(scope / "final_norm", nn::NormKind::layer_norm, c.model_dims, c.bias) {
  if (!c.tied_head)
    head = (scope / "head")
               .template parameter<Accum<T>>("w", {c.vocabulary, c.model_dims}, init::normal(c.init_deviation));
}

template <class T>
Var<T> Gpt<T>::hidden(Tape& tape, const Tensor<std::int32_t>& ids) const {
  require(ids.shape().rank() == 2 && ids.shape()[1] <= config.context, path, ": ids ", ids.shape(),
          " must be [batch, length] with length <= context ", config.context);
  return config.skip_stream == nn::SkipStream::accum ? hidden_by<Accum<T>>(tape, ids) : hidden_by<T>(tape, ids);
}

template <class T>
template <class X>
Var<T> Gpt<T>::hidden_by(Tape& tape, const Tensor<std::int32_t>& ids) const {
  const auto embed = [&] {
    const Var<X> x = add_positions<X>(embedding.template rows<X>(tape.input(ids)), positions);
    return checkpoint_name(dropout(x, config.dropout), "iteration_input");
  };
  // A region of its own, so that what enters the first layer can be offloaded like what enters the others.
  return final_norm(decoder(tape.region(decoder.remat, embed)));
}

template <class T>
const GptConfig& Gpt<T>::checked(const GptConfig& c, const std::string& path) {
  require(c.vocabulary > 0 && c.context > 0 && c.model_dims > 0 && c.num_layers >= 0, path, ": vocabulary ",
          c.vocabulary, ", context ", c.context, " and model_dims ", c.model_dims, " must be > 0, num_layers ",
          c.num_layers, " >= 0");
  require(c.attention_shared_ids.empty() || static_cast<Index>(c.attention_shared_ids.size()) == c.num_layers, path,
          ": ", c.attention_shared_ids.size(), " attention_shared_ids for ", c.num_layers, " layers");
  nn::detail::check_rate(path, "dropout", c.dropout);
  nn::detail::check_not_negative(path, "init_deviation", c.init_deviation);
  nn::detail::check_not_negative(path, "head_chunk", c.head_chunk);
  nn::detail::check(path, c.blockwise);
  require(c.remat_every > 0, path, ": remat_every must be > 0, got ", c.remat_every);
  require(c.blockwise.query_chunk == 0 || !c.combined_qkv, path, ": blockwise.query_chunk ", c.blockwise.query_chunk,
          " has keys and values projected before queries; set combined_qkv = false");
  if (c.num_layers > 0) completed(stack(c).layers.front(), path + "/decoder/layer_0");
  return c;
}

template <class T>
nn::StackedTransformerConfig Gpt<T>::stack(const GptConfig& c) {
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
  nn::StackedTransformerConfig stack{.remat = c.remat, .remat_every = c.remat_every, .skip_stream = c.skip_stream};
  stack.layers.assign(static_cast<std::size_t>(c.num_layers), layer);
  for (std::size_t i = 0; i < c.attention_shared_ids.size(); ++i)
    stack.layers[i].attention.shared_weight_id = c.attention_shared_ids[i];
  return stack;
}

template <class T>
std::vector<std::int32_t> Gpt<T>::generate(std::vector<std::int32_t> prompt, const Generation& options) const {
  require(!prompt.empty(), path, ": generate needs a prompt of at least one token");
  nn::detail::check_not_negative(path, "generate: length", options.length);
  nn::detail::check_not_negative(path, "generate: temperature", options.temperature);
  nn::detail::check_not_negative(path, "generate: top_k", options.top_k);
  for (std::size_t i = 0; i < prompt.size(); ++i)
    require(prompt[i] >= 0 && prompt[i] < config.vocabulary, path, ": generate: prompt[", i, "] is ", prompt[i],
            ", but the vocabulary has ", config.vocabulary, " tokens");
  const RandomStream random{options.seed, 0, 0};
  for (Index i = 0; i < options.length; ++i) {
    Tape tape({.mode = Mode::evaluate});
    const std::size_t length = std::min(prompt.size(), static_cast<std::size_t>(config.context));
    const Tensor<std::int32_t> ids({1, static_cast<Index>(length)}, std::span<const std::int32_t>(prompt).last(length));
    const Tensor<T> scores = logits(tape, ids).value();
    prompt.push_back(sample_token(
        scores.span().last(static_cast<std::size_t>(config.vocabulary)), options.temperature, options.top_k,
        random.uniform(static_cast<std::uint64_t>(i)),
        path + ": generate: token " + std::to_string(i + 1) + " of " + std::to_string(options.length) + ": "));
  }
  return prompt;
}

}}}  // namespace remat::models
