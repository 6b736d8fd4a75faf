// Layer normalization over the last axis (Ba, Kiros, Hinton 2016), alone or behind a skip connection.
#pragma once

#include <algorithm>
#include <cmath>
#include <remat/kernels/reduce.hpp>
#include <remat/ops/norm_base.hpp>

namespace remat { inline namespace REMAT_ABI {
namespace ops {

/// (x - mean) / sqrt(variance + epsilon) (Ba, Kiros, Hinton 2016).
template <class A>
struct LayerNormRow {
  static constexpr Index statistics = 2;
  A mean, rstd;

  template <class X>
  static LayerNormRow of(X x, Index d, A epsilon) {
    const A per_feature = A{1} / static_cast<A>(std::max<Index>(d, 1)), mean = kernels::sum_of<A>(d, x) * per_feature;
    const A variance = kernels::sum_of<A>(d, [=](Index j) { return (x(j) - mean) * (x(j) - mean); }) * per_feature;
    return {mean, A{1} / std::sqrt(variance + epsilon)};
  }
  static LayerNormRow read(const A* from) { return {from[0], from[1]}; }
  void write(A* to) const { to[0] = mean, to[1] = rstd; }

  template <class X>
  auto normal(X x) const {
    return [x, m = mean, r = rstd](Index j) { return (x(j) - m) * r; };
  }
  /// dx, given the gradient g of the normalized row.
  template <class Normal, class G>
  auto gradient(Normal normal, G g, Index d) const {
    const A along_one = kernels::sum_of<A>(d, g) / static_cast<A>(d);
    const A along_row = kernels::sum_of<A>(d, [=](Index j) { return g(j) * normal(j); }) / static_cast<A>(d);
    return [=, r = rstd](Index j) { return r * (g(j) - along_one - normal(j) * along_row); };
  }
};

template <class T>
using LayerNorm = Norm<T, LayerNormRow, false>;
template <class T>
using SkipLayerNorm = Norm<T, LayerNormRow, true>;

}  // namespace ops

/// (x - mean) / sqrt(variance + epsilon) * scale + bias over the last axis: x [..., D]; scale and bias [D] or nothing
/// (Ba, Kiros, Hinton 2016).
template <class T>
Var<T> layer_norm(const Var<T>& x, const Like<Accum<T>>& scale = {}, const Like<Accum<T>>& bias = {},
                  double epsilon = 1e-5) {
  using O = ops::LayerNorm<T>;
  return record(O("layer_norm", epsilon), x, scale, bias)[O::y];
}
/// The same, rounded once at the end: `layer_norm<bfloat16>` of a float x.
template <class T, class X>
requires(!std::is_same_v<X, T> && SkipTypeOf<X, T>) Var<T> layer_norm(const Var<X>& x, const Like<Accum<T>>& scale = {},
                                                                      const Like<Accum<T>>& bias = {},
                                                                      double epsilon = 1e-5) {
  using O = ops::Norm<T, ops::LayerNormRow, false, X>;
  return record(O("layer_norm", epsilon), x, scale, bias)[O::y];
}

/// x + dropout(branch, rate) and its `layer_norm`, in one pass: x and branch [..., D]. Of a branch of bfloat16, x and
/// the sum may be float; the norm is of type Y.
template <class T, class Y = T, SkipTypeOf<T> X>
SkipNorm<Y, X> skip_layer_norm(const Var<X>& x, const Var<T>& branch, double rate = 0, const Like<Accum<T>>& scale = {},
                               const Like<Accum<T>>& bias = {}, double epsilon = 1e-5) {
  using O = ops::Norm<T, ops::LayerNormRow, true, X, Y>;
  const DropoutMask mask = ops::next_mask(x.tape(), rate, branch.shape());
  const auto results = record(O("skip_layer_norm", epsilon, mask), x, scale, bias, branch);
  return {results[O::sum], results[O::y]};
}

}}  // namespace remat
