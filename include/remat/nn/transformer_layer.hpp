// Transformer layer: self attention, perhaps cross attention, feed-forward; each with a norm and a skip connection.
#pragma once

#include <optional>
#include <remat/nn/attention.hpp>
#include <remat/nn/feed_forward.hpp>
#include <remat/nn/norm.hpp>
#include <remat/nn/routed_feed_forward.hpp>
#include <remat/nn/transformer_layer_config.hpp>
#include <remat/ops/cast.hpp>
#include <remat/ops/drop_path.hpp>
#include <remat/ops/skip_add.hpp>
#include <string>
#include <tuple>

namespace remat { inline namespace REMAT_ABI { namespace nn {

/// Branches one after another: attention, cross attention if there is one, feed-forward. With norms before them
/// x + dropout(branch(norm(x))), with norms after them norm(x + dropout(branch(x))); see `NormPlacement`; parallel
/// branches read x both. Of bfloat16, x and with it the result may be of either type; where it is not that of
/// `config.skip_stream`, x is cast when it enters and the result when it leaves. A copy is a handle to the same
/// weights.
template <class T>
struct TransformerLayer {
  const TransformerLayerConfig config;                   // as built, with what was 0 filled in
  std::string path;                                      // the layer's path in the model
  Norm<T> attention_norm;                                // before or behind `attention`, as `NormPlacement` says; or
                                                         // `ffn_norm` once more, where the config has none
  MultiHeadAttention<T> attention;                       // of the layer to itself
  std::optional<Norm<T>> cross_attention_norm;           // before or behind `cross_attention`
  std::optional<MultiHeadAttention<T>> cross_attention;  // to a memory, where the config has it
  Norm<T> ffn_norm;                                      // before or behind `ffn`; or `attention_norm` once more
  FeedForward<T> ffn;                                    // the last branch
  std::optional<RoutedFeedForward<T>> routed;            // or this one, and `ffn` has no weights
  std::optional<Norm<T>> attention_out_norm, cross_attention_out_norm, ffn_out_norm;  // the second ones of a sandwich

  /// Makes its parameters in `where`. An `Error` names the first setting that is out of its range.
  TransformerLayer(const Scope& where, const TransformerLayerConfig& given)
      : TransformerLayer(LayerScope(where, given.shared_weight_id), completed(given, where.use_path()), 0) {}

  using Masks = AttentionMasks<T>;  // what a call may see

  /// x [B, T, D] -> [B, T, D]; `layer(x, {.key_lengths = lengths})` where a part is padding.
  template <SkipTypeOf<T> X>
  Var<X> operator()(const Var<X>& x, const Masks& masks = {}) const {
    require(!cross_attention, path, ": has cross attention, so it needs a memory: layer(x, memory)");
    const auto here = x.tape().layer(path);
    check_no_loss(x.tape());
    return run(x, nullptr, masks, {}, nullptr, nullptr);
  }
  /// x [B, T, D], memory [B, S, Dm] -> [B, T, D]; masks of self attention, and of attention to the memory.
  template <SkipTypeOf<T> X, SkipTypeOf<T> M>
  Var<X> operator()(const Var<X>& x, const Var<M>& memory, const Masks& masks = {},
                    const Masks& memory_masks = {}) const {
    require(cross_attention.has_value(), path, ": was given a memory, but its config has no cross_attention");
    const auto here = x.tape().layer(path);
    check_no_loss(x.tape());
    const Var<T> seen = cast<T>(memory);
    return run(x, &seen, masks, memory_masks, nullptr, nullptr);
  }
  /// Decoding: x [B, T, D], the positions behind those of the cache, which is extended -> [B, T, D].
  template <SkipTypeOf<T> X>
  Var<X> operator()(const Var<X>& x, typename KeyValueCache<T>::Layer& cache) const {
    require(!cross_attention, path, ": has cross attention, so it needs a memory: layer(x, memory, cache)");
    const auto here = x.tape().layer(path);
    return run(x, nullptr, {}, {}, &cache, nullptr);
  }
  /// The same at memory [B, S, Dm] too, of which the cache keeps keys and values from the first call on: later ones are
  /// given the same memory and may have any S there.
  template <SkipTypeOf<T> X>
  Var<X> operator()(const Var<X>& x, const Var<T>& memory, typename KeyValueCache<T>::Layer& cache,
                    const Masks& memory_masks = {}) const {
    require(cross_attention.has_value(), path, ": was given a memory, but its config has no cross_attention");
    const auto here = x.tape().layer(path);
    return run(x, &memory, {}, memory_masks, &cache, nullptr);
  }
  /// What a layer with experts gives beside its result.
  template <class X>
  struct WithAuxiliary {
    Var<X> output;            // [B, T, D]
    Var<Accum<T>> auxiliary;  // to be added to the loss
  };
  /// The same of a layer whose config has `routed`, at `memory` too where it has cross attention.
  template <SkipTypeOf<T> X>
  WithAuxiliary<X> with_auxiliary(const Var<X>& x, const Masks& masks = {}, const Var<T>* memory = nullptr,
                                  const Masks& memory_masks = {}) const {
    require(routed.has_value(), path, ": has no experts, so there is no auxiliary loss; call the layer");
    require((memory != nullptr) == cross_attention.has_value(), path,
            ": cross attention needs a memory, and a memory cross attention");
    const auto here = x.tape().layer(path);
    Var<Accum<T>> auxiliary;
    const Var<X> output = run(x, memory, masks, memory_masks, nullptr, &auxiliary);
    return {output, auxiliary};
  }

