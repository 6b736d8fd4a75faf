// An encoder-decoder transformer (Vaswani et al. 2017): a source is read whole, a target token by token.
#pragma once

#include <remat/models/checkpointed.hpp>
#include <remat/models/encoder_decoder_config.hpp>
#include <remat/models/translation.hpp>
#include <remat/nn/embedding.hpp>
#include <remat/ops/dropout.hpp>
#include <remat/ops/linear_cross_entropy.hpp>
#include <remat/ops/positions.hpp>
#include <remat/ops/slice.hpp>
#include <string>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace models {

/// Token embeddings (and positions where there are), two stacks, a norm behind each, and a head.
/// A copy is a handle to the same weights.
template <class T>
struct EncoderDecoder : Checkpointed<EncoderDecoder<T>> {
  const EncoderDecoderConfig config;                            // as built
  std::string path;                                             // the model's path in the registry
  nn::Embedding<T> source_embedding, embedding;                 // [V, D]; one table where it is shared
  std::optional<nn::Embedding<T>> source_positions, positions;  // [context, D]
  nn::StackedTransformer<T> encoder, decoder;                   // the layers
  nn::Norm<T> encoder_norm, decoder_norm;                       // behind them
  std::optional<Parameter<Accum<T>>> head;                      // [V, D] when not tied

  /// Makes its parameters in `where`. An `Error` names the first setting that is out of its range.
  EncoderDecoder(const Scope& where, const EncoderDecoderConfig& c)
      : EncoderDecoder(LayerScope(where), detail::checked(c, where.use_path()), 0) {}

  /// What the decoder looks at: ids [B, S] -> [B, S, D].
  Var<T> encode(Tape& tape, const Tensor<std::int32_t>& ids, const Tensor<std::int32_t>& lengths = {}) const {
    const auto here = tape.layer(path);
    return encoded(tape, ids, lengths, nullptr);
  }
  /// Logits [B, T, V] of what follows each of `batch.inputs`.
  Var<T> logits(Tape& tape, const SourceBatch& batch) const {
    const auto here = tape.layer(path);
    return by_head(hidden(tape, batch, nullptr));
  }
  /// Mean negative log-likelihood of `batch.targets` behind `batch.inputs`, in nats; in training the losses of layers
  /// with experts are added by their weights. Logits never exist whole.
  Var<Accum<T>> loss(Tape& tape, const SourceBatch& batch) const {
    const auto here = tape.layer(path);
    Var<Accum<T>> auxiliary;
    const Var<T> h = hidden(tape, batch, tape.mode() == Mode::evaluate ? nullptr : &auxiliary);
    const auto loss = linear_cross_entropy<T>(h, head_table(), {}, tape.input(batch.targets),
                                              {.transposed = true, .chunk = config.head_chunk});
    return auxiliary ? loss + auxiliary : loss;
  }
  /// Decoding: ids [B, T], the target's tokens behind those of the cache, which is extended, beside `memory` of
  /// `encode`, whose keys and values it keeps from the first call on -> logits [B, V] of what follows. On a tape in
  /// evaluate mode.
  Var<T> next_logits(Tape& tape, const Tensor<std::int32_t>& ids, const Var<T>& memory, nn::KeyValueCache<T>& cache,
                     const Tensor<std::int32_t>& lengths = {}) const {
    const auto here = tape.layer(path);
    const auto masks = detail::masks_of<T>(tape, lengths);
    const Var<T> h =
        decoder_norm(decoder(embedded(tape, ids, embedding, positions, cache.length()), memory, cache, masks));
    const Index length = h.shape()[1];
    return by_head(slice(h, 1, length - 1, length).reshape({h.shape()[0], config.model_dims}));
  }
  /// Up to `length` tokens for each row of a source, the likeliest each time, from `begin` on and until `end`, which is
  /// the last of a row that reaches it; neither counts to `length`, and `begin` is not among them.
  std::vector<std::vector<std::int32_t>> translate(const SourceBatch& batch, Index length, std::int32_t begin,
                                                   std::int32_t end) const {
    return detail::translated<T>(*this, batch, length, begin, end);
  }

