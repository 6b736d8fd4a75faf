// The forward pass: online softmax over key tiles (Rabe and Staats 2021; FlashAttention-2, Dao 2023).
#pragma once

#include <cmath>
#include <limits>
#include <remat/kernels/attention/dropout.hpp>
#include <remat/kernels/attention/problem.hpp>
#include <remat/kernels/vector_math.hpp>

namespace remat::inline REMAT_ABI::kernels::attention {

/// One thread's tiles. Scores lie transposed, a query a lane, so that maxima and sums over keys are plain column sums.
template <class T>
struct ForwardTiles {
  T* query;    // [tile / group][pitch][group], scaled
  T* key;      // [tile][pitch]
  T* value;    // [tile][pitch]
  T* context;  // [tile][pitch], not yet normalized
  T* scores;   // [tile][group]
  T* maximum;  // [tile]
  T* sum;      // [tile]
  std::size_t bytes;

  ForwardTiles(void* scratch, Index head_dims) {
    const Index area = tile_rows * padded<T>(head_dims);
    Carver<T> carver(scratch);
    query = carver.take(area);
    key = carver.take(area);
    value = carver.take(area);
    context = carver.take(area);
    scores = carver.take(tile_rows * Vector<T>::group);
    maximum = carver.take(tile_rows);
    sum = carver.take(tile_rows);
    bytes = carver.used();
  }
};

/// Scores [keys, group] become exp(score - new maximum); updates the lanes' maxima and sums, and says in `decay` by
/// what earlier contexts shrink. A lane that has seen no key keeps maximum -infinity, and exp(-infinity - 0) is 0,
/// never NaN.
template <class T>
void online_softmax(T* scores, Index keys, T* maximum, T* sum, T* decay) {
  using V = typename Vector<T>::type;
  constexpr int width = Vector<T>::width, group = Vector<T>::group;
  T shift[group];
  for (int j = 0; j < group; j += width) {
    V top;
    std::memcpy(&top, maximum + j, sizeof(V));
    for (Index i = 0; i < keys; ++i) {
      V score;
      std::memcpy(&score, scores + i * group + j, sizeof(V));
      top = score > top ? score : top;
    }
    std::memcpy(shift + j, &top, sizeof(V));
  }
  for (int j = 0; j < group; ++j) {
    const T top = shift[j];
    shift[j] = top == -std::numeric_limits<T>::infinity() ? T{0} : top;
    decay[j] = fast_exp(maximum[j] - shift[j]);
    maximum[j] = top;
  }
  for (Index i = 0; i < keys; ++i) {
    for (int j = 0; j < group; ++j) scores[i * group + j] = fast_exp(scores[i * group + j] - shift[j]);
  }
  for (int j = 0; j < group; j += width) {
    V total{};
    for (Index i = 0; i < keys; ++i) {
      V weight;
      std::memcpy(&weight, scores + i * group + j, sizeof(V));
      total += weight;
    }
    for (int lane = 0; lane < width; ++lane) sum[j + lane] = sum[j + lane] * decay[j + lane] + total[lane];
  }
}

/// The context of queries [t0, t0 + rows) of head n in batch entry b, and their log-sum-exp.
template <class T>
void forward_tile(const AttentionProblem<T>& p, Index b, Index n, Index t0, const T* q, const T* k, const T* v, T* out,
                  T* log_sum_exp, void* scratch) {
  constexpr Index group = Vector<T>::group;
  constexpr T infinity = std::numeric_limits<T>::infinity();
  const ForwardTiles<T> tile(scratch, p.head_dims);
  const Index h = p.head_dims, pitch = padded<T>(h), rows = std::min(tile_rows, p.query_length - t0);
  const Index kv = n / group_heads(p);
  q += b * p.q_batch + t0 * p.q_token + n * h;
  k += b * p.k_batch + kv * h;
  v += b * p.v_batch + kv * h;
  out += b * p.out_batch + t0 * p.out_token + n * h;
  log_sum_exp += (b * p.heads + n) * p.query_length + t0;

  copy_rows(q, p.q_token, rows, h, tile.context, tile_rows);
  transpose_panels(tile.context, tile_rows, pitch, static_cast<T>(p.scale), tile.query);
  std::fill_n(tile.context, tile_rows * pitch, T{0});
  std::fill_n(tile.maximum, tile_rows, -infinity);
  std::fill_n(tile.sum, tile_rows, T{0});

  const Index last_key = key_end(p, t0 + rows);
  for (Index s0 = 0; s0 < last_key; s0 += tile_rows) {
    const Index tile_keys = std::min(tile_rows, last_key - s0);
    copy_rows(k + s0 * p.k_token, p.k_token, tile_keys, h, tile.key, tile_keys);
    const bool finite = copy_rows(v + s0 * p.v_token, p.v_token, tile_keys, h, tile.value, tile_keys);
    for (Index g = 0; g < rows; g += group) {
      const Index lanes = std::min(group, rows - g);
      const Index keys = std::min(tile_keys, key_end(p, t0 + g + lanes) - s0);
      if (keys <= 0) continue;
      multiply<false>(keys, group, h, tile.key, pitch, Index{1}, tile.query + g * pitch, group, tile.scores, group);
      if (p.causal) {
        // Lane j sees key i iff s0 + i <= t0 + g + j + offset.
        for (Index i = std::max<Index>(0, t0 + g + p.offset - s0 + 1); i < keys; ++i)
          std::fill_n(tile.scores + i * group, std::min(group, s0 + i - t0 - g - p.offset), -infinity);
      }
      T decay[group];
      online_softmax(tile.scores, keys, tile.maximum + g, tile.sum + g, decay);
      for (Index j = 0; j < lanes; ++j) {
        if (decay[j] == 1) continue;
        T* row = tile.context + (g + j) * pitch;
        for (Index i = 0; i < pitch; ++i) row[i] *= decay[j];
      }
      if (p.dropout.active()) {
        for (Index j = 0; j < lanes; ++j) {
          T factors[tile_rows];
          dropout_factors(p.dropout, coordinate(p, b, n, t0 + g + j, s0), keys, factors);
          for (Index i = 0; i < keys; ++i) tile.scores[i * group + j] *= factors[i];
        }
      }
      const auto accumulate = p.causal && !finite ? multiply_hiding<T> : multiply<true, T>;
      accumulate(lanes, pitch, keys, tile.scores, 1, group, tile.value, pitch, tile.context + g * pitch, pitch);
    }
  }
  for (Index i = 0; i < rows; ++i) {
    const T inverse = tile.sum[i] == 0 ? T{0} : 1 / tile.sum[i];
    for (Index j = 0; j < h; ++j) out[i * p.out_token + j] = tile.context[i * pitch + j] * inverse;
    log_sum_exp[i] = tile.maximum[i] + std::log(tile.sum[i]);
  }
}

}  // namespace remat::inline REMAT_ABI::kernels::attention
