// Multi-head attention layer.
#pragma once

#include <algorithm>
#include <cmath>
#include <optional>
#include <remat/nn/attention_config.hpp>
#include <remat/nn/attention_masks.hpp>
#include <remat/nn/key_value_cache.hpp>
#include <remat/nn/linear.hpp>
#include <remat/ops/attention.hpp>
#include <remat/ops/concat.hpp>
#include <remat/ops/plain_attention.hpp>
#include <remat/ops/slice.hpp>
#include <remat/ops/unary_activations.hpp>
#include <string>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace nn {

/// Multi-head attention of a sequence to itself or to a memory (Vaswani et al. 2017), over N query and K key/value
/// heads.
/// A copy is a handle to the same weights.
template <class T>
struct MultiHeadAttention {
  const AttentionConfig config;                    // as built, with what was 0 filled in
  std::string path;                                // the layer's path in the model
  std::optional<Linear<T>> qkv;                    // combined: [D, (N + 2K) H]
  std::optional<Linear<T>> query, key, value;      // separate: [D, N H], [Dm, K H], [Dm, K Hv]
  std::optional<RmsNorm<T>> query_norm, key_norm;  // of [H], or of [N H] and [K H], as the config's query_key_norm says
  std::optional<Linear<T>> gate;                   // [D, N Hv], where the config has output_gate
  Parameter<Accum<T>> sinks;                       // [N], where the config has them
  Parameter<Accum<T>> relative_bias;               // [buckets, N], where the config has relative_buckets
  std::optional<Linear<T>> out;                    // [N Hv, D], values of Hv

  /// Makes its parameters in `where`. An `Error` names the first setting that is out of its range.
  MultiHeadAttention(const Scope& where, const AttentionConfig& given)
      : config(completed(given, where.use_path())), path(where.use_path()) {
    const AttentionConfig& c = config;
    const LayerScope scope(where, c.shared_weight_id);
    const auto projection = [&](Index dims, Index heads) {
      return LinearConfig{.input_dims = dims, .output_dims = heads * c.head_dims, .bias = c.bias, .init = c.init};
    };
    if (c.combined_qkv) {
      qkv.emplace(scope / "qkv", projection(c.model_dims, c.num_heads + 2 * c.num_kv_heads));
      name_parts(*qkv->w.entry());
    } else {
      query.emplace(scope / "query", projection(c.model_dims, c.num_heads));
      key.emplace(scope / "key", projection(c.memory_dims, c.num_kv_heads));
      LinearConfig values = projection(c.memory_dims, c.num_kv_heads);
      values.output_dims = c.num_kv_heads * c.value_head_dims;
      value.emplace(scope / "value", values);
    }
    const auto norm = [&](std::optional<RmsNorm<T>>& made, const char* name, Index heads) {
      if (c.query_key_norm == QueryKeyNorm::none) return;
      RmsNormConfig rms{.model_dims = (c.query_key_norm == QueryKeyNorm::each_head ? 1 : heads) * c.head_dims};
      rms.scale = c.query_key_norm_scale.value_or(NormScale::weight);
      if (c.query_key_norm_epsilon) rms.epsilon = *c.query_key_norm_epsilon;
      made.emplace(scope / name, rms);
    };
    norm(query_norm, "query_norm", c.num_heads);
    norm(key_norm, "key_norm", c.num_kv_heads);
    if (c.output_gate)
      gate.emplace(scope / "gate", LinearConfig{.input_dims = c.model_dims,
                                                .output_dims = c.num_heads * c.value_head_dims,
                                                .bias = c.bias,
                                                .init = c.init});
    if (c.sinks) sinks = (scope / "sinks").template parameter<Accum<T>>("b", {c.num_heads}, init::zeros());
    if (c.relative_buckets > 0) {
      const LayerScope of_bias(scope / "relative_bias", c.relative_shared_weight_id);
      const Initializer init = init::normal(1 / std::sqrt(static_cast<double>(c.model_dims)));
      relative_bias = of_bias.template parameter<Accum<T>>("table", {c.relative_buckets, c.num_heads}, init);
      of_bias.complete();
    }
    out.emplace(scope / "out", LinearConfig{.input_dims = c.num_heads * c.value_head_dims,
                                            .output_dims = c.model_dims,
                                            .bias = c.out_bias.value_or(c.bias),
                                            .init = c.out_init});
    scope.complete();
  }

