// The auxiliary loss that keeps a router's logits small (Zoph et al. 2022: ST-MoE, eq. 5).
#pragma once

#include <cmath>
#include <remat/autodiff/var.hpp>
#include <remat/core/cascade_sum.hpp>
#include <remat/core/parallel.hpp>
#include <remat/kernels/reduce.hpp>

namespace remat { inline namespace REMAT_ABI {
namespace ops {

template <class T>
struct RouterZLoss : Op {
  static constexpr In<T> logits{0};              // [N, E]
  static constexpr In<std::int32_t> experts{1};  // [N, k]
  static constexpr Out<Accum<T>> loss{0};

  RouterZLoss() : Op("router_z_loss") {}

  Specs infer(const Operands& in) const override {
    const Shape &xs = in[logits].shape, &es = in[experts].shape;
    require(xs.rank() == 2 && xs[1] > 0, "logits have shape ", xs, ", [N, E] is needed");
    require(es.rank() == 2 && es[0] == xs[0] && es[1] > 0, "experts have shape ", es, ", logits of shape ", xs,
            " need [", xs[0], ", k]");
    return {loss(Shape{})};
  }
  Residuals residuals(const Wanted&) const override { return {logits, experts}; }
  void forward(Frame& f) const override {
    const Index e = f[logits].cols();
    const auto xs = numbers(f[logits].data());
    const Accum<T> share = 1 / tokens(f);
    *f[loss].data() = share * parallel_sum<Accum<T>>(f[logits].rows(), row_grain(e), [&](Index begin, Index end) {
                        CascadeSum<Accum<T>> sum;
                        for (Index i = begin; i < end; ++i) {
                          if (!counts(f, i)) continue;
                          const Accum<T> z = log_sum_exp(xs + i * e, e), square = z * z;
                          sum.add(&square);
                        }
                        return *sum.total();
                      });
  }
  void backward(Frame& f) const override {
    const Index e = f[logits].cols();
    const auto xs = numbers(f[logits].data());
    const auto dx = numbers(f.grad(logits).data());
    const Accum<T> slope = 2 * *f.grad(loss).data() / tokens(f);
    parallel_for(f[logits].rows(), row_grain(e), [&](Index begin, Index end) {
      for (Index i = begin; i < end; ++i) {
        const bool is_token = counts(f, i);
        const Accum<T> z = is_token ? log_sum_exp(xs + i * e, e) : Accum<T>{0};
        for (Index j = 0; j < e; ++j) {
          const Accum<T> x = xs[i * e + j];
          dx[i * e + j] = is_token ? slope * z * std::exp(x - z) : Accum<T>{0};
        }
      }
    });
  }

 private:
  static bool counts(const Frame& f, Index i) { return f[experts].data()[i * f[experts].cols()] >= 0; }
  static Accum<T> tokens(const Frame& f) {
    Index n = 0;
    for (Index i = 0; i < f[experts].rows(); ++i) n += counts(f, i) ? 1 : 0;
    return static_cast<Accum<T>>(std::max<Index>(1, n));
  }
  template <class Row>
  static Accum<T> log_sum_exp(const Row& row, Index e) {
    Accum<T> top = row[0], sum = 0;
    for (Index j = 1; j < e; ++j) top = std::max<Accum<T>>(top, row[j]);
    for (Index j = 0; j < e; ++j) sum += std::exp(row[j] - top);
    return top + std::log(sum);
  }
};

}  // namespace ops

/// The mean over tokens of the square of log sum exp of their logits [N, E]; rows of experts [N, k] that are -1 are
/// padding, which does not count -> one number.
template <class T>
Var<Accum<T>> router_z_loss(const Var<T>& logits, const Like<std::int32_t>& experts) {
  using O = ops::RouterZLoss<T>;
  return record(O(), logits, experts)[O::loss];
}

}}  // namespace remat
