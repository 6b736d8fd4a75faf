// Transformer layer: attention and feed-forward, each behind a norm and beside a skip connection.
#pragma once

#include <optional>
#include <remat/nn/attention.hpp>
#include <remat/nn/feed_forward.hpp>
#include <remat/nn/norm.hpp>
#include <remat/ops/arithmetic.hpp>
#include <remat/ops/dropout.hpp>
#include <string>
#include <variant>

namespace remat::inline REMAT_ABI::nn {

struct TransformerLayerConfig {
  int model_dims = 0;
  int hidden_dims = 0;  // 0: 4 model_dims
  int num_heads = 0;
  NormKind norm = NormKind::layer_norm;
  bool norm_bias = true;
  double dropout = 0;              // on both branches, before the skip connection
  AttentionConfig attention{};     // model_dims and num_heads come from above where 0
  FeedForwardConfig ffn{};         // model_dims and hidden_dims likewise
  std::string shared_weight_id{};  // the whole layer
};

/// A norm of either kind.
template <class T>
struct Norm {
  std::variant<LayerNorm<T>, RmsNorm<T>> layer;

  Norm(const Scope& scope, NormKind kind, int model_dims, bool bias = true)
      : layer(
            kind == NormKind::layer_norm
                ? std::variant<LayerNorm<T>, RmsNorm<T>>(LayerNorm<T>(scope, {.model_dims = model_dims, .bias = bias}))
                : std::variant<LayerNorm<T>, RmsNorm<T>>(RmsNorm<T>(scope, {.model_dims = model_dims}))) {}
  Var<T> operator()(const Var<T>& x) const {
    return std::visit([&](const auto& norm) { return norm(x); }, layer);
  }
};

/// Pre-norm: h = x + dropout(attention(norm(x))), then h + dropout(ffn(norm(h))).
template <class T>
struct TransformerLayer {
  TransformerLayerConfig config;
  std::string path;
  Norm<T> attention_norm;
  MultiHeadAttention<T> attention;
  Norm<T> ffn_norm;
  FeedForward<T> ffn;

  TransformerLayer(const Scope& where, const TransformerLayerConfig& given)
      : TransformerLayer(where.shared_as(given.shared_weight_id), completed(given), 0) {}

  /// x [B, T, D] -> [B, T, D]
  Var<T> operator()(const Var<T>& x) const {
    const auto here = x.tape().layer(path);
    const Var<T> h = x + dropout(attention(attention_norm(x)), config.dropout);
    return checkpoint_name(h + dropout(ffn(ffn_norm(h)), config.dropout), "transformer_layer_out");
  }

 private:
  TransformerLayer(const Scope& scope, const TransformerLayerConfig& c, int)
      : config(c),
        path(scope.use_path()),
        attention_norm(scope / "attention_norm", c.norm, c.model_dims, c.norm_bias),
        attention(scope / "attention", c.attention),
        ffn_norm(scope / "ffn_norm", c.norm, c.model_dims, c.norm_bias),
        ffn(scope / "ffn", c.ffn) {}

  static TransformerLayerConfig completed(TransformerLayerConfig c) {
    const auto fill = [](int& part, int whole) { part = part == 0 ? whole : part; };
    fill(c.hidden_dims, 4 * c.model_dims);
    fill(c.attention.model_dims, c.model_dims);
    fill(c.attention.num_heads, c.num_heads);
    fill(c.ffn.model_dims, c.model_dims);
    fill(c.ffn.hidden_dims, c.hidden_dims);
    return c;
  }
};

}  // namespace remat::inline REMAT_ABI::nn
