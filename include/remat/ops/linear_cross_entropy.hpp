// A linear head and its cross-entropy in one op, a chunk of tokens at a time: logits never exist whole, nor does their
// gradient. Backward makes each chunk's logits again, one product more than if they had been kept.
#pragma once

#include <remat/ops/cross_entropy.hpp>
#include <remat/ops/linear.hpp>

namespace remat::inline REMAT_ABI {

struct LinearCrossEntropyOptions {
  std::int32_t ignore = -1;  // these four as in CrossEntropyOptions
  double label_smoothing = 0;
  double z_loss = 0;
  double soft_cap = 0;
  bool transposed = false;  // w is [V, D]: a tied embedding table, or weights of PyTorch
  Index chunk = 0;          // tokens whose logits exist at one time; 0: 4 MiB of them, or 128
};

namespace ops {

template <class T>
struct LinearCrossEntropy : Op {
  static constexpr In<T> x{0};  // these three as those of Linear
  static constexpr Weight<T> w{1};
  static constexpr In<Accum<T>> b{2};
  static constexpr In<std::int32_t> targets{3};
  static constexpr In<Accum<T>> weights{4};
  static constexpr Out<Accum<T>> loss{0}, log_sum_exp{1};  // [], [...]
  Linear<T> head;
  TokenLoss<Accum<T>> token_loss;
  Index chunk;

  explicit LinearCrossEntropy(const LinearCrossEntropyOptions& o)
      : Op("linear_cross_entropy"),
        head({.transposed = o.transposed}),
        token_loss({o.ignore, o.label_smoothing, o.z_loss, o.soft_cap}, targets, weights),
        chunk(o.chunk) {}

  Specs infer(const Operands& in) const override {
    require(chunk >= 0, "chunk ", chunk, " is not >= 0 (0: chosen by size)");
    token_loss.check(in, head.infer(in).front().shape);
    return {loss(Shape{}), log_sum_exp(in[targets].shape)};
  }
  Cost cost(const Operands& in, const Specs&) const override {
    const Sizes sizes(*this, in[x].shape, in[w].shape);
    const Wanted wanted(in);
    Cost cost{.dot = true, .coupled = true};
    cost.flops = 2.0 * static_cast<double>(in[x].shape.size()) * static_cast<double>(sizes.classes);
    cost.forward_scratch = sizes.logits_bytes();
    if (!wanted[x] && !wanted[w] && !wanted[b]) return cost;
    cost.backward_flops = cost.flops * (1 + wanted[x] + wanted[w]);
    cost.backward_scratch = sizes.logits_bytes() + sizes.narrow_bytes() + (wanted[b] ? sizes.sums_bytes() : 0);
    return cost;
  }
  Residuals residuals(const Wanted& wanted) const override {
    return wanted[x] || wanted[w] || wanted[b] ? Residuals{x, w, b, targets, weights, log_sum_exp} : Residuals{};
  }
  void forward(Frame& f) const override {
    const Sizes sizes(*this, f[x].shape(), f[w].shape());
    token_loss.check_targets(f, sizes.classes);
    Accum<T>* logits = f.template scratch<Accum<T>>();
    Accum<T> sum = 0;
    sizes.for_each_chunk([&](Index first, Index rows) {
      make_logits(f, sizes, first, rows, logits);
      sum += kernels::softmax_losses(token_loss.rows(), token_loss.tokens(f).from(first), rows, sizes.classes, logits,
                                     f[log_sum_exp].data() + first);
    });
    *f[loss].data() = token_loss.mean(sum, f);
  }
  void backward(Frame& f) const override {
    token_loss.pass_nothing_to_weights(f);
    if (!f.wants(x) && !f.wants(w) && !f.wants(b)) return;
    const Sizes sizes(*this, f[x].shape(), f[w].shape());
    const Index d = sizes.features, v = sizes.classes;
    const Accum<T> share = token_loss.mean(*f.grad(loss).data(), f);
    auto* const logits = f.template scratch<Accum<T>>();
    // Of bfloat16, the products of the gradients read them rounded.
    T* const gradients = reinterpret_cast<T*>(is_rounded ? logits + sizes.chunk * v : logits);
    auto* const sums =
        reinterpret_cast<Accum<T>*>(f.template scratch<std::byte>() + sizes.logits_bytes() + sizes.narrow_bytes());
    sizes.for_each_chunk([&](Index first, Index rows) {
      make_logits(f, sizes, first, rows, logits);
      kernels::softmax_loss_gradients(token_loss.rows(), token_loss.tokens(f).from(first), rows, v, logits,
                                      f[log_sum_exp].data() + first, share, gradients);
      if (f.wants(x)) {
        const kernels::Gemm product{.b = trans(!head.options.transposed), .m = rows, .n = d, .k = v};
        kernels::gemm(product, gradients, f[w].data(), f.grad(x).data() + first * d);
      }
      if (f.wants(w)) {
        kernels::Gemm product{.a = kernels::Trans::yes, .m = d, .n = v, .k = rows};
        product.accumulate = f.accumulate(w) || first > 0;
        const T *left = f[x].data() + first * d, *right = gradients;
        if (head.options.transposed) std::swap(left, right), std::swap(product.m, product.n);
        kernels::gemm(product, left, right, f.grad(w).data());
      }
      if (f.wants(b)) kernels::column_sums(gradients, rows, v, f.accumulate(b) || first > 0, f.grad(b).data(), sums);
    });
  }
  bool accumulates(int input) const override { return input == w.index || input == b.index; }
  bool wide_gradient(int input) const override { return input == w.index; }

