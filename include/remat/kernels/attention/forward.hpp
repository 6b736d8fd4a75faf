// The forward pass: online softmax over key tiles (Rabe and Staats 2021; FlashAttention-2, Dao 2023).
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <remat/kernels/attention/forward_strip.hpp>

namespace remat { inline namespace REMAT_ABI { namespace kernels::attention {

template <class E>
struct ForwardArguments {
  const E *q, *k, *v;
  E* out;
  Accum<E>*log_sum_exp, *rest;  // [B, N, T]; rest may be null, and is 0 iff one key has all the weight
};

/// Passes of strips of queries over the keys they see. `Strip` computes: `QueryStrip`, or `Bfloat16Strip`.
template <class E, class Strip>
class ForwardTask {
 public:
  using T = Accum<E>;

  ForwardTask(const AttentionProblem<E>& problem, const ForwardArguments<E>& arguments, const Tables& tables,
              void* scratch)
      : p(problem), x(arguments), strip(problem, tables, scratch) {}

  /// The context of queries [t0, t0 + rows) of head n in batch entry b, and their log-sum-exp.
  void run(Index b, Index n, Index t0, Index rows) {
    const Visibility seen(p, b);
    const Index h = p.head_dims, pitch = padded<T>(h), kv = n / group_heads(p);
    strip.load_queries(x.q + b * p.q_batch + n * h, t0, rows);
    const Index last_key = seen.end(t0 + rows - 1);
    key_tiling(p, Strip::tile_keys).each(seen.begin(t0), last_key, [&](Index s0, Index tile_keys) {
      const Index keys = std::min(tile_keys, last_key - s0);
      if constexpr (Strip::changed)
        if (!segments_meet(p, b, t0, rows, s0, keys)) return;
      strip.load_keys(x.k + b * p.k_batch + kv * h, x.v + b * p.v_batch + kv * h, s0, keys);
      strip.attend(seen, b, n, t0, rows, s0, keys);
    });
    E* out = x.out + b * p.out_batch + t0 * p.out_token + n * h;
    const Index first = (b * p.heads + n) * p.query_length + t0;
    const auto& tile = strip.tile;
    if (p.sinks != nullptr) add_sink(p.sinks[n], rows, pitch);
    for (Index i = 0; i < rows; ++i) {
      const T inverse = tile.sum[i] == 0 ? T{0} : 1 / tile.sum[i];
      const auto row = numbers(out + i * p.out_token);
      for (Index j = 0; j < h; ++j) row[j] = tile.context[i * pitch + j] * inverse;
      const auto log_sum_exp = LogSumExp<T>::of(tile.maximum[i], std::log(tile.sum[i]));
      x.log_sum_exp[first + i] = log_sum_exp.value;
      if (x.rest == nullptr) continue;
      const T more = log_sum_exp.rest == 0 ? std::numeric_limits<T>::min() : log_sum_exp.rest;
      x.rest[first + i] = p.sinks == nullptr && strip.has_one_key(seen, t0 + i, i) ? T{0} : more;
    }
  }

 private:
  /// One more key, whose value is zeros.
  void add_sink(T sink, Index rows, Index pitch) {
    auto& tile = strip.tile;
    for (Index i = 0; i < rows; ++i) {
      const T top = std::max<T>(tile.maximum[i], sink);
      const T decay = tile.sum[i] == 0 ? T{0} : std::exp(tile.maximum[i] - top);
      tile.sum[i] = tile.sum[i] * decay + std::exp(sink - top);
      tile.maximum[i] = top;
      for (Index j = 0; j < pitch; ++j) tile.context[i * pitch + j] *= decay;
    }
  }

  const AttentionProblem<E>& p;
  const ForwardArguments<E>& x;
  Strip strip;
};

}}}  // namespace remat::kernels::attention
