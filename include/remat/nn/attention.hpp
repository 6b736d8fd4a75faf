// Multi-head attention layer.
#pragma once

#include <optional>
#include <remat/nn/linear.hpp>
#include <remat/ops/attention.hpp>
#include <remat/ops/plain_attention.hpp>
#include <string>

namespace remat::inline REMAT_ABI::nn {

struct AttentionConfig {
  int model_dims = 0;
  int num_heads = 0;
  int num_kv_heads = 0;  // 0: one for each query head; 1: multi-query (Shazeer 2019); between: grouped (Ainslie 2023)
  int head_dims = 0;     // 0: model_dims / num_heads
  int memory_dims = 0;   // of what cross attention looks at; 0: model_dims
  bool causal = true;    // of self attention; cross attention sees the whole memory
  bool combined_qkv = false;  // one projection for query, key and value: one GEMM instead of three
  bool bias = true;
  double dropout = 0;      // on attention probabilities
  Index window = 0;        // of self attention: keys are seen at distances below it; 0: at any
  double soft_cap = 0;     // of scores, as in Gemma 2; 0: none
  double rotary_base = 0;  // of self attention: turns queries and keys by position (Su et al. 2021); 0: not
  int rotary_dims = 0;     // of each head; 0: all
  bool alibi = false;      // of self attention: linear biases (Press et al. 2022)
  int key_chunk = 0;       // keys to a block; 0: a cache tile
  bool fused = true;       // false: scores [B, N, T, S] exist whole, to compare with; neither masks nor groups then
  std::optional<Initializer> init{}, out_init{};  // of the projections; Xavier uniform when empty
  std::string shared_weight_id{};                 // layers that carry one id use one set of weights
};

/// The same settings for attention to a memory: projections of its own, for a shared id would make the weights of self
/// and cross attention one.
inline AttentionConfig cross_attention_like(AttentionConfig config) {
  config.combined_qkv = false;
  config.shared_weight_id.clear();
  return config;
}

/// Multi-head attention of a sequence to itself or to a memory (Vaswani et al. 2017), over N query and K key/value
/// heads.
template <class T>
struct MultiHeadAttention {
  AttentionConfig config;
  std::string path;
  std::optional<Linear<T>> qkv;                // combined: [D, (N + 2K) H]
  std::optional<Linear<T>> query, key, value;  // separate: [D, N H], [Dm, K H], [Dm, K H]
  std::optional<Linear<T>> out;                // [N H, D]

  MultiHeadAttention(const Scope& where, const AttentionConfig& given) : config(given), path(where.use_path()) {
    AttentionConfig& c = config;
    require(c.model_dims > 0 && c.num_heads > 0, path, ": attention needs model_dims and num_heads > 0, got ",
            c.model_dims, " and ", c.num_heads);
    if (c.num_kv_heads == 0) c.num_kv_heads = c.num_heads;
    require(c.head_dims > 0 || c.model_dims % c.num_heads == 0, path, ": num_heads ", c.num_heads,
            " does not divide model_dims ", c.model_dims, "; set head_dims");
    if (c.head_dims == 0) c.head_dims = c.model_dims / c.num_heads;
    require(c.num_kv_heads > 0 && c.num_heads % c.num_kv_heads == 0, path, ": num_kv_heads ", c.num_kv_heads,
            " does not divide num_heads ", c.num_heads);
    if (c.memory_dims == 0) c.memory_dims = c.model_dims;
    require(c.memory_dims > 0, path, ": memory_dims must be >= 0, got ", c.memory_dims);
    const LayerScope scope(where, c.shared_weight_id);
    const auto projection = [&](int dims, int heads) {
      return LinearConfig{.input_dims = dims, .output_dims = heads * c.head_dims, .bias = c.bias, .init = c.init};
    };
    if (c.combined_qkv) {
      qkv.emplace(scope / "qkv", projection(c.model_dims, c.num_heads + 2 * c.num_kv_heads));
    } else {
      query.emplace(scope / "query", projection(c.model_dims, c.num_heads));
      key.emplace(scope / "key", projection(c.memory_dims, c.num_kv_heads));
      value.emplace(scope / "value", projection(c.memory_dims, c.num_kv_heads));
    }
    out.emplace(
        scope / "out",
        LinearConfig{
            .input_dims = c.num_heads * c.head_dims, .output_dims = c.model_dims, .bias = c.bias, .init = c.out_init});
    scope.complete();
  }

