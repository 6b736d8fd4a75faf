// Settings of attention, and which of them hold together.
#pragma once

#include <optional>
#include <remat/nn/config_checks.hpp>
#include <remat/nn/norm.hpp>
#include <remat/ops/attention_options.hpp>
#include <string>
#include <utility>

namespace remat { inline namespace REMAT_ABI { namespace nn {

/// Where queries and keys get an RMS norm, behind their projections and before rotary turns them: nowhere; each head by
/// itself, all with one scale [H] (Qwen 3, Gemma 3); or all heads of a token as one row, scales [N H] and [K H] (OLMo
/// 2).
enum class QueryKeyNorm { none, each_head, whole_projection };

/// Settings of `MultiHeadAttention`; model_dims and num_heads must be given.
struct AttentionConfig {
  Index model_dims = 0;    // D, of what enters and leaves
  Index num_heads = 0;     // N, of queries
  Index num_kv_heads = 0;  // 0: one for each query head; 1: multi-query (Shazeer 2019); between: grouped (Ainslie 2023)
  Index head_dims = 0;     // 0: model_dims / num_heads
  Index memory_dims = 0;   // of what cross attention looks at, projected apart from queries; 0: model_dims
  bool causal = true;      // of self attention; cross attention sees the whole memory
  bool combined_qkv = false;       // one projection for query, key and value: one GEMM instead of three
  bool bias = true;                // of the projections
  std::optional<bool> out_bias{};  // of the last projection alone (Qwen 2 has none there); empty: as `bias`
  double dropout = 0;              // on attention probabilities
  Index window = 0;                // of self attention: keys are seen at distances below it; 0: at any
  double soft_cap = 0;             // of scores, as in Gemma 2; 0: none
  std::optional<double> scale{};   // of scores; empty: 1 / sqrt(head_dims)
  double rotary_base = 0;          // of self attention: turns queries and keys by position (Su et al. 2021); 0: not
  Index rotary_dims = 0;           // of each head, even, with rotary_base only; 0: all
  bool alibi = false;              // of self attention: linear biases (Press et al. 2022)
  Index key_chunk = 0;             // keys to a block; 0: a cache tile
  bool fused = true;  // false: scores [B, N, T, S] exist whole, to compare with. Then there are none of dropout,
                      // window, soft_cap, rotary, alibi, relative_buckets, key_chunk and fewer key/value heads
  std::optional<Initializer> init{}, out_init{};     // of the projections; Xavier uniform when empty
  std::string shared_weight_id{};                    // layers that carry one id use one set of weights
  RotaryScalingOptions rotary_scaling{};             // of rotary_base: frequencies that are lowered
  AlibiForm alibi_form = AlibiForm::distance;        // of alibi: by distance, or as transformers rounds it for Falcon
  QueryKeyNorm query_key_norm = QueryKeyNorm::none;  // RMS norms of queries and of keys: of each head or of all heads
  std::optional<NormScale> query_key_norm_scale{};   // of them; empty: that of a layer's RMS norms around, or `weight`
  std::optional<double> query_key_norm_epsilon{};    // of them; empty: that of a layer's RMS norms around, or 1e-6
  bool rotary_interleaved = false;  // of rotary_base: dimensions 2 j and 2 j + 1 turn together (GPT-J, GLM)
  Index window_right = 0;           // of window: of keys behind the query another distance; 0: the same
  bool sinks = false;               // a learned logit a head in the denominator, as of a key without a value (gpt-oss)
  bool output_gate = false;  // what heads give is multiplied by sigmoid of a projection of the query's input (Qwen 3.5)
  Index value_head_dims = 0;   // of values, apart from queries and keys (DeepSeek); 0: head_dims. The narrower ones are
                               // filled up with zeros
  Index relative_buckets = 0;  // of self attention: a learned bias of each head by the bucket of the distance (T5,
                               // Raffel et al. 2020), of keys on both sides unless causal; 0: none
  Index relative_max_distance = 128;        // of relative_buckets: from here on, distances share the last bucket
  std::string relative_shared_weight_id{};  // of relative_buckets: layers that carry one id use one table (T5: a stack)
};

/// The same settings for attention to a memory: projections of its own, for a shared id would make the weights of self
/// and cross attention one, and nothing that depends on positions, for a memory has its own.
inline AttentionConfig cross_attention_like(AttentionConfig config) {
  config.combined_qkv = false;
  config.shared_weight_id.clear();
  config.window = 0, config.rotary_base = 0, config.rotary_dims = 0, config.alibi = false;
  config.alibi_form = AlibiForm::distance, config.rotary_scaling = {};
  config.window_right = 0, config.rotary_interleaved = false;
  config.relative_buckets = 0, config.relative_max_distance = 128, config.relative_shared_weight_id.clear();
  return config;
}

/// Does a setting depend on how far apart a query and a key are, which only self attention knows?
inline bool depends_on_positions(const AttentionConfig& c) {
  return c.window != 0 || c.rotary_base != 0 || c.alibi || c.relative_buckets != 0;
}

/// `c` with what follows from the others where it is 0. An `Error` names the first setting that is out of its range or
/// cannot be honoured beside another.
inline AttentionConfig completed(AttentionConfig c, const std::string& path) {
  require(c.model_dims > 0 && c.num_heads > 0, path, ": attention needs model_dims and num_heads > 0, got ",
          c.model_dims, " and ", c.num_heads);
  for (const auto& [name, value] : {std::pair{"num_kv_heads", c.num_kv_heads},
                                    {"head_dims", c.head_dims},
                                    {"memory_dims", c.memory_dims},
                                    {"window", c.window},
                                    {"rotary_dims", c.rotary_dims},
                                    {"window_right", c.window_right},
                                    {"value_head_dims", c.value_head_dims},
                                    {"relative_buckets", c.relative_buckets},
                                    {"relative_max_distance", c.relative_max_distance},
                                    {"key_chunk", c.key_chunk}})
    detail::check_not_negative(path, name, value);
  detail::check_rate(path, "dropout", c.dropout);
  if (c.scale) detail::check_positive(path, "scale", *c.scale);
  detail::check_not_negative(path, "soft_cap", c.soft_cap);
  detail::check_not_negative(path, "rotary_base", c.rotary_base);
  if (c.query_key_norm_epsilon) detail::check_positive(path, "query_key_norm_epsilon", *c.query_key_norm_epsilon);
  for (const auto& [name, is_set] : {std::pair{"query_key_norm_epsilon", c.query_key_norm_epsilon.has_value()},
                                     {"query_key_norm_scale", c.query_key_norm_scale.has_value()}})
    require(!is_set || c.query_key_norm != QueryKeyNorm::none, path, ": ", name,
            " is of norms that are not there; set query_key_norm");
  detail::check_init(path, "init", c.init);
  detail::check_init(path, "out_init", c.out_init);

  if (c.num_kv_heads == 0) c.num_kv_heads = c.num_heads;
  require(c.head_dims > 0 || c.model_dims % c.num_heads == 0, path, ": num_heads ", c.num_heads,
          " does not divide model_dims ", c.model_dims, "; set head_dims");
  if (c.head_dims == 0) c.head_dims = c.model_dims / c.num_heads;
  require(c.num_heads % c.num_kv_heads == 0, path, ": num_kv_heads ", c.num_kv_heads, " does not divide num_heads ",
          c.num_heads);
  if (c.value_head_dims == 0) c.value_head_dims = c.head_dims;
  require(c.value_head_dims == c.head_dims || !c.combined_qkv, path, ": value_head_dims ", c.value_head_dims,
          " apart from head_dims ", c.head_dims, " needs projections apart; set combined_qkv = false");
  require(c.window_right == 0 || c.window > 0, path, ": window_right ", c.window_right,
          " is the other side of a window; set window");
  require(c.window_right == 0 || !c.causal, path, ": window_right ", c.window_right,
          " is of keys that causal attention hides; leave out one of them");
  detail::width(path, "num_heads", c.num_heads, 1);
  detail::width(path, "num_heads + 2 num_kv_heads times head_dims,", c.num_heads + 2 * c.num_kv_heads, c.head_dims);
  if (c.memory_dims == 0) c.memory_dims = c.model_dims;
  require(!c.combined_qkv || c.memory_dims == c.model_dims, path, ": memory_dims ", c.memory_dims,
          " is of cross attention, which projects queries and memory apart; set combined_qkv = false");

  require(c.rotary_dims == 0 || c.rotary_base > 0, path, ": rotary_dims ", c.rotary_dims,
          " turns nothing without rotary_base; set it, 10000 is usual");
  require(c.alibi || c.alibi_form == AlibiForm::distance, path,
          ": alibi_form bfloat16_key_position is of biases that are not there; set alibi = true");
  require(c.rotary_scaling.kind == RotaryScaling::none || c.rotary_base > 0, path,
          ": rotary_scaling slows nothing without rotary_base; set it, 10000 is usual");
  if (const char* fault = ops::fault_of(c.rotary_scaling)) fail(path, ": ", fault);
  const Index pairs = ops::rotary_pairs(c.head_dims, c.rotary_dims, c.rotary_scaling);
  require(
      c.rotary_scaling.kind != RotaryScaling::longrope || static_cast<Index>(c.rotary_scaling.factors.size()) == pairs,
      path, ": rotary_scaling has ", c.rotary_scaling.factors.size(), " factors for ", pairs, " pairs of dimensions");
  require(!c.rotary_interleaved || c.rotary_base > 0, path,
          ": rotary_interleaved turns nothing without rotary_base; set it, 10000 is usual");
  const Index turned = c.rotary_dims == 0 ? c.head_dims : c.rotary_dims;
  require(c.rotary_base == 0 || (turned <= c.head_dims && turned % 2 == 0), path, ": rotary_base turns pairs, but ",
          turned, " of head_dims ", c.head_dims, " is no even part; set rotary_dims");
  const Index sides = c.causal ? 1 : 2, exact = c.relative_buckets / (2 * sides);
  require(c.relative_buckets == 0 || (c.relative_buckets >= 2 * sides && c.relative_buckets % sides == 0), path,
          ": relative_buckets ", c.relative_buckets, " cannot be shared out; ",
          c.causal ? "causal attention needs 2 or more" : "attention to both sides needs an even number from 4 on");
  require(c.relative_buckets == 0 || c.relative_max_distance > exact, path, ": relative_max_distance ",
          c.relative_max_distance, " lies within the ", exact, " buckets of one distance each");
  require(
      c.relative_buckets > 0 || (c.relative_max_distance == 128 && c.relative_shared_weight_id.empty()), path,
      ": relative_max_distance and relative_shared_weight_id are of a bias that is not there; set relative_buckets");
  for (const auto& [name, is_set] : {std::pair{"dropout", c.dropout != 0},
                                     {"window", c.window != 0},
                                     {"soft_cap", c.soft_cap != 0},
                                     {"rotary_base", c.rotary_base != 0},
                                     {"alibi", c.alibi},
                                     {"key_chunk", c.key_chunk != 0},
                                     {"sinks", c.sinks},
                                     {"relative_buckets", c.relative_buckets != 0},
                                     {"num_kv_heads below num_heads", c.num_kv_heads != c.num_heads}})
    require(c.fused || !is_set, path, ": fused = false computes attention by its plain formula, without ", name,
            "; leave that out or set fused = true");
  return c;
}

}}}  // namespace remat::nn
