// Settings of a transformer layer, and which of them hold together.
#pragma once

#include <optional>
#include <remat/nn/attention_config.hpp>
#include <remat/nn/feed_forward.hpp>
#include <remat/nn/norm.hpp>
#include <remat/nn/routed_feed_forward_config.hpp>
#include <string>

namespace remat { inline namespace REMAT_ABI { namespace nn {

/// Settings of `TransformerLayer`; model_dims and num_heads must be given.
struct TransformerLayerConfig {
  Index model_dims = 0;                               // D, of what enters and leaves
  Index hidden_dims = 0;                              // 0: 4 model_dims
  Index num_heads = 0;                                // N, of queries
  NormKind norm = NormKind::layer_norm;               // of every norm of the layer
  NormPlacement norm_placement = NormPlacement::pre;  // before each branch, behind it, or both
  bool norm_bias = true;                              // of layer norms; RMS norms have none
  std::optional<double> norm_epsilon{};               // of every norm; empty: 1e-5 of layer norms, 1e-6 of RMS norms
  double dropout = 0;                                 // on every branch, before the skip connection
  AttentionConfig attention{};                        // model_dims and num_heads come from above where 0
  std::optional<AttentionConfig> cross_attention{};   // of a decoder, to a memory; filled in likewise
  FeedForwardConfig ffn{};                            // model_dims and hidden_dims likewise
  BlockwiseConfig blockwise{};                        // of attention and feed-forward too, where theirs say nothing
  std::string shared_weight_id{};                     // the whole layer
  SkipStream skip_stream = SkipStream::accum;         // the type of the skip connections
  NormScale norm_scale = NormScale::weight;           // of every RMS norm: w, or 1 + w
  bool parallel = false;           // branches side by side, x + attention(norm(x)) + ffn(norm(x)) (GPT-J, Falcon)
  bool parallel_one_norm = false;  // both of them read one norm, `attention_norm`, and `ffn_norm` is that too
  bool attention_norm = true;      // false: what enters is as it is (the first layer of ModernBERT, of pre norms)
  double drop_path = 0;            // on every branch: of some sequences it is dropped whole (Huang et al. 2016)
  std::optional<RoutedFeedForwardConfig> routed{};  // experts in place of `ffn`; dims and activation are its own, but
                                                    // model_dims and hidden_dims come from above where 0
  double residual_multiplier = 1;  // of what each branch gives, behind its norms and before it is added (Granite)
};

/// `c` with what follows from the others where it is 0. An `Error` names the first setting that is out of its range or
/// cannot be honoured beside another, of the parts too.
inline TransformerLayerConfig completed(TransformerLayerConfig c, const std::string& path) {
  const auto fill = [](Index& part, Index whole) { part = part == 0 ? whole : part; };
  require(c.model_dims > 0, path, ": a transformer layer needs model_dims > 0, got ", c.model_dims);
  detail::check_not_negative(path, "hidden_dims", c.hidden_dims);
  detail::check_rate(path, "dropout", c.dropout);
  detail::check_rate(path, "drop_path", c.drop_path);
  detail::check_positive(path, "residual_multiplier", c.residual_multiplier);
  detail::check(path, c.blockwise);
  require(c.norm_scale == NormScale::weight || c.norm == NormKind::rms_norm, path,
          ": norm_scale one_plus_weight is of RMS norms; set norm = NormKind::rms_norm");
  require(!c.parallel || c.norm_placement == NormPlacement::pre, path,
          ": parallel branches have their norms before them; set norm_placement = NormPlacement::pre");
  require(!c.parallel || !c.cross_attention, path,
          ": parallel has attention and feed-forward side by side, which leaves no place between them for "
          "cross_attention; leave one out");
  require(c.attention_norm || (c.norm_placement == NormPlacement::pre && !c.parallel), path,
          ": attention_norm = false is of norms before branches one after another; set norm_placement = "
          "NormPlacement::pre and parallel = false");
  require(!c.parallel_one_norm || c.parallel, path,
          ": parallel_one_norm is of branches side by side; set parallel = true");
  if (c.hidden_dims == 0) c.hidden_dims = detail::width(path, "hidden_dims", 4, c.model_dims);
  fill(c.attention.model_dims, c.model_dims);
  fill(c.attention.num_heads, c.num_heads);
  if (c.attention.fused) fill(c.attention.key_chunk, c.blockwise.key_chunk);  // plain attention has no blocks
  if (c.routed) {
    require(c.blockwise.query_chunk == 0 && c.blockwise.ffn_chunk == 0 && c.ffn.blockwise.ffn_chunk == 0, path,
            ": routed gives its slots to the tokens of a whole batch; set blockwise.query_chunk and ffn_chunk = 0");
    require(c.ffn.hidden_dims == 0 && c.ffn.shared_weight_id.empty(), path,
            ": routed stands in the place of ffn; leave out one of them");
    fill(c.routed->model_dims, c.model_dims);
    fill(c.routed->hidden_dims, c.hidden_dims);
    require(c.routed->model_dims == c.model_dims, path, ": routed.model_dims ", c.routed->model_dims,
            " is not the layer's model_dims ", c.model_dims);
    checked(*c.routed, path + "/ffn");
  }
  fill(c.ffn.model_dims, c.model_dims);
  fill(c.ffn.hidden_dims, c.hidden_dims);
  if (c.ffn.blockwise.ffn_chunk == 0) {
    c.ffn.blockwise.ffn_chunk = c.blockwise.ffn_chunk;
    if (c.ffn.blockwise.policy == policy::nothing) c.ffn.blockwise.policy = c.blockwise.policy;
  }
  const auto fill_norm = [&](AttentionConfig& attention) {
    if (c.norm != NormKind::rms_norm || attention.query_key_norm == QueryKeyNorm::none) return;
    if (!attention.query_key_norm_epsilon) attention.query_key_norm_epsilon = c.norm_epsilon;
    if (!attention.query_key_norm_scale) attention.query_key_norm_scale = c.norm_scale;
  };
  fill_norm(c.attention);
  const auto same = [&](const char* part, Index dims) {
    require(dims == c.model_dims, path, ": ", part, " ", dims, " is not the layer's model_dims ", c.model_dims);
  };
  same("attention.model_dims", c.attention.model_dims);
  same("ffn.model_dims", c.ffn.model_dims);
  if (c.attention.memory_dims != 0) same("attention.memory_dims, of self attention,", c.attention.memory_dims);
  require(c.blockwise.query_chunk == 0 || !c.attention.combined_qkv, path, ": blockwise.query_chunk ",
          c.blockwise.query_chunk, " has keys and values projected before queries; set attention.combined_qkv = false");
  c.attention = completed(c.attention, path + "/attention");
  checked(c.ffn, path + "/ffn");
  if (!c.cross_attention) return c;
  AttentionConfig& cross = *c.cross_attention;
  fill(cross.model_dims, c.model_dims);
  fill(cross.num_heads, c.num_heads);
  fill_norm(cross);
  same("cross_attention.model_dims", cross.model_dims);
  require(!cross.combined_qkv, path,
          ": cross_attention projects queries and memory apart; set its combined_qkv = false");
  require(!depends_on_positions(cross), path,
          ": cross_attention has no window, rotary_base, alibi or relative_buckets, for a memory has ",
          "positions of its own; make its config by cross_attention_like");
  cross = completed(cross, path + "/cross_attention");
  return c;
}

}}}  // namespace remat::nn
