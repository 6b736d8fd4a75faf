// Ring attention's backward: keys and values pass round once more, and their gradients with them.
#pragma once

#include <remat/kernels/ring/pieces.hpp>

namespace remat { inline namespace REMAT_ABI { namespace kernels {

namespace ring {

/// Scratch and arguments of one backward.
template <class T>
struct Backward {
  using A = Accum<T>;
  const AttentionProblem<T>& p;
  const AttentionGradients<T>& to;
  Buffers<T> buffers;
  T *q = nullptr, *dq = nullptr, *dk = nullptr, *dv = nullptr;  // of one pair, where adding up in them would round
  A* sums = nullptr;                                            // [rows, 2 T, N, H], likewise
  std::byte* kernel;
  Index length = p.query_length / 2, width = p.heads * p.head_dims;  // of one piece; of a token

  Backward(const AttentionProblem<T>& problem, const AttentionGradients<T>& gradients, attention::ScratchArena& arena)
      : p(problem), to(gradients), buffers(problem, true, arena) {
    const AttentionProblem<T>& pair = buffers.pair;
    if constexpr (is_rounded<T>) {
      const Index size = pair.batch * pair.query_length * pair.heads * pair.head_dims;
      q = arena.take<T>(size), dq = arena.take<T>(size), sums = arena.take<A>(2 * size);
      for (T** piece : {&dk, &dv}) *piece = arena.take<T>(pair.batch * pair.k_batch);
    }
    kernel = arena.take<std::byte>(static_cast<Index>(attention_backward_scratch(pair)));
  }

