// Gradients of what is added to scores. They need a pass of their own: each sums over pairs in one fixed order,
// whatever else is wanted and however many threads there are.
#pragma once

#include <remat/core/cascade_sum.hpp>
#include <remat/kernels/attention/backward.hpp>

namespace remat { inline namespace REMAT_ABI { namespace kernels::attention {

/// The gradient of the sinks, whose values are zeros: -share * (dout . out), summed over the rows of each head.
template <class E>
void sink_gradient(const AttentionProblem<E>& p, const BackwardArguments<E>& x) {
  using T = Accum<E>;
  for (Index n = 0; n < p.heads; ++n) {
    CascadeSum<T> sum;
    for (Index b = 0; b < p.batch; ++b)
      for (Index t = 0; t < p.query_length; ++t) {
        const Index row = (b * p.heads + n) * p.query_length + t;
        const T term = -x.of_row(row).share(p.sinks[n]) * x.delta[row];
        sum.add(&term);
      }
    x.to.sinks[n] = (x.to.add_sinks ? x.to.sinks[n] : T{0}) + *sum.total();
  }
}

/// Adds dscores [rows][group] to `to`, where a step of 0 stands for an axis that is summed over.
template <class T>
void add_scores(const T* dscores, Index rows, Index lanes, T* to, Index row_step, Index lane_step) {
  constexpr Index group = Vector<T>::group;
  for (Index i = 0; i < rows;) {
    // Rows that share their elements are summed before they touch memory.
    T sums[group] = {};
    T* row = to + i * row_step;
    for (const Index last = row_step == 0 ? rows : i + 1; i < last; ++i)
      for (Index j = 0; j < group; ++j) sums[j] += dscores[i * group + j];
    T total = 0;
    for (Index j = 0; j < lanes; ++j) lane_step == 0 ? total += sums[j] : row[j] += sums[j];
    if (lane_step == 0) *row += total;
  }
}

/// The gradient of the additive bias. A task owns the elements of one tile each way, or the only one of an axis that
/// stands for all; it walks every pair that they were added to.
template <class E>
void bias_gradient(const AttentionProblem<E>& p, const BackwardArguments<E>& x, const Tables& tables,
                   std::byte* scratch, std::size_t bytes) {
  using T = Accum<E>;
  const Index batches = p.bias_sizes[0], heads = p.bias_sizes[1], queries = p.bias_sizes[2], keys = p.bias_sizes[3];
  const Tiling query_tiles = query_tiling(p), key_tiles = key_tiling(p);
  const Index rows = queries == 1 ? 1 : query_tiles.count(), columns = keys == 1 ? 1 : key_tiles.count();
  const Index query_step = queries == 1 ? 0 : keys, key_step = keys == 1 ? 0 : 1;
  const auto owned = [](Index size, Index length, Index i) {
    return size == 1 ? Stretch{0, length} : Stretch{i, i + 1};
  };
  const auto tile = [](Index size, const Tiling& tiles, Index i) {
    return size == 1 ? Stretch{0, tiles.length} : Stretch{tiles.start(i), tiles.end(i)};
  };
  each_task(batches * heads * rows * columns, scratch, bytes, [&](Index task, void* own) {
    const Index head = task / columns / rows;
    const Stretch t = tile(queries, query_tiles, task / columns % rows), s = tile(keys, key_tiles, task % columns);
    T* to = x.to.bias + head * queries * keys;
    if (!x.to.add_bias)
      for (Index i = queries == 1 ? 0 : t.begin; i < (queries == 1 ? 1 : t.end); ++i)
        std::fill(to + i * keys + (keys == 1 ? 0 : s.begin), to + i * keys + (keys == 1 ? 1 : s.end), T{0});
    const Stretch all_b = owned(batches, p.batch, head / heads), all_n = owned(heads, p.heads, head % heads);
    for (Index b = all_b.begin; b < all_b.end; ++b)
      for (Index n = all_n.begin; n < all_n.end; ++n) {
        BackwardTask<E, TilePair<E, true>> pass(p, x, tables, b, n / group_heads(p), own);
        query_tiles.each(t.begin, t.end, [&](Index t0, Index count) {
          pass.scores(
              n, t0, count, s.begin, s.end, [&](Index first, Index seen, Index key, Index lanes, const T* dscores) {
                add_scores(dscores, seen, lanes, to + first * query_step + key * key_step, query_step, key_step);
              });
        });
      }
  });
}

/// Queries whose sums share a partial of the relative bias gradient: a tile, or several of those of small chunks.
template <class T>
Tiling partial_tiling(const AttentionProblem<T>& p) {
  const Index chunk = query_tiling(p).chunk;
  return {p.query_length, chunk < tile_rows ? tile_rows / chunk * chunk : chunk};
}
template <class T>
Index partial_size(const AttentionProblem<T>& p) {
  return p.buckets > 0 ? p.heads * partial_tiling(p).count() * p.buckets : 0;
}

/// The gradient of the relative bias table: sums of diagonals by strip of queries, then over the strips in order.
/// `partial` is [heads, strips, buckets].
template <class E>
void relative_bias_gradient(const AttentionProblem<E>& p, const BackwardArguments<E>& x, const Tables& tables,
                            double* partial, std::byte* scratch, std::size_t bytes) {
  using T = Accum<E>;
  constexpr Index group = Vector<T>::group;
  const Tiling strips = partial_tiling(p);
  const Index count = strips.count();
  each_task(p.heads * count, scratch, bytes, [&](Index task, void* own) {
    const Index n = task / count, strip = task % count;
    double* sums = partial + task * p.buckets;
    std::fill_n(sums, p.buckets, 0.0);
    Index b = 0;
    const auto add = [&](Index t, Index rows, Index s, Index lanes, const T* dscores) {
      T diagonals[tile_rows + group] = {};
      for (Index i = 0; i < rows; ++i)
        for (Index j = 0; j < lanes; ++j) diagonals[rows - 1 - i + j] += dscores[i * group + j];
      for (Index d = 0; d < rows + lanes - 1; ++d)
        sums[tables.buckets(s - t - p.offset_of(b) + d - (rows - 1))] += static_cast<double>(diagonals[d]);
    };
    for (; b < p.batch; ++b) {
      BackwardTask<E, TilePair<E, true>> pass(p, x, tables, b, n / group_heads(p), own);
      query_tiling(p).each(strips.start(strip), strips.end(strip),
                           [&](Index t, Index rows) { pass.scores(n, t, rows, 0, p.key_length, add); });
    }
  });
  for (Index bucket = 0; bucket < p.buckets; ++bucket)
    for (Index n = 0; n < p.heads; ++n) {
      double sum = 0;
      for (Index i = 0; i < count; ++i) sum += partial[(n * count + i) * p.buckets + bucket];
      T& to = x.to.relative_bias[bucket * p.heads + n];
      to = (x.to.add_relative_bias ? to : T{0}) + static_cast<T>(sum);
    }
}

}}}  // namespace remat::kernels::attention
