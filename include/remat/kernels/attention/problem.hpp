// What one attention call computes, and what its tiles share: scratch, threads, dropout coordinates.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <remat/core/dtype.hpp>
#include <remat/core/parallel.hpp>
#include <remat/core/random.hpp>
#include <remat/kernels/attention/tile.hpp>

namespace remat { inline namespace REMAT_ABI { namespace kernels {

/// softmax(scale q k^T, modified and masked) v for `heads` query heads over `kv_heads` key/value heads (heads %
/// kv_heads == 0; query head n reads key/value head n / (heads / kv_heads)). T is float, double or bfloat16, which is
/// summed in float; any size may be 0. Query t lies at position t + offset where key s lies at s. All masks must
/// agree that a key is visible.
template <class T>
struct AttentionProblem {
  Index batch = 0, query_length = 0, key_length = 0, heads = 1, kv_heads = 1, head_dims = 0;
  /// Elements from token to token and from batch entry to batch entry; from head to head it is `head_dims`.
  Index q_token = 0, k_token = 0, v_token = 0, out_token = 0;
  Index q_batch = 0, k_batch = 0, v_batch = 0, out_batch = 0;
  double scale = 1;
  /// Query t sees key s iff s <= t + offset.
  bool causal = false;
  Index offset = 0;
  /// [batch], instead of `offset`; not beside rotary. Null: one offset for all.
  const std::int32_t* query_offsets = nullptr;
  Index offset_of(Index b) const { return query_offsets == nullptr ? offset : query_offsets[b]; }
  /// On probabilities; the element (b, n, t, s) has coordinate
  /// ((b * heads + n) * dropout_query_length + dropout_first_query + t) * key_length + s, so that a caller who runs
  /// queries in pieces draws the masks of one who runs them at once. Length 0: query_length. `dropout.first` is added.
  DropoutMask dropout{};
  Index dropout_first_query = 0, dropout_query_length = 0;
  /// Key 0 is number `first_key` of `all_keys` (0: key_length), for dropout likewise and for `alibi_by_key`.
  Index first_key = 0, all_keys = 0;

  /// Masks by position. Keys are seen at distances below `window` (0: any), and in batch entry b before key_lengths[b];
  /// those before prefix_lengths[b] are seen in spite of `causal`. Null: no such mask.
  Index window = 0;
  /// Of keys behind the query; 0: `window`.
  Index window_right = 0;
  const std::int32_t *key_lengths = nullptr, *prefix_lengths = nullptr;
  /// [batch, query_length] and [batch, key_length]: seen iff equal.
  const std::int32_t *query_segments = nullptr, *key_segments = nullptr;

  /// Scaled scores become soft_cap * tanh(score / soft_cap) before anything is added; 0: as they are.
  double soft_cap = 0;
  /// Adds -slope(n) * distance (Press et al. 2022).
  bool alibi = false;
  /// Then adds slope(n) * s instead, slope and product rounded to bfloat16, times `scale`.
  bool alibi_by_key = false;
  /// Adds bias[b, n, t, s]; a size of 1 stands for every index. -infinity hides.
  const Accum<T>* bias = nullptr;
  Index bias_sizes[4] = {1, 1, 1, 1};
  /// [heads]: logits of a key that everybody sees, whose value is zeros; null: none.
  const Accum<T>* sinks = nullptr;
  /// Adds relative_bias[bucket of s - t - offset][n], [buckets, heads] (Raffel et al. 2020).
  const Accum<T>* relative_bias = nullptr;
  Index buckets = 0, max_distance = 128;

  /// Rotates the first rotary_dims (0: all) of each query and key by its position, key 0 at key_position; base 0: none.
  double rotary_base = 0;
  Index rotary_dims = 0, key_position = 0;
  /// Divides the frequencies of rotary; with rotary_context > 0 those alone that turn less than rotary_low times within
  /// it, in part those below rotary_high.
  double rotary_factor = 1, rotary_low = 0, rotary_high = 0;
  Index rotary_context = 0;
  /// YaRN (Peng et al. 2023), if rotary_fast > 0: frequencies that turn less than rotary_slow times within
  /// rotary_context are divided, those that turn more than rotary_fast times are not, with bounds of whole pairs or
  /// not.
  double rotary_fast = 0, rotary_slow = 0;
  bool rotary_whole_pairs = true;
  /// What each frequency is divided by (LongRoPE, Ding et al. 2024); null: nothing.
  const double* rotary_factors = nullptr;
  /// Pairs that turn, of all; the others stand still. -1: all turn.
  Index rotary_turning = -1;
  /// Turned queries and keys are multiplied by it.
  double rotary_amplitude = 1;
  /// Dimensions 2 j and 2 j + 1 turn together, not j and j + half.
  bool rotary_interleaved = false;

  /// Queries and keys to a block; 0: a tile.
  Index query_chunk = 0, key_chunk = 0;

  /// Does anything but a mask by position touch the scores?
  bool changes_scores() const {
    return soft_cap > 0 || alibi || bias != nullptr || buckets > 0 || query_segments != nullptr;
  }
};

namespace attention {

/// Query heads per key/value head.
template <class T>
Index group_heads(const AttentionProblem<T>& problem) {
  return problem.kv_heads == 0 ? 0 : problem.heads / problem.kv_heads;
}

/// Threads that `tasks` independent tasks can use here; nested calls stay serial.
inline int team(Index tasks) {
  return omp_in_parallel() != 0 ? 1 : static_cast<int>(std::clamp<Index>(tasks, 1, omp_get_max_threads()));
}

/// Calls `body(i, scratch)` for i < tasks, in parallel; `scratch` is a part of its own for each thread.
template <class F>
void each_task(Index tasks, std::byte* scratch, std::size_t bytes, F&& body) {
  const bool is_alone = omp_in_parallel() != 0;  // the caller's threads are none of ours
  parallel_for(tasks, 1, [&](Index i, Index) {
    body(i, scratch + bytes * static_cast<std::size_t>(is_alone ? 0 : omp_get_thread_num()));
  });
}

/// Hands out pieces of scratch that keep 64-byte alignment; over a null pointer it only counts.
class ScratchArena {
 public:
  explicit ScratchArena(void* base = nullptr) : base_(static_cast<std::byte*>(base)) {}
  template <class U>
  U* take(Index elements) {
    std::byte* piece = base_ == nullptr ? nullptr : base_ + used_;
    used_ += (checked_bytes(elements, sizeof(U), "attention: scratch") + 63) / 64 * 64;
    return reinterpret_cast<U*>(piece);
  }
  std::size_t used() const { return used_; }

 private:
  std::byte* base_;
  std::size_t used_ = 0;
};

/// The dropout coordinate of (b, n, t, s).
template <class T>
std::uint64_t coordinate(const AttentionProblem<T>& problem, Index b, Index n, Index t, Index s) {
  const Index length = problem.dropout_query_length > 0 ? problem.dropout_query_length : problem.query_length;
  const auto row = static_cast<std::uint64_t>((b * problem.heads + n) * length + problem.dropout_first_query + t);
  const Index keys = problem.all_keys > 0 ? problem.all_keys : problem.key_length;
  return problem.dropout.first + row * static_cast<std::uint64_t>(keys) +
         static_cast<std::uint64_t>(problem.first_key + s);
}

}  // namespace attention
}}}  // namespace remat::kernels