  /// Zeros for the gradients of the queries of rows [b0, b0 + rows), which are added up.
  void begin(Index b0, Index rows) const {
    if constexpr (is_rounded<T>) {
      std::fill_n(sums, rows * 2 * length * width, A{0});
    } else if (to.q != nullptr && !to.add_q) {
      for (Index half = 0; half < 2; ++half)
        each_token(rows, length, half, width,
                   [&](Index b, Index t, Index) { std::fill_n(query_row(to.q, b0 + b, t), width, T{0}); });
    }
  }
  /// Where the gradients of one pair go: added to those that are summed up, or where that would round, by themselves.
  AttentionGradients<T> of_pair(Index b0, Index half, const KeyValueBlock<T>& keys) const {
    AttentionGradients<T> part;
    part.add_sinks = part.add_relative_bias = true;
    part.relative_bias = to.relative_bias;
    if constexpr (is_rounded<T>) {
      part.q = to.q != nullptr ? dq : nullptr;
      part.k = to.k != nullptr ? dk : nullptr, part.v = to.v != nullptr ? dv : nullptr;
    } else {
      part.add_q = part.add_k = part.add_v = true;
      part.q = to.q != nullptr ? query_row(to.q, b0, half * length) : nullptr;
      part.k = to.k != nullptr ? keys.dk : nullptr, part.v = to.v != nullptr ? keys.dv : nullptr;
    }
    return part;
  }
  /// Adds what was by itself.
  void add_pair(Index rows, Index half, const KeyValueBlock<T>& keys) const {
    if constexpr (is_rounded<T>) {
      const auto add = [](const T* from, Index count, A* sum) {
        for (Index j = 0; j < count; ++j) sum[j] += numbers(from)[j];
      };
      if (to.q != nullptr)
        each_token(rows, length, half, width,
                   [&](Index b, Index t, Index i) { add(dq + i * width, width, sums + (b * 2 * length + t) * width); });
      const Index token = buffers.pair.k_token;
      each_token(rows, buffers.pair.key_length, 0, token, [&](Index, Index, Index i) {
        if (to.k != nullptr) add(dk + i * token, token, keys.dk + i * token);
        if (to.v != nullptr) add(dv + i * token, token, keys.dv + i * token);
      });
    }
  }
  /// Writes or adds `from` [rows, tokens of one half, width] to a gradient.
  static void write(const A* from, Index rows, Index length, Index half, Index width, T* gradient, Index batch,
                    Index token, bool add) {
    if (gradient == nullptr) return;
    each_token(rows, length, half, width, [&](Index b, Index t, Index i) {
      const auto row = numbers(gradient + b * batch + t * token);
      for (Index j = 0; j < width; ++j) row[j] = (add ? A{row[j]} : A{0}) + from[i * width + j];
    });
  }
  /// The gradients of the rank's own keys and values, which are whole.
  void finish_keys(Index b0, Index rows, Index half, const KeyValueBlock<T>& own) const {
    const Index keys = buffers.pair.key_length, token = buffers.pair.k_token;
    if (to.k != nullptr) write(own.dk, rows, keys, half, token, to.k + b0 * p.k_batch, p.k_batch, p.k_token, to.add_k);
    if (to.v != nullptr) write(own.dv, rows, keys, half, token, to.v + b0 * p.v_batch, p.v_batch, p.v_token, to.add_v);
  }
  void finish_queries(Index b0, Index rows) const {
    if constexpr (is_rounded<T>)
      if (to.q != nullptr)
        write(sums, rows, 2 * length, 0, width, query_row(to.q, b0, 0), p.q_batch, p.q_token, to.add_q);
  }
  template <class U>
  U* query_row(U* of, Index b, Index t) const {
    return of + b * p.q_batch + t * p.q_token;
  }
};

}  // namespace ring

/// Bytes of scratch that `ring_attention_backward` needs.
template <class T>
std::size_t ring_attention_backward_scratch(const AttentionProblem<T>& p) {
  attention::ScratchArena arena;
  static_cast<void>(ring::Backward<T>(p, {}, arena));
  return arena.used();
}

/// The gradients of `ring_attention_forward` at dout. Gradients of keys and values travel with them and come home;
/// those of sinks and relative biases are of this rank's queries alone. Every rank calls it.
template <class T>
void ring_attention_backward(const AttentionProblem<T>& p, SequenceRing& ranks, const T* q, const T* k, const T* v,
                             const T* out, const Accum<T>* log_sum_exp, const Accum<T>* rest, const T* dout,
                             const AttentionGradients<T>& to, void* memory) {
  attention::ScratchArena arena(memory);
  ring::Backward<T> pass(p, to, arena);
  const Index length = pass.length, width = pass.width;
  if (to.sinks != nullptr && !to.add_sinks) std::fill_n(to.sinks, p.heads, Accum<T>{0});
  if (to.relative_bias != nullptr && !to.add_relative_bias)
    std::fill_n(to.relative_bias, p.buckets * p.heads, Accum<T>{0});
  for (Index b0 = 0; b0 < p.batch; b0 += pass.buffers.pair.batch) {
    ring::Rotation<T> rotation(p, ranks, pass.buffers, b0);
    pass.begin(b0, rotation.rows());
    const auto attend = [&](Index half, AttentionProblem<T> pair, const ring::KeyValueBlock<T>& keys, bool is_first) {
      auto part = pass.of_pair(b0, half, keys);
      if (is_first) part.sinks = to.sinks, pair.sinks = p.sinks;  // once for each query
      const T* queries = pass.query_row(q, b0, half * length);
      if constexpr (ring::is_rounded<T>) {  // q lies as its gradient does
        ring::each_token(rotation.rows(), length, half, width, [&](Index b, Index t, Index i) {
          std::copy_n(pass.query_row(q, b0 + b, t), width, pass.q + i * width);
        });
        queries = pass.q, pair.q_token = width, pair.q_batch = length * width;
      }
      const Index at = b0 * p.out_batch + half * length * p.out_token;
      const Index line = (half * p.batch + b0) * p.heads * length;
      attention_backward(pair, queries, keys.k, keys.v, out + at, log_sum_exp + line, dout + at, part, pass.kernel,
                         rest + line);
      pass.add_pair(rotation.rows(), half, keys);
    };
    const auto finish = [&](Index half, const ring::KeyValueBlock<T>& own) {
      pass.finish_keys(b0, rotation.rows(), half, own);
    };
    rotation.run(k, v, to.k != nullptr || to.v != nullptr, attend, finish);
    pass.finish_queries(b0, rotation.rows());
  }
}

}}}  // namespace remat::kernels
