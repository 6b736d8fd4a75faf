// Sigmoid and binary cross-entropy in one op, from logits of any magnitude.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <remat/ops/check_ids.hpp>
#include <remat/ops/pair_loss.hpp>

namespace remat { inline namespace REMAT_ABI {

/// Settings of `binary_cross_entropy`.
struct BinaryCrossEntropyOptions {
  double pos_weight = 1;                  // how often a positive counts: above 1 where positives are rare
  Reduction reduction = Reduction::mean;  // over elements; none: the loss of each
};

namespace functions {

/// -pos_weight t log sigmoid(x) - (1 - t) log(1 - sigmoid(x)), for t in [0, 1].
template <class A>
struct BinaryCrossEntropy {
  static constexpr const char* name = "binary_cross_entropy";
  static constexpr const char* input = "logits";
  A pos_weight = 1;

  A value(A x, A t) const {
    // Sums of what is not negative, so that no digits cancel; an infinite logit that is right costs nothing.
    const A negative = 1 - t, positive = pos_weight * t, zero = 0;
    const auto cost = [=](A share, A distance) { return kernels::detail::select(share == 0, zero, share * distance); };
    return cost(negative, std::max(x, zero)) + cost(positive, std::max(-x, zero)) + (negative + positive) * tail(x);
  }
  A dx(A x, A t) const {
    const A e = kernels::fast_exp(-std::abs(x)), near = 1 / (1 + e), far = e / (1 + e);
    const A above = kernels::detail::select(x < 0, far, near), below = kernels::detail::select(x < 0, near, far);
    return (1 - t) * above - pos_weight * t * below;  // sigmoid(x), sigmoid(-x)
  }
  A dtarget(A x, A) const { return pos_weight * std::max(-x, A{0}) - std::max(x, A{0}) + (pos_weight - 1) * tail(x); }

 private:
  static A tail(A x) { return std::log1p(kernels::fast_exp(-std::abs(x))); }
};

}  // namespace functions

namespace ops {

template <class T>
struct BinaryCrossEntropy : PairLoss<T, functions::BinaryCrossEntropy<Accum<T>>> {
  using Base = PairLoss<T, functions::BinaryCrossEntropy<Accum<T>>>;
  using A = Accum<T>;

  explicit BinaryCrossEntropy(const BinaryCrossEntropyOptions& o) : Base({static_cast<A>(o.pos_weight)}, o.reduction) {}

  Specs infer(const Operands& in) const override {
    const A weight = Base::fn.pos_weight;
    require(weight >= 0 && weight <= std::numeric_limits<A>::max(), "pos_weight ", weight, " is not a number >= 0");
    return Base::infer(in);
  }
  void forward(Frame& f) const override {
    const Shape& shape = f[Base::target].shape();
    kernels::with_row(Base::weight_data(f), A{1}, [&, t = numbers(f[Base::target].data())](const auto weight) {
      const auto is_wrong = [=](Index i) { return !(t[i] >= 0 && t[i] <= 1) && weight(i) != 0; };
      const A wrong = parallel_sum<A>(shape.size(), Base::grain, [=](Index begin, Index end) {
        return kernels::sum_of<A>(end - begin, [=](Index i) { return static_cast<A>(is_wrong(begin + i)); });
      });
      for (Index i = 0; i < shape.size() && wrong > 0; ++i)
        require(!is_wrong(i), "target ", t[i], " at ", place_of(i, shape), " is not in [0, 1]");
    });
    Base::forward(f);
  }
};

}  // namespace ops

/// Mean over elements of -target log p - (1 - target) log(1 - p) with p = sigmoid(logits), in nats: logits and target
/// of one shape, targets in [0, 1]. Gradients flow to both. With `weights` of that shape, constants, it is the weighted
/// mean; 0 when nothing counts. Errors: shapes that differ, a target out of range, a negative `pos_weight`.
template <class T>
Var<Accum<T>> binary_cross_entropy(const Var<T>& logits, const Like<T>& target,
                                   const BinaryCrossEntropyOptions& options = {}, const Like<Accum<T>>& weights = {}) {
  using O = ops::BinaryCrossEntropy<T>;
  return record(O(options), logits, target, weights)[O::loss];
}

}}  // namespace remat
