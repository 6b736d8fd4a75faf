// A linear head and its cross-entropy in one op, a chunk of tokens at a time: logits never exist whole, nor does their
// gradient. Backward makes each chunk's logits again, one product more than if they had been kept; or forward makes the
// gradients of x and w while it has the logits, and keeps those (Liger Kernel, arXiv 2410.10989).
#pragma once

#include <algorithm>
#include <remat/ops/cross_entropy.hpp>
#include <remat/ops/linear.hpp>
#include <remat/ops/token_chunks.hpp>
#include <utility>

namespace remat { inline namespace REMAT_ABI {

/// Settings of `linear_cross_entropy`.
struct LinearCrossEntropyOptions {
  std::int32_t ignore = -1;    // as in CrossEntropyOptions
  double label_smoothing = 0;  // as in CrossEntropyOptions
  double z_loss = 0;           // as in CrossEntropyOptions
  double soft_cap = 0;         // as in CrossEntropyOptions
  bool transposed = false;     // w is [V, D]: a tied embedding table, or weights of PyTorch
  Index chunk = 0;             // tokens whose logits exist at one time; 0: 8 MiB of them, or 256
  /// No product twice, for memory: between forward and backward lies, besides the gradient of x in the place of x, that
  /// of w.
  bool keep_gradients = false;
  Reduction reduction = Reduction::mean;  // as in CrossEntropyOptions; `none` has no gradients to keep
  double logit_multiplier = 1;            // as in CrossEntropyOptions
};

namespace ops {

template <class T>
struct LinearCrossEntropy : Op {
  static constexpr In<T> x{0};  // these three as those of Linear
  static constexpr Weight<T> w{1};
  static constexpr In<Accum<T>> b{2};
  static constexpr In<std::int32_t> targets{3};
  static constexpr In<Accum<T>> weights{4};
  static constexpr Out<Accum<T>> loss{0}, log_sum_exp{1};  // [] or [...], [...]
  static constexpr Out<T> kept_x{2};                       // the gradients for a loss whose own is 1, [0] if not kept
  static constexpr Out<Accum<T>> kept_w{3}, kept_b{4};
  static constexpr Out<Accum<T>> rest{5};  // [...]: what rounding left out of log_sum_exp
  Linear<T> head;
  TokenLoss<Accum<T>> token_loss;
  Index chunk;
  bool keeps;

  explicit LinearCrossEntropy(const LinearCrossEntropyOptions& o)
      : LinearCrossEntropy(o, ProductWeight<T>(o.transposed)) {}
  LinearCrossEntropy(const LinearCrossEntropyOptions& o, ProductWeight<T> matrix)
      : Op("linear_cross_entropy"),
        head(std::move(matrix)),
        token_loss({o.ignore, o.label_smoothing, o.z_loss, o.soft_cap, o.reduction, o.logit_multiplier}, targets,
                   weights),
        chunk(o.chunk),
        keeps(o.keep_gradients) {}

