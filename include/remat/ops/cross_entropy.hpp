// Softmax and cross-entropy in one op: neither probabilities nor their logarithms are ever stored.
#pragma once

#include <cmath>
#include <remat/autodiff/var.hpp>
#include <remat/kernels/softmax_loss.hpp>
#include <remat/ops/check_ids.hpp>
#include <remat/ops/loss_reduction.hpp>

namespace remat { inline namespace REMAT_ABI {

/// Settings of `cross_entropy`; by default nothing is added to the plain mean.
struct CrossEntropyOptions {
  std::int32_t ignore = -1;    // tokens with this target count for nothing
  double label_smoothing = 0;  // share of the target distribution spread over all classes (arXiv 1512.00567), < 1
  double z_loss = 0;           // adds z_loss logsumexp(logits)^2 to each token's loss (PaLM, arXiv 2204.02311)
  double soft_cap = 0;         // logits become soft_cap tanh(logits / soft_cap) (Gemma 2, arXiv 2408.00118); 0: as is
  Reduction reduction = Reduction::mean;  // over tokens; none: the loss of each
  double logit_multiplier = 1;            // logits are multiplied first, before soft_cap (Granite); > 0
};

namespace ops {

/// What the two cross-entropies share, whether they are given logits or make them. `T` is the type of the loss.
template <class T>
class TokenLoss {
 public:
  TokenLoss(const CrossEntropyOptions& options, In<std::int32_t> targets, In<T> weights)
      : options_(options), targets_(targets), weights_(weights) {}

  void check(const Operands& in, const Shape& logits) const {
    const Shape &ts = in[targets_].shape, tokens = logits.drop_last();
    require(ts == tokens, "targets have shape ", ts, ", logits of shape ", logits, " need ", tokens);
    require(!in.has(weights_) || in[weights_].shape == tokens, "weights have shape ", in[weights_].shape, ", targets ",
            tokens);
    const CrossEntropyOptions& o = options_;
    require(o.label_smoothing >= 0 && o.label_smoothing < 1, "label_smoothing ", o.label_smoothing,
            " is not in [0, 1)");
    require(o.z_loss >= 0, "z_loss ", o.z_loss, " is not >= 0");
    require(o.soft_cap >= 0, "soft_cap ", o.soft_cap, " is not >= 0 (0: none)");
    require(o.logit_multiplier > 0 && std::isfinite(o.logit_multiplier), "logit_multiplier ", o.logit_multiplier,
            " is not > 0 and finite");
  }
  void check_targets(const Frame& f, Index classes) const {
    check_ids(f[targets_], classes, options_.ignore, "target", "logits have", "classes");
  }
  kernels::LossTokens<T> tokens(const Frame& f) const {
    return {f[targets_].data(), f.has(weights_) ? f[weights_].data() : nullptr, options_.ignore};
  }
  kernels::SoftmaxLoss<T> rows() const {
    return {static_cast<T>(options_.label_smoothing), static_cast<T>(options_.z_loss),
            static_cast<T>(options_.soft_cap), static_cast<T>(options_.logit_multiplier)};
  }
  /// Of the result, and where in it each loss is to be written, see `LossReduction`.
  Shape shape(const Operands& in) const { return reduction().shape(in[targets_].shape); }
  T* each(const View<T>& result) const { return reduction().each(result); }
  void write(T sum, const Frame& f, const View<T>& result) const { reduction().write(sum, total_weight(f), result); }
  /// The gradient of each loss, before its weight, when the result's is `gradient`, or 1.
  using Shares = typename LossReduction<T>::Shares;
  Shares shares(const Frame& f, const View<const T>& gradient) const {
    return reduction().shares(gradient, total_weight(f));
  }
  Shares shares_of_one(const Frame& f) const { return {nullptr, reduction().of_sum(T{1}, total_weight(f))}; }
  bool is_one_number() const { return options_.reduction != Reduction::none; }
  void pass_nothing_to_weights(Frame& f) const { pass_nothing_to(weights_, f); }

 private:
  LossReduction<T> reduction() const { return {options_.reduction}; }
  auto total_weight(const Frame& f) const {
    return [&f, this] { return tokens(f).total_weight(f[targets_].size()); };
  }

  CrossEntropyOptions options_;
  In<std::int32_t> targets_;
  In<T> weights_;
};

template <class T>
struct CrossEntropy : Op {
  static constexpr In<T> logits{0};
  static constexpr In<std::int32_t> targets{1};
  static constexpr In<Accum<T>> weights{2};
  static constexpr Out<Accum<T>> loss{0}, log_sum_exp{1}, rest{2};  // [] or [...], [...], [...]: what rounding left out
  TokenLoss<Accum<T>> token_loss;

  explicit CrossEntropy(const CrossEntropyOptions& o) : Op("cross_entropy"), token_loss(o, targets, weights) {}

  Specs infer(const Operands& in) const override {
    require(in[logits].shape.rank() > 0, "logits are a number, a last axis of classes is needed");
    token_loss.check(in, in[logits].shape);
    return {loss(token_loss.shape(in)), log_sum_exp(in[targets].shape), rest(in[targets].shape)};
  }
  Residuals residuals(const Wanted& wanted) const override {
    return wanted[logits] ? Residuals{logits, targets, weights, log_sum_exp, rest} : Residuals{};
  }
  void forward(Frame& f) const override {
    const Index tokens = f[targets].size(), classes = f[logits].cols();
    token_loss.check_targets(f, classes);
    const Accum<T> sum =
        kernels::softmax_losses(token_loss.rows(), token_loss.tokens(f), tokens, classes, f[logits].data(),
                                f[log_sum_exp].data(), f[rest].data(), token_loss.each(f[loss]));
    token_loss.write(sum, f, f[loss]);
  }
  void backward(Frame& f) const override {
    token_loss.pass_nothing_to_weights(f);
    if (!f.wants(logits)) return;
    kernels::softmax_loss_gradients(token_loss.rows(), token_loss.tokens(f), f[targets].size(), f[logits].cols(),
                                    f[logits].data(), f[log_sum_exp].data(), f[rest].data(),
                                    token_loss.shares(f, f.grad(loss)), f.grad(logits).data());
  }
};

}  // namespace ops

/// Mean over tokens of -log softmax(logits)[target], in nats: logits [..., V], targets [...] in [0, V), or `ignore` for
/// tokens that do not count. With `weights` [...], constants through which no gradient flows, it is the weighted mean.
/// 0 when nothing counts. With `Reduction::sum` the sum of weight times loss, with `none` these, [...]. Errors: shapes
/// that do not fit, a target out of range, options out of range.
template <class T>
Var<Accum<T>> cross_entropy(const Var<T>& logits, const Like<std::int32_t>& targets,
                            const CrossEntropyOptions& options = {}, const Like<Accum<T>>& weights = {}) {
  using O = ops::CrossEntropy<T>;
  return record(O(options), logits, targets, weights)[O::loss];
}

}}  // namespace remat
