// The heart of backward: one query tile and one key tile, loaded, and what they give each other.
#pragma once

#include <cmath>
#include <limits>
#include <remat/kernels/attention/backward_tiles.hpp>
#include <remat/kernels/dropout.hpp>
#include <remat/kernels/vector_math.hpp>

namespace remat { inline namespace REMAT_ABI { namespace kernels::attention {

/// Tiles of one (b, kv head). `Changed`: does anything but masks by position touch the scores?
template <class E, bool Changed>
class TilePair {
 public:
  using T = Accum<E>;
  using Tiles = BackwardTiles<E>;
  static constexpr bool changed = Changed;
  static constexpr Index group = Vector<T>::group, query_tile = tile_rows;
  // Gradients of biases are summed by tiles of `tile_rows` keys.
  static constexpr Index key_tile = Changed ? tile_rows : Tiles::most_keys;

  TilePair(const AttentionProblem<E>& problem, const BackwardArguments<E>& arguments, const Tables& all,
           Index batch_entry, Index kv_head, void* scratch)
      : p(problem),
        x(arguments),
        tables(all),
        arena(scratch),
        tile(problem, all, arena),
        seen(problem, batch_entry),
        b(batch_entry),
        kv(kv_head) {}

  /// False if padding leaves none of the keys.
  [[gnu::noinline]] bool load_keys(Index s0, Index count) {
    key_rows = std::min(count, seen.keys() - s0);
    first_key = s0;
    if (key_rows <= 0) return false;
    const Index filled = (key_rows + group - 1) / group * group;
    const E* value = x.v + b * p.v_batch + s0 * p.v_token + kv * h;
    for (Index i = 0; i < key_rows; i += tile_rows) {
      // The query tile's gradient is idle now: it holds the values until they are transposed.
      const Index rows = std::min(tile_rows, filled - i);
      copy_rows(value + i * p.v_token, p.v_token, std::min(rows, key_rows - i), h, tile.dquery, rows);
      transpose_panels(tile.dquery, rows, pitch, T{1}, tile.value_panels + i * pitch);
    }
    keys_finite = copy_rows(x.k + b * p.k_batch + s0 * p.k_token + kv * h, p.k_token, key_rows, h, tile.key, filled);
    tile.key_rotary.load(p.key_position + s0, key_rows);
    tile.key_rotary.rotate(tile.key, pitch, key_rows);
    transpose_panels(tile.key, filled, pitch, T{1}, tile.key_panels);
    return true;
  }

  [[gnu::noinline]] void load_queries(Index n, Index t0, Index rows) {
    query_head = n, first_query = t0, query_rows = rows;
    queries_finite = copy_rows(x.q + b * p.q_batch + t0 * p.q_token + n * h, p.q_token, rows, h, tile.query, rows);
    tile.query_rotary.load(p.key_position + p.offset + t0, rows);
    tile.query_rotary.rotate(tile.query, pitch, rows);
    // As forward does, so that no bit of a score differs: where scores are large, the last one is much of a
    // probability.
    for (Index i = 0; i < rows * pitch; ++i) tile.query[i] *= scale;
    douts_finite =
        copy_rows(x.dout + b * p.out_batch + t0 * p.out_token + n * h, p.out_token, rows, h, tile.dout, rows);
  }

  /// Some of the loaded queries: those that see any of a group of keys.
  struct Rows {
    Index first, count;
  };
  /// Weights and dscores of the loaded queries and the group of loaded keys from g on: gradients of scores as q k^T
  /// gave them, or as changed.
  Rows differentiate(Index g, bool of_products) {
    const Index t0 = first_query, s = first_key + g, lanes = std::min(group, key_rows - g);
    const Index first = std::max<Index>(0, seen.first_query(s) - t0);
    const Index rows = std::min(query_rows, seen.last_query(s + lanes - 1) - t0) - first;
    if (rows <= 0) return {first, 0};
    T *weights = tile.weights + first * group, *dscores = tile.dscores + first * group;
    multiply<false, Trans::no>(rows, group, h, tile.query + first * pitch, pitch, tile.key_panels + g * pitch, group,
                               weights, group);
    multiply<false, Trans::no>(rows, group, h, tile.dout + first * pitch, pitch, tile.value_panels + g * pitch, group,
                               dscores, group);
    T* derivative = of_products ? tile.derivative : nullptr;
    if constexpr (Changed)
      ScoreChange<E, true>(p, tables.buckets, b, query_head)(weights, derivative, t0 + first, rows, s, lanes);
    differentiate_rows({t0 + first, rows}, s, weights, dscores, derivative);
    return {first, rows};
  }

