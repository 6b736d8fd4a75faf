// The backward pass: probabilities are computed again from the log-sum-exp, tile by tile (FlashAttention-2, Dao 2023).
#pragma once

#include <remat/kernels/attention/backward_pair.hpp>
#include <remat/kernels/reduce.hpp>

namespace remat { inline namespace REMAT_ABI { namespace kernels::attention {

/// to[rows, dims] = (or +=) scale * tile.
template <class T, class E>
void write_rows(const T* tile, Index pitch, Index rows, Index dims, T scale, E* to, Index stride, bool add) {
  for (Index i = 0; i < rows; ++i) {
    const auto row = numbers(to + i * stride);
    if (add)
      for (Index j = 0; j < dims; ++j) row[j] = row[j] + scale * tile[i * pitch + j];
    else
      for (Index j = 0; j < dims; ++j) row[j] = scale * tile[i * pitch + j];
  }
}

/// Pass over (query tiles) x (key tiles) of one (b, kv head): a task covers a rectangle of them.
/// `Pair` multiplies them: `TilePair`, or `Bfloat16Pair`.
template <class E, class Pair>
class BackwardTask {
 public:
  using T = Accum<E>;

  BackwardTask(const AttentionProblem<E>& problem, const BackwardArguments<E>& arguments, const Tables& tables, Index b,
               Index kv, void* scratch)
      : pair(problem, arguments, tables, b, kv, scratch) {}

  /// delta for queries [t0, t0 + rows) of head n, and zeros for dq to be added to, unless it is added to what is there.
  void prepare(Index n, Index t0, Index rows) const {
    const Index at = pair.b * p.out_batch + n * h;
    for (Index t = t0; t < t0 + rows; ++t) {
      const E *dout = x.dout + at + t * p.out_token, *out = x.out + at + t * p.out_token;
      if (t + rows_ahead < t0 + rows)
        for (const E* row : {dout, out}) prefetch_row(row + rows_ahead * p.out_token, h);
      x.delta[pair.row(n, t)] = dot(dout, out, h);
      if (x.to.q != nullptr && (is_rounded || !x.to.add_q)) std::fill_n(query_sums(n, t), h, T{0});
    }
  }
  /// dq for queries [t0, t0 + rows) of head n, after all that was added to it.
  void finish(Index n, Index t0, Index rows) const {
    if constexpr (is_rounded)
      if (x.to.q != nullptr)
        write_rows(query_sums(n, t0), h, rows, h, T{1}, query_gradient(n, t0), p.q_token, x.to.add_q);
  }

  /// All of dk and dv for the keys of tile s0; adds to dq too if it is wanted and `with_dq`.
  void keys(Index s0, Index count, bool with_dq) {
    with_dq = with_dq && x.to.q != nullptr;
    std::fill_n(tile.dkey, count * pitch, T{0});
    std::fill_n(tile.dvalue, count * pitch, T{0});
    bool any = false;
    if (pair.load_keys(s0, count))
      for (Index n = pair.kv * heads; n < (pair.kv + 1) * heads; ++n)
        each_query_tile(s0, [&](Index t0, Index rows) {
          any = true;
          pair.load_queries(n, t0, rows);
          pair.multiply_gradients(with_dq, x.to.k != nullptr, x.to.v != nullptr);
          if (with_dq) add_dq();
        });
    if (any) tile.key_rotary.template rotate<true>(tile.dkey, pitch, pair.key_rows);
    const auto write = [&](const T* from, T scale, E* to, Index batch, Index token, bool add) {
      if (to != nullptr && (any || !add))
        write_rows(from, pitch, count, h, scale, to + pair.b * batch + s0 * token + pair.kv * h, token, add);
    };
    write(tile.dkey, pair.key_scale, x.to.k, p.k_batch, p.k_token, x.to.add_k);
    write(tile.dvalue, T{1}, x.to.v, p.v_batch, p.v_token, x.to.add_v);
  }

  /// All of dq for the queries of tile t0 of head n.
  void queries(Index n, Index t0, Index rows) {
    each_key_tile(n, t0, rows, 0, p.key_length, [&] {
      pair.multiply_gradients(true, false, false);
      add_dq();
    });
  }

  /// Calls `body(t, rows, s, lanes, dscores)`, dscores [rows][group] the gradients of changed scores, for what the
  /// queries of tile t0 of head n see of the key tiles in [first_key, end_key).
  template <class F>
  void scores(Index n, Index t0, Index rows, Index first_key, Index end_key, F&& body) {
    constexpr Index group = Vector<T>::group;
    each_key_tile(n, t0, rows, first_key, end_key, [&] {
      for (Index g = 0; g < pair.key_rows; g += group) {
        const auto [first, seen] = pair.differentiate(g, false);
        if (seen > 0)
          body(t0 + first, seen, pair.first_key + g, std::min(group, pair.key_rows - g),
               static_cast<const T*>(tile.dscores + first * group));
      }
    });
  }

 private:
  static constexpr bool is_rounded = !std::is_same_v<E, T>;

  E* query_gradient(Index n, Index t) const { return x.to.q + pair.b * p.q_batch + t * p.q_token + n * h; }
  /// Where dq is summed: there, unless that would round every term.
  T* query_sums(Index n, Index t) const {
    if constexpr (is_rounded)
      return tile.dqueries + ((n - pair.kv * heads) * p.query_length + t) * h;
    else
      return query_gradient(n, t);
  }

  void add_dq() const {
    tile.query_rotary.template rotate<true>(tile.dquery, pitch, pair.query_rows);
    write_rows(tile.dquery, pitch, pair.query_rows, h, pair.scale, query_sums(pair.query_head, pair.first_query),
               is_rounded ? h : p.q_token, true);
  }

  /// Calls `body(t0, rows)` for the query tiles that see any loaded key.
  template <class F>
  void each_query_tile(Index s0, F&& body) const {
    const Visibility& seen = pair.seen;
    const Index first = seen.first_query(s0), end = seen.last_query(s0 + pair.key_rows - 1);
    query_tiling(p, Pair::query_tile).each(first, end, [&](Index t0, Index rows) {
      if constexpr (Pair::changed)
        if (!segments_meet(p, pair.b, t0, rows, s0, pair.key_rows)) return;
      body(t0, rows);
    });
  }
  /// Loads the query tile and calls `body()` with each key tile loaded of [first_key, end_key) that it sees.
  template <class F>
  void each_key_tile(Index n, Index t0, Index rows, Index first_key, Index end_key, F&& body) {
    const Visibility& seen = pair.seen;
    pair.load_queries(n, t0, rows);
    const Index first = std::max(first_key, seen.begin(t0)), end = std::min(end_key, seen.end(t0 + rows - 1));
    key_tiling(p, Pair::key_tile).each(first, end, [&](Index s0, Index count) {
      if constexpr (Pair::changed)
        if (!segments_meet(p, pair.b, t0, rows, s0, std::min(count, seen.keys() - s0))) return;
      if (pair.load_keys(s0, count)) body();
    });
  }

  Pair pair;
  const AttentionProblem<E>& p = pair.p;
  const BackwardArguments<E>& x = pair.x;
  typename Pair::Tiles& tile = pair.tile;
  Index h = pair.h, pitch = pair.pitch, heads = group_heads(p);
};

}}}  // namespace remat::kernels::attention
