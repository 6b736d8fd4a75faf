// What attention's two ops share: masks as operands, the kernel's problem, cost.
#pragma once

#include <algorithm>
#include <climits>
#include <cmath>
#include <memory>
#include <remat/kernels/ring_attention.hpp>
#include <remat/ops/attention_checks.hpp>
#include <remat/ops/attention_options.hpp>
#include <remat/ops/dropout.hpp>

namespace remat { inline namespace REMAT_ABI { namespace ops {

/// What both forms share: how q, k and v lie is a matter of the problem's strides. They are the first `Products`
/// operands; masks follow.
template <class T, int Products>
struct AttentionOp : Op {
  static constexpr In<Accum<T>> bias{Products}, relative_bias{Products + 1};
  static constexpr In<std::int32_t> key_lengths{Products + 2}, query_segments{Products + 3}, key_segments{Products + 4},
      prefix_lengths{Products + 5}, query_offsets{Products + 6};
  static constexpr In<Accum<T>> sinks{Products + 7};
  static constexpr Out<T> context{0};
  static constexpr Out<Accum<T>> log_sum_exp{1}, rest{2};  // [B, N, T], and what rounding left out of it; of a ring
                                                           // [2, B, N, T / 2]
  using Problem = kernels::AttentionProblem<T>;
  AttentionOptions options;
  DropoutMask mask;
  /// Dropout draws as for queries [first_query, first_query + T) of full_queries (0: of T).
  Index first_query = 0, full_queries = 0;
  int threads = omp_get_max_threads();   // each has its own part of the scratch
  std::shared_ptr<SequenceRing> ring{};  // ranks of which each has a part of the sequences; null: they are whole

  AttentionOp(const AttentionOptions& o, const DropoutMask& m, const char* name = "attention")
      : Op(name), options(o), mask(m) {}

  GradientRule gradient(int) const override { return {.adds = true}; }
  /// A replay never communicates.
  bool always_saved() const override { return ring != nullptr; }
  bool replayable() const override { return ring == nullptr; }

 protected:
  Specs results(const Shape& of_context, const Shape& of_rows) const {
    return {context(of_context), log_sum_exp(of_rows), rest(of_rows)};
  }
  /// The scratch was measured when the op was recorded.
  void check_threads() const {
    require(omp_get_max_threads() <= threads, "recorded with ", threads, " threads, now run with ",
            omp_get_max_threads(), "; set their number before recording");
  }

  void check(const Operands& in, Index batch, Index t, Index s, Index heads, Index head_dims) const {
    if (ring != nullptr) {
      static_cast<void>(ring->pieces(t)), static_cast<void>(ring->pieces(s));
      require(!in.has(bias), in.name(bias, "bias"),
              " is an array over all queries and keys, which ring attention never ",
              "has in one place; use relative_bias, alibi, segments or key_lengths");
    }
    check_rate(mask);
    check_numbers(options, head_dims);
    check_masks(*this, in, batch, t, s, heads);
  }

  /// How many parts sequences are in.
  Index ranks() const { return ring == nullptr ? 1 : ring->size(); }

  Problem problem(Index batch, Index t, Index s, Index heads, Index kv_heads, Index head_dims) const {
    auto p = attention_problem<T>(t, s, options);
    if (!options.offset) p.offset *= ranks();
    p.batch = batch, p.heads = heads, p.kv_heads = kv_heads, p.head_dims = head_dims;
    p.scale = options.scale.value_or(1 / std::sqrt(static_cast<double>(std::max<Index>(1, head_dims))));
    p.dropout = mask;
    p.dropout_first_query = first_query, p.dropout_query_length = full_queries;
    p.out_token = heads * head_dims, p.out_batch = t * p.out_token;
    return p;
  }
  Problem with_masks(Problem p, const Frame& f) const {
    const Index keys = p.key_length * ranks();
    if (f.has(key_lengths)) check_lengths(f[key_lengths], keys, "key length", "keys");
    if (f.has(prefix_lengths)) check_lengths(f[prefix_lengths], keys, "prefix length", "keys");
    if (f.has(query_offsets)) check_lengths(f[query_offsets], INT_MAX, "query offset", "positions");
    const auto data = [&](auto x) { return f.has(x) ? f[x].data() : nullptr; };
    p.key_lengths = data(key_lengths), p.prefix_lengths = data(prefix_lengths);
    p.query_offsets = data(query_offsets);
    p.query_segments = data(query_segments);
    p.key_segments = f.has(key_segments) ? f[key_segments].data() : p.query_segments;
    p.bias = data(bias), p.relative_bias = data(relative_bias), p.sinks = data(sinks);
    if (f.has(bias)) std::copy_n(f[bias].shape().begin(), 4, p.bias_sizes);
    if (f.has(relative_bias)) p.buckets = f[relative_bias].shape()[0];
    return p;
  }
  static Residuals with_masks(Residuals read) {
    for (const auto x : {bias, relative_bias, sinks}) read.add(x);
    for (const auto x : {key_lengths, query_segments, key_segments, prefix_lengths, query_offsets}) read.add(x);
    return read;
  }
  /// Where the gradients of the masks go.
  kernels::AttentionGradients<T> mask_gradients(const Frame& f) const {
    kernels::AttentionGradients<T> to;
    if (f.wants(bias)) to.bias = f.grad(bias).data(), to.add_bias = f.accumulate(bias);
    if (f.wants(sinks)) to.sinks = f.grad(sinks).data(), to.add_sinks = f.accumulate(sinks);
    if (f.wants(relative_bias))
      to.relative_bias = f.grad(relative_bias).data(), to.add_relative_bias = f.accumulate(relative_bias);
    return to;
  }