 private:
  friend Checkpointed<EncoderDecoder>;
  void for_each_stack(auto&& f) { f(encoder), f(decoder); }
  EncoderDecoder(const LayerScope& scope, const EncoderDecoderConfig& c, int);
  Var<Accum<T>> embedded(Tape& tape, const Tensor<std::int32_t>& ids, const nn::Embedding<T>& table,
                         const std::optional<nn::Embedding<T>>& places, Index first) const {
    require(ids.shape().rank() == 2, path, ": ids have shape ", ids.shape(), ", [batch, length] is needed");
    Var<Accum<T>> x = table.template rows<Accum<T>>(tape.input(ids));
    if (config.embedding_multiplier != 1) x = x * static_cast<Accum<T>>(config.embedding_multiplier);
    if (places) x = add_positions<Accum<T>>(x, places->table, first);
    return dropout(x, config.dropout);
  }
  Var<T> encoded(Tape& tape, const Tensor<std::int32_t>& ids, const Tensor<std::int32_t>& lengths,
                 Var<Accum<T>>* auxiliary) const {
    const auto masks = detail::masks_of<T>(tape, lengths);
    return encoder_norm(detail::through_stack<T>(encoder, embedded(tape, ids, source_embedding, source_positions, 0),
                                                 masks, nullptr, {}, auxiliary));
  }
  Var<T> hidden(Tape& tape, const SourceBatch& batch, Var<Accum<T>>* auxiliary) const {
    const Var<T> memory = encoded(tape, batch.source, batch.source_lengths, auxiliary);
    const auto masks = detail::masks_of<T>(tape, batch.source_lengths);
    const auto own = detail::masks_of<T>(tape, batch.target_lengths);
    const auto x = embedded(tape, batch.inputs, embedding, positions, 0);
    return decoder_norm(detail::through_stack<T>(decoder, x, own, &memory, masks, auxiliary));
  }
  Var<T> by_head(const Var<T>& x) const { return linear<T>(x, head_table(), {}, {.transposed = true}); }
  const Parameter<Accum<T>>& head_table() const { return head ? *head : embedding.table; }
};

template <class T>
EncoderDecoder<T>::EncoderDecoder(const LayerScope& scope, const EncoderDecoderConfig& c, int)
    : config(c),
      path(scope.use_path()),
      source_embedding(
          scope / (c.shared_embedding ? "embedding" : "source_embedding"),
          {.vocabulary = c.vocabulary, .model_dims = c.model_dims, .init = init::normal(c.init_deviation)}),
      embedding(c.shared_embedding ? source_embedding
                                   : nn::Embedding<T>(scope / "embedding", {.vocabulary = c.vocabulary,
                                                                            .model_dims = c.model_dims,
                                                                            .init = init::normal(c.init_deviation)})),
      encoder(scope / "encoder", detail::stack_of(c, false)),
      decoder(scope / "decoder", detail::stack_of(c, true)),
      encoder_norm(scope / "encoder_norm", c.norm, c.model_dims, true, c.norm_epsilon),
      decoder_norm(scope / "decoder_norm", c.norm, c.model_dims, true, c.norm_epsilon) {
  const nn::EmbeddingConfig places{
      .vocabulary = c.context, .model_dims = c.model_dims, .init = init::normal(c.init_deviation)};
  if (c.context > 0) source_positions.emplace(scope / "source_positions", places);
  if (c.context > 0) positions.emplace(scope / "positions", places);
  if (!c.tied_head) {
    head = (scope / "head")
               .template parameter<Accum<T>>("w", {c.vocabulary, c.model_dims}, init::normal(c.init_deviation));
    head->entry()->is_head = true;
  }
}

}}}  // namespace remat::models
