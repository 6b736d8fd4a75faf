// sum and mean over axes.
#pragma once

#include <remat/autodiff/tape.hpp>
#include <remat/kernels/broadcast.hpp>
#include <remat/ops/reduced_axes.hpp>
#include <vector>

namespace remat { inline namespace REMAT_ABI {

namespace ops {

/// y = the sum or mean of x over some axes.
template <class T>
struct Reduce : Op {
  static constexpr In<T> x{0};
  static constexpr Out<T> y{0};

  Reduce(bool is_mean, ReducedAxes axes) : Op(is_mean ? "mean" : "sum"), is_mean_(is_mean), axes_(std::move(axes)) {}
  Reduce(bool is_mean, std::vector<int> axes, bool keepdims)
      : Reduce(is_mean, ReducedAxes(std::move(axes), keepdims)) {}

  Specs infer(const Operands& in) const override { return {y(axes_.result(in[x].shape))}; }
  Residuals residuals(const Wanted&) const override { return {}; }
  void forward(Frame& f) const override {
    const Shape& full = f[x].shape();
    kernels::sum_to(full, f[x].data(), axes_.stretched(full), f[y].data(), scale(full, f[y].size()));
  }
  void backward(Frame& f) const override {
    const Shape& full = f[x].shape();
    const auto dy = numbers(f.grad(y).data());
    const auto dx = numbers(f.grad(x).data());
    const Accum<T> factor = scale(full, f[y].size());
    kernels::Broadcast(full, full, axes_.stretched(full)).for_each([=](Index i, Index, Index from) {
      dx[i] = factor * dy[from];
    });
  }

 private:
  Accum<T> scale(const Shape& full, Index results) const {
    return is_mean_ ? static_cast<Accum<T>>(results) / static_cast<Accum<T>>(full.size()) : Accum<T>{1};
  }

  bool is_mean_;
  ReducedAxes axes_;
};

}  // namespace ops

/// The sum of x over `axes` (counted from the end when negative), which stay as axes of length 1 with `keepdims`.
/// Error: an axis that x does not have.
template <class T>
Var<T> sum(const Var<T>& x, const std::vector<int>& axes, bool keepdims = false) {
  return record(ops::Reduce<T>(false, axes, keepdims), x)[ops::Reduce<T>::y];
}
/// The sum of all elements, of shape [].
template <class T>
Var<T> sum(const Var<T>& x) {
  return record(ops::Reduce<T>(false, ops::ReducedAxes(x.shape())), x)[ops::Reduce<T>::y];
}
/// The mean of x over `axes`, as `sum`; NaN where there is nothing to average.
template <class T>
Var<T> mean(const Var<T>& x, const std::vector<int>& axes, bool keepdims = false) {
  return record(ops::Reduce<T>(true, axes, keepdims), x)[ops::Reduce<T>::y];
}
/// The mean of all elements, of shape [].
template <class T>
Var<T> mean(const Var<T>& x) {
  return record(ops::Reduce<T>(true, ops::ReducedAxes(x.shape())), x)[ops::Reduce<T>::y];
}

}}  // namespace remat
