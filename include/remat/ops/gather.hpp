// Elements named by number along an axis.
#pragma once

#include <remat/autodiff/var.hpp>
#include <remat/kernels/axis_gather.hpp>
#include <remat/ops/check_ids.hpp>

namespace remat { inline namespace REMAT_ABI {
namespace ops {

/// The axis, counted from the front, along which `indices` name elements of x; an `Error` for shapes that do not fit.
inline int gathered_axis(const Shape& x, const Shape& indices, int axis) {
  const int along = x.axis(axis, "axis");
  Shape fitting = x;
  if (indices.rank() == x.rank()) fitting[along] = indices[along];
  require(indices == fitting, "indices have shape ", indices, ", x ", x, "; they may differ along axis ", along,
          " only (slice x, or repeat indices, to make them fit)");
  return along;
}

template <class T>
struct Gather : Op {
  static constexpr In<T> x{0};
  static constexpr In<std::int32_t> indices{1};
  static constexpr Out<T> y{0};
  int axis;

  explicit Gather(int a) : Op("gather"), axis(a) {}

  Specs infer(const Operands& in) const override {
    static_cast<void>(gathered_axis(in[x].shape, in[indices].shape, axis));
    return {y(in[indices].shape)};
  }
  Cost cost(const Operands& in, const Specs&) const override {
    return {.backward_scratch = kernels::SumsAlong<T>::bytes(in[x].shape.size())};
  }
  Residuals residuals(const Wanted&) const override { return {indices}; }
  void forward(Frame& f) const override {
    const int along = f[x].shape().axis(axis, "axis");
    check_ids(f[indices], f[x].shape()[along], {}, "index", "the axis has", "elements");
    kernels::take_along({f[x].shape(), along}, f[indices].shape()[along], f[x].data(), f[indices].data(), f[y].data());
  }
  void backward(Frame& f) const override {
    const int along = f[x].shape().axis(axis, "axis");
    T* const dx = f.grad(x).data();
    const kernels::SumsAlong<T> sums{{f[x].shape(), along}, f.template scratch<Accum<T>>()};
    sums.add(f.accumulate(x) ? dx : nullptr, f[indices].shape()[along], f[indices].data(), f.grad(y).data(), dx);
  }
  GradientRule gradient(int input) const override { return {.adds = input == x.index}; }
};

}  // namespace ops

/// The elements of x at `indices` along `axis` (counted from the end when negative), as PyTorch's gather and NumPy's
/// take_along_axis: for the last of three axes y[i][j][k] = x[i][j][indices[i][j][k]]. Shapes are equal but along the
/// axis; the result has that of `indices`. Gradients of an element taken often are summed in one order. Errors: shapes
/// that do not fit, an index not in [0, length of the axis).
template <class T>
Var<T> gather(const Var<T>& x, const Like<std::int32_t>& indices, int axis) {
  using O = ops::Gather<T>;
  return record(O(axis), x, indices)[O::y];
}

}}  // namespace remat
