// One strip of queries against one tile of keys after another, in the type that sums are made in.
#pragma once

#include <cmath>
#include <limits>
#include <remat/kernels/attention/online_softmax.hpp>
#include <remat/kernels/attention/tables.hpp>
#include <remat/kernels/dropout.hpp>

namespace remat { inline namespace REMAT_ABI { namespace kernels::attention {

/// Queries that share one pass over the keys: as many as keep their state in a part of the L2 cache, fewer where that
/// would leave too few tasks. No sum depends on it.
template <class E>
Tiling strip_tiling(const AttentionProblem<E>& p) {
  using T = Accum<E>;
  constexpr Index state_bytes = 256 * 1024, enough_tasks = 32;
  const Index row_bytes = 2 * padded<T>(p.head_dims) * static_cast<Index>(sizeof(T));
  Index rows = std::clamp<Index>(state_bytes / std::max<Index>(1, row_bytes) / tile_rows, 1, 8) * tile_rows;
  while (rows > tile_rows && p.batch * p.heads * ((p.query_length + rows - 1) / rows) < enough_tasks) rows -= tile_rows;
  return {p.query_length, p.query_chunk > 0 ? chunk_or_tile(p.query_chunk, p.query_length) : rows, rows};
}

/// One thread's tiles. Scores lie transposed, a query a lane, so that maxima and sums over keys are plain column sums.
template <class E>
struct ForwardTiles {
  using T = Accum<E>;
  T* query;    // [strip / group][pitch][group], scaled
  T* key;      // [tile][pitch]
  T* value;    // [tile][pitch]
  T* context;  // [strip][pitch], not yet normalized
  T* scores;   // [tile][group]
  T* maximum;  // [strip]
  T* sum;      // [strip]
  T* weighty;  // [strip]: keys whose weight is not 0, where scores are changed
  Rotary<T> rotary;

  ForwardTiles(const AttentionProblem<E>& p, const Tables& tables, ScratchArena& arena)
      : query(arena.take<T>(strip_tiling(p).rows * padded<T>(p.head_dims))),
        key(arena.take<T>(tile_rows * padded<T>(p.head_dims))),
        value(arena.take<T>(tile_rows * padded<T>(p.head_dims))),
        context(arena.take<T>(strip_tiling(p).rows * padded<T>(p.head_dims))),
        scores(arena.take<T>(tile_rows * Vector<T>::group)),
        maximum(arena.take<T>(strip_tiling(p).rows)),
        sum(arena.take<T>(strip_tiling(p).rows)),
        weighty(arena.take<T>(strip_tiling(p).rows)),
        rotary(tables.rotary, arena) {}
};

/// `Changed`: does anything but masks by position touch the scores?
template <class E, bool Changed>
class QueryStrip {
 public:
  using T = Accum<E>;
  static constexpr Index tile_keys = tile_rows;
  static constexpr bool changed = Changed;

  QueryStrip(const AttentionProblem<E>& problem, const Tables& all, void* scratch)
      : p(problem), tables(all), arena(scratch), tile(problem, all, arena) {}

  /// Queries [t0, t0 + rows), which have seen nothing yet; `q` is of t = 0.
  void load_queries(const E* q, Index t0, Index rows) {
    std::fill_n(tile.context, rows * pitch, T{0});
    std::fill_n(tile.maximum, round_up(rows), -infinity);
    std::fill_n(tile.sum, round_up(rows), T{0});
    std::fill_n(tile.weighty, round_up(rows), T{0});
    for (Index i = 0; i < rows; i += tile_rows) {
      const Index count = std::min(tile_rows, rows - i), filled = round_up(count);
      // No keys are loaded yet: their tile holds the queries until they are transposed.
      copy_rows(q + (t0 + i) * p.q_token, p.q_token, count, h, tile.key, filled);
      tile.rotary.load(p.key_position + p.offset + t0 + i, count);
      tile.rotary.rotate(tile.key, pitch, count);
      transpose_panels(tile.key, filled, pitch, static_cast<T>(p.scale), tile.query + i * pitch);
    }
  }
  /// Keys [s0, s0 + keys); `k` and `v` are of s = 0.
  void load_keys(const E* k, const E* v, Index s0, Index keys) {
    copy_rows(k + s0 * p.k_token, p.k_token, keys, h, tile.key, keys);
    tile.rotary.load(p.key_position + s0, keys);
    tile.rotary.rotate(tile.key, pitch, keys);
    values_finite = copy_rows(v + s0 * p.v_token, p.v_token, keys, h, tile.value, keys);
  }

