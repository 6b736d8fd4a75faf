// Fused attention on raw pointers: never an array of [T, S], never a stored dropout mask, only blocks with a visible
// pair. Exact, after Rabe and Staats (2021) and FlashAttention-2 (Dao 2023). Tiles, and the order of every sum, do not
// depend on the number of threads.
#pragma once

#include <remat/kernels/attention/backward.hpp>
#include <remat/kernels/attention/bfloat16_pair.hpp>
#include <remat/kernels/attention/bfloat16_strip.hpp>
#include <remat/kernels/attention/bias_gradient.hpp>
#include <remat/kernels/attention/forward.hpp>
#include <type_traits>

namespace remat { inline namespace REMAT_ABI { namespace kernels {

namespace attention {

/// Who computes tiles.
template <class T, bool Changed>
struct InAccum {
  using Strip = QueryStrip<T, Changed>;
  using Pair = TilePair<T, Changed>;
};
struct InBfloat16 {
  using Strip = Bfloat16Strip;
  using Pair = Bfloat16Pair;
};

/// Calls `body` with who computes this problem. Changed scores of bfloat16 are rare enough to be widened.
template <class T, class F>
void with_kind(const AttentionProblem<T>& p, F&& body) {
  if (p.changes_scores()) return body(InAccum<T, true>());
  if constexpr (std::is_same_v<T, bfloat16>)
    if (has_bfloat16_products(p)) return body(InBfloat16());
  body(InAccum<T, false>());
}

/// Bytes of one thread's tiles, whoever will compute: scratch is granted before all operands are known.
template <class Tiles, class Bfloat16Tiles, class T>
std::size_t tile_bytes(const AttentionProblem<T>& p, const Tables& tables) {
  ScratchArena arena, of_bfloat16;
  static_cast<void>(Tiles(p, tables, arena));
  if constexpr (std::is_same_v<T, bfloat16>)
    if (has_bfloat16_products(p)) static_cast<void>(Bfloat16Tiles(p, tables, of_bfloat16));
  return std::max(arena.used(), of_bfloat16.used());
}
template <class T>
std::size_t forward_tile_bytes(const AttentionProblem<T>& p, const Tables& tables) {
  return tile_bytes<ForwardTiles<T>, Bfloat16StripTiles>(p, tables);
}
template <class T>
std::size_t backward_tile_bytes(const AttentionProblem<T>& p, const Tables& tables) {
  return tile_bytes<BackwardTiles<T>, Bfloat16PairTiles>(p, tables);
}

/// What the threads of one backward share.
template <class T>
struct BackwardShared {
  Tables tables;
  Accum<T>* delta;
  double* partial;  // of the relative bias

