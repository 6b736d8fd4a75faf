// A decoder-only transformer language model, told by its config: GPT-2, Llama, Qwen 3, OLMo 3, Gemma 3, Falcon, ...
#pragma once

#include <functional>
#include <optional>
#include <remat/models/checkpointed.hpp>
#include <remat/models/continuation.hpp>
#include <remat/models/decoder_config.hpp>
#include <remat/models/decoder_hidden.hpp>
#include <remat/nn/embedding.hpp>
#include <remat/nn/stacked_transformer.hpp>
#include <remat/ops/linear_cross_entropy.hpp>
#include <string>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace models {

/// Token embeddings (and position embeddings where positions are learned), a stack of layers, a norm, and a head.
/// A copy is a handle to the same weights: for weights of its own, build it on a registry of its own and `copy_values`.
template <class T>
struct Decoder : Checkpointed<Decoder<T>> {
  const DecoderConfig config;               // as built; what still rules is set by set_remat and in the parts
  std::string path;                         // the model's path in the registry
  nn::Embedding<T> embedding;               // of tokens: [V, D]
  Parameter<Accum<T>> positions;            // [context, D], where they are learned
  nn::StackedTransformer<T> decoder;        // the layers
  nn::Norm<T> final_norm;                   // before the head
  std::optional<Parameter<Accum<T>>> head;  // [V, D] when not tied
  Index head_chunk;                         // as of the config, of the steps recorded from now on

  /// Makes its parameters in `where`. An `Error` names the first setting that is out of its range.
  Decoder(const Scope& where, const DecoderConfig& c)
      : Decoder(LayerScope(where), detail::checked(c, where.use_path()), 0) {}

  /// Of the steps recorded from now on. An `Error` while gradient checkpointing is on.
  void set_remat(const Policy& policy) { decoder.set_remat(policy); }
  /// Of the steps recorded from now on: tokens whose logits exist at one time in a loss, and tokens that a feed-forward
  /// without experts takes at one time; 0: as the config says. Losses then differ by rounding.
  void set_chunks(Index of_head, Index of_ffn) { detail::set_chunks(*this, of_head, of_ffn); }

  /// ids [B, T] -> logits [B, T, V]
  Var<T> logits(Tape& tape, const Tensor<std::int32_t>& ids) const;
  /// Decoding: ids [B, T], the tokens behind those of the cache, which is extended -> logits [B, V] of what follows the
  /// last. On a tape in evaluate mode. Rows may have unlike numbers of tokens: row b the first `lengths[b]` of T, 0 or
  /// more, behind which lie ids that count for nothing; what follows none is not told. Whole sequences of a batch by
  /// `generate` and `prefill` of generation.hpp.
  Var<T> next_logits(Tape& tape, const Tensor<std::int32_t>& ids, nn::KeyValueCache<T>& cache,
                     const std::vector<Index>& lengths = {}) const;
  /// Mean negative log-likelihood of `batch.targets` after `batch.inputs`, both [B, T], in nats. Logits never exist
  /// whole. A batch with `segments` [B, T] is packed: a token sees those of its own segment only. In training the
  /// auxiliary losses of layers with experts are added by their weights.
  template <class Batch>
  Var<Accum<T>> loss(Tape& tape, const Batch& batch) const {
    if constexpr (requires { batch.segments; })
      return loss(tape, batch.inputs, batch.targets, batch.segments);
    else
      return loss(tape, batch.inputs, batch.targets);
  }
  /// The same of inputs and targets [B, T]; a target of -1 does not count. Of sequences packed into rows, segments
  /// [B, T] are equal within a sequence and differ between neighbours (empty: a row is a sequence). Positions go on
  /// through a row, which rotary attention does not see; an `Error` where they are learned.
  Var<Accum<T>> loss(Tape& tape, const Tensor<std::int32_t>& inputs, const Tensor<std::int32_t>& targets,
                     const Tensor<std::int32_t>& segments = {}) const;
  using Generation = models::Generation;  // how `generate` chooses tokens
  /// `prompt` (not empty) followed by `length` sampled tokens; the last `context` tokens are looked at. An `Error` for
  /// options and ids out of range, before any work, and for logits that are NaN or infinite, which names the token.
  std::vector<std::int32_t> generate(std::vector<std::int32_t> prompt, const Generation& options) const {
    return generate(std::move(prompt), options, [](std::int32_t) { return true; });
  }
  /// The same; `more(token)` is told each token as it is chosen, and generation ends behind the first for which it
  /// returns false.
  std::vector<std::int32_t> generate(std::vector<std::int32_t> prompt, const Generation& options,
                                     const std::function<bool(std::int32_t)>& more) const;

