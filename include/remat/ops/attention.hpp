// Scaled dot-product attention (Vaswani et al. 2017) over grouped heads (Ainslie et al. 2023), never holding [T, S].
#pragma once

#include <remat/ops/attention_base.hpp>
#include <remat/ops/plain_attention.hpp>
#include <remat/ops/rotary.hpp>
#include <remat/ops/slice.hpp>

namespace remat { inline namespace REMAT_ABI {
namespace ops {

template <class T>
struct Attention : AttentionOp<T, 3> {
  using Base = AttentionOp<T, 3>;
  using Base::context, Base::log_sum_exp, Base::rest;
  static constexpr In<T> q{0}, k{1}, v{2};
  using Base::Base;

  Specs infer(const Operands& in) const override {
    const Shape &qs = in[q].shape, &ks = in[k].shape, &vs = in[v].shape;
    require(qs.rank() == 4, "q has shape ", qs, ", [B, T, N, H] is needed");
    require(ks.rank() == 4 && ks[0] == qs[0] && ks[3] == qs[3], "k has shape ", ks, ", q of shape ", qs, " needs [",
            qs[0], ", S, K, ", qs[3], "]");
    require(vs == ks, "v has shape ", vs, ", k has ", ks);
    require(ks[2] > 0 && qs[2] % ks[2] == 0, "q has ", qs[2], " heads, not a multiple of the ", ks[2], " of k");
    this->check(in, qs[0], qs[1], ks[1], qs[2], qs[3]);
    return this->results(qs, {qs[0], qs[2], qs[1]});
  }
  Cost cost(const Operands& in, const Specs&) const override {
    const Wanted wanted(in);
    return this->cost_of(problem_of(in[q].shape, in[k].shape), in, wanted[q], wanted[k], wanted[v]);
  }
  Residuals residuals(const Wanted&) const override { return Base::with_masks({q, k, v, context, log_sum_exp, rest}); }
  void forward(Frame& f) const override {
    this->check_threads();
    const auto p = this->with_masks(problem_of(f[q].shape(), f[k].shape()), f);
    this->run_forward(p, f[q].data(), f[k].data(), f[v].data(), f);
  }
  void backward(Frame& f) const override {
    this->check_threads();
    auto to = this->mask_gradients(f);
    if (f.wants(q)) to.q = f.grad(q).data(), to.add_q = f.accumulate(q);
    if (f.wants(k)) to.k = f.grad(k).data(), to.add_k = f.accumulate(k);
    if (f.wants(v)) to.v = f.grad(v).data(), to.add_v = f.accumulate(v);
    const auto p = this->with_masks(problem_of(f[q].shape(), f[k].shape()), f);
    this->run_backward(p, f[q].data(), f[k].data(), f[v].data(), to, f);
  }

 private:
  typename Base::Problem problem_of(const Shape& qs, const Shape& ks) const {
    auto p = this->problem(qs[0], qs[1], ks[1], qs[2], ks[2], qs[3]);
    p.q_token = qs[2] * qs[3], p.q_batch = qs[1] * p.q_token;
    p.k_token = p.v_token = ks[2] * ks[3], p.k_batch = p.v_batch = ks[1] * p.k_token;
    return p;
  }
};

template <class T>
struct AttentionQkv : AttentionOp<T, 1> {
  using Base = AttentionOp<T, 1>;
  using Base::context, Base::log_sum_exp, Base::rest;
  static constexpr In<T> qkv{0};
  Index heads, kv_heads;

  AttentionQkv(Index n, Index k, const AttentionOptions& o, const DropoutMask& m) : Base(o, m), heads(n), kv_heads(k) {}

  Specs infer(const Operands& in) const override {
    const Shape& xs = in[qkv].shape;
    require(heads > 0 && kv_heads > 0 && heads % kv_heads == 0, heads, " query heads are not a positive multiple of ",
            kv_heads, " key/value heads");
    require(xs.rank() == 3 && xs[2] % (heads + 2 * kv_heads) == 0, "qkv has shape ", xs, ", ", heads, " query and 2 x ",
            kv_heads, " key and value heads need [B, T, a multiple of ", heads + 2 * kv_heads, "]");
    this->check(in, xs[0], xs[1], xs[1], heads, head_dims(xs));
    return this->results({xs[0], xs[1], heads * head_dims(xs)}, {xs[0], heads, xs[1]});
  }
  Cost cost(const Operands& in, const Specs&) const override {
    const bool wants = Wanted(in)[qkv];
    return this->cost_of(problem_of(in[qkv].shape), in, wants, wants, wants);
  }
  Residuals residuals(const Wanted&) const override { return Base::with_masks({qkv, context, log_sum_exp, rest}); }
  void forward(Frame& f) const override {
    this->check_threads();
    const auto p = this->with_masks(problem_of(f[qkv].shape()), f);
    const T* q = f[qkv].data();
    this->run_forward(p, q, q + key_at(p), q + value_at(p), f);
  }
  void backward(Frame& f) const override {
    this->check_threads();
    const auto p = this->with_masks(problem_of(f[qkv].shape()), f);
    const T* q = f[qkv].data();
    auto to = this->mask_gradients(f);
    if (f.wants(qkv)) {
      to.q = f.grad(qkv).data(), to.k = to.q + key_at(p), to.v = to.q + value_at(p);
      to.add_q = to.add_k = to.add_v = f.accumulate(qkv);
    }
    this->run_backward(p, q, q + key_at(p), q + value_at(p), to, f);
  }