  /// Two products over the pairs that the options let see forward; scores, dq, dk, dv, and for dq or dk those of
  /// probabilities, backward; scores and probabilities once more for each bias.
  Cost cost_of(Problem p, const Operands& in, bool wants_q, bool wants_k, bool wants_v) const {
    if (in.has(relative_bias)) p.buckets = in[relative_bias].shape[0];
    const double pairs = pairs_of(p);
    const double product = 2 * pairs * static_cast<double>(p.head_dims) * static_cast<double>(p.batch * p.heads);
    const Wanted wanted(in);
    Cost cost{.dot = true, .batched = true, .coupled = true};
    cost.flops = 2 * product;
    if (wants_q || wants_k || wants_v)
      cost.backward_flops = (1 + (wants_q || wants_k) + wants_q + wants_k + wants_v) * product;
    cost.backward_flops += 2 * (wanted[bias] + wanted[relative_bias]) * product;
    cost.forward_scratch = ring ? kernels::ring_attention_forward_scratch(p) : kernels::attention_forward_scratch(p);
    cost.backward_scratch = ring ? kernels::ring_attention_backward_scratch(p) : kernels::attention_backward_scratch(p);
    return cost;
  }

  void run_forward(const Problem& p, const T* q, const T* k, const T* v, const Frame& f) const {
    auto* const scratch = f.template scratch<std::byte>();
    T* const out = f[context].data();
    Accum<T>*const sums = f[log_sum_exp].data(), *const more = f[rest].data();
    ring ? kernels::ring_attention_forward(p, *ring, q, k, v, out, sums, more, scratch)
         : kernels::attention_forward(p, q, k, v, out, sums, scratch, more);
  }
  void run_backward(const Problem& p, const T* q, const T* k, const T* v, const kernels::AttentionGradients<T>& to,
                    const Frame& f) const {
    auto* const scratch = f.template scratch<std::byte>();
    const T *const out = f[context].data(), *const dout = f.grad(context).data();
    const Accum<T>*const sums = f[log_sum_exp].data(), *const more = f[rest].data();
    ring ? kernels::ring_attention_backward(p, *ring, q, k, v, out, sums, more, dout, to, scratch)
         : kernels::attention_backward(p, q, k, v, out, sums, dout, to, scratch, more);
  }

 private:
  /// Queries here and the keys that each sees by position, of the first batch entry.
  double pairs_of(Problem p) const {
    double pairs = 0;
    const auto count = [&] {
      const kernels::attention::Visibility seen(p, 0);
      for (Index t = 0; t < p.query_length; ++t)
        pairs += static_cast<double>(std::max<Index>(0, seen.end(t) - seen.begin(t)));
    };
    if (ring == nullptr) return count(), pairs;
    const SequencePieces pieces = ring->pieces(p.query_length);
    const Index offset = p.offset;
    p.query_length = pieces.length, p.key_length *= ranks();
    for (const Index piece : {pieces.first, pieces.second}) p.offset = offset + piece * pieces.length, count();
    return pairs;
  }
};

/// The op with the tape's next mask, for probabilities of shape [B, N, T, S]. Inside `blockwise` over queries it is
/// that of the whole sequence, in a part of a batch that of the whole batch.
template <class O>
O with_dropout(O op, Tape& tape, Shape probabilities, const Shape& queries) {
  op.mask = next_mask(tape, op.options.dropout);
  op.ring = tape.ring();
  if (op.ring != nullptr) {
    require(!tape.chunk(),
            "attention: inside blockwise, where ranks share a sequence keys would pass round the ring once ",
            "for each chunk; call it outside, as with query_chunk = 0 and ffn_chunk alone");
    if (!op.mask.active() || probabilities.rank() != 4) return op;
    probabilities[2] *= op.ring->size(), probabilities[3] *= op.ring->size();
    op.mask.first = first_in_batch(tape, probabilities);
    return op;
  }
  if (!op.mask.active()) return op;
  if (tape.chunk()) {
    const ChunkPlace& place = *tape.chunk();
    require(!place.is_cut_elsewhere && place.axis == 1 && queries.rank() > 1 && queries[1] == place.length,
            "attention: dropout inside blockwise over axis ", place.axis, " in chunks of ", place.length,
            ", but queries have shape ", queries, "; cut their axis 1");
    op.first_query = place.offset, op.full_queries = place.whole;
    if (probabilities.rank() == 4) probabilities[2] = place.whole;
  }
  op.mask.first = first_in_batch(tape, probabilities);
  return op;
}

}}}  // namespace remat::ops