  /// Keys and values of a memory, for any number of calls of `attend`.
  struct KeysValues {
    Var<T> keys, values;  // [B, S, K H], [B, S, K Hv]
  };

  using Masks = AttentionMasks<T>;  // what a call may see

  /// Self attention: x [B, T, D] -> [B, T, D]; `layer(x, {.key_lengths = lengths})` where a part is padding.
  Var<T> operator()(const Var<T>& x, const Masks& masks = {}) const;
  /// Cross attention: queries from x [B, T, D], keys and values from all of memory [B, S, Dm] -> [B, T, D].
  Var<T> operator()(const Var<T>& x, const Var<T>& memory, const Masks& masks = {}) const;

  /// Keys and values of memory [B, S, Dm], or of x itself.
  KeysValues keys_values(const Var<T>& memory) const;
  /// Of queries x [B, T, D], the first at position `offset` of the keys' sequence in self attention; without it, to all
  /// keys that the masks let see -> [B, T, D].
  Var<T> attend(const Var<T>& x, const KeysValues& memory, std::optional<Index> offset = {},
                const Masks& masks = {}) const;
  /// Decoding: x [B, T, D], the positions behind those of the cache, which is extended, at all of them -> [B, T, D]. On
  /// a tape in evaluate mode, for the cache keeps values. What comes of padding, where rows have unlike numbers of
  /// tokens, means nothing.
  Var<T> decode(const Var<T>& x, typename KeyValueCache<T>::Layer& cache) const;

 private:
  /// Of one projection [B, T, (N + 2 K) H].
  struct QueriesKeysValues {
    Var<T> queries, keys, values;
  };
  QueriesKeysValues split(const Var<T>& all) const {
    const Index q = config.num_heads * config.head_dims, kv = config.num_kv_heads * config.head_dims;
    return {slice(all, 2, 0, q), slice(all, 2, q, q + kv), slice(all, 2, q + kv, q + 2 * kv)};
  }
  // Of the one projection's matrix, for adapters. Layers that share it may divide it otherwise: then it has none.
  void name_parts(ParameterEntry& w) const {
    const Index q = config.num_heads * config.head_dims, kv = config.num_kv_heads * config.head_dims;
    const std::vector<MatrixPart> parts{{"query", 0, q}, {"key", q, q + kv}, {"value", q + kv, q + 2 * kv}};
    if (w.users.size() <= 1)
      w.parts = parts;
    else if (w.parts != parts)
      w.parts.clear();
  }
  /// Queries or keys [B, T, heads H] behind their norm, if there is one.
  Var<T> normed(const Var<T>& x, const std::optional<RmsNorm<T>>& norm, const char* label) const {
    if (!norm) return x;
    const bool by_heads = config.query_key_norm == QueryKeyNorm::each_head;
    const Shape& s = x.shape();
    const Var<T> y =
        by_heads ? (*norm)(x.reshape({s[0], s[1], s[2] / config.head_dims, config.head_dims})) : (*norm)(x);
    return checkpoint_name(y.reshape(s), label);
  }
  Var<T> normed_queries(const Var<T>& x) const { return normed(x, query_norm, "query_norm"); }
  Var<T> normed_keys(const Var<T>& x) const { return normed(x, key_norm, "key_norm"); }
  // Queries [B, T, N H] of x [B, T, D] at keys [B, S, K H] and values [B, S, K Hv] -> [B, T, D].
  Var<T> look(const Var<T>& x, const Var<T>& queries, const Var<T>& keys, const Var<T>& values,
              const AttentionOptions& how, const Masks& masks) const;
  // context [B, T, N Hv] of x [B, T, D] -> [B, T, D]
  Var<T> project(const Var<T>& context, const Var<T>& x) const;
  // `masks`, and the layer's own sinks and biases.
  Masks with_own(const Masks& masks) const {
    Masks all = masks;
    if (sinks) all.sinks = sinks;
    if (!relative_bias) return all;
    require(!masks.relative_bias.has_value(), path,
            ": has a table of relative biases, and was given another; leave it out, or set relative_buckets = 0");
    all.relative_bias = relative_bias;
    return all;
  }
  // x [B, T, heads, from] with zeros behind each head -> [B, T, heads, to].
  static Var<T> filled(const Var<T>& x, Index to) {
    const Shape& s = x.shape();
    if (s[3] >= to) return x;
    return concat({x, x.tape().input(Tensor<T>({s[0], s[1], s[2], to - s[3]}, static_cast<T>(0)))}, 3);
  }
  AttentionOptions options(bool causal, std::optional<Index> offset) const;
};

