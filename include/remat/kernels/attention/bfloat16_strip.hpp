// One strip of queries against one tile of keys after another, as bfloat16: a query a row, so that one product gives
// the scores of all, and the next weighs the values with them.
#pragma once

#include <cmath>
#include <limits>
#include <remat/kernels/attention/bfloat16.hpp>
#include <remat/kernels/attention/forward_strip.hpp>
#include <remat/kernels/dropout.hpp>
#include <remat/kernels/vector_math.hpp>

namespace remat { inline namespace REMAT_ABI { namespace kernels::attention {

struct Bfloat16StripTiles {
  static constexpr Index columns = 256;  // keys to a tile
  bfloat16* query;                       // [strip][bfloat16 pitch]
  bfloat16* key;                         // [columns][bfloat16 pitch]
  bfloat16* value;                       // [columns][bfloat16 pitch]
  bfloat16* weights;                     // [strip][columns]
  float* scores;                         // [strip][columns]
  float* turning;                        // [strip][pitch]: before it is rounded
  float* context;                        // [strip][pitch], not yet normalized
  float* maximum;                        // [strip]
  float* sum;                            // [strip]
  Rotary<float> rotary;

  Bfloat16StripTiles(const AttentionProblem<bfloat16>& p, const Tables& tables, ScratchArena& arena)
      : rotary(tables.rotary, arena, std::max(strip_tiling(p).rows, columns)) {
    const Index pitch = padded<float>(p.head_dims), row = bfloat16_pitch(p.head_dims);
    const Index rows = std::min(strip_tiling(p).rows, round_to_step(p.query_length));
    const Index keys = std::min(columns, round_to_step(p.key_length));
    query = arena.take<bfloat16>(rows * row);
    for (bfloat16** piece : {&key, &value}) *piece = arena.take<bfloat16>(keys * row);
    weights = arena.take<bfloat16>(rows * columns);
    scores = arena.take<float>(rows * columns);
    turning = rotary.turns() ? arena.take<float>(std::max(rows, keys) * pitch) : nullptr;
    context = arena.take<float>(rows * pitch);
    for (float** piece : {&maximum, &sum}) *piece = arena.take<float>(rows);
  }
};

/// As `QueryStrip`, of scores that nothing but masks by position touches.
class Bfloat16Strip {
 public:
  static constexpr Index tile_keys = Bfloat16StripTiles::columns;
  static constexpr bool changed = false;

  Bfloat16Strip(const AttentionProblem<bfloat16>& problem, const Tables& tables, void* scratch)
      : p(problem), arena(scratch), tile(problem, tables, arena) {}

  void load_queries(const bfloat16* q, Index t0, Index rows) {
    std::fill_n(tile.context, round_to_step(rows) * pitch, 0.0F);
    std::fill_n(tile.maximum, round_to_step(rows), -infinity);
    std::fill_n(tile.sum, round_to_step(rows), 0.0F);
    copy_turned(q + t0 * p.q_token, p.q_token, p.key_position + p.offset + t0, rows, h, tile.rotary, tile.turning,
                tile.query);
  }
  void load_keys(const bfloat16* k, const bfloat16* v, Index s0, Index keys) {
    copy_turned(k + s0 * p.k_token, p.k_token, p.key_position + s0, keys, h, tile.rotary, tile.turning, tile.key);
    values_finite = copy_bfloat16(v + s0 * p.v_token, p.v_token, keys, h, tile.value);
  }

  void attend(const Visibility& seen, Index b, Index n, Index t0, Index rows, Index s0, Index keys) {
    const Stretch seeing = rows_that_see(seen, t0, rows, s0, keys), whole = whole_steps(seeing);
    if (seeing.size() == 0) return;
    const Index columns = round_to_step(keys), row = bfloat16_pitch(h), at = whole.begin * tile_keys;
    gemm({.b = Trans::yes, .m = whole.size(), .n = columns, .k = h, .lda = row, .ldb = row, .ldc = tile_keys},
         tile.query + whole.begin * row, tile.key, tile.scores + at);
    float factors[tile_keys];
    std::fill_n(factors, columns, 1.0F);
    for (Index i = whole.begin; i < whole.end; ++i) {
      const Stretch some = i < rows ? keys_seen(seen, t0 + i, s0, keys) : Stretch{0, 0}, used = whole_steps(some);
      bfloat16* weights = tile.weights + i * tile_keys;
      clear_outside(used, columns, weights);
      if (some.size() == 0) continue;
      if (p.dropout.active())
        dropout_factors(p.dropout, coordinate(p, b, n, t0 + i, s0 + some.begin), some.size(), factors + some.begin);
      weigh(i, some, used, factors, weights);
    }
    multiply_weights(
        {.m = whole.size(), .n = h, .k = columns, .lda = tile_keys, .ldb = row, .ldc = pitch, .accumulate = true},
        tile.weights + at, tile.value, values_finite, tile.context + whole.begin * pitch);
  }

  bool has_one_key(const Visibility& seen, Index t, Index) const { return seen.end(t) - seen.begin(t) == 1; }

  const AttentionProblem<bfloat16>& p;
  ScratchArena arena;
  Bfloat16StripTiles tile;
  Index h = p.head_dims, pitch = padded<float>(h);

 private:
  using V = Vector<float>::type;
  using Lanes = Vector<std::int32_t>::type;
  static constexpr int width = Vector<float>::width;
  static constexpr float infinity = std::numeric_limits<float>::infinity();

  /// Scores of row i become weights exp(score - new maximum), with dropout; what earlier tiles gave the row shrinks. It
  /// sees the keys `some`, of `used` whole steps.
  void weigh(Index i, const Stretch& some, const Stretch& used, const float* factors, bfloat16* to) const {
    const auto scale = static_cast<float>(p.scale);
    float* scores = tile.scores + i * tile_keys;
    V tops = V{} - infinity, sums{};
    Lanes lanes;
    for (int lane = 0; lane < width; ++lane) lanes[lane] = lane;
    for (Index j = used.begin; j < used.end; j += width) {
      V score;
      std::memcpy(&score, scores + j, sizeof(V));
      const Lanes key = lanes + static_cast<int>(j);
      const Lanes is_seen = (key >= static_cast<int>(some.begin)) & (key < static_cast<int>(some.end));
      score = is_seen ? score : V{} - infinity;
      tops = score > tops ? score : tops;
      std::memcpy(scores + j, &score, sizeof(V));
    }
    const float before = tile.maximum[i];
    fold_lanes(tops, [](V& a, const V& b) { a = b > a ? b : a; });
    const float top = std::max(before, scale * tops[0]);
    const float shift = top == -infinity ? 0.0F : top;
#pragma omp simd
    for (Index j = used.begin; j < used.end; ++j) scores[j] = fast_exp(scale * scores[j] - shift);
    for (Index j = used.begin; j < used.end; j += width) {
      V weight;
      std::memcpy(&weight, scores + j, sizeof(V));
      sums += weight;
    }
    const auto weights = numbers(to);
#pragma omp simd
    for (Index j = used.begin; j < used.end; ++j) weights[j] = scores[j] * factors[j];
    fold_lanes(sums, [](V& a, const V& b) { a += b; });
    const float decay = fast_exp(before - shift);
    tile.maximum[i] = top;
    tile.sum[i] = tile.sum[i] * decay + sums[0];
    if (decay != 1)
      for (Index j = 0; j < pitch; ++j) tile.context[i * pitch + j] *= decay;
  }

  bool values_finite = true;
};

}}}  // namespace remat::kernels::attention
