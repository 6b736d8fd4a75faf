// The auxiliary loss that keeps experts equally busy (Fedus, Zoph, Shazeer 2021: Switch Transformer, eq. 4).
#pragma once

#include <algorithm>
#include <remat/autodiff/var.hpp>
#include <remat/core/parallel.hpp>
#include <remat/kernels/reduce.hpp>
#include <remat/ops/check_ids.hpp>

namespace remat { inline namespace REMAT_ABI {
/// Which choices of a token `load_balancing_loss` counts: the first, as in Switch; or all, as in Mixtral, where equally
/// busy experts give k instead of 1.
enum class BalancedChoices { first, all };

namespace ops {

template <class T>
struct LoadBalancingLoss : Op {
  static constexpr In<T> probabilities{0};       // [N, E]
  static constexpr In<std::int32_t> experts{1};  // [N, k]
  static constexpr Out<Accum<T>> loss{0};

  BalancedChoices choices;

  explicit LoadBalancingLoss(BalancedChoices c = BalancedChoices::first) : Op("load_balancing_loss"), choices(c) {}

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
    check_ids(f[experts], f[probabilities].cols(), -1, "expert", "there are", "experts");
    const Index e = f[probabilities].cols();
    const auto ps = numbers(f[probabilities].data());
    const Accum<T>* weight = weights(f);
    const std::int32_t* ids = f[experts].data();
    const Index k = f[experts].cols();
    *f[loss].data() = parallel_sum<Accum<T>>(f[probabilities].rows(), row_grain(e), [=](Index begin, Index end) {
      CascadeSum<Accum<T>> sum;
      for (Index i = begin; i < end; ++i) {
        if (ids[i * k] < 0) continue;
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
    const std::int32_t* ids = f[experts].data();
    const Index k = f[experts].cols();
    parallel_for(f[probabilities].rows(), row_grain(e), [=](Index begin, Index end) {
      for (Index i = begin; i < end; ++i) {
        const Accum<T> slope = ids[i * k] < 0 ? Accum<T>{0} : dy;  // of padding nothing counts
#pragma omp simd
        for (Index j = 0; j < e; ++j) dp[i * e + j] = slope * weight[j];
      }
    });
  }

 private:
  /// d loss / d p[n, e] = E / N times the fraction of tokens that chose e first, or at all.
  Accum<T>* weights(Frame& f) const {
    const Index n = f[experts].rows(), k = f[experts].cols(), e = f[probabilities].cols();
    const std::int32_t* ids = f[experts].data();
    auto* weight = f.template scratch<Accum<T>>();
    std::fill_n(weight, e, Accum<T>{0});
    Index real = 0;
    for (Index i = 0; i < n; ++i) {
      if (ids[i * k] < 0) continue;
      ++real;
      for (Index j = 0; j < (choices == BalancedChoices::first ? 1 : k); ++j) weight[ids[i * k + j]] += 1;
    }
    const auto tokens = static_cast<Accum<T>>(std::max<Index>(1, real));
    const Accum<T> scale = static_cast<Accum<T>>(e) / (tokens * tokens);
    for (Index j = 0; j < e; ++j) weight[j] *= scale;
    return weight;
  }
};

}  // namespace ops

/// E times the sum over experts of (fraction of tokens whose first choice it is) x (its mean probability): 1 when all
/// experts are equally busy, E when one gets everything. probabilities [N, E], experts [N, k] -> one number. Rows of -1
/// are padding, which does not count.
template <class T>
Var<Accum<T>> load_balancing_loss(const Var<T>& probabilities, const Like<std::int32_t>& experts,
                                  BalancedChoices choices = BalancedChoices::first) {
  using O = ops::LoadBalancingLoss<T>;
  return record(O(choices), probabilities, experts)[O::loss];
}

}}  // namespace remat
