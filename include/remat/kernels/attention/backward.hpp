// The backward pass: probabilities are computed again from the log-sum-exp, tile by tile (FlashAttention-2, Dao 2023).
#pragma once

#include <cmath>
#include <remat/kernels/attention/dropout.hpp>
#include <remat/kernels/attention/problem.hpp>
#include <remat/kernels/vector_math.hpp>

namespace remat::inline REMAT_ABI::kernels::attention {

template <class T>
struct BackwardArguments {
  const T *q, *k, *v, *out, *log_sum_exp, *dout;
  T *dq, *dk, *dv;
  T* delta;  // [B, N, T]: dout . out of each row
};

/// One thread's tiles. Scores have a key a lane; `group` keys at a time.
template <class T>
struct BackwardTiles {
  T* query;       // [tile][pitch]
  T* dout;        // [tile][pitch]
  T* key;         // [tile][pitch]
  T* key_panels;  // [tile / group][pitch][group], scaled
  T* value_panels;
  T* dquery;  // [tile][pitch]
  T* dkey;
  T* dvalue;
  T* weights;  // [tile][group]: probabilities, with dropout
  T* dscores;  // [tile][group]
  std::size_t bytes;

  BackwardTiles(void* scratch, Index head_dims) {
    const Index area = tile_rows * padded<T>(head_dims);
    Carver<T> carver(scratch);
    for (T** piece : {&query, &dout, &key, &key_panels, &value_panels, &dquery, &dkey, &dvalue})
      *piece = carver.take(area);
    weights = carver.take(tile_rows * Vector<T>::group);
    dscores = carver.take(tile_rows * Vector<T>::group);
    bytes = carver.used();
  }
};

/// to[rows, dims] = (or +=) scale * tile.
template <bool Accumulate, class T>
void write_rows(const T* tile, Index pitch, Index rows, Index dims, T scale, T* to, Index stride) {
  for (Index i = 0; i < rows; ++i) {
    for (Index j = 0; j < dims; ++j)
      to[i * stride + j] = scale * tile[i * pitch + j] + (Accumulate ? to[i * stride + j] : T{0});
  }
}

/// Pass over (query tiles) x (key tiles) of one (b, kv head): a task covers a rectangle of them.
template <class T>
class BackwardTask {
 public:
  BackwardTask(const AttentionProblem<T>& problem, const BackwardArguments<T>& arguments, Index batch_entry,
               Index kv_head, void* scratch)
      : p(problem), x(arguments), tile(scratch, problem.head_dims), b(batch_entry), kv(kv_head) {}

  /// delta for queries [t0, t0 + rows) of head n.
  void find_delta(Index n, Index t0, Index rows) const {
    const Index at = b * p.out_batch + n * p.head_dims;
    for (Index t = t0; t < t0 + rows; ++t)
      x.delta[row(n, t)] = dot(x.dout + at + t * p.out_token, x.out + at + t * p.out_token, p.head_dims);
  }

  /// All of dk and dv for the keys of tile s0; adds to dq too if `with_dq`.
  void keys(Index s0, bool with_dq) {
    load_keys(s0);
    std::fill_n(tile.dkey, tile_rows * pitch, T{0});
    std::fill_n(tile.dvalue, tile_rows * pitch, T{0});
    for (Index n = kv * heads; n < (kv + 1) * heads; ++n) {
      for (Index t0 = query_begin(p, s0) / tile_rows * tile_rows; t0 < p.query_length; t0 += tile_rows) {
        load_queries(n, t0);
        pair(n, t0, s0, with_dq, x.dk != nullptr, x.dv != nullptr);
        if (with_dq) add_dq(n, t0);
      }
    }
    if (x.dk != nullptr)
      write_rows<false>(tile.dkey, pitch, key_rows, h, scale, x.dk + b * p.k_batch + s0 * p.k_token + kv * h,
                        p.k_token);
    if (x.dv != nullptr)
      write_rows<false>(tile.dvalue, pitch, key_rows, h, T{1}, x.dv + b * p.v_batch + s0 * p.v_token + kv * h,
                        p.v_token);
  }

  /// All of dq for the queries of tile t0 of head n; dq must be zero before.
  void queries(Index n, Index t0) {
    load_queries(n, t0);
    const Index last_key = key_end(p, t0 + query_rows);
    for (Index s0 = 0; s0 < last_key; s0 += tile_rows) {
      load_keys(s0);
      pair(n, t0, s0, true, false, false);
      add_dq(n, t0);
    }
  }

  void zero_dq(Index n, Index t0, Index rows) const {
    for (Index t = t0; t < t0 + rows; ++t) std::fill_n(x.dq + b * p.q_batch + t * p.q_token + n * h, h, T{0});
  }

 private:
  static constexpr Index group = Vector<T>::group;