  BackwardShared(const AttentionProblem<T>& p, ScratchArena& arena)
      : tables(p, arena),
        delta(arena.take<Accum<T>>(checked_mul(checked_mul(p.batch, p.heads), p.query_length, "attention"))),
        partial(arena.take<double>(partial_size(p))) {}
};

/// dq, dk and dv.
template <class Pair, class T>
void product_gradients(const AttentionProblem<T>& p, const BackwardArguments<T>& x, const Tables& tables,
                       std::byte* scratch, std::size_t bytes) {
  const Tiling query_tiles = query_tiling(p, Pair::query_tile), key_tiles = key_tiling(p, Pair::key_tile);
  const Index pairs = p.batch * p.kv_heads, heads = group_heads(p);
  const bool wants_q = x.to.q != nullptr, wants_keys = x.to.k != nullptr || x.to.v != nullptr;
  const auto for_each = [&](Index tasks_per_pair, const auto& body) {
    each_task(pairs * tasks_per_pair, scratch, bytes, [&](Index task, void* own) {
      const Index pair = task / tasks_per_pair, b = pair / p.kv_heads, kv = pair % p.kv_heads;
      BackwardTask<T, Pair> pass(p, x, tables, b, kv, own);
      body(pass, kv * heads, task % tasks_per_pair);
    });
  };

  // One task a pair costs 5 products of tiles. More tasks are to be had by walking dq and dk with dv apart, for 7: each
  // needs scores and gradients of probabilities. No bit depends on the choice.
  const Index threads = team(pairs * (query_tiles.count() + key_tiles.count()));
  if (threads == 1 || (wants_q && wants_keys && (pairs + threads - 1) / threads * threads * 5 <= pairs * 7)) {
    for_each(1, [&](auto& pass, Index first_head, Index) {
      for (Index n = first_head; n < first_head + heads; ++n) pass.prepare(n, 0, p.query_length);
      if (wants_keys) {
        key_tiles.each(0, p.key_length, [&](Index s0, Index keys) { pass.keys(s0, keys, true); });
      } else if (wants_q) {
        for (Index n = first_head; n < first_head + heads; ++n)
          query_tiles.each(0, p.query_length, [&](Index t0, Index rows) { pass.queries(n, t0, rows); });
      }
      for (Index n = first_head; n < first_head + heads; ++n) pass.finish(n, 0, p.query_length);
    });
    return;
  }
  for_each(heads * query_tiles.count(), [&](auto& pass, Index first_head, Index i) {
    // Causal tiles grow with t: the long ones come first, so that the last task to finish is a short one.
    const Index n = first_head + i / query_tiles.count(), at = query_tiles.count() - 1 - i % query_tiles.count();
    const Index t0 = query_tiles.start(at), rows = query_tiles.size(at);
    pass.prepare(n, t0, rows);
    if (wants_q) pass.queries(n, t0, rows);
    pass.finish(n, t0, rows);
  });
  if (wants_keys)
    for_each(key_tiles.count(),
             [&](auto& pass, Index, Index i) { pass.keys(key_tiles.start(i), key_tiles.size(i), false); });
}

}  // namespace attention

/// Bytes of 64-byte aligned scratch that `attention_forward` needs with up to omp_get_max_threads() threads.
template <class T>
std::size_t attention_forward_scratch(const AttentionProblem<T>& problem) {
  attention::ScratchArena shared;
  const attention::Tables tables(problem, shared);
  return shared.used() +
         attention::forward_tile_bytes(problem, tables) * static_cast<std::size_t>(omp_get_max_threads());
}

/// out [B, T, N, H] and log_sum_exp [B, N, T] of q [B, T, N, H], k and v [B, S, K, H]. A query that sees no key gets
/// zeros and -infinity. `rest` [B, N, T] is what rounding leaves out of log_sum_exp, all of the logarithm beside a
/// large score, and exactly 0 iff one key has all the weight; null: not wanted. `scratch` is 64-byte aligned and as
/// large as `attention_forward_scratch` says.
template <class T>
void attention_forward(const AttentionProblem<T>& problem, const T* q, const T* k, const T* v, T* out,
                       Accum<T>* log_sum_exp, void* scratch, Accum<T>* rest = nullptr) {
  attention::ScratchArena shared(scratch);
  const attention::Tables tables(problem, shared);
  tables.fill(problem);
  const std::size_t bytes = attention::forward_tile_bytes(problem, tables);
  const attention::Tiling strips = attention::strip_tiling(problem);
  const attention::ForwardArguments<T> arguments{q, k, v, out, log_sum_exp, rest};
  attention::with_kind(problem, [&](auto kind) {
    using Task = attention::ForwardTask<T, typename decltype(kind)::Strip>;
    attention::each_task(problem.batch * problem.heads * strips.count(),
                         static_cast<std::byte*>(scratch) + shared.used(), bytes, [&](Index task, void* own) {
                           Task pass(problem, arguments, tables, own);
                           // The long strips of causal attention come first, as in backward.
                           const Index head = task / strips.count(), i = strips.count() - 1 - task % strips.count();
                           pass.run(head / problem.heads, head % problem.heads, strips.start(i), strips.size(i));
                         });
  });
}

/// Bytes of 64-byte aligned scratch that `attention_backward` needs with up to omp_get_max_threads() threads.
template <class T>
std::size_t attention_backward_scratch(const AttentionProblem<T>& problem) {
  attention::ScratchArena arena;
  const attention::BackwardShared<T> shared(problem, arena);
  return arena.used() +
         attention::backward_tile_bytes(problem, shared.tables) * static_cast<std::size_t>(omp_get_max_threads());
}

/// The gradients of `attention_forward` at dout (strides of out), given its inputs and outputs.
template <class T>
void attention_backward(const AttentionProblem<T>& problem, const T* q, const T* k, const T* v, const T* out,
                        const Accum<T>* log_sum_exp, const T* dout, const AttentionGradients<T>& to, void* scratch,
                        const Accum<T>* rest = nullptr) {
  attention::ScratchArena arena(scratch);
  const attention::BackwardShared<T> shared(problem, arena);
  shared.tables.fill(problem);
  std::byte* tiles = static_cast<std::byte*>(scratch) + arena.used();
  const std::size_t bytes = attention::backward_tile_bytes(problem, shared.tables);
  const attention::BackwardArguments<T> arguments{q, k, v, out, log_sum_exp, rest, dout, to, shared.delta};
  attention::with_kind(problem, [&](auto kind) {
    attention::product_gradients<typename decltype(kind)::Pair>(problem, arguments, shared.tables, tiles, bytes);
  });
  if (to.sinks != nullptr) attention::sink_gradient(problem, arguments);
  if (to.bias != nullptr) attention::bias_gradient(problem, arguments, shared.tables, tiles, bytes);
  if (to.relative_bias != nullptr)
    attention::relative_bias_gradient(problem, arguments, shared.tables, shared.partial, tiles, bytes);
}

}}}  // namespace remat::kernels
