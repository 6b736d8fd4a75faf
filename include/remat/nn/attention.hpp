// Multi-head attention layer.
#pragma once

#include <optional>
#include <remat/nn/linear.hpp>
#include <remat/ops/attention.hpp>
#include <string>

namespace remat::inline REMAT_ABI::nn {

struct AttentionConfig {
  int model_dims = 0;
  int num_heads = 0;
  int num_kv_heads = 0;  // 0: one for each query head; 1: multi-query (Shazeer 2019); between: grouped (Ainslie 2023)
  int head_dims = 0;     // 0: model_dims / num_heads
  bool causal = true;
  bool combined_qkv = false;  // one projection for query, key and value: one GEMM instead of three
  bool bias = true;
  double dropout = 0;                             // on attention probabilities
  std::optional<Initializer> init{}, out_init{};  // of the projections; Xavier uniform when empty
  std::string shared_weight_id{};                 // layers that carry one id use one set of weights
};

/// Multi-head attention of a sequence to itself (Vaswani et al. 2017), over N query and K key/value heads.
template <class T>
struct MultiHeadAttention {
  AttentionConfig config;
  std::string path;
  std::optional<Linear<T>> qkv;                // combined: [D, (N + 2K) H]
  std::optional<Linear<T>> query, key, value;  // separate: [D, N H], [D, K H], [D, K H]
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
    const Scope scope = where.shared_as(c.shared_weight_id);
    const auto projection = [&](int heads) {
      return LinearConfig{
          .input_dims = c.model_dims, .output_dims = heads * c.head_dims, .bias = c.bias, .init = c.init};
    };
    if (c.combined_qkv) {
      qkv.emplace(scope / "qkv", projection(c.num_heads + 2 * c.num_kv_heads));
    } else {
      query.emplace(scope / "query", projection(c.num_heads));
      key.emplace(scope / "key", projection(c.num_kv_heads));
      value.emplace(scope / "value", projection(c.num_kv_heads));
    }
    out.emplace(
        scope / "out",
        LinearConfig{
            .input_dims = c.num_heads * c.head_dims, .output_dims = c.model_dims, .bias = c.bias, .init = c.out_init});
  }

  /// x [B, T, D] -> [B, T, D]
  Var<T> operator()(const Var<T>& x) const {
    const auto here = x.tape().layer(path);
    return checkpoint_name((*out)(checkpoint_name(context(x), "context")), "out_proj");
  }

 private:
  // [B, T, N H]
  Var<T> context(const Var<T>& x) const {
    const AttentionOptions options{.causal = config.causal, .dropout = config.dropout};
    if (qkv)
      return attention_qkv(checkpoint_name((*qkv)(x), "combined_qkv_proj"), config.num_heads, config.num_kv_heads,
                           options);
    const auto heads = [&](const Var<T>& y, const char* label, int count) {
      return checkpoint_name(y, label).reshape({x.shape()[0], x.shape()[1], count, config.head_dims});
    };
    const Var<T> q = heads((*query)(x), "query_proj", config.num_heads);
    const Var<T> k = heads((*key)(x), "key_proj", config.num_kv_heads);
    const Var<T> v = heads((*value)(x), "value_proj", config.num_kv_heads);
    return attention(q, k, v, options).reshape({x.shape()[0], x.shape()[1], config.num_heads * config.head_dims});
  }
};

}  // namespace remat::inline REMAT_ABI::nn
