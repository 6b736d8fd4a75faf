// Heads of attention that count for more, for less or for nothing (Michel et al. 2019).
#pragma once

#include <remat/ops/arithmetic.hpp>
#include <remat/ops/cast.hpp>

namespace remat { inline namespace REMAT_ABI { namespace ops {

/// What belongs to heads, one along `axis` of x, times the number of each in `mask` [N]; x itself where there is none.
/// An `Error` for another number of heads.
template <class T>
Var<T> times_head_mask(const Var<T>& x, const std::type_identity_t<Argument<Accum<T>>>& mask, int axis) {
  if (!mask.has_value()) return x;
  const Index heads = x.shape()[axis];
  require(mask.shape() == Shape{heads}, "attention: head_mask has shape ", mask.shape(), ", [", heads, "] is needed");
  const Var<Accum<T>> of_heads(x.shared_program(), mask.on(x.program()));
  Shape stretched{heads};
  for (int i = axis + 1; i < x.shape().rank(); ++i) stretched.push_back(1);
  return x * cast<T>(of_heads.reshape(stretched));
}

}}}  // namespace remat::ops