template <class T>
typename MultiHeadAttention<T>::KeysValues MultiHeadAttention<T>::keys_values(const Var<T>& memory) const {
  const auto here = memory.tape().layer(path);
  require(!qkv, path, ": queries are projected apart from keys and values here; set combined_qkv = false");
  return {normed_keys(checkpoint_name((*key)(memory), "key_proj")), checkpoint_name((*value)(memory), "value_proj")};
}

template <class T>
Var<T> MultiHeadAttention<T>::attend(const Var<T>& x, const KeysValues& memory, std::optional<Index> offset,
                                     const Masks& masks) const {
  const auto here = x.tape().layer(path);
  require(offset.has_value() || !depends_on_positions(config), path,
          ": window, rotary_base, alibi and relative_buckets are of self attention; build cross attention of "
          "cross_attention_like(config)");
  const Var<T> q = normed_queries(checkpoint_name((*query)(x), "query_proj"));
  return look(x, q, memory.keys, memory.values, options(config.causal && offset.has_value(), offset), masks);
}

template <class T>
Var<T> MultiHeadAttention<T>::decode(const Var<T>& x, typename KeyValueCache<T>::Layer& cache) const {
  Tape& tape = x.tape();
  const auto here = tape.layer(path);
  require(tape.mode() == Mode::evaluate, path, ": decodes with a cache on a tape of Mode::evaluate only");
  require(config.causal, path, ": decodes token by token, so causal must be true");
  require(tape.ring() == nullptr, path, ": decodes whole sequences; leave TapeOptions::ring out");
  require(x.shape().rank() == 3, path, ": x has shape ", x.shape(), ", [B, T, D] is needed");
  const QueriesKeysValues fresh = qkv ? split((*qkv)(x)) : QueriesKeysValues{(*query)(x), (*key)(x), (*value)(x)};
  const Var<T> queries = normed_queries(fresh.queries);
  AttentionOptions how = options(true, {});
  // A key is turned once, before it is kept; its position does not change.
  const auto turned = [&, before = cache.lengths](const Var<T>& y, Index heads) {
    if (how.rotary_base == 0) return y;
    RotaryOptions turn = ops::rotary_options(how);
    turn.offset = before.empty() ? 0 : before[0];
    const Shape& s = y.shape();
    Like<std::int32_t> positions;
    if (!detail::all_equal(before)) positions = detail::positions_behind(before, s[1]);
    return rotary(y.reshape({s[0], s[1], heads, config.head_dims}), turn, positions).reshape(s);
  };
  const Var<T> at = turned(queries, config.num_heads), keys = turned(normed_keys(fresh.keys), config.num_kv_heads);
  // Biases by key position need the first key, too.
  const Index window = how.alibi && how.alibi_form != AlibiForm::distance ? 0 : config.window;
  const auto seen = cache.add(keys.value(), fresh.values.value(), window, path);
  how = ops::without_rotary(how);
  Masks masks;
  how.offset = seen.offsets.empty() ? 0 : seen.offsets[0];
  if (!detail::all_equal(seen.offsets))
    masks.query_offsets = Tensor<std::int32_t>({x.shape()[0]}, std::span<const std::int32_t>(seen.offsets));
  return look(x, at, tape.input(seen.keys), tape.input(seen.values), how, masks);
}

