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
  static constexpr In<T> low{5};     // [..., R], of an adapter of the head: logits become x w + b + low up
  static constexpr Weight<T> up{6};  // [R, V]
  static constexpr Out<Accum<T>> loss{0}, log_sum_exp{1};  // [] or [...], [...]
  static constexpr Out<T> kept_x{2};                       // the gradients for a loss whose own is 1, [0] if not kept
  static constexpr Out<Accum<T>> kept_w{3}, kept_b{4};
  static constexpr Out<Accum<T>> rest{5};  // [...]: what rounding left out of log_sum_exp
  static constexpr Out<T> kept_low{6};
  static constexpr Out<Accum<T>> kept_up{7};
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
    const Index classes = head.weight.outputs(in, w);
    require(!in.has(low) || (in[up].shape.rank() == 2 && in[low].shape == tokens.with(in[up].shape[0]) &&
                             in[up].shape[1] == classes),
            "an adapter of the head has low ", in.has(low) ? in[low].shape : Shape{}, " and up ",
            in.has(up) ? in[up].shape : Shape{}, "; ", tokens.with(0), " with R in the place of 0 and [R, ", classes,
            "] are needed");
    return {loss(token_loss.shape(in)),
            log_sum_exp(tokens),
            kept_x(kept(x)),
            kept_w(kept(w)),
            kept_b(in.has(b) ? kept(b) : Shape{0}),
            rest(tokens),
            kept_low(in.has(low) ? kept(low) : Shape{0}),
            kept_up(in.has(up) ? kept(up) : Shape{0})};
  }
  Cost cost(const Operands& in, const Specs&) const override {
    const TokenChunks<T> sizes = chunks(in[x].shape, head.weight.outputs(in, w));
    const Wanted wanted(in);
    Cost cost{.dot = true, .coupled = true};
    cost.flops = 2.0 * static_cast<double>(in[x].shape.size()) * static_cast<double>(sizes.classes);
    const double adapted =
        in.has(low) ? 2.0 * static_cast<double>(in[low].shape.size()) * static_cast<double>(sizes.classes) : 0;
    const std::size_t product = head.weight.forward_scratch(sizes.chunk);
    cost.forward_scratch = round_up(sizes.logits_bytes()) + product;
    const double gradients = cost.flops * (wanted[x] + wanted[w]) + adapted * (wanted[low] + wanted[up]);
    cost.flops += adapted;
    if (!any(wanted)) return cost;
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
    if (keeps)
      return Residuals()
          .add(kept_x, wanted[x])
          .add(kept_w, wanted[w])
          .add(kept_b, wanted[b])
          .add(kept_low, wanted[low])
          .add(kept_up, wanted[up]);
    return any(wanted) ? Residuals{x, w, b, targets, weights, low, up, log_sum_exp, rest} : Residuals{};
  }
  void forward(Frame& f) const override {
    const TokenChunks<T> sizes = chunks(f);
    token_loss.check_targets(f, sizes.classes);
    Accum<T>* logits = f.template scratch<Accum<T>>();
    const auto place = [&](auto operand, auto kept) {  // none: it is not wanted, or has no element
      return keeps && f.has(operand) && f[kept].shape() == f[operand].shape() ? f[kept].data() : nullptr;
    };
    const Gradients to{place(x, kept_x), place(w, kept_w), place(b, kept_b), place(low, kept_low), place(up, kept_up)};
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
    if (!f.wants(x) && !f.wants(w) && !f.wants(b) && !f.wants(low) && !f.wants(up)) return;
    if (keeps) {
      const Accum<T> scale = *f.grad(loss).data();
      if (f.wants(x)) kernels::scale_into(f[kept_x].data(), f[x].size(), scale, false, f.grad(x).data());
      if (f.wants(w)) kernels::scale_into(f[kept_w].data(), f[w].size(), scale, f.accumulate(w), f.grad(w).data());
      if (f.wants(b)) kernels::scale_into(f[kept_b].data(), f[b].size(), scale, f.accumulate(b), f.grad(b).data());
      if (f.wants(low)) kernels::scale_into(f[kept_low].data(), f[low].size(), scale, false, f.grad(low).data());
      if (f.wants(up)) kernels::scale_into(f[kept_up].data(), f[up].size(), scale, f.accumulate(up), f.grad(up).data());
      return;
    }
    const TokenChunks<T> sizes = chunks(f);
    Gradients to;
    if (f.wants(x)) to.x = f.grad(x).data();
    if (f.wants(w)) to.w = f.grad(w).data(), to.add_w = f.accumulate(w);
    if (f.wants(b)) to.b = f.grad(b).data(), to.add_b = f.accumulate(b);
    if (f.wants(low)) to.low = f.grad(low).data();
    if (f.wants(up)) to.up = f.grad(up).data(), to.add_up = f.accumulate(up);
    const Shares shares = token_loss.shares(f, f.grad(loss));
    sizes.for_each_chunk([&](Index first, Index rows) {
      make_logits(f, sizes, first, rows, f.template scratch<Accum<T>>());
      differentiate(f, sizes, first, rows, shares, to);
    });
  }
  GradientRule gradient(int input) const override {
    const bool is_matrix = input == w.index || input == up.index;
    return {.adds = is_matrix || input == b.index, .wide = is_matrix};
  }

 private:
  using Shares = typename TokenLoss<Accum<T>>::Shares;

  static bool any(const Wanted& wanted) { return wanted[x] || wanted[w] || wanted[b] || wanted[low] || wanted[up]; }
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
    T* low = nullptr;
    Accum<T>* up = nullptr;
    bool add_w = false, add_b = false, add_up = false;
    bool any() const { return x != nullptr || w != nullptr || b != nullptr || low != nullptr || up != nullptr; }
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
    if (!f.has(low)) return;
    const kernels::LinearProducts<T> of_adapter = adapter_of(f, rows);
    if (to.low != nullptr) of_adapter.input_gradient(gradients, f[up].data(), false, to.low + first * f[up].rows());
    if (to.up != nullptr)
      of_adapter.weight_gradient(f[low].data() + first * f[up].rows(), gradients, to.add_up || is_later, to.up);
  }
  /// low up, of so many rows.
  static kernels::LinearProducts<T> adapter_of(const Frame& f, Index rows) {
    return {rows, f[up].rows(), f[up].cols(), false};
  }
  void make_logits(const Frame& f, const TokenChunks<T>& sizes, Index first, Index rows, Accum<T>* logits) const {
    head.weight.forward(products_of(sizes, rows), f[x].data() + first * sizes.features, head.weight.data(f, w),
                        f.has(b) ? f[b].data() : nullptr, logits,
                        f.template scratch<std::byte>() + round_up(sizes.logits_bytes()));
    if (!f.has(low)) return;
    kernels::Gemm add{.m = rows, .n = sizes.classes, .k = f[up].rows()};
    add.lda = add.k, add.ldb = add.n, add.ldc = add.n;
    add.accumulate = true;
    kernels::gemm(add, f[low].data() + first * add.k, f[up].data(), logits);
  }
};

}  // namespace ops

