// The heart of backward in bfloat16: one query tile and one key tile, and what they give each other by five products.
#pragma once

#include <limits>
#include <remat/kernels/attention/backward_tiles.hpp>
#include <remat/kernels/attention/bfloat16.hpp>
#include <remat/kernels/attention/visibility.hpp>
#include <remat/kernels/dropout.hpp>
#include <remat/kernels/vector_math.hpp>

namespace remat { inline namespace REMAT_ABI { namespace kernels::attention {

/// Many queries to few keys: queries that see none of the keys are left out of products, keys are not.
struct Bfloat16PairTiles {
  static constexpr Index rows = 256, columns = 128;
  bfloat16 *query, *dout, *key, *value;  // [rows or columns][bfloat16 pitch]
  bfloat16 *weights, *dscores;           // [rows][columns]: probabilities, with dropout, and gradients of scores
  float *scores, *dweights;              // [rows][columns], before they are rounded
  float *dquery, *dkey, *dvalue;         // [rows or columns][pitch]
  float* dqueries;                       // [group_heads][T][H]: where key tiles add up
  Rotary<float> query_rotary, key_rotary;

  Bfloat16PairTiles(const AttentionProblem<bfloat16>& p, const Tables& tables, ScratchArena& arena)
      : query_rotary(tables.rotary, arena, rows), key_rotary(tables.rotary, arena, columns) {
    const Index pitch = padded<float>(p.head_dims), row = bfloat16_pitch(p.head_dims);
    const Index queries = std::min(rows, round_to_step(p.query_length));
    const Index keys = std::min(columns, round_to_step(p.key_length));
    for (bfloat16** piece : {&query, &dout}) *piece = arena.take<bfloat16>(queries * row);
    for (bfloat16** piece : {&key, &value}) *piece = arena.take<bfloat16>(keys * row);
    for (bfloat16** piece : {&weights, &dscores}) *piece = arena.take<bfloat16>(queries * columns);
    for (float** piece : {&scores, &dweights}) *piece = arena.take<float>(queries * columns);
    dquery = arena.take<float>(std::max(queries, keys) * pitch);
    for (float** piece : {&dkey, &dvalue}) *piece = arena.take<float>(columns * pitch);
    dqueries = arena.take<float>(group_heads(p) * p.query_length * p.head_dims);
  }
};

/// As `TilePair`, of scores that nothing but masks by position touches.
class Bfloat16Pair {
 public:
  using Tiles = Bfloat16PairTiles;
  static constexpr Index query_tile = Tiles::rows, key_tile = Tiles::columns;
  static constexpr bool changed = false;

  Bfloat16Pair(const AttentionProblem<bfloat16>& problem, const BackwardArguments<bfloat16>& arguments,
               const Tables& tables, Index batch_entry, Index kv_head, void* scratch)
      : p(problem),
        x(arguments),
        arena(scratch),
        tile(problem, tables, arena),
        seen(problem, batch_entry),
        b(batch_entry),
        kv(kv_head) {}

  /// False if padding leaves none of the keys.
  bool load_keys(Index s0, Index count) {
    key_rows = std::min(count, seen.keys() - s0);
    first_key = s0;
    if (key_rows <= 0) return false;
    copy_bfloat16(x.v + b * p.v_batch + s0 * p.v_token + kv * h, p.v_token, key_rows, h, tile.value);
    // The query tile's gradient is idle now: keys turn there.
    keys_finite = copy_turned(x.k + b * p.k_batch + s0 * p.k_token + kv * h, p.k_token, p.key_position + s0, key_rows,
                              h, tile.key_rotary, tile.dquery, tile.key);
    return true;
  }

  void load_queries(Index n, Index t0, Index rows) {
    query_head = n, first_query = t0, query_rows = rows;
    queries_finite = copy_turned(x.q + b * p.q_batch + t0 * p.q_token + n * h, p.q_token,
                                 p.key_position + p.offset + t0, rows, h, tile.query_rotary, tile.dquery, tile.query);
    douts_finite = copy_bfloat16(x.dout + b * p.out_batch + t0 * p.out_token + n * h, p.out_token, rows, h, tile.dout);
  }

