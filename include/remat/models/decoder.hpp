// A decoder-only transformer language model, told by its config: GPT-2, Llama, SmolLM2, Qwen 3, OLMo 3, Gemma 3,
// Granite, Falcon.
#pragma once

#include <algorithm>
#include <functional>
#include <remat/models/decoder_config.hpp>
#include <remat/models/sampling.hpp>
#include <remat/nn/embedding.hpp>
#include <remat/nn/stacked_transformer.hpp>
#include <remat/ops/linear_cross_entropy.hpp>
#include <remat/ops/positions.hpp>
#include <remat/ops/take_rows.hpp>
#include <string>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace models {

/// Token embeddings (and position embeddings where positions are learned), a stack of layers, a norm, and a head.
/// A copy is a handle to the same weights: for weights of its own, build it on a registry of its own and `copy_values`.
template <class T>
struct Decoder {
  const DecoderConfig config;               // as built; what still rules is set by set_remat and in the parts
  std::string path;                         // the model's path in the registry
  nn::Embedding<T> embedding;               // of tokens: [V, D]
  Parameter<Accum<T>> positions;            // [context, D], where they are learned
  nn::StackedTransformer<T> decoder;        // the layers
  nn::Norm<T> final_norm;                   // before the head
  std::optional<Parameter<Accum<T>>> head;  // [V, D] when not tied

  /// Makes its parameters in `where`. An `Error` names the first setting that is out of its range.
  Decoder(const Scope& where, const DecoderConfig& c)
      : Decoder(LayerScope(where), detail::checked(c, where.use_path()), 0) {}

  /// Of the steps recorded from now on. An `Error` while gradient checkpointing is on.
  void set_remat(const Policy& policy) { decoder.set_remat(policy); }
  /// Layers are recomputed in backward from the next step on, whatever `remat` says; embeddings and head are not: the
  /// same bits for less memory. An `Error` unless every_n_layers is above 0.
  void enable_gradient_checkpointing(const nn::GradientCheckpointing& how = {}) {
    decoder.enable_gradient_checkpointing(how);
  }
  /// The same, nothing kept of each n-th layer but what it makes, which waits in memory or on disk.
  void activation_checkpointing_enable(Index every_n_layers = 1, bool is_offloaded = false) {
    decoder.enable_gradient_checkpointing(nn::activation_checkpointing(every_n_layers, is_offloaded));
  }
  /// Steps are recorded as `remat` says, from the next on.
  void disable_gradient_checkpointing() { decoder.disable_gradient_checkpointing(); }

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
  /// The same of inputs and targets [B, T]; a target of -1 does not count.
  Var<Accum<T>> loss(Tape& tape, const Tensor<std::int32_t>& inputs, const Tensor<std::int32_t>& targets) const {
    return loss_of(tape, inputs, targets, nullptr);
  }
  /// The same of sequences packed into rows: segments [B, T] are equal within a sequence and differ between
  /// neighbours. Positions go on through a row, which rotary attention does not see; an `Error` where they are learned.
  Var<Accum<T>> loss(Tape& tape, const Tensor<std::int32_t>& inputs, const Tensor<std::int32_t>& targets,
                     const Tensor<std::int32_t>& segments) const {
    return loss_of(tape, inputs, targets, &segments);
  }

