// max and min over axes.
#pragma once

#include <remat/autodiff/var.hpp>
#include <remat/kernels/extremum.hpp>
#include <remat/ops/reduced_axes.hpp>

namespace remat { inline namespace REMAT_ABI {
namespace ops {

template <class T, bool is_greatest>
struct Extremum : Op {
  static constexpr In<T> x{0};
  static constexpr Out<T> y{0};
  ReducedAxes axes;

  explicit Extremum(ReducedAxes a) : Op(is_greatest ? "max" : "min"), axes(std::move(a)) {}

  Specs infer(const Operands& in) const override {
    const Shape shape = axes.result(in[x].shape);
    axes.require_elements(in[x].shape);
    return {y(shape)};
  }
  Cost cost(const Operands&, const Specs& out) const override {
    return {.backward_scratch = checked_bytes(out[0].shape.size(), sizeof(Accum<T>), "scratch")};
  }
  Residuals residuals(const Wanted&) const override { return {x, y}; }
  void forward(Frame& f) const override {
    const Shape& full = f[x].shape();
    kernels::extremum_to<is_greatest>(full, f[x].data(), axes.stretched(full), f[y].data());
  }
  void backward(Frame& f) const override {
    using A = Accum<T>;
    const Shape &full = f[x].shape(), ones = axes.stretched(full);
    const auto xs = numbers(f[x].data()), ys = numbers(static_cast<const T*>(f[y].data()));
    const auto dy = numbers(f.grad(y).data());
    const auto dx = numbers(f.grad(x).data());
    A* const shares = f.template scratch<A>();  // of dy, for each element that is extreme
    kernels::sums_to<A>(
        full, ones, [=](Index i, Index k) { return static_cast<A>(xs[i] == ys[k]); },
        [=](Index k, A ties) { shares[k] = dy[k] / ties; });
    kernels::Broadcast(full, full, ones).for_each([=](Index i, Index, Index k) {
      dx[i] = static_cast<A>(xs[i] == ys[k]) * shares[k];  // beside a NaN, which equals nothing, 0 / 0
    });
  }
};

}  // namespace ops

namespace detail {
template <bool is_greatest, class T>
Var<T> extremum(const Var<T>& x, ops::ReducedAxes axes) {
  using O = ops::Extremum<T, is_greatest>;
  return record(O(std::move(axes)), x)[O::y];
}
}  // namespace detail

/// The greatest element of x along `axes` (counted from the end when negative), which stay as axes of length 1 with
/// `keepdims`; NaN where there is one. Equal greatest elements share the gradient (PyTorch's amax); beside a NaN it is
/// NaN. Errors: an axis that x does not have, axes without elements.
template <class T>
Var<T> max(const Var<T>& x, const std::vector<int>& axes, bool keepdims = false) {
  return detail::extremum<true>(x, {axes, keepdims});
}
/// The greatest of all elements, of shape [].
template <class T>
Var<T> max(const Var<T>& x) {
  return detail::extremum<true>(x, ops::ReducedAxes(x.shape()));
}
/// The least element of x along `axes`, as `max` (PyTorch's amin).
template <class T>
Var<T> min(const Var<T>& x, const std::vector<int>& axes, bool keepdims = false) {
  return detail::extremum<false>(x, {axes, keepdims});
}
/// The least of all elements, of shape [].
template <class T>
Var<T> min(const Var<T>& x) {
  return detail::extremum<false>(x, ops::ReducedAxes(x.shape()));
}

}}  // namespace remat