 private:
  void check_no_loss(const Tape& tape) const {
    require(!routed || tape.mode() == Mode::evaluate, path,
            ": has experts, whose auxiliary loss would be lost; call with_auxiliary, or use a tape of Mode::evaluate");
  }
  TransformerLayer(const LayerScope& scope, const TransformerLayerConfig& c, int);
  /// At `memory` too, and with what `cache` has seen, where they are not null.
  template <class X>
  Var<X> run(const Var<X>& x, const Var<T>* memory, const Masks& masks, const Masks& memory_masks,
             typename KeyValueCache<T>::Layer* cache, Var<Accum<T>>* auxiliary) const;
  /// Keys and values of a memory, those that the cache has.
  typename MultiHeadAttention<T>::KeysValues memory_of(const Var<T>& memory,
                                                       typename KeyValueCache<T>::Layer& cache) const {
    Tape& tape = memory.tape();
    if (cache.memory_keys.size() == 0) {
      const auto made = cross_attention->keys_values(memory);
      cache.memory_keys = made.keys.value(), cache.memory_values = made.values.value();
    }
    return {tape.input(cache.memory_keys), tape.input(cache.memory_values)};
  }
  /// The last branch; of experts with their loss, where somebody asks for it.
  Var<T> feed(const Var<T>& x, const Masks& masks, const typename KeyValueCache<T>::Layer* cache,
              Var<Accum<T>>* auxiliary) const {
    if (!routed) return ffn(x);
    Like<std::int32_t> lengths = masks.key_lengths;
    if (cache != nullptr && !cache->fresh.empty()) {
      const std::vector<std::int32_t> counts(cache->fresh.begin(), cache->fresh.end());
      lengths = Tensor<std::int32_t>({static_cast<Index>(counts.size())}, std::span<const std::int32_t>(counts));
    }
    require(x.tape().ring() == nullptr || !lengths.has_value(), path, ": experts would take key_lengths, which are of ",
            "whole sequences, for those of this rank's part; leave them out, or tell padding by segments");
    const auto r = routed->routed(x, lengths);
    if (auxiliary != nullptr) *auxiliary = r.auxiliary;
    return r.output;
  }
  /// What `whole` makes of x in the stream's type, in the type of x.
  template <class X, class Whole>
  Var<X> along_stream(const Var<X>& x, const Whole& whole) const {
    const bool is_accum = config.skip_stream == SkipStream::accum;
    return checkpoint_name(is_accum ? cast<X>(whole(cast<Accum<T>>(x))) : cast<X>(whole(cast<T>(x))),
                           "transformer_layer_out");
  }
  /// `attend`, `look` (if there is cross attention) and `feed_forward`: a sum and the norm behind it are one op.
  template <class X, class Attend, class Look, class Feed>
  Var<X> branches(const Var<X>& x, const Attend& attend, const Look& look, const Feed& feed_forward) const {
    const double rate = config.dropout;
    const auto kept = [&](const Var<T>& y) {
      const double factor = config.residual_multiplier;
      return remat::drop_path(factor != 1 ? y * factor : y, config.drop_path);
    };
    if (config.norm_placement == NormPlacement::post) {
      Var<X> h = attention_norm.behind(x, kept(attend(cast<T>(x))), rate);
      if (cross_attention) h = cross_attention_norm->behind(h, kept(look(cast<T>(h))), rate);
      return ffn_norm.behind(h, kept(feed_forward(cast<T>(h))), rate);
    }
    if (config.norm_placement == NormPlacement::branch_output) {
      Var<X> h = skip_add(x, kept(attention_norm(attend(cast<T>(x)))), rate);
      if (cross_attention) h = skip_add(h, kept((*cross_attention_norm)(look(cast<T>(h)))), rate);
      return skip_add(h, kept(ffn_norm(feed_forward(cast<T>(h)))), rate);
    }
    if (config.parallel) {
      const Var<T> y = attention_norm(x);
      const Var<T> attended = attend(y), fed = feed_forward(config.parallel_one_norm ? y : ffn_norm(x));
      return skip_add(x, kept(attended + fed), rate);
    }
    const auto out = [&](const std::optional<Norm<T>>& norm, const Var<T>& y) { return kept(norm ? (*norm)(y) : y); };
    SkipNorm<T, X> h{x, entering(x)};
    const Norm<T>& next = cross_attention ? *cross_attention_norm : ffn_norm;
    h = next(h.sum, out(attention_out_norm, attend(h.normal)), rate);
    if (cross_attention) h = ffn_norm(h.sum, out(cross_attention_out_norm, look(h.normal)), rate);
    return skip_add(h.sum, out(ffn_out_norm, feed_forward(h.normal)), rate);
  }
  /// What attention reads of x.
  template <class X>
  Var<T> entering(const Var<X>& x) const {
    return is_normed_before() && config.attention_norm ? attention_norm(x) : cast<T>(x);
  }
  /// The norms before branches, which keys and values are made of.
  bool is_normed_before() const {
    return config.norm_placement == NormPlacement::pre || config.norm_placement == NormPlacement::sandwich;
  }
  /// The Blockwise Parallel Transformer: keys and values by chunks, then the rest of the layer for each chunk of
  /// queries.
  template <class X>
  Var<X> by_chunks(const Var<X>& x, const Var<T>* memory, const Masks& masks, const Masks& memory_masks) const;
};

template <class T>
TransformerLayer<T>::TransformerLayer(const LayerScope& scope, const TransformerLayerConfig& c, int)
    : config(c),
      path(scope.use_path()),
      attention_norm(scope / (c.attention_norm ? "attention_norm" : "ffn_norm"), c.norm, c.model_dims, c.norm_bias,
                     c.norm_epsilon, c.norm_scale),
      attention(scope / "attention", c.attention),
      ffn_norm(c.parallel_one_norm || !c.attention_norm
                   ? attention_norm
                   : Norm<T>(scope / "ffn_norm", c.norm, c.model_dims, c.norm_bias, c.norm_epsilon, c.norm_scale)),
      ffn(c.routed ? FeedForward<T>(path + "/ffn", c.ffn) : FeedForward<T>(scope / "ffn", c.ffn)) {
  if (c.routed) routed.emplace(scope / "ffn", *c.routed);
  const auto norm = [&](std::optional<Norm<T>>& made, const char* name) {
    made.emplace(scope / name, c.norm, c.model_dims, c.norm_bias, c.norm_epsilon, c.norm_scale);
  };
  const bool is_sandwich = c.norm_placement == NormPlacement::sandwich;
  if (c.cross_attention) {
    norm(cross_attention_norm, "cross_attention_norm");
    cross_attention.emplace(scope / "cross_attention", *c.cross_attention);
    if (is_sandwich) norm(cross_attention_out_norm, "cross_attention_out_norm");
  }
  if (is_sandwich) norm(attention_out_norm, "attention_out_norm"), norm(ffn_out_norm, "ffn_out_norm");
  scope.complete();
}

template <class T>
template <class X>
Var<X> TransformerLayer<T>::run(const Var<X>& x, const Var<T>* memory, const Masks& masks, const Masks& memory_masks,
                                typename KeyValueCache<T>::Layer* cache, Var<Accum<T>>* auxiliary) const {
  return along_stream(x, [&](const auto& h) {
    if (config.blockwise.query_chunk > 0 && cache == nullptr) return by_chunks(h, memory, masks, memory_masks);
    return branches(
        h, [&](const Var<T>& y) { return cache != nullptr ? attention.decode(y, *cache) : attention(y, masks); },
        [&](const Var<T>& y) {
          if (cache == nullptr) return (*cross_attention)(y, *memory, memory_masks);
          const auto kept = memory_of(*memory, *cache);
          return cross_attention->attend(y, kept, {}, memory_masks);
        },
        [&](const Var<T>& y) { return feed(y, masks, cache, auxiliary); });
  });
}

template <class T>
template <class X>
Var<X> TransformerLayer<T>::by_chunks(const Var<X>& x, const Var<T>* memory, const Masks& masks,
                                      const Masks& memory_masks) const {
  using KeysValues = typename MultiHeadAttention<T>::KeysValues;
  const BlockwiseConfig& c = config.blockwise;
  require(x.shape().rank() == 3, path, ": x has shape ", x.shape(), ", [B, T, D] is needed");
  const auto [keys, values] = blockwise(x, 1, c.query_chunk, c.policy, [&](const Var<X>& part, Index) {
    const KeysValues own = attention.keys_values(entering(part));
    return std::tuple(own.keys, own.values);
  });
  const KeysValues own{keys, values};
  const KeysValues others = memory != nullptr ? cross_attention->keys_values(*memory) : KeysValues{};
  const detail::MasksByChunk<T> seen(masks, x, path), seen_of_memory(memory_masks, x, path);
  return blockwise(x, 1, c.query_chunk, c.policy, [&](const Var<X>& part, Index offset) {
    const Index count = part.shape()[1];
    return branches(
        part, [&](const Var<T>& y) { return attention.attend(y, own, offset, seen.of(offset, count)); },
        [&](const Var<T>& y) { return cross_attention->attend(y, others, {}, seen_of_memory.of(offset, count)); },
        [&](const Var<T>& y) { return ffn(y); });
  });
}

}}}  // namespace remat::nn