template <class T>
Var<T> MultiHeadAttention<T>::look(const Var<T>& x, const Var<T>& queries, const Var<T>& keys, const Var<T>& values,
                                   const AttentionOptions& how, const Masks& masks) const {
  require(config.fused || !detail::masks_anything(masks), path,
          ": fused = false computes attention by its plain formula, without masks and biases; set fused = true");
  const Index own = config.head_dims, of_values = config.value_head_dims, wide = std::max(own, of_values);
  const auto heads = [](const Var<T>& y, Index count, Index dims) {
    return y.reshape({y.shape()[0], y.shape()[1], count, dims});
  };
  Var<T> q = heads(queries, config.num_heads, own), k = heads(keys, config.num_kv_heads, own);
  AttentionOptions rest = how;
  if (own < wide && how.rotary_base > 0) {  // what is filled up does not turn
    RotaryOptions turn = ops::rotary_options(how);
    rest = ops::without_rotary(how);
    k = rotary(k, turn, masks.key_positions.has_value() ? masks.key_positions : masks.positions);
    turn.offset = how.offset.value_or(k.shape()[1] - q.shape()[1]);
    q = rotary(q, turn, masks.positions);
  }
  // The op has heads of one width: zeros change neither a score nor a value.
  q = filled(q, wide), k = filled(k, wide);
  const Var<T> v = filled(heads(values, config.num_kv_heads, of_values), wide);
  const Var<T> context =
      config.fused ? attention(q, k, v, rest, with_own(masks)) : plain_attention(q, k, v, rest, masks);
  const Var<T> some = of_values < wide ? slice(context, 3, 0, of_values) : context;
  return project(some.reshape({x.shape()[0], x.shape()[1], config.num_heads * of_values}), x);
}

template <class T>
Var<T> MultiHeadAttention<T>::project(const Var<T>& context, const Var<T>& x) const {
  const Var<T> named = checkpoint_name(context, "context");
  if (!gate) return checkpoint_name((*out)(named), "out_proj");
  return checkpoint_name((*out)(named * sigmoid(checkpoint_name((*gate)(x), "attention_gate"))), "out_proj");
}

template <class T>
AttentionOptions MultiHeadAttention<T>::options(bool causal, std::optional<Index> offset) const {
  AttentionOptions o{.causal = causal, .offset = offset, .dropout = config.dropout};
  o.soft_cap = config.soft_cap;
  o.key_chunk = config.key_chunk;
  o.scale = config.scale;
  // Heads may be filled up with zeros, which neither the scale nor rotary should see.
  const bool is_filled = config.value_head_dims > config.head_dims;
  if (is_filled && !o.scale) o.scale = 1 / std::sqrt(static_cast<double>(config.head_dims));
  o.window = config.window, o.window_right = config.window_right;
  o.rotary_base = config.rotary_base, o.rotary_dims = config.rotary_dims;
  o.rotary_interleaved = config.rotary_interleaved;
  o.rotary_scaling = config.rotary_scaling;
  o.alibi = config.alibi, o.alibi_form = config.alibi_form;
  if (relative_bias) o.relative_max_distance = config.relative_max_distance;
  return o;
}

template <class T>
Var<T> MultiHeadAttention<T>::operator()(const Var<T>& x, const Masks& masks) const {
  const auto here = x.tape().layer(path);
  require(x.shape().rank() == 3, path, ": x has shape ", x.shape(), ", [B, T, D] is needed");
  if (!qkv) return attend(x, keys_values(x), 0, masks);
  const Var<T> projected = checkpoint_name((*qkv)(x), "combined_qkv_proj");
  const AttentionOptions how = options(config.causal, {});
  if (config.fused && !query_norm)
    return project(attention_qkv(projected, config.num_heads, config.num_kv_heads, how, with_own(masks)), x);
  const QueriesKeysValues parts = split(projected);
  const Var<T> queries = normed_queries(parts.queries), keys = normed_keys(parts.keys);
  return look(x, queries, keys, parts.values, how, masks);
}

template <class T>
Var<T> MultiHeadAttention<T>::operator()(const Var<T>& x, const Var<T>& memory, const Masks& masks) const {
  const auto here = x.tape().layer(path);
  require(!qkv, path, ": cross attention projects queries and memory apart; set combined_qkv = false");
  require(x.shape().rank() == 3, path, ": x has shape ", x.shape(), ", [B, T, D] is needed");
  require(memory.shape().rank() == 3 && memory.shape()[0] == x.shape()[0] && memory.shape()[2] == config.memory_dims,
          path, ": memory has shape ", memory.shape(), ", x of shape ", x.shape(), " needs [", x.shape()[0], ", S, ",
          config.memory_dims, "]");
  return attend(x, keys_values(memory), {}, masks);
}

}}}  // namespace remat::nn
