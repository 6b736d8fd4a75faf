// The auxiliary loss that keeps experts equally busy (Fedus, Zoph, Shazeer 2021: Switch Transformer, eq. 4).
#pragma once

#include <algorithm>
#include <remat/autodiff/var.hpp>
#include <remat/core/parallel.hpp>
#include <remat/kernels/reduce.hpp>
#include <remat/ops/check_ids.hpp>

namespace remat { inline namespace REMAT_ABI {
namespace ops {

template <class T>
struct LoadBalancingLoss : Op {
  static constexpr In<T> probabilities{0};       // [N, E]
  static constexpr In<std::int32_t> experts{1};  // [N, k]
  static constexpr Out<Accum<T>> loss{0};

  LoadBalancingLoss() : Op("load_balancing_loss") {}

  Specs infer(const Operands& in) const override {
    const Shape &ps = in[probabilities].shape, &es = in[experts].shape;
    require(ps.rank() == 2, "probabilities have shape ", ps, ", [N, E] is needed");
    require(es.rank() == 2 && es[0] == ps[0] && es[1] > 0, "experts have shape ", es, ", probabilities of shape ", ps,
            " need [", ps[0], ", k]");
    return {loss(Shape{})};
  }
  Cost cost(const Operands& in, const Specs&) const override {
    const std::size_t weights = static_cast<std::size_t>(in[probabilities].shape.back()) * sizeof(Accum<T>);
    return {.forward_scratch = weights, .backward_scratch = weights};
  }
  Residuals residuals(const Wanted&) const override { return {experts}; }
  void forward(Frame& f) const override {
    check_ids(f[experts], f[probabilities].cols(), {}, "expert", "there are", "experts");
    const Index e = f[probabilities].cols();
    const auto ps = numbers(f[probabilities].data());
    const Accum<T>* weight = weights(f);
    *f[loss].data() = parallel_sum<Accum<T>>(f[probabilities].rows(), row_grain(e), [=](Index begin, Index end) {
      CascadeSum<Accum<T>> sum;
      for (Index i = begin; i < end; ++i) {
        const auto term = kernels::sum_of<Accum<T>>(e, [=](Index j) { return ps[i * e + j] * weight[j]; });
        sum.add(&term);
      }
      return *sum.total();
    });
  }
  void backward(Frame& f) const override {
    const Index e = f[probabilities].cols();
    const Accum<T>*weight = weights(f), dy = *f.grad(loss).data();
    const auto dp = numbers(f.grad(probabilities).data());
    parallel_for(f[probabilities].rows(), row_grain(e), [=](Index begin, Index end) {
      for (Index i = begin; i < end; ++i) {
#pragma omp simd
        for (Index j = 0; j < e; ++j) dp[i * e + j] = dy * weight[j];
      }
    });
  }

 private:
  /// d loss / d p[n, e] = E / N times the fraction of tokens that chose e first.
  Accum<T>* weights(Frame& f) const {
    const Index n = f[experts].rows(), k = f[experts].cols(), e = f[probabilities].cols();
    const std::int32_t* ids = f[experts].data();
    auto* weight = f.template scratch<Accum<T>>();
    std::fill_n(weight, e, Accum<T>{0});
    for (Index i = 0; i < n; ++i) weight[ids[i * k]] += 1;
    const auto tokens = static_cast<Accum<T>>(n);
    const Accum<T> scale = static_cast<Accum<T>>(e) / (tokens * tokens);
    for (Index j = 0; j < e; ++j) weight[j] *= scale;
    return weight;
  }
};

}  // namespace ops

/// E times the sum over experts of (fraction of tokens whose first choice it is) x (its mean probability): 1 when all
/// experts are equally busy, E when one gets everything. probabilities [N, E], experts [N, k] -> one number.
template <class T>
Var<Accum<T>> load_balancing_loss(const Var<T>& probabilities, const Like<std::int32_t>& experts) {
  using O = ops::LoadBalancingLoss<T>;
  return record(O(), probabilities, experts)[O::loss];
}

}}  // namespace remat
