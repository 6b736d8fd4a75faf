// What a caller of attention chooses: masks by position, what happens to scores, blocks.
#pragma once

#include <cmath>
#include <optional>
#include <remat/autodiff/var.hpp>
#include <remat/kernels/attention.hpp>
#include <remat/ops/check_ids.hpp>
#include <vector>

namespace remat { inline namespace REMAT_ABI {

/// Which frequencies of rotary positions are lowered, so that a model sees further than it was trained to: none; all
/// (Chen et al. 2023); those that turn slowly, as in Llama 3.1, or by YaRN's line over the pairs (Peng et al. 2023);
/// each by a factor of its own (LongRoPE, Ding et al. 2024). `proportional` has the frequencies of whole heads, of
/// which those of the last pairs are 0, and all are divided (Gemma 4).
enum class RotaryScaling { none, linear, llama3, yarn, longrope, proportional };

/// How rotary frequencies are lowered.
struct RotaryScalingOptions {
  RotaryScaling kind = RotaryScaling::none;  // which of them
  double factor = 1;                         // what they are divided by
  double low_frequency_factor = 1;   // of llama3: what turns less often within original_context is divided whole
  double high_frequency_factor = 4;  // of llama3: what turns more often is not divided, what lies between in proportion
  Index original_context = 8192;     // of llama3, yarn and longrope: the longest sequence in training
  double beta_fast = 32, beta_slow = 1;  // of yarn: what turns more often within original_context is not divided, what
                                         // turns less often is whole, pairs between in proportion
  bool truncate = true;                  // of yarn: those bounds are moved to whole pairs
  std::vector<double> factors{};         // of longrope: what the frequency of each pair is divided by
  std::optional<double> attention_factor{};  // what turned queries and keys are multiplied by; empty: of yarn
                                             // 1 + 0.1 ln(factor), of longrope sqrt(1 + ln(factor) /
                                             // ln(original_context)), where factor is above 1, else 1
};

/// What ALiBi adds to a score: -slope * distance (Press et al. 2022); or what transformers adds for Falcon, which
/// differs by a constant of each query and by rounding: slope * position of the key, slope and product rounded to
/// bfloat16, times the scale of scores. Where a sequence begins then matters, so segments are refused.
enum class AlibiForm { distance, bfloat16_key_position };

/// Query t lies at position t + offset where key s lies at s.
struct AttentionOptions {
  bool causal = false;            // query t sees key s iff s <= t + offset
  std::optional<Index> offset{};  // position of query 0 less that of key 0; S - T when empty
  std::optional<double> scale{};  // of q k^T; 1 / sqrt(H) when empty
  double dropout = 0;             // on probabilities
  Index window = 0;               // keys are seen at distances below it; 0: at any
  double soft_cap = 0;            // scores become cap * tanh(score / cap), before biases (Gemma 2); 0: as they are
  Index query_chunk = 0;   // queries to a block that is computed or skipped; 0: a cache tile. Larger ones are walked
                           // in tiles, so that no size costs memory
  Index key_chunk = 0;     // keys to a block, likewise
  double rotary_base = 0;  // turns q and k by position (Su et al. 2021); 10000 is usual, 0: not
  Index rotary_dims = 0;   // of each head, from its first; even; 0: all. Dimension j turns with j + dims / 2
  Index key_position = 0;  // of key 0, for rotary
  bool alibi = false;      // adds -slope * distance (Press et al. 2022): 2^(-8 n / N) in head n = 1 .. N, if N
                           // is a power of two; else see `alibi_slope`
  Index relative_max_distance = 128;           // from here on, distances share T5's last bucket
  RotaryScalingOptions rotary_scaling{};       // of the frequencies of rotary
  AlibiForm alibi_form = AlibiForm::distance;  // of alibi
  bool rotary_interleaved = false;             // dimension 2 j turns with 2 j + 1 (GPT-J, GLM)
  Index window_right = 0;                      // of keys behind the query, another window; 0: `window`
};

/// Masks and biases, each of which may be left out; a key is seen where all agree:
/// `attention(q, k, v, {.causal = true}, {.key_lengths = lengths})`.
template <class T>
struct AttentionMasks {
  Like<std::int32_t> key_lengths{};     // [B] in [0, S]: keys from there on are padding
  Like<std::int32_t> query_segments{};  // [B, T]: keys of the same id are seen
  Like<std::int32_t> key_segments{};    // [B, S]; query_segments when left out
  Like<std::int32_t> prefix_lengths{};  // [B] in [0, S]: keys before are seen in spite of causal
  Like<Accum<T>> bias{};                // [B or 1, N or 1, T or 1, S or 1], added to scores; -infinity hides
  Like<Accum<T>> relative_bias{};       // [buckets, N], added by T5's bucket of distance (Raffel et al. 2020)
  Like<Accum<T>> sinks{};               // [N]: logits of one more key, which all see, with a value of zeros (gpt-oss)
  Like<std::int32_t> positions{};       // [B, T]: of queries, for rotary alone; where they lie when left out
  Like<std::int32_t> key_positions{};   // [B, S]; positions when left out
  Like<std::int32_t> query_offsets{};   // [B]: options.offset of each row; rotary then needs positions
  Like<Accum<T>> head_mask{};  // [N]: what each head counts for, by which its weights are multiplied (transformers 4)
  Var<T>* weights = nullptr;   // where what values are multiplied by goes [B, N, T, S], dropout and head_mask included;
                               // it has the scores exist whole (`plain_attention`)
};

/// How many blocks of scores a mask leaves to compute, of one batch entry and head.
struct AttentionBlocks {
  Index visible = 0;  // with a pair that the options let see: those that attention computes
  Index total = 0;    // of [T, S]
};

namespace ops {

/// What of `s` is out of its range, or nothing.
inline const char* fault_of(const RotaryScalingOptions& s) {
  if (s.kind == RotaryScaling::none) return nullptr;
  if (!(s.factor > 0) || !std::isfinite(s.factor)) return "rotary_scaling.factor must be > 0 and finite";
  if (s.attention_factor && !(*s.attention_factor > 0 && std::isfinite(*s.attention_factor)))
    return "rotary_scaling.attention_factor must be > 0 and finite";
  if ((s.kind == RotaryScaling::longrope) == s.factors.empty())
    return "rotary_scaling.factors are of longrope, one a pair of dimensions that turns";
  for (const double factor : s.factors)
    if (!(factor > 0) || !std::isfinite(factor)) return "rotary_scaling.factors must be > 0 and finite";
  if (s.kind == RotaryScaling::linear || s.kind == RotaryScaling::proportional) return nullptr;
  if (s.original_context <= 0) return "rotary_scaling.original_context must be > 0";
  if (s.kind == RotaryScaling::longrope) return nullptr;
  if (s.kind == RotaryScaling::yarn)
    return s.beta_slow > 0 && s.beta_fast > s.beta_slow && std::isfinite(s.beta_fast)
               ? nullptr
               : "rotary_scaling.beta_fast must be above beta_slow, and that above 0";
  const bool is_range = s.low_frequency_factor > 0 && s.high_frequency_factor > s.low_frequency_factor;
  return is_range && std::isfinite(s.high_frequency_factor)
             ? nullptr
             : "rotary_scaling.high_frequency_factor must be above low_frequency_factor, and that above 0";
}

/// What turned queries and keys are multiplied by.
inline double rotary_amplitude(const RotaryScalingOptions& s) {
  if (s.kind == RotaryScaling::none) return 1;
  if (s.attention_factor) return *s.attention_factor;
  if (s.factor <= 1) return 1;
  if (s.kind == RotaryScaling::yarn) return 1 + 0.1 * std::log(s.factor);
  if (s.kind == RotaryScaling::longrope)
    return std::sqrt(1 + std::log(s.factor) / std::log(static_cast<double>(s.original_context)));
  return 1;
}
/// Pairs of `dims` dimensions that turn together, moving or not.
inline Index rotary_pairs(Index head_dims, Index dims, const RotaryScalingOptions& s) {
  return (dims == 0 || s.kind == RotaryScaling::proportional ? head_dims : dims) / 2;
}

/// The part of the kernel's problem that lengths and options say.
template <class T>
kernels::AttentionProblem<T> attention_problem(Index query_length, Index key_length, const AttentionOptions& options) {
  kernels::AttentionProblem<T> p;
  p.query_length = query_length, p.key_length = key_length;
  p.causal = options.causal;
  p.offset = options.offset.value_or(key_length - query_length);
  p.window = options.window, p.window_right = options.window_right;
  p.soft_cap = options.soft_cap;
  p.query_chunk = options.query_chunk, p.key_chunk = options.key_chunk;
  p.rotary_base = options.rotary_base, p.rotary_dims = options.rotary_dims, p.key_position = options.key_position;
  const RotaryScalingOptions& scaling = options.rotary_scaling;
  p.rotary_interleaved = options.rotary_interleaved;
  if (scaling.kind != RotaryScaling::none) p.rotary_factor = scaling.factor;
  if (scaling.kind == RotaryScaling::proportional && options.rotary_dims > 0)
    p.rotary_dims = 0, p.rotary_turning = options.rotary_dims / 2;
  if (scaling.kind == RotaryScaling::longrope) p.rotary_factors = scaling.factors.data();
  if (scaling.kind == RotaryScaling::yarn) {
    p.rotary_context = scaling.original_context;
    p.rotary_fast = scaling.beta_fast, p.rotary_slow = scaling.beta_slow;
    p.rotary_whole_pairs = scaling.truncate;
  }
  p.rotary_amplitude = rotary_amplitude(scaling);
  if (scaling.kind == RotaryScaling::llama3) {
    p.rotary_context = scaling.original_context;
    p.rotary_low = scaling.low_frequency_factor, p.rotary_high = scaling.high_frequency_factor;
  }
  p.alibi = options.alibi;
  p.alibi_by_key = options.alibi && options.alibi_form == AlibiForm::bfloat16_key_position;
  p.max_distance = options.relative_max_distance;
  return p;
}

}  // namespace ops

/// Of the blocks of [T, S] that the chunks of `options` make, how many attention computes for each batch entry and
/// head: those with a visible pair. Masks given as operands rule out more.
inline AttentionBlocks attention_blocks(Index query_length, Index key_length, const AttentionOptions& options = {}) {
  ops::check_position(options.offset.value_or(0), "attention_blocks: offset");
  const auto p = ops::attention_problem<float>(query_length, key_length, options);
  const kernels::attention::Visibility seen(p, 0);
  const Index query_chunk = kernels::attention::query_tiling(p).chunk;
  const Index key_chunk = kernels::attention::key_tiling(p).chunk;
  AttentionBlocks blocks;
  for (Index t = 0; t < query_length; t += query_chunk) {
    const Index begin = seen.begin(t), end = seen.end(std::min(t + query_chunk, query_length) - 1);
    if (begin < end) blocks.visible += (end - 1) / key_chunk - begin / key_chunk + 1;
    blocks.total += (key_length + key_chunk - 1) / key_chunk;
  }
  return blocks;
}

}}  // namespace remat
