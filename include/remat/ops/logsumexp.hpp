// The logarithm of a sum of exponentials over axes.
#pragma once

#include <cmath>
#include <limits>
#include <remat/autodiff/var.hpp>
#include <remat/kernels/extremum.hpp>
#include <remat/kernels/vector_math.hpp>
#include <remat/ops/reduced_axes.hpp>

namespace remat { inline namespace REMAT_ABI {
namespace ops {

template <class T>
struct LogSumExp : Op {
  static constexpr In<T> x{0};
  static constexpr Out<T> y{0};
  static constexpr Out<Accum<T>> exact{1}, rest{2};  // y before it was rounded to T, and what even that left out
  ReducedAxes axes;

  explicit LogSumExp(ReducedAxes a) : Op("logsumexp"), axes(std::move(a)) {}

  Specs infer(const Operands& in) const override {
    const Shape shape = axes.result(in[x].shape);
    return {y(shape), exact(shape), rest(shape)};
  }
  Residuals residuals(const Wanted&) const override { return {x, exact, rest}; }
  void forward(Frame& f) const override {
    using A = Accum<T>;
    const Shape &full = f[x].shape(), ones = axes.stretched(full);
    kernels::extremum_to<true>(full, f[x].data(), ones, f[y].data());
    const auto xs = numbers(f[x].data());
    const auto ys = numbers(f[y].data());
    A *const sums = f[exact].data(), *const rests = f[rest].data();
    // What is subtracted, so that no exponential overflows; infinities stay what they are.
    const auto top = [=](Index k) {
      const A greatest = ys[k];
      return kernels::detail::select(std::fabs(greatest) <= std::numeric_limits<A>::max(), greatest, A{0});
    };
    kernels::sums_to<A>(
        full, ones, [=](Index i, Index k) { return kernels::fast_exp(xs[i] - top(k)); },
        [=](Index k, A sum) {
          const auto of_row = kernels::LogSumExp<A>::of(top(k), std::log(sum));
          ys[k] = sums[k] = of_row.value;
          rests[k] = of_row.rest;
        });
  }
  void backward(Frame& f) const override {
    using A = Accum<T>;
    const Shape& full = f[x].shape();
    const auto xs = numbers(f[x].data());
    const auto dy = numbers(f.grad(y).data());
    const auto dx = numbers(f.grad(x).data());
    const A *const sums = f[exact].data(), *const rests = f[rest].data();
    kernels::Broadcast(full, full, axes.stretched(full)).for_each([=](Index i, Index, Index k) {
      dx[i] = dy[k] * kernels::LogSumExp<A>{sums[k], rests[k]}.share(xs[i]);
    });
  }
};

}  // namespace ops

/// log(sum e^x) over `axes` (counted from the end when negative), which stay as axes of length 1 with `keepdims`: no
/// exponential overflows, and the gradient is as exact as softmax. -infinity over nothing. Error: an axis that x does
/// not have.
template <class T>
Var<T> logsumexp(const Var<T>& x, const std::vector<int>& axes, bool keepdims = false) {
  using O = ops::LogSumExp<T>;
  return record(O({axes, keepdims}), x)[O::y];
}
/// log(sum e^x) over all elements, of shape [].
template <class T>
Var<T> logsumexp(const Var<T>& x) {
  using O = ops::LogSumExp<T>;
  return record(O(ops::ReducedAxes(x.shape())), x)[O::y];
}

}}  // namespace remat