  /// The queries against the keys, both loaded, in head n of batch entry b.
  void attend(const Visibility& seen, Index b, Index n, Index t0, Index rows, Index s0, Index keys) {
    for (Index g = 0; g < rows; g += group) attend_group(seen, b, n, t0, g, std::min(group, rows - g), s0, keys);
  }

  /// Has one key all the weight of row i, which is query t?
  bool has_one_key(const Visibility& seen, Index t, Index i) const {
    return Changed ? tile.weighty[i] == 1 : seen.end(t) - seen.begin(t) == 1;
  }

  const AttentionProblem<E>& p;
  const Tables& tables;
  ScratchArena arena;
  ForwardTiles<E> tile;
  Index h = p.head_dims, pitch = padded<T>(h);

 private:
  static constexpr Index group = Vector<T>::group;
  static constexpr T infinity = std::numeric_limits<T>::infinity();

  static Index round_up(Index rows) { return (rows + group - 1) / group * group; }

  /// The `lanes` queries from t0 + g on against those of the loaded keys that any of them sees.
  void attend_group(const Visibility& seen, Index b, Index n, Index t0, Index g, Index lanes, Index s0, Index count) {
    const Index t = t0 + g, first = std::max(s0, seen.begin(t));
    const Index keys = std::min(s0 + count, seen.end(t + lanes - 1)) - first;
    if (keys <= 0) return;
    if constexpr (Changed)
      if (!segments_meet(p, b, t, lanes, first, keys)) return;
    const T *key = tile.key + (first - s0) * pitch, *value = tile.value + (first - s0) * pitch;
    multiply<false, Trans::no>(keys, group, h, key, pitch, tile.query + g * pitch, group, tile.scores, group);
    if constexpr (Changed) ScoreChange<E, false>(p, tables.buckets, b, n)(tile.scores, nullptr, first, keys, t, lanes);
    hide(seen, t, lanes, first, keys);
    T decay[group];
    online_softmax(tile.scores, keys, tile.maximum + g, tile.sum + g, decay, Changed ? tile.weighty + g : nullptr);
    for (Index j = 0; j < lanes; ++j) {
      if (decay[j] == 1) continue;
      T* row = tile.context + (g + j) * pitch;
      for (Index i = 0; i < pitch; ++i) row[i] *= decay[j];
    }
    if (p.dropout.active()) {
      for (Index j = 0; j < lanes; ++j) {
        T factors[tile_rows];
        dropout_factors(p.dropout, coordinate(p, b, n, t + j, first), keys, factors);
        for (Index i = 0; i < keys; ++i) tile.scores[i * group + j] *= factors[i];
      }
    }
    multiply_weights<Trans::yes>(values_finite, lanes, pitch, keys, tile.scores, group, value, pitch,
                                 tile.context + g * pitch, pitch);
  }

  /// Scores outside a query's interval of keys become -infinity.
  void hide(const Visibility& seen, Index t, Index lanes, Index first, Index keys) const {
    for (Index s = std::max(first, seen.end(t)); s < first + keys; ++s)
      std::fill_n(tile.scores + (s - first) * group, std::min(group, seen.first_query(s) - t), -infinity);
    for (Index s = first; s < std::min(first + keys, seen.begin(t + lanes - 1)); ++s) {
      const Index last = std::max<Index>(0, seen.last_query(s) - t);
      std::fill_n(tile.scores + (s - first) * group + last, group - last, -infinity);
    }
  }

  bool values_finite = true;
};

}}}  // namespace remat::kernels::attention
