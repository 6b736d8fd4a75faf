// Attention by its formula, with every score in memory: what the fused op is compared with.
#pragma once

#include <algorithm>
#include <cmath>
#include <remat/ops/arithmetic.hpp>
#include <remat/ops/attention_options.hpp>
#include <remat/ops/matmul.hpp>
#include <remat/ops/softmax.hpp>
#include <remat/ops/transpose.hpp>

namespace remat { inline namespace REMAT_ABI {

/// softmax(scale q k^T) v, q [B, T, N, H], k and v [B, S, N, H] -> context [B, T, N, H], through scores [B, N, T, S].
/// Of the options it follows `causal`, `offset` and `scale`; those that only say how to compute (chunks) or what to do
/// with others that are off (`rotary_dims`, `key_position`, `relative_max_distance`) change nothing. Errors: dropout,
/// a window, a soft cap, rotary, ALiBi, grouped heads.
template <class T>
Var<T> plain_attention(const Var<T>& q, const Var<T>& k, const Var<T>& v, const AttentionOptions& options = {}) {
  const Shape &qs = q.shape(), &ks = k.shape();
  require(qs.rank() == 4 && ks.rank() == 4 && qs[2] == ks[2], "plain_attention: q ", qs, " and k ", ks,
          " need the same number of heads");
  require(options.dropout == 0 && options.window == 0 && options.soft_cap == 0 && options.rotary_base == 0 &&
              !options.alibi,
          "plain_attention: knows neither dropout nor windows, caps, rotary or biases; use attention");
  const Index offset = options.offset.value_or(ks[1] - qs[1]);
  const double scale = options.scale.value_or(1 / std::sqrt(static_cast<double>(std::max<Index>(1, qs[3]))));
  const Var<T> across = transpose(k, {0, 2, 3, 1});                          // [B, N, H, S]
  const Var<T> scores = matmul(transpose(q, {0, 2, 1, 3}) * scale, across);  // [B, N, T, S]
  const Var<T> weights = options.causal ? causal_softmax(scores, offset) : softmax(scores);
  return transpose(matmul(weights, transpose(v, {0, 2, 1, 3})), {0, 2, 1, 3});
}

}}  // namespace remat