  struct KeysValues {
    Var<T> keys, values;  // [B, S, K H]
  };

  /// Self attention: x [B, T, D] -> [B, T, D].
  Var<T> operator()(const Var<T>& x) const {
    const auto here = x.tape().layer(path);
    require(x.shape().rank() == 3, path, ": x has shape ", x.shape(), ", [B, T, D] is needed");
    if (!qkv) return attend(x, keys_values(x), 0);
    return project(attention_qkv(checkpoint_name((*qkv)(x), "combined_qkv_proj"), config.num_heads, config.num_kv_heads,
                                 options(config.causal, {})));
  }
  /// Cross attention: queries from x [B, T, D], keys and values from all of memory [B, S, Dm] -> [B, T, D].
  Var<T> operator()(const Var<T>& x, const Var<T>& memory) const {
    const auto here = x.tape().layer(path);
    require(!qkv, path, ": cross attention projects queries and memory apart; set combined_qkv = false");
    require(x.shape().rank() == 3, path, ": x has shape ", x.shape(), ", [B, T, D] is needed");
    require(memory.shape().rank() == 3 && memory.shape()[0] == x.shape()[0] && memory.shape()[2] == config.memory_dims,
            path, ": memory has shape ", memory.shape(), ", x of shape ", x.shape(), " needs [", x.shape()[0], ", S, ",
            config.memory_dims, "]");
    return attend(x, keys_values(memory));
  }

  /// Of memory [B, S, Dm], or of x itself.
  KeysValues keys_values(const Var<T>& memory) const {
    const auto here = memory.tape().layer(path);
    require(!qkv, path, ": queries are projected apart from keys and values here; set combined_qkv = false");
    return {checkpoint_name((*key)(memory), "key_proj"), checkpoint_name((*value)(memory), "value_proj")};
  }
  /// Of queries x [B, T, D], the first at position `offset` of the keys' sequence in self attention; without it, to all
  /// keys -> [B, T, D].
  Var<T> attend(const Var<T>& x, const KeysValues& memory, std::optional<Index> offset = {}) const {
    const auto here = x.tape().layer(path);
    const auto heads = [&](const Var<T>& y, int count) {
      return y.reshape({y.shape()[0], y.shape()[1], count, config.head_dims});
    };
    const Var<T> q = heads(checkpoint_name((*query)(x), "query_proj"), config.num_heads);
    const AttentionOptions how = options(config.causal && offset.has_value(), offset);
    const Var<T> k = heads(memory.keys, config.num_kv_heads), v = heads(memory.values, config.num_kv_heads);
    const Var<T> context = config.fused ? attention(q, k, v, how) : plain_attention(q, k, v, how);
    return project(context.reshape({x.shape()[0], x.shape()[1], config.num_heads * config.head_dims}));
  }

 private:
  // context [B, T, N H] -> [B, T, D]
  Var<T> project(const Var<T>& context) const {
    return checkpoint_name((*out)(checkpoint_name(context, "context")), "out_proj");
  }
  // Windows, rotary and ALiBi are of self attention: memories have positions of their own.
  AttentionOptions options(bool causal, std::optional<Index> offset) const {
    AttentionOptions o{.causal = causal, .offset = offset, .dropout = config.dropout};
    o.soft_cap = config.soft_cap;
    o.key_chunk = config.key_chunk;
    if (!qkv && !offset) return o;
    o.window = config.window;
    o.rotary_base = config.rotary_base, o.rotary_dims = config.rotary_dims;
    o.alibi = config.alibi;
    return o;
  }
};

}  // namespace remat::inline REMAT_ABI::nn