 private:
  static constexpr bool is_rounded = !std::is_same_v<T, Accum<T>>;
  static kernels::Trans trans(bool is) { return is ? kernels::Trans::yes : kernels::Trans::no; }

  struct Sizes {
    Index tokens, features, classes, chunk;

    Sizes(const LinearCrossEntropy& op, const Shape& x_shape, const Shape& w_shape)
        : tokens(x_shape.drop_last().size()),
          features(x_shape.back()),
          classes(w_shape[op.head.options.transposed ? 0 : 1]),
          chunk(op.chunk) {
      if (chunk == 0) {
        constexpr Index elements = (Index{4} << 20) / static_cast<Index>(sizeof(Accum<T>));
        // Each chunk reads w and its gradient once: for fewer tokens that costs more than the products.
        const Index most = std::max<Index>(128, elements / std::max<Index>(1, classes));
        const Index chunks = std::max<Index>(1, (tokens + most - 1) / most);
        chunk = (tokens + chunks - 1) / chunks;  // of equal length
      }
      chunk = std::clamp<Index>(chunk, 1, std::max<Index>(1, tokens));
    }
    /// At least once: of no tokens there are gradients, too.
    template <class F>
    void for_each_chunk(F&& body) const {
      for (Index first = 0; first == 0 || first < tokens; first += chunk) body(first, std::min(chunk, tokens - first));
    }
    std::size_t logits_bytes() const {
      return static_cast<std::size_t>(checked_mul(checked_mul(chunk, classes, "scratch"), sizeof(Accum<T>), "scratch"));
    }
    /// Of the rounded gradients, if there are any, with what aligns the floats behind them.
    std::size_t narrow_bytes() const { return is_rounded ? round_up(logits_bytes() / 2) : 0; }
    /// The last chunk may be cut into more blocks than a longer one.
    std::size_t sums_bytes() const {
      return std::max(kernels::RowBlocks(chunk).bytes<Accum<T>>(classes),
                      kernels::RowBlocks(tokens % chunk).bytes<Accum<T>>(classes));
    }
  };

  void make_logits(const Frame& f, const Sizes& sizes, Index first, Index rows, Accum<T>* logits) const {
    kernels::Gemm product{.b = trans(head.options.transposed)};
    product.m = rows, product.n = sizes.classes, product.k = sizes.features;
    kernels::gemm(product, f[x].data() + first * sizes.features, f[w].data(), logits, f.has(b) ? f[b].data() : nullptr);
  }
};

}  // namespace ops

/// `cross_entropy` of x w + b without its logits [..., V]: x [..., D], w [D, V] ([V, D] when `transposed`), b [V] or
/// nothing, targets [...] in [0, V) or `ignore`, weights [...] or nothing. Gradients of w and b are summed chunk after
/// chunk; the mean is over all tokens that count. Errors: as of `linear` and `cross_entropy`, and a negative `chunk`.
template <class T>
Var<Accum<T>> linear_cross_entropy(const Var<T>& x, const Like<T>& w, const Like<Accum<T>>& b,
                                   const Like<std::int32_t>& targets, const LinearCrossEntropyOptions& options = {},
                                   const Like<Accum<T>>& weights = {}) {
  using O = ops::LinearCrossEntropy<T>;
  return record(O(options), x, w, b, targets, weights)[O::loss];
}

}  // namespace remat::inline REMAT_ABI
