// The variance over axes.
#pragma once

#include <remat/autodiff/var.hpp>
#include <remat/kernels/broadcast.hpp>
#include <remat/ops/reduced_axes.hpp>

namespace remat { inline namespace REMAT_ABI {
namespace ops {

template <class T>
struct Variance : Op {
  static constexpr In<T> x{0};
  static constexpr Out<T> y{0};
  static constexpr Out<Accum<T>> mean{1};
  ReducedAxes axes;

  explicit Variance(ReducedAxes a) : Op("variance"), axes(std::move(a)) {}

  Specs infer(const Operands& in) const override {
    const Shape shape = axes.result(in[x].shape);
    return {y(shape), mean(shape)};
  }
  Residuals residuals(const Wanted&) const override { return {x, mean}; }
  void forward(Frame& f) const override {
    using A = Accum<T>;
    const Shape &full = f[x].shape(), ones = axes.stretched(full);
    const A scale = share(f);
    A* const means = f[mean].data();
    kernels::sum_to(full, f[x].data(), ones, means, scale);
    kernels::sums_to<A>(
        full, ones,
        [=, xs = numbers(f[x].data())](Index i, Index k) { return (xs[i] - means[k]) * (xs[i] - means[k]); },
        [=, ys = numbers(f[y].data())](Index k, A sum) { ys[k] = scale * sum; });
  }
  void backward(Frame& f) const override {  // the mean's own part of it is 0: distances from it sum to nothing
    const Shape& full = f[x].shape();
    const auto xs = numbers(f[x].data()), dy = numbers(f.grad(y).data());
    const auto dx = numbers(f.grad(x).data());
    const Accum<T>* const means = f[mean].data();
    const Accum<T> scale = 2 * share(f);
    kernels::Broadcast(full, full, axes.stretched(full)).for_each([=](Index i, Index, Index k) {
      dx[i] = scale * dy[k] * (xs[i] - means[k]);
    });
  }

 private:
  static Accum<T> share(const Frame& f) {
    return static_cast<Accum<T>>(f[y].size()) / static_cast<Accum<T>>(f[x].size());
  }
};

}  // namespace ops

/// The mean squared distance from the mean over `axes` (counted from the end when negative), which stay as axes of
/// length 1 with `keepdims`: the biased variance, divided by n as in NumPy and in layer norms, not by n - 1 as PyTorch
/// does unless told. NaN over nothing. Error: an axis that x does not have.
template <class T>
Var<T> variance(const Var<T>& x, const std::vector<int>& axes, bool keepdims = false) {
  using O = ops::Variance<T>;
  return record(O({axes, keepdims}), x)[O::y];
}
/// The biased variance of all elements, of shape [].
template <class T>
Var<T> variance(const Var<T>& x) {
  using O = ops::Variance<T>;
  return record(O(ops::ReducedAxes(x.shape())), x)[O::y];
}

}}  // namespace remat
