// Running sums along an axis.
#pragma once

#include <remat/autodiff/var.hpp>
#include <remat/core/numbers.hpp>
#include <remat/kernels/axis_runs.hpp>

namespace remat { inline namespace REMAT_ABI {
namespace ops {

template <class T>
struct CumulativeSum : Op {
  static constexpr In<T> x{0};
  static constexpr Out<T> y{0};
  int axis;

  explicit CumulativeSum(int a) : Op("cumulative_sum"), axis(a) {}

  Specs infer(const Operands& in) const override {
    static_cast<void>(in[x].shape.axis(axis, "axis"));
    return {y(in[x].shape)};
  }
  Residuals residuals(const Wanted&) const override { return {}; }
  void forward(Frame& f) const override { run(f[x].shape(), false, f[x].data(), f[y].data()); }
  void backward(Frame& f) const override { run(f[x].shape(), true, f.grad(y).data(), f.grad(x).data()); }
  GradientRule gradient(int) const override { return {.in_place = true}; }

 private:
  /// Running sums of `from`, from the last element on if `reversed`; `to` may be `from`.
  void run(const Shape& shape, bool reversed, const T* from, T* to) const {
    const kernels::AxisRuns runs(shape, shape.axis(axis, "axis"));
    const auto terms = numbers(from);
    const auto totals = numbers(to);
    runs.for_each_strip(runs.length, [=](Index outer, Index column, Index n) {
      double sums[kernels::AxisRuns::width] = {};
      for (Index step = 0; step < runs.length; ++step) {
        const Index i = reversed ? runs.length - 1 - step : step;
        const Index at = (outer * runs.length + i) * runs.inner + column;
        for (Index j = 0; j < n; ++j) {
          sums[j] += static_cast<double>(terms[at + j]);
          totals[at + j] = static_cast<Accum<T>>(sums[j]);
        }
      }
    });
  }
};

}  // namespace ops

/// y[i] = x[0] + ... + x[i] along `axis` (counted from the end when negative), x[i] included. Summed in double: results
/// in float are off by one rounding, not by one for each term; in double by at most n 2^-53 of the sum of magnitudes.
/// Error: an axis that x does not have.
template <class T>
Var<T> cumulative_sum(const Var<T>& x, int axis) {
  using O = ops::CumulativeSum<T>;
  return record(O(axis), x)[O::y];
}

}}  // namespace remat
