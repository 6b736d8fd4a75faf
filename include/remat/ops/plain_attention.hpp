// Attention by its formula, with every score in memory: what the fused op is compared with, and what tells weights.
#pragma once

#include <algorithm>
#include <cmath>
#include <remat/ops/arithmetic.hpp>
#include <remat/ops/attention_weights.hpp>
#include <remat/ops/head_mask.hpp>
#include <remat/ops/matmul.hpp>
#include <remat/ops/transpose.hpp>
#include <remat/ops/unary.hpp>

namespace remat { inline namespace REMAT_ABI {

namespace ops {

/// The tape's next mask for weights [B, N, T, S]: the one that the fused op would draw. Inside `blockwise` over queries
/// it is a part of that of the whole sequence.
inline DropoutMask weights_mask(Tape& tape, double rate, Shape weights) {
  DropoutMask mask = next_mask(tape, rate);
  if (!mask.active()) return mask;
  if (tape.chunk()) {
    const ChunkPlace& place = *tape.chunk();
    require(!place.is_cut_elsewhere && place.axis == 1 && weights[2] == place.length,
            "attention: dropout inside blockwise over axis ", place.axis, " in chunks of ", place.length,
            ", but there are ", weights[2], " queries; cut their axis 1");
    mask.run = static_cast<std::uint64_t>(place.length * weights[3]);
    mask.whole = static_cast<std::uint64_t>(place.whole * weights[3]);
    mask.first = static_cast<std::uint64_t>(place.offset * weights[3]);
    weights[2] = place.whole;
  }
  mask.first += first_in_batch(tape, weights);
  return mask;
}

}  // namespace ops

/// softmax(scale q k^T) v, q [B, T, N, H], k and v [B, S, K, H], query head n reads key/value head n / (N / K) ->
/// context [B, T, N, H], through scores [B, N, T, S]. What values are multiplied by goes to `masks.weights`, if that is
/// not null. Dropout draws as in `attention`. Options that only say how to compute (chunks) change nothing. Errors:
/// rotary, ALiBi, relative biases, sinks.
template <class T>
Var<T> plain_attention(const Var<T>& q, const Var<T>& k, const Var<T>& v, const AttentionOptions& options = {},
                       const std::type_identity_t<AttentionMasks<T>>& masks = {}) {
  const Shape &qs = q.shape(), &ks = k.shape();
  require(q.tape().ring() == nullptr, "plain_attention: scores exist whole, which they never do where ranks share a ",
          "sequence; leave out masks.weights, or call attention");
  require(qs.rank() == 4 && ks.rank() == 4 && v.shape() == ks && ks[2] > 0 && qs[2] % ks[2] == 0, "plain_attention: q ",
          qs, ", k ", ks, " and v ", v.shape(), " are not [B, T, N, H] and twice [B, S, K, H] with K that divides N");
  require(options.rotary_base == 0 && !options.alibi && !masks.relative_bias.has_value() && !masks.sinks.has_value(),
          "plain_attention: scores that exist whole, as attention weights need them, have neither rotary nor ALiBi, "
          "relative biases or sinks");
  const Index batch = qs[0], queries = qs[1], heads = qs[2], groups = ks[2];
  const Index offset = options.offset.value_or(ks[1] - qs[1]);
  const double scale = options.scale.value_or(1 / std::sqrt(static_cast<double>(std::max<Index>(1, qs[3]))));
  // Query heads of one key/value head are more queries of it.
  const auto grouped = [&](const Var<T>& x) {
    return x.reshape({batch, groups, heads / groups * queries, x.shape()[3]});
  };
  const Var<T> across = transpose(k, {0, 2, 3, 1});  // [B, K, H, S]
  Var<T> scores = matmul(grouped(transpose(q, {0, 2, 1, 3}) * scale), across).reshape({batch, heads, queries, ks[1]});
  if (options.soft_cap > 0) scores = tanh(scores * (1 / options.soft_cap)) * options.soft_cap;
  if (masks.bias.has_value()) scores = scores + cast<T>(Var<Accum<T>>(q.shared_program(), masks.bias.on(q.program())));
  const bool is_masked = options.window != 0 || masks.bias.has_value() || masks.key_lengths.has_value() ||
                         masks.query_segments.has_value() || masks.key_segments.has_value() ||
                         masks.prefix_lengths.has_value() || masks.query_offsets.has_value();
  using O = ops::AttentionWeights<T>;
  const Argument<Accum<T>> none{};
  Var<T> weights = is_masked        ? record(O(options), scores, none, none, masks.key_lengths, masks.query_segments,
                                             masks.key_segments, masks.prefix_lengths, masks.query_offsets, none)[O::weights]
                   : options.causal ? causal_softmax(scores, offset)
                                    : softmax(scores);
  if (const DropoutMask mask = ops::weights_mask(q.tape(), options.dropout, weights.shape()); mask.rate != 0)
    weights = record(ops::Dropout<T>(mask), weights)[ops::Dropout<T>::y];
  weights = ops::times_head_mask(weights, masks.head_mask, 1);
  if (masks.weights != nullptr) *masks.weights = weights;
  const Var<T> sums = matmul(grouped(weights), transpose(v, {0, 2, 1, 3}));  // [B, K, N / K T, H]
  return transpose(sums.reshape({batch, heads, queries, qs[3]}), {0, 2, 1, 3});
}

}}  // namespace remat