  Specs infer(const Operands& in) const override {
    require(chunk >= 0, "chunk ", chunk, " is not >= 0 (0: chosen by size)");
    token_loss.check(in, head.infer(in).front().shape);
    require(!keeps || token_loss.is_one_number(),
            "keep_gradients makes gradients in forward, but with Reduction::none they depend on the gradient of each "
            "token's loss: drop keep_gradients, or take Reduction::mean or Reduction::sum");
    const Wanted wanted(in);
    const auto kept = [&](auto operand) { return keeps && wanted[operand] ? in[operand].shape : Shape{0}; };
    const Shape& tokens = in[targets].shape;
    return {loss(token_loss.shape(in)),
            log_sum_exp(tokens),
            kept_x(kept(x)),
            kept_w(kept(w)),
            kept_b(in.has(b) ? kept(b) : Shape{0}),
            rest(tokens)};
  }
  Cost cost(const Operands& in, const Specs&) const override {
    const TokenChunks<T> sizes = chunks(in[x].shape, head.weight.outputs(in, w));
    const Wanted wanted(in);
    Cost cost{.dot = true, .coupled = true};
    cost.flops = 2.0 * static_cast<double>(in[x].shape.size()) * static_cast<double>(sizes.classes);
    const std::size_t product = head.weight.forward_scratch(sizes.chunk);
    cost.forward_scratch = round_up(sizes.logits_bytes()) + product;
    if (!wanted[x] && !wanted[w] && !wanted[b]) return cost;
    const double gradients = cost.flops * (wanted[x] + wanted[w]);
    const std::size_t scratch = round_up(sizes.logits_bytes() + sizes.rounded_bytes()) +
                                std::max({wanted[b] ? sizes.sums_bytes() : 0, product,
                                          wanted[x] ? head.weight.gradient_scratch(sizes.chunk) : 0});
    if (keeps) {
      cost.flops += gradients;
      cost.forward_scratch = scratch;
    } else {
      cost.backward_flops = cost.flops + gradients;
      cost.backward_scratch = scratch;
    }
    return cost;
  }
  Residuals residuals(const Wanted& wanted) const override {
    if (keeps) return Residuals().add(kept_x, wanted[x]).add(kept_w, wanted[w]).add(kept_b, wanted[b]);
    return wanted[x] || wanted[w] || wanted[b] ? Residuals{x, w, b, targets, weights, log_sum_exp, rest} : Residuals{};
  }
  void forward(Frame& f) const override {
    const TokenChunks<T> sizes = chunks(f);
    token_loss.check_targets(f, sizes.classes);
    Accum<T>* logits = f.template scratch<Accum<T>>();
    const auto place = [&](auto operand, auto kept) {  // none: it is not wanted, or has no element
      return keeps && f.has(operand) && f[kept].shape() == f[operand].shape() ? f[kept].data() : nullptr;
    };
    const Gradients to{place(x, kept_x), place(w, kept_w), place(b, kept_b)};
    const Shares shares = to.any() ? token_loss.shares_of_one(f) : Shares{};
    Accum<T>* const each = token_loss.each(f[loss]);
    Accum<T> sum = 0;
    sizes.for_each_chunk([&](Index first, Index rows) {
      make_logits(f, sizes, first, rows, logits);
      sum += kernels::softmax_losses(token_loss.rows(), token_loss.tokens(f).from(first), rows, sizes.classes, logits,
                                     f[log_sum_exp].data() + first, f[rest].data() + first,
                                     each == nullptr ? nullptr : each + first);
      if (to.any()) differentiate(f, sizes, first, rows, shares, to);
    });
    token_loss.write(sum, f, f[loss]);
  }
  void backward(Frame& f) const override {
    token_loss.pass_nothing_to_weights(f);
    if (!f.wants(x) && !f.wants(w) && !f.wants(b)) return;
    if (keeps) {
      const Accum<T> scale = *f.grad(loss).data();
      if (f.wants(x)) kernels::scale_into(f[kept_x].data(), f[x].size(), scale, false, f.grad(x).data());
      if (f.wants(w)) kernels::scale_into(f[kept_w].data(), f[w].size(), scale, f.accumulate(w), f.grad(w).data());
      if (f.wants(b)) kernels::scale_into(f[kept_b].data(), f[b].size(), scale, f.accumulate(b), f.grad(b).data());
      return;
    }
    const TokenChunks<T> sizes = chunks(f);
    Gradients to;
    if (f.wants(x)) to.x = f.grad(x).data();
    if (f.wants(w)) to.w = f.grad(w).data(), to.add_w = f.accumulate(w);
    if (f.wants(b)) to.b = f.grad(b).data(), to.add_b = f.accumulate(b);
    const Shares shares = token_loss.shares(f, f.grad(loss));
    sizes.for_each_chunk([&](Index first, Index rows) {
      make_logits(f, sizes, first, rows, f.template scratch<Accum<T>>());
      differentiate(f, sizes, first, rows, shares, to);
    });
  }
  GradientRule gradient(int input) const override {
    return {.adds = input == w.index || input == b.index, .wide = input == w.index};
  }

