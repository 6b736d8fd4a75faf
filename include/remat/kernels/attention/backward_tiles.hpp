// What a backward pass reads and writes, and one thread's tiles of it.
#pragma once

#include <limits>
#include <remat/kernels/attention/tables.hpp>
#include <remat/kernels/vector_math.hpp>

namespace remat { inline namespace REMAT_ABI { namespace kernels {

/// Where gradients go, with the strides of what they belong to; null: not wanted. What is not added to is overwritten.
template <class T>
struct AttentionGradients {
  T *q = nullptr, *k = nullptr, *v = nullptr;
  Accum<T>*bias = nullptr, *relative_bias = nullptr;
  bool add_q = false, add_k = false, add_v = false, add_bias = false, add_relative_bias = false;
  Accum<T>* sinks = nullptr;
  bool add_sinks = false;
};

namespace attention {

template <class E>
struct BackwardArguments {
  const E *q, *k, *v, *out;
  const Accum<E>*log_sum_exp, *rest;  // rest may be null
  const E* dout;
  AttentionGradients<E> to;
  Accum<E>* delta;  // [B, N, T]: dout . out of each row

  /// What makes probabilities of a row's scores; of a query that sees nothing, zeros. Its `rest` is 0 iff no more than
  /// one key has weight: then no score changes what the row gives.
  LogSumExp<Accum<E>> of_row(Index row) const {
    constexpr auto infinity = std::numeric_limits<Accum<E>>::infinity();
    if (log_sum_exp[row] == -infinity) return {0};
    return {log_sum_exp[row], rest == nullptr ? std::numeric_limits<Accum<E>>::min() : rest[row]};
  }
};

/// One thread's tiles. Scores have a key a lane; `group` keys at a time.
template <class E>
struct BackwardTiles {
  using T = Accum<E>;
  /// Keys stay while one query tile after another is copied: the more of them, the fewer copies.
  static constexpr Index most_keys = 8 * tile_rows;
  T* query;       // [tile][pitch]
  T* dout;        // [tile][pitch]
  T* dquery;      // [tile][pitch]
  T* key;         // [keys][pitch]
  T* key_panels;  // [keys / group][pitch][group], scaled
  T* value_panels;
  T* dkey;  // [keys][pitch]
  T* dvalue;
  T* weights;     // [tile][group]: probabilities, with dropout
  T* dscores;     // [tile][group]
  T* derivative;  // [tile][group], of the soft cap
  T* dqueries;    // [group_heads][T][H]: where key tiles add up, if dq itself would round each term
  Rotary<T> query_rotary, key_rotary;

  BackwardTiles(const AttentionProblem<E>& p, const Tables& tables, ScratchArena& arena)
      : query_rotary(tables.rotary, arena), key_rotary(tables.rotary, arena, most_keys) {
    const Index pitch = padded<T>(p.head_dims);
    const Index keys = std::min(most_keys, (p.key_length + tile_rows - 1) / tile_rows * tile_rows);
    for (T** piece : {&query, &dout, &dquery}) *piece = arena.take<T>(tile_rows * pitch);
    for (T** piece : {&key, &key_panels, &value_panels, &dkey, &dvalue}) *piece = arena.take<T>(keys * pitch);
    for (T** piece : {&weights, &dscores}) *piece = arena.take<T>(tile_rows * Vector<T>::group);
    derivative = p.soft_cap > 0 ? arena.take<T>(tile_rows * Vector<T>::group) : nullptr;
    dqueries = nullptr;
    if constexpr (!std::is_same_v<E, T>) dqueries = arena.take<T>(group_heads(p) * p.query_length * p.head_dims);
  }
};

}  // namespace attention
}}}  // namespace remat::kernels