 private:
  Index head_dims(const Shape& xs) const { return xs[2] / (heads + 2 * kv_heads); }
  typename Base::Problem problem_of(const Shape& xs) const {
    auto p = this->problem(xs[0], xs[1], xs[1], heads, kv_heads, head_dims(xs));
    p.q_token = p.k_token = p.v_token = xs[2], p.q_batch = p.k_batch = p.v_batch = xs[1] * xs[2];
    return p;
  }
  // In a token: all query heads, then key heads, then value heads.
  Index key_at(const typename Base::Problem& p) const { return heads * p.head_dims; }
  Index value_at(const typename Base::Problem& p) const { return (heads + kv_heads) * p.head_dims; }
};

}  // namespace ops

/// softmax(scale q k^T) v, masked and modified as options and masks say: q [B, T, N, H]; k and v [B, S, K, H]; query
/// head n reads key/value head n / (N / K) -> context [B, T, N, H]. A query that sees no key gets zeros.
template <class T>
Var<T> attention(const Var<T>& q, const Var<T>& k, const Var<T>& v, const AttentionOptions& options = {},
                 const std::type_identity_t<AttentionMasks<T>>& masks = {}) {
  if (masks.positions.has_value() && options.rotary_base > 0) {
    const RotaryOptions turn = ops::rotary_options(options);
    const auto& of_keys = masks.key_positions.has_value() ? masks.key_positions : masks.positions;
    return attention(rotary(q, turn, masks.positions), rotary(k, turn, of_keys), v, ops::without_rotary(options),
                     masks);
  }
  if (masks.weights != nullptr) return plain_attention(q, k, v, options, masks);
  using O = ops::Attention<T>;
  const Shape &qs = q.shape(), &ks = k.shape();
  const bool fits = qs.rank() == 4 && ks.rank() == 4;  // or `infer` will refuse them
  const O op = ops::with_dropout(O(options, {}), q.tape(), fits ? Shape{qs[0], qs[2], qs[1], ks[1]} : Shape{}, qs);
  const Var<T> context = record(op, q, k, v, masks.bias, masks.relative_bias, masks.key_lengths, masks.query_segments,
                                masks.key_segments, masks.prefix_lengths, masks.query_offsets, masks.sinks)[O::context];
  return ops::times_head_mask(context, masks.head_mask, 2);
}

namespace ops {

/// `plain_attention` on one projection qkv [B, T, (N + 2 K) H] -> context [B, T, N H].
template <class T>
Var<T> plain_attention_qkv(const Var<T>& qkv, Index num_heads, Index num_kv_heads, const AttentionOptions& options,
                           const AttentionMasks<T>& masks) {
  const Shape& s = qkv.shape();
  const Index heads = num_heads + 2 * num_kv_heads;
  require(s.rank() == 3 && num_heads > 0 && num_kv_heads > 0 && s[2] % heads == 0, "attention: qkv has shape ", s,
          ", [B, T, a multiple of ", heads, "] is needed");
  const Var<T> all = qkv.reshape({s[0], s[1], heads, s[2] / heads});
  const Index keys = num_heads + num_kv_heads;
  const Var<T> context = plain_attention(slice(all, 2, 0, num_heads), slice(all, 2, num_heads, keys),
                                         slice(all, 2, keys, heads), options, masks);
  return context.reshape({s[0], s[1], num_heads * (s[2] / heads)});
}

}  // namespace ops

/// The same on one projection qkv [B, T, (N + 2 K) H], all query heads, then key heads, then value heads, read where it
/// lies -> context [B, T, N H].
template <class T>
Var<T> attention_qkv(const Var<T>& qkv, Index num_heads, Index num_kv_heads, const AttentionOptions& options = {},
                     const std::type_identity_t<AttentionMasks<T>>& masks = {}) {
  using O = ops::AttentionQkv<T>;
  const Shape& shape = qkv.shape();
  if (masks.positions.has_value() && options.rotary_base > 0) {
    const Index heads = num_heads + 2 * num_kv_heads;
    require(shape.rank() == 3 && num_heads > 0 && num_kv_heads > 0 && shape[2] % heads == 0,
            "attention: qkv has shape ", shape, ", [B, T, a multiple of ", heads, "] is needed");
    RotaryOptions turn = ops::rotary_options(options);
    turn.heads = num_heads + num_kv_heads;  // of values nothing turns
    const Var<T> turned = rotary(qkv.reshape({shape[0], shape[1], heads, shape[2] / heads}), turn, masks.positions);
    return attention_qkv(turned.reshape(shape), num_heads, num_kv_heads, ops::without_rotary(options), masks);
  }
  if (masks.weights != nullptr) return ops::plain_attention_qkv(qkv, num_heads, num_kv_heads, options, masks);
  const bool fits = shape.rank() == 3 && num_heads > 0;  // or `infer` will refuse it
  const O op = ops::with_dropout(O(num_heads, num_kv_heads, options, {}), qkv.tape(),
                                 fits ? Shape{shape[0], num_heads, shape[1], shape[1]} : Shape{}, shape);
  const Var<T> context = record(op, qkv, masks.bias, masks.relative_bias, masks.key_lengths, masks.query_segments,
                                masks.key_segments, masks.prefix_lengths, masks.query_offsets, masks.sinks)[O::context];
  if (!masks.head_mask.has_value()) return context;
  const Shape by_heads{shape[0], shape[1], num_heads, context.shape()[2] / num_heads};
  return ops::times_head_mask(context.reshape(by_heads), masks.head_mask, 2).reshape(context.shape());
}

}}  // namespace remat