  Index row(Index n, Index t) const { return (b * p.heads + n) * p.query_length + t; }

  void load_keys(Index s0) {
    key_rows = std::min(tile_rows, p.key_length - s0);
    // The query tile's gradient is idle now: it holds the values until they are transposed.
    copy_rows(x.v + b * p.v_batch + s0 * p.v_token + kv * h, p.v_token, key_rows, h, tile.dquery, tile_rows);
    transpose_panels(tile.dquery, tile_rows, pitch, T{1}, tile.value_panels);
    keys_finite = copy_rows(x.k + b * p.k_batch + s0 * p.k_token + kv * h, p.k_token, key_rows, h, tile.key, tile_rows);
    transpose_panels(tile.key, tile_rows, pitch, scale, tile.key_panels);
  }

  void load_queries(Index n, Index t0) {
    query_rows = std::min(tile_rows, p.query_length - t0);
    queries_finite =
        copy_rows(x.q + b * p.q_batch + t0 * p.q_token + n * h, p.q_token, query_rows, h, tile.query, query_rows);
    douts_finite = copy_rows(x.dout + b * p.out_batch + t0 * p.out_token + n * h, p.out_token, query_rows, h, tile.dout,
                             query_rows);
  }

  void add_dq(Index n, Index t0) const {
    write_rows<true>(tile.dquery, pitch, query_rows, h, scale, x.dq + b * p.q_batch + t0 * p.q_token + n * h,
                     p.q_token);
  }

  /// The loaded query and key tile: dq into tile.dquery (overwritten), dk and dv added to theirs.
  void pair(Index n, Index t0, Index s0, bool with_dq, bool with_dk, bool with_dv) {
    if (with_dq) std::fill_n(tile.dquery, query_rows * pitch, T{0});
    const auto product = [this](bool finite) { return p.causal && !finite ? multiply_hiding<T> : multiply<true, T>; };
    for (Index g = 0; g < key_rows; g += group) {
      const Index lanes = std::min(group, key_rows - g);
      const Index first = std::max<Index>(0, query_begin(p, s0 + g) - t0), rows = query_rows - first;
      if (rows <= 0) continue;
      T *weights = tile.weights + first * group, *dscores = tile.dscores + first * group;
      const T *query = tile.query + first * pitch, *dout = tile.dout + first * pitch;
      multiply<false>(rows, group, h, query, pitch, Index{1}, tile.key_panels + g * pitch, group, weights, group);
      multiply<false>(rows, group, h, dout, pitch, Index{1}, tile.value_panels + g * pitch, group, dscores, group);
      for (Index i = 0; i < rows; ++i)
        differentiate_row(n, t0 + first + i, s0 + g, weights + i * group, dscores + i * group);
      if (with_dv)
        product(douts_finite)(lanes, pitch, rows, weights, 1, group, dout, pitch, tile.dvalue + g * pitch, pitch);
      if (with_dk)
        product(queries_finite)(lanes, pitch, rows, dscores, 1, group, query, pitch, tile.dkey + g * pitch, pitch);
      if (with_dq)
        product(keys_finite)(rows, pitch, lanes, dscores, group, 1, tile.key + g * pitch, pitch,
                             tile.dquery + first * pitch, pitch);
    }
  }

  /// Query t against the keys of one group: scores become probabilities, their gradients those of the scores.
  void differentiate_row(Index n, Index t, Index s, T* weights, T* dscores) const {
    const T shift = x.log_sum_exp[row(n, t)], delta = x.delta[row(n, t)];
    const auto visible = static_cast<int>(p.causal ? std::clamp<Index>(t + p.offset - s + 1, 0, group) : group);
    T factors[group];
    if (p.dropout.active()) {
      dropout_factors(p.dropout, coordinate(p, b, n, t, s), group, factors);
    } else {
      std::fill_n(factors, group, T{1});
    }
    // A loop of its own: with the masks in it, GCC would not vectorize the exponential.
    for (int j = 0; j < group; ++j) weights[j] = fast_exp(weights[j] - shift);
    for (int j = 0; j < group; ++j) {
      const T slope = weights[j] * (factors[j] * dscores[j] - delta), weight = weights[j] * factors[j];
      weights[j] = j < visible ? weight : T{0};
      dscores[j] = j < visible ? slope : T{0};
    }
  }

  const AttentionProblem<T>& p;
  const BackwardArguments<T>& x;
  BackwardTiles<T> tile;
  Index b, kv, key_rows = 0, query_rows = 0;
  Index h = p.head_dims, pitch = padded<T>(h), heads = group_heads(p);
  T scale = static_cast<T>(p.scale);
  bool keys_finite = true, queries_finite = true, douts_finite = true;
};

}  // namespace remat::inline REMAT_ABI::kernels::attention
