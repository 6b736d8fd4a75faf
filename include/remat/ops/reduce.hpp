// sum and mean over axes.
#pragma once

#include <remat/autodiff/tape.hpp>
#include <remat/kernels/broadcast.hpp>
#include <vector>

namespace remat { inline namespace REMAT_ABI {

namespace ops {

/// y = the sum or mean of x over some axes.
template <class T>
struct Reduce : Op {
  static constexpr In<T> x{0};
  static constexpr Out<T> y{0};

  Reduce(bool is_mean, std::vector<int> axes, bool keepdims)
      : Op(is_mean ? "mean" : "sum"), is_mean_(is_mean), axes_(std::move(axes)), keepdims_(keepdims) {}

  Specs infer(const Operands& in) const override {
    const Shape& full = in[x].shape;
    const Shape ones = stretched(full);  // refuses bad axes
    if (keepdims_) return {y(ones)};
    Shape shape;
    for (int axis = 0; axis < full.rank(); ++axis)
      if (!is_reduced(full, axis)) shape.push_back(full[axis]);
    return {y(shape)};
  }
  Residuals residuals(const Wanted&) const override { return {}; }
  void forward(Frame& f) const override {
    const Shape& full = f[x].shape();
    kernels::sum_to(full, f[x].data(), stretched(full), f[y].data(), scale(full, f[y].size()));
  }
  void backward(Frame& f) const override {
    const Shape& full = f[x].shape();
    const auto dy = numbers(f.grad(y).data());
    const auto dx = numbers(f.grad(x).data());
    const Accum<T> factor = scale(full, f[y].size());
    kernels::Broadcast(full, full, stretched(full)).for_each([=](Index i, Index, Index from) {
      dx[i] = factor * dy[from];
    });
  }

 private:
  bool is_reduced(const Shape& full, int axis) const {
    for (const int each : axes_)
      if (full.axis(each, "axes") == axis) return true;
    return false;
  }
  /// The shape of x with 1 for each axis that is summed away.
  Shape stretched(const Shape& full) const {
    Shape shape = full;
    for (const int each : axes_) shape[full.axis(each, "axes")] = 1;
    return shape;
  }
  Accum<T> scale(const Shape& full, Index results) const {
    return is_mean_ ? static_cast<Accum<T>>(results) / static_cast<Accum<T>>(full.size()) : Accum<T>{1};
  }

  bool is_mean_;
  std::vector<int> axes_;
  bool keepdims_;
};

}  // namespace ops

namespace detail {
inline std::vector<int> all_axes(const Shape& shape) {
  std::vector<int> axes;
  for (int axis = 0; axis < shape.rank(); ++axis) axes.push_back(axis);
  return axes;
}
}  // namespace detail

/// The sum of x over `axes` (counted from the end when negative), which stay as axes of length 1 with `keepdims`.
/// Error: an axis that x does not have.
template <class T>
Var<T> sum(const Var<T>& x, const std::vector<int>& axes, bool keepdims = false) {
  return record(ops::Reduce<T>(false, axes, keepdims), x)[ops::Reduce<T>::y];
}
/// The sum of all elements, of shape [].
template <class T>
Var<T> sum(const Var<T>& x) {
  return sum(x, detail::all_axes(x.shape()));
}
/// The mean of x over `axes`, as `sum`; NaN where there is nothing to average.
template <class T>
Var<T> mean(const Var<T>& x, const std::vector<int>& axes, bool keepdims = false) {
  return record(ops::Reduce<T>(true, axes, keepdims), x)[ops::Reduce<T>::y];
}
/// The mean of all elements, of shape [].
template <class T>
Var<T> mean(const Var<T>& x) {
  return mean(x, detail::all_axes(x.shape()));
}

}}  // namespace remat
