// An encoder-decoder transformer (Vaswani et al. 2017): a source is read whole, a target token by token.
#pragma once

#include <algorithm>
#include <remat/models/encoder_decoder_config.hpp>
#include <remat/models/sampling.hpp>
#include <remat/nn/embedding.hpp>
#include <remat/ops/dropout.hpp>
#include <remat/ops/linear_cross_entropy.hpp>
#include <remat/ops/positions.hpp>
#include <remat/ops/slice.hpp>
#include <string>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace models {

/// Token embeddings (and positions where there are), two stacks, a norm behind each, and a head.
/// A copy is a handle to the same weights.
template <class T>
struct EncoderDecoder {
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
    AttentionMasks<T> masks;
    if (lengths.size() > 0) masks.key_lengths = tape.input(lengths);
    return encoder_norm(encoder(embedded(tape, ids, source_embedding, source_positions, 0), masks));
  }
  /// Logits [B, T, V] of what follows each of `batch.inputs`.
  Var<T> logits(Tape& tape, const SourceBatch& batch) const {
    const auto here = tape.layer(path);
    return by_head(hidden(tape, batch));
  }
  /// Mean negative log-likelihood of `batch.targets` behind `batch.inputs`, in nats. Logits never exist whole.
  Var<Accum<T>> loss(Tape& tape, const SourceBatch& batch) const {
    const auto here = tape.layer(path);
    return linear_cross_entropy<T>(hidden(tape, batch), head_table(), {}, tape.input(batch.targets),
                                   {.transposed = true, .chunk = config.head_chunk});
  }
  /// Decoding: ids [B, T], the target's tokens behind those of the cache, which is extended, beside `memory` of
  /// `encode`, whose keys and values it keeps from the first call on -> logits [B, V] of what follows. On a tape in
  /// evaluate mode.
  Var<T> next_logits(Tape& tape, const Tensor<std::int32_t>& ids, const Var<T>& memory, nn::KeyValueCache<T>& cache,
                     const Tensor<std::int32_t>& lengths = {}) const {
    const auto here = tape.layer(path);
    AttentionMasks<T> masks;
    if (lengths.size() > 0) masks.key_lengths = tape.input(lengths);
    const auto x = embedded(tape, ids, embedding, positions, cache.length());
    const Var<T> h = decoder_norm(decoder(x, memory, cache, masks));
    const Index length = h.shape()[1];
    return by_head(slice(h, 1, length - 1, length).reshape({h.shape()[0], config.model_dims}));
  }
  /// Up to `length` tokens for each row of a source, the likeliest each time, from `begin` on and until `end`, which is
  /// the last of a row that reaches it; neither counts to `length`, and `begin` is not among them.
  std::vector<std::vector<std::int32_t>> translate(const SourceBatch& batch, Index length, std::int32_t begin,
                                                   std::int32_t end) const;

 private:
  EncoderDecoder(const LayerScope& scope, const EncoderDecoderConfig& c, int);
  Var<Accum<T>> embedded(Tape& tape, const Tensor<std::int32_t>& ids, const nn::Embedding<T>& table,
                         const std::optional<nn::Embedding<T>>& places, Index first) const {
    require(ids.shape().rank() == 2, path, ": ids have shape ", ids.shape(), ", [batch, length] is needed");
    Var<Accum<T>> x = table.template rows<Accum<T>>(tape.input(ids));
    if (config.embedding_multiplier != 1) x = x * static_cast<Accum<T>>(config.embedding_multiplier);
    if (places) x = add_positions<Accum<T>>(x, places->table, first);
    return dropout(x, config.dropout);
  }
  Var<T> hidden(Tape& tape, const SourceBatch& batch) const {
    const Var<T> memory = encode(tape, batch.source, batch.source_lengths);
    AttentionMasks<T> masks;
    if (batch.source_lengths.size() > 0) masks.key_lengths = tape.input(batch.source_lengths);
    return decoder_norm(decoder(embedded(tape, batch.inputs, embedding, positions, 0), memory, {}, masks));
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
  if (!c.tied_head)
    head = (scope / "head")
               .template parameter<Accum<T>>("w", {c.vocabulary, c.model_dims}, init::normal(c.init_deviation));
}

template <class T>
std::vector<std::vector<std::int32_t>> EncoderDecoder<T>::translate(const SourceBatch& batch, Index length,
                                                                    std::int32_t begin, std::int32_t end) const {
  nn::detail::check_not_negative(path, "translate: length", length);
  std::vector<std::vector<std::int32_t>> texts(static_cast<std::size_t>(batch.source.shape().front()));
  const auto rows = static_cast<Index>(texts.size());
  if (length == 0 || rows == 0) return texts;
  Tensor<T> memory;
  {
    Tape tape({.mode = Mode::evaluate});
    memory = encode(tape, batch.source, batch.source_lengths).value();
  }
  nn::KeyValueCache<T> cache(length);
  std::vector<std::int32_t> last(texts.size(), begin);
  std::vector<bool> has_ended(texts.size());
  for (Index i = 0; i < length && std::find(has_ended.begin(), has_ended.end(), false) != has_ended.end(); ++i) {
    Tape tape({.mode = Mode::evaluate});
    const Tensor<std::int32_t> ids({rows, 1}, std::span<const std::int32_t>(last));
    const Tensor<T> scores = next_logits(tape, ids, tape.input(memory), cache, batch.source_lengths).value();
    for (std::size_t row = 0; row < texts.size(); ++row) {
      const auto of_row = scores.span().subspan(row * static_cast<std::size_t>(config.vocabulary),
                                                static_cast<std::size_t>(config.vocabulary));
      last[row] = sample_token(of_row, Sampling{.temperature = 0}, {}, 0, path + ": translate: ");
      if (!has_ended[row]) texts[row].push_back(last[row]);
      has_ended[row] = has_ended[row] || last[row] == end;
    }
  }
  return texts;
}

}}}  // namespace remat::models