/// `cross_entropy` of x w + b without its logits [..., V]: x [..., D], w [D, V] ([V, D] when `transposed`), b [V] or
/// nothing, targets [...] in [0, V) or `ignore`, weights [...] or nothing. Gradients of w and b are summed chunk after
/// chunk; the mean is over all tokens that count. What an adapter of the head adds to logits is added to each chunk.
/// Errors: as of `linear` and `cross_entropy`, a negative `chunk`, and
/// gradients that are to be kept of losses one by one.
template <class T>
Var<Accum<T>> linear_cross_entropy(const Var<T>& x, const Like<T>& w, const Like<Accum<T>>& b,
                                   const Like<std::int32_t>& targets, const LinearCrossEntropyOptions& options = {},
                                   const Like<Accum<T>>& weights = {}) {
  using O = ops::LinearCrossEntropy<T>;
  const ops::ProductWeight<T> weight(w, options.transposed);
  const auto entry = w.parameter();
  Argument<T> low, up;
  if (entry != nullptr && entry->head_adapter) {
    require(options.transposed, entry->path, ": has an adapter of a head, which is read transposed; here it is not");
    low = ops::low_of_head(x, *entry->head_adapter);
    up = Parameter<Accum<T>>(entry->head_adapter->up);
  }
  return record(O(options, weight), x, weight.operand(w.as_matrix()), b, targets, weights, low, up)[O::loss];
}

}}  // namespace remat