  /// dq into tile.dquery (overwritten), dk and dv added to theirs.
  void multiply_gradients(bool with_dq, bool with_dk, bool with_dv) {
    if (with_dq) std::fill_n(tile.dquery, query_rows * pitch, T{0});
    for (Index g = 0; g < key_rows; g += group) {
      const auto [first, rows] = differentiate(g, true);
      const Index lanes = std::min(group, key_rows - g);
      const T *weights = tile.weights + first * group, *dscores = tile.dscores + first * group;
      const T *query = tile.query + first * pitch, *dout = tile.dout + first * pitch;
      if (rows == 0) continue;
      if (with_dv)
        multiply_weights<Trans::yes>(douts_finite, lanes, pitch, rows, weights, group, dout, pitch,
                                     tile.dvalue + g * pitch, pitch);
      if (with_dk)
        multiply_weights<Trans::yes>(queries_finite, lanes, pitch, rows, dscores, group, query, pitch,
                                     tile.dkey + g * pitch, pitch);
      if (with_dq)
        multiply_weights<Trans::no>(keys_finite, rows, pitch, lanes, dscores, group, tile.key + g * pitch, pitch,
                                    tile.dquery + first * pitch, pitch);
    }
  }

  Index row(Index n, Index t) const { return (b * p.heads + n) * p.query_length + t; }

  const AttentionProblem<E>& p;
  const BackwardArguments<E>& x;
  const Tables& tables;
  ScratchArena arena;
  Tiles tile;
  Visibility seen;
  Index b, kv, query_head = 0, first_query = 0, query_rows = 0, first_key = 0, key_rows = 0;
  Index h = p.head_dims, pitch = padded<T>(h);
  T scale = static_cast<T>(p.scale), key_scale = 1;  // of dq and dk as multiplied

 private:
  /// Queries against the keys of one group from s on: scores become probabilities, their gradients those of the scores.
  void differentiate_rows(Rows queries, Index s, T* __restrict weights, T* __restrict dscores,
                          const T* __restrict derivative) const {
    constexpr T infinity = std::numeric_limits<T>::infinity();
    for (Index i = 0; i < queries.count; ++i) {
      const Index t = queries.first + i;
      T* const __restrict of_row = weights + i * group;
      const auto begin = static_cast<int>(std::clamp<Index>(seen.begin(t) - s, 0, group));
      const auto end = static_cast<int>(std::clamp<Index>(seen.end(t) - s, 0, group));
      if (begin > 0) std::fill_n(of_row, begin, -infinity);
      if (end < group) std::fill_n(of_row + end, group - end, -infinity);
      const auto log_sum_exp = x.of_row(row(query_head, t));
      if (log_sum_exp.value == log_sum_exp.value) {
#pragma omp simd
        for (int j = 0; j < group; ++j) of_row[j] = log_sum_exp.exponent(of_row[j]);
      } else {  // NaN is for those who see it only
        for (int j = 0; j < group; ++j) of_row[j] = of_row[j] == -infinity ? -infinity : log_sum_exp.value;
      }
    }
    for (Index i = 0; i < queries.count * group; ++i) weights[i] = fast_exp(weights[i]);
    for (Index i = 0; i < queries.count; ++i, weights += group, dscores += group) {
      const Index t = queries.first + i;
      const T delta = x.delta[row(query_head, t)];
      const auto finish = [&](const auto& factor) {
#pragma omp simd
        for (int j = 0; j < group; ++j) {
          const T weight = weights[j], slope = weight * (factor(j) * dscores[j] - delta);
          weights[j] = weight * factor(j);
          dscores[j] = detail::select(weight == 0, T{0}, slope);  // hides NaN of what nobody sees
        }
      };
      if (p.dropout.active()) {
        T factors[group];
        dropout_factors(p.dropout, coordinate(p, b, query_head, t, s), group, factors);
        finish([&](int j) { return factors[j]; });
      } else {
        finish([](int) { return T{1}; });
      }
      // The difference above is 0 then but for rounding. NaN still shows.
      if (x.of_row(row(query_head, t)).rest == 0)
        for (int j = 0; j < group; ++j) dscores[j] *= T{0};
      if (derivative == nullptr) continue;
      const T* const slopes = derivative + i * group;
      for (int j = 0; j < group; ++j) dscores[j] = detail::select(dscores[j] == 0, T{0}, dscores[j] * slopes[j]);
    }
  }

  bool keys_finite = true, queries_finite = true, douts_finite = true;
};

}}}  // namespace remat::kernels::attention
