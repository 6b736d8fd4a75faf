// Ring attention's forward: what each piece of keys gives is merged by its log-sum-exp.
#pragma once

#include <cmath>
#include <limits>
#include <remat/kernels/ring/pieces.hpp>

namespace remat { inline namespace REMAT_ABI { namespace kernels {

namespace ring {

/// One row of attention as far as it has come.
template <class A>
struct Merged {
  A *out, *log_sum_exp, *rest;

  /// Takes in what other keys gave: `other` [dims], whose elements are read by `at`, with its log-sum-exp. What has no
  /// weight changes nothing, NaN or not.
  template <class At>
  void add(A value, A remainder, Index dims, const At& at) const {
    constexpr A infinity = std::numeric_limits<A>::infinity();
    if (value == -infinity) return;
    const auto take = [&] {
      for (Index j = 0; j < dims; ++j) out[j] = at(j);
      *log_sum_exp = value, *rest = remainder;
    };
    if (*log_sum_exp == -infinity) return take();
    const A top = *log_sum_exp > value ? *log_sum_exp : value;
    const A before = std::exp(as_written(*log_sum_exp - top) + *rest),
            more = std::exp(as_written(value - top) + remainder);
    if (more == 0) return;
    if (before == 0) return take();
    const A sum = before + more, inverse = 1 / sum;
    for (Index j = 0; j < dims; ++j) out[j] = (out[j] * before + at(j) * more) * inverse;
    const auto both = LogSumExp<A>::of(top, std::log(sum));
    *log_sum_exp = both.value;
    *rest = both.rest == 0 ? std::numeric_limits<A>::min() : both.rest;  // 0 is for one key that has all the weight
  }
};

template <class T>
struct ForwardScratch {
  using A = Accum<T>;
  Buffers<T> buffers;
  T* out;                 // [rows, T, N, H] of one pair
  A *log_sum_exp, *rest;  // [rows, N, T] of one pair
  A* sums;                // [rows, 2 T, N, H], if merging in the result would round each time
  std::byte* kernel;

  ForwardScratch(const AttentionProblem<T>& p, attention::ScratchArena& arena) : buffers(p, false, arena) {
    const AttentionProblem<T>& pair = buffers.pair;
    const Index lines = pair.batch * pair.heads * pair.query_length;
    out = arena.take<T>(lines * pair.head_dims);
    log_sum_exp = arena.take<A>(lines), rest = arena.take<A>(lines);
    sums = is_rounded<T> ? arena.take<A>(2 * lines * pair.head_dims) : nullptr;
    kernel = arena.take<std::byte>(static_cast<Index>(attention_forward_scratch(pair)));
  }
};

}  // namespace ring

/// Bytes of scratch that `ring_attention_forward` needs.
template <class T>
std::size_t ring_attention_forward_scratch(const AttentionProblem<T>& p) {
  attention::ScratchArena arena;
  static_cast<void>(ring::ForwardScratch<T>(p, arena));
  return arena.used();
}

/// As `attention_forward` of whole sequences of which this rank has a part: query_length, key_length, strides and
/// segments are those of the part, all else of the whole, with `offset` from the first query to the first key of all.
/// log_sum_exp and rest are [2, B, N, T / 2] here. No bias. Every rank calls it.
template <class T>
void ring_attention_forward(const AttentionProblem<T>& p, SequenceRing& ranks, const T* q, const T* k, const T* v,
                            T* out, Accum<T>* log_sum_exp, Accum<T>* rest, void* memory) {
  using A = Accum<T>;
  attention::ScratchArena arena(memory);
  ring::ForwardScratch<T> scratch(p, arena);
  const Index length = p.query_length / 2, h = p.head_dims, lines = p.batch * p.heads * length;
  std::fill_n(log_sum_exp, 2 * lines, -std::numeric_limits<A>::infinity());
  std::fill_n(rest, 2 * lines, std::numeric_limits<A>::min());
  for (Index b0 = 0; b0 < p.batch; b0 += scratch.buffers.pair.batch) {
    ring::Rotation<T> rotation(p, ranks, scratch.buffers, b0);
    A* sums = scratch.sums;
    if constexpr (!ring::is_rounded<T>) sums = out + b0 * p.out_batch;
    std::fill_n(sums, rotation.rows() * p.out_batch, A{0});
    const auto merged = [&](Index half, Index b, Index t, Index n) {
      const Index line = ((half * p.batch + b0 + b) * p.heads + n) * length + t % length;
      return ring::Merged<A>{sums + b * p.out_batch + t * p.out_token + n * h, log_sum_exp + line, rest + line};
    };
    const auto attend = [&](Index half, AttentionProblem<T> pair, const ring::KeyValueBlock<T>& keys, bool) {
      pair.out_batch = length * pair.out_token;
      attention_forward(pair, q + b0 * p.q_batch + half * length * p.q_token, keys.k, keys.v, scratch.out,
                        scratch.log_sum_exp, scratch.kernel, scratch.rest);
      ring::each_token(rotation.rows(), length, half, 2 * p.out_token, [&](Index b, Index t, Index i) {
        for (Index n = 0; n < p.heads; ++n) {
          const Index line = (b * p.heads + n) * length + t % length;
          const auto other = numbers(static_cast<const T*>(scratch.out) + i * pair.out_token + n * h);
          merged(half, b, t, n).add(scratch.log_sum_exp[line], scratch.rest[line], h, [&](Index j) -> A {
            return other[j];
          });
        }
      });
    };
    rotation.run(k, v, false, attend, [](Index, const ring::KeyValueBlock<T>&) {});
    for (Index half = 0; half < 2; ++half)
      ring::each_token(rotation.rows(), length, half, 2 * p.out_token, [&](Index b, Index t, Index) {
        if (p.sinks != nullptr)  // a key that everybody sees, whose value is zeros
          for (Index n = 0; n < p.heads; ++n)
            merged(half, b, t, n).add(p.sinks[n], std::numeric_limits<A>::min(), h, [](Index) { return A{0}; });
        if constexpr (ring::is_rounded<T>) {
          const auto to = numbers(out + (b0 + b) * p.out_batch + t * p.out_token);
          for (Index j = 0; j < p.out_token; ++j) to[j] = sums[b * p.out_batch + t * p.out_token + j];
        }
      });
  }
}

}}}  // namespace remat::kernels
