// Values added to elements that are named by number along an axis.
#pragma once

#include <remat/ops/gather.hpp>

namespace remat { inline namespace REMAT_ABI {
namespace ops {

template <class T>
struct ScatterAdd : Op {
  static constexpr In<T> x{0};
  static constexpr In<std::int32_t> indices{1};
  static constexpr In<T> values{2};
  static constexpr Out<T> y{0};
  int axis;

  explicit ScatterAdd(int a) : Op("scatter_add"), axis(a) {}

  Specs infer(const Operands& in) const override {
    static_cast<void>(gathered_axis(in[x].shape, in[indices].shape, axis));
    require(in[values].shape == in[indices].shape, "values have shape ", in[values].shape, ", indices ",
            in[indices].shape, "; each value needs an index");
    return {y(in[x].shape)};
  }
  Cost cost(const Operands& in, const Specs&) const override {
    return {.forward_scratch = kernels::SumsAlong<T>::bytes(in[x].shape.size())};
  }
  Residuals residuals(const Wanted& wanted) const override { return Residuals{}.add(indices, wanted[values]); }
  void forward(Frame& f) const override {
    const int along = f[x].shape().axis(axis, "axis");
    check_ids(f[indices], f[x].shape()[along], {}, "index", "the axis has", "elements");
    const kernels::SumsAlong<T> sums{{f[x].shape(), along}, f.template scratch<Accum<T>>()};
    sums.add(f[x].data(), f[indices].shape()[along], f[indices].data(), f[values].data(), f[y].data());
  }
  void backward(Frame& f) const override {
    const int along = f[x].shape().axis(axis, "axis");
    const T* dy = f.grad(y).data();
    if (f.wants(values))
      kernels::take_along({f[x].shape(), along}, f[indices].shape()[along], dy, f[indices].data(),
                          f.grad(values).data());
    if (f.wants(x)) std::copy_n(dy, f[x].size(), f.grad(x).data());
  }
  GradientRule gradient(int input) const override { return {.passes = input == x.index}; }
};

}  // namespace ops

/// x with `values` added at `indices` along `axis` (counted from the end when negative), as PyTorch's scatter_add: for
/// the last of three axes y[i][j][indices[i][j][k]] += values[i][j][k]. Values of one element are summed in one order,
/// whatever the number of threads. Errors: shapes that do not fit, an index not in [0, length of the axis).
template <class T>
Var<T> scatter_add(const Var<T>& x, const Like<std::int32_t>& indices, const Like<T>& values, int axis) {
  using O = ops::ScatterAdd<T>;
  return record(O(axis), x, indices, values)[O::y];
}

}}  // namespace remat