  /// dq into tile.dquery (overwritten), dk and dv added to theirs.
  void multiply_gradients(bool with_dq, bool with_dk, bool with_dv) {
    const Stretch seeing = rows_that_see(seen, first_query, query_rows, first_key, key_rows),
                  whole = whole_steps(seeing);
    if (with_dq) {
      std::fill_n(tile.dquery, whole.begin * pitch, 0.0F);
      std::fill(tile.dquery + whole.end * pitch, tile.dquery + round_to_step(query_rows) * pitch, 0.0F);
    }
    if (seeing.size() == 0) return;
    const Index rows = whole.size(), columns = round_to_step(key_rows), row = bfloat16_pitch(h);
    const Index at = whole.begin * key_tile;
    const bfloat16 *query = tile.query + whole.begin * row, *dout = tile.dout + whole.begin * row;
    const Gemm scores{.b = Trans::yes, .m = rows, .n = columns, .k = h, .lda = row, .ldb = row, .ldc = key_tile};
    gemm(scores, query, tile.key, tile.scores + at);
    gemm(scores, dout, tile.value, tile.dweights + at);
    differentiate(whole, columns);
    const Gemm to_keys{.a = Trans::yes,
                       .m = columns,
                       .n = h,
                       .k = rows,
                       .lda = key_tile,
                       .ldb = row,
                       .ldc = pitch,
                       .accumulate = true};
    if (with_dv) multiply_weights(to_keys, tile.weights + at, dout, douts_finite, tile.dvalue);
    if (with_dk) multiply_weights(to_keys, tile.dscores + at, query, queries_finite, tile.dkey);
    const Gemm to_queries{.m = rows, .n = h, .k = columns, .lda = key_tile, .ldb = row, .ldc = pitch};
    if (with_dq)
      multiply_weights(to_queries, tile.dscores + at, tile.key, keys_finite, tile.dquery + whole.begin * pitch);
  }

  Index row(Index n, Index t) const { return (b * p.heads + n) * p.query_length + t; }

  const AttentionProblem<bfloat16>& p;
  const BackwardArguments<bfloat16>& x;
  ScratchArena arena;
  Tiles tile;
  Visibility seen;
  Index b, kv, query_head = 0, first_query = 0, query_rows = 0, first_key = 0, key_rows = 0;
  Index h = p.head_dims, pitch = padded<float>(h);
  float scale = static_cast<float>(p.scale), key_scale = scale;  // of dq and dk as multiplied

 private:
  /// Scores become probabilities, their gradients those of the scores; both zero where nothing is seen.
  void differentiate(const Stretch& rows, Index columns) const {
    float factors[key_tile];
    std::fill_n(factors, columns, 1.0F);
    for (Index i = rows.begin; i < rows.end; ++i) {
      const Index t = first_query + i, at = i * key_tile;
      const Stretch some = i < query_rows ? keys_seen(seen, t, first_key, key_rows) : Stretch{0, 0};
      const Stretch used = whole_steps(some);
      clear_outside(used, columns, tile.weights + at);
      clear_outside(used, columns, tile.dscores + at);
      if (some.size() == 0) continue;
      if (p.dropout.active())
        dropout_factors(p.dropout, coordinate(p, b, query_head, t, first_key + some.begin), some.size(),
                        factors + some.begin);
      differentiate_row(row(query_head, t), some, factors, at);
    }
  }
  void differentiate_row(Index row, const Stretch& some, const float* factors, Index at) const {
    const auto log_sum_exp = x.of_row(row);
    const float delta = x.delta[row];
    float *scores = tile.scores + at, *dweights = tile.dweights + at;
    const Stretch used = whole_steps(some);
    // A loop of its own: with the rest in it, GCC would not vectorize the exponential.
#pragma omp simd
    for (Index j = used.begin; j < used.end; ++j) scores[j] = log_sum_exp.share(scale * scores[j]);
    std::fill(scores + used.begin, scores + some.begin, 0.0F);
    std::fill(scores + some.end, scores + used.end, 0.0F);
    const auto weights = numbers(tile.weights + at), dscores = numbers(tile.dscores + at);
#pragma omp simd
    for (Index j = used.begin; j < used.end; ++j) {
      const float weight = scores[j], slope = weight * (factors[j] * dweights[j] - delta);
      weights[j] = weight * factors[j];
      dscores[j] = weight == 0 ? 0.0F : slope;  // hides NaN of what nobody sees
    }
    if (log_sum_exp.rest == 0)  // the difference above is 0 but for rounding
      for (Index j = used.begin; j < used.end; ++j) dscores[j] = dscores[j] * 0.0F;
  }

  bool keys_finite = true, queries_finite = true, douts_finite = true;
};

}}}  // namespace remat::kernels::attention
