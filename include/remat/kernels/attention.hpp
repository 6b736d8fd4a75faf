// Fused attention on raw pointers: never an array of [T, S], never a stored dropout mask, only blocks with a visible
// pair. Exact, after Rabe and Staats (2021) and FlashAttention-2 (Dao 2023). Tiles, and the order of every sum, do not
// depend on the number of threads.
#pragma once

#include <remat/kernels/attention/backward.hpp>
#include <remat/kernels/attention/forward.hpp>

namespace remat::inline REMAT_ABI::kernels {

namespace attention {

/// From this many (batch entry, key/value head) pairs on, backward walks each as one task and computes every
/// probability once; below, it gains tasks by computing them once for dq and once for dk and dv.
inline constexpr Index enough_tasks = 8;

template <class T>
std::size_t delta_bytes(const AttentionProblem<T>& problem) {
  Carver<T> carver;
  carver.take(checked_mul(checked_mul(problem.batch, problem.heads), problem.query_length, "attention"));
  return carver.used();
}

}  // namespace attention

/// Bytes of 64-byte aligned scratch that `attention_forward` needs with up to omp_get_max_threads() threads.
template <class T>
std::size_t attention_forward_scratch(const AttentionProblem<T>& problem) {
  const attention::ForwardTiles<T> tiles(nullptr, problem.head_dims);
  return tiles.bytes * static_cast<std::size_t>(omp_get_max_threads());
}

/// out [B, T, N, H] and log_sum_exp [B, N, T] of q [B, T, N, H], k and v [B, S, K, H]. A query that sees no key gets
/// zeros and -infinity. `scratch` is 64-byte aligned and as large as `attention_forward_scratch` says.
template <class T>
void attention_forward(const AttentionProblem<T>& problem, const T* q, const T* k, const T* v, T* out, T* log_sum_exp,
                       void* scratch) {
  const Index query_tiles = attention::tiles(problem.query_length);
  const Index tasks = problem.batch * problem.heads * query_tiles;
  const std::size_t bytes = attention::ForwardTiles<T>(nullptr, problem.head_dims).bytes;
#pragma omp parallel for schedule(dynamic) num_threads(attention::team(tasks))
  for (Index task = 0; task < tasks; ++task) {
    void* own = static_cast<std::byte*>(scratch) + bytes * static_cast<std::size_t>(omp_get_thread_num());
    // Causal tiles grow with t: the long ones come first, so that the last task to finish is a short one.
    const Index head = task / query_tiles, tile = query_tiles - 1 - task % query_tiles;
    attention::forward_tile(problem, head / problem.heads, head % problem.heads, tile * attention::tile_rows, q, k, v,
                            out, log_sum_exp, own);
  }
}

/// Bytes of 64-byte aligned scratch that `attention_backward` needs with up to omp_get_max_threads() threads.
template <class T>
std::size_t attention_backward_scratch(const AttentionProblem<T>& problem) {
  const attention::BackwardTiles<T> tiles(nullptr, problem.head_dims);
  return attention::delta_bytes(problem) + tiles.bytes * static_cast<std::size_t>(omp_get_max_threads());
}

/// Overwrites dq, dk, dv (strides of q, k, v; null: not wanted) with the gradients of `attention_forward` at dout
/// (strides of out), given its inputs and outputs.
template <class T>
void attention_backward(const AttentionProblem<T>& problem, const T* q, const T* k, const T* v, const T* out,
                        const T* log_sum_exp, const T* dout, T* dq, T* dk, T* dv, void* scratch) {
  using attention::tile_rows;
  const Index query_tiles = attention::tiles(problem.query_length), key_tiles = attention::tiles(problem.key_length);
  const Index pairs = problem.batch * problem.kv_heads, heads = attention::group_heads(problem);
  const std::size_t bytes = attention::BackwardTiles<T>(nullptr, problem.head_dims).bytes;
  T* delta = static_cast<T*>(scratch);
  std::byte* tiles = static_cast<std::byte*>(scratch) + attention::delta_bytes(problem);
  const attention::BackwardArguments<T> arguments{q, k, v, out, log_sum_exp, dout, dq, dk, dv, delta};
  const bool wants_keys = dk != nullptr || dv != nullptr;

  const auto for_each = [&](Index tasks_per_pair, const auto& body) {
    const Index tasks = pairs * tasks_per_pair;
#pragma omp parallel for schedule(dynamic) num_threads(attention::team(tasks))
    for (Index task = 0; task < tasks; ++task) {
      const Index pair = task / tasks_per_pair, b = pair / problem.kv_heads, kv = pair % problem.kv_heads;
      attention::BackwardTask<T> own(problem, arguments, b, kv,
                                     tiles + bytes * static_cast<std::size_t>(omp_get_thread_num()));
      body(own, kv * heads, task % tasks_per_pair);
    }
  };

  // A single tile each way has no more tasks to offer.
  if (pairs >= attention::enough_tasks || (query_tiles <= 1 && key_tiles <= 1)) {
    for_each(1, [&](attention::BackwardTask<T>& task, Index first_head, Index) {
      for (Index n = first_head; n < first_head + heads; ++n) {
        task.find_delta(n, 0, problem.query_length);
        if (dq != nullptr) task.zero_dq(n, 0, problem.query_length);
      }
      if (wants_keys) {
        for (Index s = 0; s < problem.key_length; s += tile_rows) task.keys(s, dq != nullptr);
      } else if (dq != nullptr) {
        for (Index n = first_head; n < first_head + heads; ++n)
          for (Index t = 0; t < problem.query_length; t += tile_rows) task.queries(n, t);
      }
    });
    return;
  }
  for_each(heads * query_tiles, [&](attention::BackwardTask<T>& task, Index first_head, Index i) {
    const Index n = first_head + i / query_tiles, t0 = (query_tiles - 1 - i % query_tiles) * tile_rows;
    const Index rows = std::min(tile_rows, problem.query_length - t0);
    task.find_delta(n, t0, rows);
    if (dq == nullptr) return;
    task.zero_dq(n, t0, rows);
    task.queries(n, t0);
  });
  if (wants_keys)
    for_each(key_tiles, [&](attention::BackwardTask<T>& task, Index, Index i) { task.keys(i * tile_rows, false); });
}

}  // namespace remat::inline REMAT_ABI::kernels
