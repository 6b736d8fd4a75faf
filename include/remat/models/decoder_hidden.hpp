// What a decoder computes: from tokens to what its head reads, and what becomes of logits.
#pragma once

#include <algorithm>
#include <remat/models/decoder_config.hpp>
#include <remat/nn/attention_masks.hpp>
#include <remat/nn/key_value_cache.hpp>
#include <remat/nn/stacked_transformer.hpp>
#include <remat/ops/arithmetic.hpp>
#include <remat/ops/dropout.hpp>
#include <remat/ops/embedding.hpp>
#include <remat/ops/positions.hpp>
#include <remat/ops/slice.hpp>
#include <remat/ops/take_rows.hpp>
#include <remat/ops/unary_activations.hpp>
#include <span>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace models::detail {

/// What a decoder is given beside tokens; all may be left out.
template <class T>
struct DecoderInput {
  nn::KeyValueCache<T>* cache = nullptr;           // of the tokens before, which is extended
  const Tensor<std::int32_t>* segments = nullptr;  // [B, T], of packed sequences
  Var<Accum<T>>* auxiliary = nullptr;              // where the losses of layers with experts go
};

/// ids [B, T] -> what enters the first layer, [B, T, D], by a skip stream of X.
template <class X, class T, class Model>
Var<X> embedded(const Model& model, Tape& tape, const Tensor<std::int32_t>& ids, const nn::KeyValueCache<T>* cache) {
  Var<X> x = model.embedding.template rows<X>(tape.input(ids));
  if (model.config.embedding_multiplier != 1) x = x * model.config.embedding_multiplier;
  if (model.positions && cache != nullptr && !nn::detail::all_equal(cache->lengths())) {
    Tensor<std::int32_t> places = nn::detail::positions_behind(cache->lengths(), ids.shape()[1]);
    for (std::int32_t& place : places.write())  // that of padding may lie beyond
      place = std::min(place, static_cast<std::int32_t>(model.config.context) - 1);
    x = x + remat::embedding<X>(tape.input(places), model.positions);
  } else if (model.positions) {
    x = add_positions<X>(x, model.positions, cache != nullptr ? cache->length() : 0);
  }
  return checkpoint_name(dropout(x, model.config.dropout), "iteration_input");
}

template <class X, class T, class Model>
Var<T> hidden_by(const Model& model, Tape& tape, const Tensor<std::int32_t>& ids, const DecoderInput<T>& input) {
  const nn::StackedTransformer<T>& stack = model.decoder;
  // A region of its own, so that what enters the first layer can be offloaded like what enters the others.
  const Var<X> x = tape.region(stack.checkpointing ? Policy(policy::everything) : stack.remat,
                               [&] { return embedded<X>(model, tape, ids, input.cache); });
  if (input.cache != nullptr) return model.final_norm(stack(x, *input.cache));
  AttentionMasks<T> masks;
  if (input.segments != nullptr) masks.query_segments = tape.input(*input.segments);
  if (input.auxiliary == nullptr || !stack.has_experts()) return model.final_norm(stack(x, masks));
  const auto [h, loss] = stack.with_auxiliary(x, masks);
  *input.auxiliary = loss;
  return model.final_norm(h);
}

/// ids [B, T] -> [B, T, D], what the head of `model`, a decoder, reads. An `Error` for what does not fit its context.
template <class T, class Model>
Var<T> hidden(const Model& model, Tape& tape, const Tensor<std::int32_t>& ids, const DecoderInput<T>& input = {}) {
  require(
      input.segments == nullptr || !model.positions, model.path,
      ": packed sequences begin at other positions than 0, but its positions are learned; give each sequence a row");
  const Index context = model.config.context, before = input.cache != nullptr ? input.cache->length() : 0;
  const Index length = ids.shape().rank() == 2 ? ids.shape()[1] : 0;
  const Index ranks = tape.ring() == nullptr ? 1 : tape.ring()->size();  // each has a part of the sequences
  const Index most = input.cache != nullptr && length > 0 ? input.cache->length_with(length) : length * ranks;
  require(ids.shape().rank() == 2 && (context == 0 || most <= context), model.path, ": ids ", ids.shape(),
          " must be [batch, length] with length <= context ", context,
          before > 0 ? " less what the cache has seen" : "");
  const auto& layers = model.decoder.layers;
  const bool is_accum = !layers.empty() ? layers.front().config.skip_stream == nn::SkipStream::accum
                                        : model.config.skip_stream != nn::SkipStream::compute;
  return is_accum ? hidden_by<Accum<T>>(model, tape, ids, input) : hidden_by<T>(model, tape, ids, input);
}

/// h [B, T, D] -> [B, D]: of each row its last token, or that of its first `lengths[b]` (0 counts as 1).
template <class T>
Var<T> last_tokens(const Var<T>& h, const std::vector<Index>& lengths) {
  const Index rows = h.shape()[0], length = h.shape()[1], dims = h.shape()[2];
  if (lengths.empty()) return slice(h, 1, length - 1, length).reshape({rows, dims});
  std::vector<std::int32_t> last;
  for (std::size_t b = 0; b < lengths.size(); ++b)
    last.push_back(static_cast<std::int32_t>(static_cast<Index>(b) * length + std::max<Index>(1, lengths[b]) - 1));
  return take_rows(h.reshape({rows * length, dims}), Tensor<std::int32_t>({rows}, std::span<const std::int32_t>(last)));
}

/// As the model's `set_chunks` says; an `Error` for a negative one.
template <class Model>
void set_chunks(Model& model, Index of_head, Index of_ffn) {
  nn::detail::check_not_negative(model.path, "set_chunks: of_head", of_head);
  nn::detail::check_not_negative(model.path, "set_chunks: of_ffn", of_ffn);
  model.head_chunk = of_head > 0 ? of_head : model.config.head_chunk;
  for (auto& layer : model.decoder.layers)
    if (!layer.routed) layer.ffn.chunk = of_ffn > 0 ? of_ffn : layer.ffn.config.blockwise.ffn_chunk;
}

/// What the head makes of it: logits by the config's multiplier, then cap tanh(logits / cap) where there is a cap.
template <class T>
Var<T> capped(const Var<T>& logits, const DecoderConfig& config) {
  const double factor = config.logit_multiplier, cap = config.logit_soft_cap;
  if (cap > 0) return tanh(logits * (factor / cap)) * cap;
  return factor != 1 ? logits * factor : logits;
}

}}}  // namespace remat::models::detail
