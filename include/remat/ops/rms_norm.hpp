// Root mean square normalization over the last axis (Zhang and Sennrich 2019), alone or behind a skip connection.
#pragma once

#include <algorithm>
#include <cmath>
#include <remat/kernels/reduce.hpp>
#include <remat/ops/norm_base.hpp>

namespace remat { inline namespace REMAT_ABI {
namespace ops {

/// x / sqrt(mean square + epsilon) (Zhang and Sennrich 2019).
template <class A>
struct RmsNormRow {
  static constexpr Index statistics = 1;
  A rrms;

  template <class X>
  static RmsNormRow of(X x, Index d, A epsilon) {
    const A squares = kernels::sum_of<A>(d, [=](Index j) { return x(j) * x(j); });
    return {A{1} / std::sqrt(squares / static_cast<A>(std::max<Index>(d, 1)) + epsilon)};
  }
  static RmsNormRow read(const A* from) { return {from[0]}; }
  void write(A* to) const { to[0] = rrms; }

  template <class X>
  auto normal(X x) const {
    return [x, r = rrms](Index j) { return x(j) * r; };
  }
  /// dx, given the gradient g of the normalized row.
  template <class Normal, class G>
  auto gradient(Normal normal, G g, Index d) const {
    const A along_row = kernels::sum_of<A>(d, [=](Index j) { return g(j) * normal(j); }) / static_cast<A>(d);
    return [=, r = rrms](Index j) { return r * (g(j) - normal(j) * along_row); };
  }
};

template <class T>
using RmsNorm = Norm<T, RmsNormRow, false>;
template <class T>
using SkipRmsNorm = Norm<T, RmsNormRow, true>;

}  // namespace ops

/// x / sqrt(mean(x^2) + epsilon) * scale over the last axis: x [..., D], scale [D] or nothing (Zhang, Sennrich 2019).
template <class T>
Var<T> rms_norm(const Var<T>& x, const Like<Accum<T>>& scale = {}, double epsilon = 1e-6) {
  using O = ops::RmsNorm<T>;
  return record(O("rms_norm", epsilon), x, scale)[O::y];
}
/// The same, rounded once at the end: `rms_norm<bfloat16>` of a float x.
template <class T, class X>
requires(!std::is_same_v<X, T> && SkipTypeOf<X, T>) Var<T> rms_norm(const Var<X>& x, const Like<Accum<T>>& scale = {},
                                                                    double epsilon = 1e-6) {
  using O = ops::Norm<T, ops::RmsNormRow, false, X>;
  return record(O("rms_norm", epsilon), x, scale)[O::y];
}

/// x + dropout(branch, rate) and its `rms_norm`, in one pass: x and branch [..., D]. Of a branch of bfloat16, x and the
/// sum may be float; the norm is of type Y.
template <class T, class Y = T, SkipTypeOf<T> X>
SkipNorm<Y, X> skip_rms_norm(const Var<X>& x, const Var<T>& branch, double rate = 0, const Like<Accum<T>>& scale = {},
                             double epsilon = 1e-6) {
  using O = ops::Norm<T, ops::RmsNormRow, true, X, Y>;
  const DropoutMask mask = ops::next_mask(x.tape(), rate, branch.shape());
  const auto results = record(O("skip_rms_norm", epsilon, mask), x, scale, Like<Accum<T>>(), branch);
  return {results[O::sum], results[O::y]};
}

}}  // namespace remat
