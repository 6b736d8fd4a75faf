// Where along an axis the greatest or the least element is.
#pragma once

#include <limits>
#include <remat/autodiff/var.hpp>
#include <remat/kernels/axis_runs.hpp>
#include <remat/kernels/extremum.hpp>
#include <remat/ops/reduced_axes.hpp>

namespace remat { inline namespace REMAT_ABI {
namespace ops {

template <class T, bool is_greatest>
struct ArgExtremum : Op {
  static constexpr In<T> x{0};
  static constexpr Out<std::int32_t> y{0};
  int axis;
  bool keepdims;

  ArgExtremum(int a, bool keeps) : Op(is_greatest ? "argmax" : "argmin"), axis(a), keepdims(keeps) {}

  Specs infer(const Operands& in) const override {
    const Shape& full = in[x].shape;
    const Index length = full[full.axis(axis, "axis")];
    require(length <= std::numeric_limits<std::int32_t>::max(), "an axis of ", length,
            " elements is too long to number by int32");
    const ReducedAxes axes({axis}, keepdims);
    axes.require_elements(full);
    return {y(axes.result(full))};
  }
  Residuals residuals(const Wanted&) const override { return {}; }
  void forward(Frame& f) const override {
    const kernels::AxisRuns runs(f[x].shape(), f[x].shape().axis(axis, "axis"));
    const auto data = numbers(f[x].data());
    std::int32_t* const result = f[y].data();
    runs.for_each_strip(runs.length, [=](Index outer, Index column, Index n) {
      Accum<T> found[kernels::AxisRuns::width];
      const auto row = data + (outer * runs.length * runs.inner + column);
      std::int32_t* const at = result + outer * runs.inner + column;
      for (Index j = 0; j < n; ++j) found[j] = row[j], at[j] = 0;
      for (Index i = 1; i < runs.length; ++i)
        for (Index j = 0; j < n; ++j) {
          const Accum<T> each = row[i * runs.inner + j];
          if (!kernels::is_beyond<is_greatest>(each, found[j])) continue;
          found[j] = each;
          at[j] = static_cast<std::int32_t>(i);
        }
    });
  }
  void backward(Frame& f) const override {  // a place has no derivative
    if (f.wants(x)) std::fill_n(f.grad(x).data(), f[x].size(), static_cast<T>(0));
  }
};

}  // namespace ops

/// Where the greatest element along `axis` of x is (counted from the end when negative): the first of equal ones, or of
/// NaNs, which count as greatest. The axis stays with length 1 with `keepdims`, as `gather` takes it. No gradient flows
/// through it. Over all elements: argmax(x.reshape({-1}), 0). Errors: an axis that x does not have, or without
/// elements.
template <class T>
Var<std::int32_t> argmax(const Var<T>& x, int axis, bool keepdims = false) {
  using O = ops::ArgExtremum<T, true>;
  return record(O(axis, keepdims), x)[O::y];
}
/// Where the least element along `axis` of x is, as `argmax`; NaNs count as least.
template <class T>
Var<std::int32_t> argmin(const Var<T>& x, int axis, bool keepdims = false) {
  using O = ops::ArgExtremum<T, false>;
  return record(O(axis, keepdims), x)[O::y];
}

}}  // namespace remat