 private:
  friend Checkpointed<Decoder>;
  void for_each_stack(auto&& f) { f(decoder); }
  Decoder(const LayerScope& scope, const DecoderConfig& c, int);
  Var<T> by_head(const Var<T>& x) const {
    return detail::capped(linear<T>(x, head_table(), {}, {.transposed = true}), config);
  }
  const Parameter<Accum<T>>& head_table() const { return head ? *head : embedding.table; }
};

template <class T>
Decoder<T>::Decoder(const LayerScope& scope, const DecoderConfig& c, int)
    : config(c),
      path(scope.use_path()),
      embedding(scope / "embedding",
                {.vocabulary = c.vocabulary, .model_dims = c.model_dims, .init = init::normal(c.init_deviation)}),
      decoder(scope / "decoder", detail::stack_of(c)),
      final_norm(scope / "final_norm", c.norm, c.model_dims, c.norm_bias, c.norm_epsilon, c.norm_scale),
      head_chunk(c.head_chunk) {
  const auto table = [&](const char* name, const char* what, Index rows) {
    return (scope / name).template parameter<Accum<T>>(what, {rows, c.model_dims}, init::normal(c.init_deviation));
  };
  if (c.learned_positions) positions = table("positions", "table", c.context);
  if (!c.tied_head) {
    head = table("head", "w", c.vocabulary);
    head->entry()->is_head = true;
  }
}

template <class T>
Var<T> Decoder<T>::logits(Tape& tape, const Tensor<std::int32_t>& ids) const {
  const auto here = tape.layer(path);
  return by_head(detail::hidden<T>(*this, tape, ids));
}

template <class T>
Var<T> Decoder<T>::next_logits(Tape& tape, const Tensor<std::int32_t>& ids, nn::KeyValueCache<T>& cache,
                               const std::vector<Index>& lengths) const {
  const auto here = tape.layer(path);
  require(ids.size() > 0, path, ": next_logits was given ids of shape ", ids.shape(), ", at least one token is needed");
  require(lengths.empty() || static_cast<Index>(lengths.size()) == ids.shape()[0], path, ": next_logits was given ",
          lengths.size(), " lengths and ids of shape ", ids.shape());
  cache.expect(lengths);
  return by_head(detail::last_tokens(detail::hidden<T>(*this, tape, ids, {.cache = &cache}), lengths));
}

template <class T>
Var<Accum<T>> Decoder<T>::loss(Tape& tape, const Tensor<std::int32_t>& inputs, const Tensor<std::int32_t>& targets,
                               const Tensor<std::int32_t>& segments) const {
  require(targets.size() > 0, path, ": a batch of shape ", targets.shape(),
          " has no tokens to learn; its loss would be 0 whatever the weights");
  const auto here = tape.layer(path);
  Var<Accum<T>> auxiliary;
  const Var<T> h = detail::hidden<T>(*this, tape, inputs,
                                     {.segments = segments.size() > 0 ? &segments : nullptr,
                                      .auxiliary = tape.mode() != Mode::evaluate ? &auxiliary : nullptr});
  // Of a head that is not trained nothing is kept but the gradient of what it reads, in the place of that.
  const Var<Accum<T>> loss =
      linear_cross_entropy<T>(h, head_table(), {}, tape.input(targets),
                              {.soft_cap = config.logit_soft_cap,
                               .transposed = true,
                               .chunk = head_chunk,
                               .keep_gradients = config.keep_head_gradients || head_table().is_frozen(),
                               .logit_multiplier = config.logit_multiplier});
  return auxiliary ? loss + auxiliary : loss;
}

template <class T>
std::vector<std::int32_t> Decoder<T>::generate(std::vector<std::int32_t> prompt, const Generation& options,
                                               const std::function<bool(std::int32_t)>& more) const {
  return detail::continued<T>(*this, std::move(prompt), options, more);
}

}}}  // namespace remat::models
