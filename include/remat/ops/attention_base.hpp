// What attention's two ops share: options, the kernel's problem, cost.
#pragma once

#include <cmath>
#include <optional>
#include <remat/kernels/attention.hpp>
#include <remat/ops/dropout.hpp>

namespace remat::inline REMAT_ABI {

struct AttentionOptions {
  bool causal = false;            // query t sees key s iff s <= t + offset
  std::optional<Index> offset{};  // position of query 0 less that of key 0; S - T when empty
  std::optional<double> scale{};  // of q k^T; 1 / sqrt(H) when empty
  double dropout = 0;             // on probabilities
};

namespace ops {

/// What both forms share: how q, k and v lie is a matter of the problem's strides.
template <class T>
struct AttentionOp : Op {
  static constexpr Out<T> context{0};
  static constexpr Out<Accum<T>> log_sum_exp{1};  // [B, N, T]
  using Problem = kernels::AttentionProblem<T>;
  AttentionOptions options;
  DropoutMask mask;
  int threads = omp_get_max_threads();  // each has its own part of the scratch

  AttentionOp(const AttentionOptions& o, const DropoutMask& m) : Op("attention"), options(o), mask(m) {}

 protected:
  /// The scratch was measured when the op was recorded.
  void check_threads() const {
    require(omp_get_max_threads() <= threads, "recorded with ", threads, " threads, now run with ",
            omp_get_max_threads(), "; set their number before recording");
  }
  Problem problem(Index batch, Index t, Index s, Index heads, Index kv_heads, Index head_dims) const {
    Problem p;
    p.batch = batch, p.query_length = t, p.key_length = s;
    p.heads = heads, p.kv_heads = kv_heads, p.head_dims = head_dims;
    p.scale = options.scale.value_or(1 / std::sqrt(static_cast<double>(std::max<Index>(1, head_dims))));
    p.causal = options.causal;
    p.offset = options.offset.value_or(s - t);
    p.dropout = mask;
    p.out_token = heads * head_dims, p.out_batch = t * p.out_token;
    return p;
  }
  /// Two products over visible pairs forward; scores, dq, dk, dv, and for dq or dk those of probabilities, backward.
  Cost cost_of(const Problem& p, bool wants_q, bool wants_k, bool wants_v) const {
    double pairs = 0;
    for (Index t = 0; t < p.query_length; ++t) pairs += static_cast<double>(kernels::attention::key_end(p, t + 1));
    const double product = 2 * pairs * static_cast<double>(p.head_dims) * static_cast<double>(p.batch * p.heads);
    Cost cost{.dot = true, .batched = true, .coupled = true};
    cost.flops = 2 * product;
    if (wants_q || wants_k || wants_v)
      cost.backward_flops = (1 + (wants_q || wants_k) + wants_q + wants_k + wants_v) * product;
    cost.forward_scratch = kernels::attention_forward_scratch(p);
    cost.backward_scratch = kernels::attention_backward_scratch(p);
    return cost;
  }
};

}  // namespace ops

}  // namespace remat::inline REMAT_ABI