  /// How `generate` chooses tokens.
  struct Generation {
    Index length = 500;                                   // tokens behind the prompt
    double temperature = 0.8;                             // 0: the likeliest token
    Index top_k = 0;                                      // 0: all tokens
    std::uint64_t seed = 1;                               // of the choices
    double top_p = 1, min_p = 0, repetition_penalty = 1;  // as of `Sampling`
  };
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
  Decoder(const LayerScope& scope, const DecoderConfig& c, int);
  Var<Accum<T>> loss_of(Tape& tape, const Tensor<std::int32_t>& inputs, const Tensor<std::int32_t>& targets,
                        const Tensor<std::int32_t>* segments) const;
  /// ids [B, T] -> [B, T, D], what the head reads; with `cache`, of the tokens behind those that it has seen; with
  /// `segments` [B, T], of packed sequences.
  Var<T> hidden(Tape& tape, const Tensor<std::int32_t>& ids, nn::KeyValueCache<T>* cache = nullptr,
                const Tensor<std::int32_t>* segments = nullptr, Var<Accum<T>>* auxiliary = nullptr) const;
  /// The same by a skip stream of X.
  template <class X>
  Var<T> hidden_by(Tape& tape, const Tensor<std::int32_t>& ids, nn::KeyValueCache<T>* cache,
                   const Tensor<std::int32_t>* segments, Var<Accum<T>>* auxiliary) const;
  /// Logits of x [..., D], multiplied and capped.
  Var<T> by_head(const Var<T>& x) const {
    const Var<T> y = linear<T>(x, head_table(), {}, {.transposed = true});
    const double factor = config.logit_multiplier, cap = config.logit_soft_cap;
    if (cap > 0) return tanh(y * (factor / cap)) * cap;
    return factor != 1 ? y * factor : y;
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
      final_norm(scope / "final_norm", c.norm, c.model_dims, c.norm_bias, c.norm_epsilon, c.norm_scale) {
  const auto table = [&](const char* name, const char* what, Index rows) {
    return (scope / name).template parameter<Accum<T>>(what, {rows, c.model_dims}, init::normal(c.init_deviation));
  };
  if (c.learned_positions) positions = table("positions", "table", c.context);
  if (!c.tied_head) head = table("head", "w", c.vocabulary);
}

template <class T>
Var<T> Decoder<T>::logits(Tape& tape, const Tensor<std::int32_t>& ids) const {
  const auto here = tape.layer(path);
  return by_head(hidden(tape, ids));
}

template <class T>
Var<T> Decoder<T>::next_logits(Tape& tape, const Tensor<std::int32_t>& ids, nn::KeyValueCache<T>& cache,
                               const std::vector<Index>& lengths) const {
  const auto here = tape.layer(path);
  require(ids.size() > 0, path, ": next_logits was given ids of shape ", ids.shape(), ", at least one token is needed");
  require(lengths.empty() || static_cast<Index>(lengths.size()) == ids.shape()[0], path, ": next_logits was given ",
          lengths.size(), " lengths and ids of shape ", ids.shape());
  cache.expect(lengths);
  const Var<T> h = hidden(tape, ids, &cache);
  const Index length = h.shape()[1];
  if (!lengths.empty()) {
    std::vector<std::int32_t> last;
    for (std::size_t b = 0; b < lengths.size(); ++b)
      last.push_back(static_cast<std::int32_t>(static_cast<Index>(b) * length + std::max<Index>(1, lengths[b]) - 1));
    const Tensor<std::int32_t> rows({h.shape()[0]}, std::span<const std::int32_t>(last));
    return by_head(take_rows(h.reshape({h.shape()[0] * length, config.model_dims}), rows));
  }
  return by_head(slice(h, 1, length - 1, length).reshape({h.shape()[0], config.model_dims}));
}

template <class T>
Var<Accum<T>> Decoder<T>::loss_of(Tape& tape, const Tensor<std::int32_t>& inputs, const Tensor<std::int32_t>& targets,
                                  const Tensor<std::int32_t>* segments) const {
  require(targets.size() > 0, path, ": a batch of shape ", targets.shape(),
          " has no tokens to learn; its loss would be 0 whatever the weights");
  const auto here = tape.layer(path);
  Var<Accum<T>> auxiliary;
  const Var<T> h = hidden(tape, inputs, nullptr, segments, tape.mode() == Mode::evaluate ? nullptr : &auxiliary);
  // Of a head that is not trained nothing is kept but the gradient of what it reads, in the place of that.
  const Var<Accum<T>> loss =
      linear_cross_entropy<T>(h, head_table(), {}, tape.input(targets),
                              {.soft_cap = config.logit_soft_cap,
                               .transposed = true,
                               .chunk = config.head_chunk,
                               .keep_gradients = config.keep_head_gradients || head_table().is_frozen(),
                               .logit_multiplier = config.logit_multiplier});
  return auxiliary ? loss + auxiliary : loss;
}

template <class T>
std::vector<std::int32_t> Decoder<T>::generate(std::vector<std::int32_t> prompt, const Generation& options,
                                               const std::function<bool(std::int32_t)>& more) const {
  require(!prompt.empty(), path, ": generate needs a prompt of at least one token");
  nn::detail::check_not_negative(path, "generate: length", options.length);
  nn::detail::check_not_negative(path, "generate: temperature", options.temperature);
  nn::detail::check_not_negative(path, "generate: top_k", options.top_k);
  nn::detail::check_not_negative(path, "generate: min_p", options.min_p);
  nn::detail::check_positive(path, "generate: top_p", options.top_p);
  nn::detail::check_positive(path, "generate: repetition_penalty", options.repetition_penalty);
  require(options.top_p <= 1 && options.min_p <= 1, path, ": generate: top_p ", options.top_p, " and min_p ",
          options.min_p, " are parts of 1");
  for (std::size_t i = 0; i < prompt.size(); ++i)
    require(prompt[i] >= 0 && prompt[i] < config.vocabulary, path, ": generate: prompt[", i, "] is ", prompt[i],
            ", but the vocabulary has ", config.vocabulary, " tokens");
  const RandomStream random{options.seed, 0, 0};
  const Sampling how{options.temperature, options.top_k, options.top_p, options.min_p, options.repetition_penalty};
  const auto begun = static_cast<Index>(prompt.size()), whole = begun + options.length;
  const Index seen = config.context == 0 ? whole : std::min(whole, config.context);
  nn::KeyValueCache<T> cache(seen);
  for (Index i = 0; i < options.length; ++i) {
    Tape tape({.mode = Mode::evaluate});
    const auto ids = [&](std::size_t last) {
      return Tensor<std::int32_t>({1, static_cast<Index>(last)}, std::span<const std::int32_t>(prompt).last(last));
    };
    // Positions that are learned are those of a window: once it slides, every key is another.
    const bool slides = static_cast<Index>(prompt.size()) > seen;
    nn::KeyValueCache<T> window(seen);
    const Tensor<T> scores =
        (slides ? next_logits(tape, ids(static_cast<std::size_t>(seen)), window)
                : next_logits(tape, ids(prompt.size() - static_cast<std::size_t>(cache.length())), cache))
            .value();
    const std::int32_t next = sample_token(
        scores.span(), how, prompt, random.uniform(static_cast<std::uint64_t>(i)),
        path + ": generate: token " + std::to_string(i + 1) + " of " + std::to_string(options.length) + ": ");
    prompt.push_back(next);
    if (!more(next)) break;
  }
  return prompt;
}

template <class T>
Var<T> Decoder<T>::hidden(Tape& tape, const Tensor<std::int32_t>& ids, nn::KeyValueCache<T>* cache,
                          const Tensor<std::int32_t>* segments, Var<Accum<T>>* auxiliary) const {
  require(segments == nullptr || !positions, path, ": packed sequences begin at other positions than 0, but its ",
          "positions are learned; give each sequence a row");
  const Index before = cache != nullptr ? cache->length() : 0;
  const Index most = ids.shape().rank() != 2 ? 0
                     : cache != nullptr      ? cache->length_with(ids.shape()[1])
                                             : ids.shape()[1];
  require(ids.shape().rank() == 2 && (config.context == 0 || most <= config.context), path, ": ids ", ids.shape(),
          " must be [batch, length] with length <= context ", config.context,
          before > 0 ? " less what the cache has seen" : "");
  const bool is_accum = !decoder.layers.empty() ? decoder.layers.front().config.skip_stream == nn::SkipStream::accum
                                                : config.skip_stream != nn::SkipStream::compute;
  return is_accum ? hidden_by<Accum<T>>(tape, ids, cache, segments, auxiliary)
                  : hidden_by<T>(tape, ids, cache, segments, auxiliary);
}

template <class T>
template <class X>
Var<T> Decoder<T>::hidden_by(Tape& tape, const Tensor<std::int32_t>& ids, nn::KeyValueCache<T>* cache,
                             const Tensor<std::int32_t>* segments, Var<Accum<T>>* auxiliary) const {
  const auto embed = [&] {
    Var<X> x = embedding.template rows<X>(tape.input(ids));
    if (config.embedding_multiplier != 1) x = x * config.embedding_multiplier;
    if (positions && cache != nullptr && !nn::detail::all_equal(cache->lengths())) {
      Tensor<std::int32_t> places = nn::detail::positions_behind(cache->lengths(), ids.shape()[1]);
      for (std::int32_t& place : places.write())  // that of padding may lie beyond
        place = std::min(place, static_cast<std::int32_t>(config.context) - 1);
      x = x + remat::embedding<X>(tape.input(places), positions);
    } else if (positions) {
      x = add_positions<X>(x, positions, cache != nullptr ? cache->length() : 0);
    }
    return checkpoint_name(dropout(x, config.dropout), "iteration_input");
  };
  // A region of its own, so that what enters the first layer can be offloaded like what enters the others.
  const Var<X> x = tape.region(decoder.checkpointing ? Policy(policy::everything) : decoder.remat, embed);
  if (cache != nullptr) return final_norm(decoder(x, *cache));
  AttentionMasks<T> masks;
  if (segments != nullptr) masks.query_segments = tape.input(*segments);
  if (auxiliary == nullptr || !decoder.has_experts()) return final_norm(decoder(x, masks));
  const auto [h, loss] = decoder.with_auxiliary(x, masks);
  *auxiliary = loss;
  return final_norm(h);
}

}}}  // namespace remat::models
