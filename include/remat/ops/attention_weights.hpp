// Softmax of scores that exist whole, over the keys that each query may see.
#pragma once

#include <limits>
#include <remat/ops/attention_base.hpp>
#include <remat/ops/softmax.hpp>

namespace remat { inline namespace REMAT_ABI { namespace ops {

/// softmax of each row of scores [B, N, T, S] over the keys that options and masks let its query see, zeros elsewhere,
/// in a row that sees none too. Backward reads the result alone.
template <class T>
struct AttentionWeights : AttentionOp<T, 1> {
  using Base = AttentionOp<T, 1>;
  static constexpr In<T> scores{0};
  static constexpr Out<T> weights{0};

  explicit AttentionWeights(const AttentionOptions& o) : Base(o, {}, "attention_weights") {}

  Specs infer(const Operands& in) const override {
    const Shape& s = in[scores].shape;
    this->check(in, s[0], s[2], s[3], s[1], 1);
    return {weights(s)};
  }
  Residuals residuals(const Wanted&) const override { return {weights}; }
  GradientRule gradient(int) const override { return {.in_place = true}; }
  void forward(Frame& f) const override {
    const Shape& s = f[scores].shape();
    const auto p = this->with_masks(this->problem(s[0], s[2], s[3], s[1], s[1], 1), f);
    const Index per_batch = s[1] * s[2], queries = s[2], keys = s[3];
    parallel_for(s.size() == 0 ? 0 : s[0] * per_batch, row_grain(keys),
                 [=, from = f[scores].data(), to = f[weights].data()](Index begin, Index end) {
                   for (Index i = begin; i < end; ++i)
                     forward_row(p, i / per_batch, i % queries, from + i * keys, to + i * keys);
                 });
  }
  void backward(Frame& f) const override {
    const auto y = f[weights];
    const auto dy = f.grad(weights);
    const auto dx = f.grad(scores);
    const Index keys = y.cols();
    parallel_for(y.size() == 0 ? 0 : y.rows(), row_grain(keys), [=](Index begin, Index end) {
      for (Index i = begin; i < end; ++i) Softmax<T, false>::backward_row(y.row(i), dy.row(i), dx.row(i), keys);
    });
  }

 private:
  static void forward_row(const typename Base::Problem& p, Index b, Index t, const T* from, T* to) {
    const kernels::attention::Visibility seen(p, b);
    const Index begin = seen.begin(t), end = std::max(begin, seen.end(t)), keys = p.key_length;
    std::fill(to, to + begin, static_cast<T>(0)), std::fill(to + end, to + keys, static_cast<T>(0));
    constexpr auto hidden = -std::numeric_limits<Accum<T>>::infinity();
    for (Index s = begin; s < end; ++s) {
      const bool is_seen =
          p.query_segments == nullptr || p.query_segments[b * p.query_length + t] == p.key_segments[b * keys + s];
      to[s] = is_seen ? from[s] : static_cast<T>(hidden);
    }
    if (begin == end) return;
    if (static_cast<Accum<T>>(kernels::max(static_cast<const T*>(to + begin), end - begin)) == hidden)
      std::fill(to + begin, to + end, static_cast<T>(0));
    else
      Softmax<T, false>::forward_row(to + begin, to + begin, end - begin);
  }
};

}}}  // namespace remat::ops