 private:
  using Shares = typename TokenLoss<Accum<T>>::Shares;

  TokenChunks<T> chunks(const Shape& x_shape, Index classes) const { return {x_shape, classes, chunk}; }
  TokenChunks<T> chunks(const Frame& f) const {
    const ProductWeight<T>& weight = head.weight;
    return chunks(f[x].shape(), weight.stored ? weight.outputs() : f[w].shape()[weight.transposed ? 0 : 1]);
  }

  kernels::LinearProducts<T> products_of(const TokenChunks<T>& sizes, Index rows) const {
    return {rows, sizes.features, sizes.classes, head.weight.transposed};
  }
  /// Behind the logits, and where they are rounded behind those.
  static std::byte* scratch_behind(const Frame& f, const TokenChunks<T>& sizes) {
    return f.template scratch<std::byte>() + round_up(sizes.logits_bytes() + sizes.rounded_bytes());
  }

  /// Where gradients go; null: not wanted.
  struct Gradients {
    T* x = nullptr;
    Accum<T>*w = nullptr, *b = nullptr;
    bool add_w = false, add_b = false;
    bool any() const { return x != nullptr || w != nullptr || b != nullptr; }
  };

  /// What a chunk gives to each gradient, from its logits in the scratch, of which nothing is left.
  void differentiate(const Frame& f, const TokenChunks<T>& sizes, Index first, Index rows, const Shares& shares,
                     const Gradients& to) const {
    const Index d = sizes.features, v = sizes.classes;
    auto* const logits = f.template scratch<Accum<T>>();
    // Of bfloat16, the products of the gradients read them rounded.
    T* const gradients = reinterpret_cast<T*>(TokenChunks<T>::is_rounded ? logits + sizes.chunk * v : logits);
    kernels::softmax_loss_gradients(token_loss.rows(), token_loss.tokens(f).from(first), rows, v, logits,
                                    f[log_sum_exp].data() + first, f[rest].data() + first, shares.from(first),
                                    gradients);
    const auto products = products_of(sizes, rows);
    const bool is_later = first > 0;
    if (to.x != nullptr)
      head.weight.input_gradient(products, gradients, head.weight.data(f, w), false, to.x + first * d,
                                 scratch_behind(f, sizes));
    if (to.w != nullptr) products.weight_gradient(f[x].data() + first * d, gradients, to.add_w || is_later, to.w);
    if (to.b != nullptr)
      kernels::column_sums(gradients, rows, v, to.add_b || is_later, to.b,
                           reinterpret_cast<Accum<T>*>(scratch_behind(f, sizes)));
  }
  void make_logits(const Frame& f, const TokenChunks<T>& sizes, Index first, Index rows, Accum<T>* logits) const {
    head.weight.forward(products_of(sizes, rows), f[x].data() + first * sizes.features, head.weight.data(f, w),
                        f.has(b) ? f[b].data() : nullptr, logits,
                        f.template scratch<std::byte>() + round_up(sizes.logits_bytes()));
  }
};

}  // namespace ops

/// `cross_entropy` of x w + b without its logits [..., V]: x [..., D], w [D, V] ([V, D] when `transposed`), b [V] or
/// nothing, targets [...] in [0, V) or `ignore`, weights [...] or nothing. Gradients of w and b are summed chunk after
/// chunk; the mean is over all tokens that count. Errors: as of `linear` and `cross_entropy`, a negative `chunk`, and
/// gradients that are to be kept of losses one by one.
template <class T>
Var<Accum<T>> linear_cross_entropy(const Var<T>& x, const Like<T>& w, const Like<Accum<T>>& b,
                                   const Like<std::int32_t>& targets, const LinearCrossEntropyOptions& options = {},
                                   const Like<Accum<T>>& weights = {}) {
  using O = ops::LinearCrossEntropy<T>;
  const ops::ProductWeight<T> weight(w, options.transposed);
  return record(O(options, weight), x, weight.operand(w.as_matrix()), b, targets, weights)[O::loss];
}

}}  // namespace remat
