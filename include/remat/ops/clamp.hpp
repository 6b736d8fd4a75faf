// Values held within bounds.
#pragma once

#include <algorithm>
#include <remat/autodiff/tape.hpp>
#include <remat/core/parallel.hpp>

namespace remat { inline namespace REMAT_ABI {
namespace ops {

/// y = x, or the bound that it lies beyond.
template <class T>
struct Clamp : Op {
  using A = Accum<T>;
  static constexpr In<T> x{0};
  static constexpr Out<T> y{0};

  A low, high;

  Clamp(A l, A h) : Op("clamp"), low(l), high(h) {}
  Specs infer(const Operands& in) const override {
    require(low == low && high == high, "its bounds are ", low, " and ", high,
            "; for no bound give an infinite one, not NaN");
    return {y(in[x].shape)};
  }
  Residuals residuals(const Wanted&) const override { return {x}; }
  void forward(Frame& f) const override {
    parallel_for(f[x].size(), 16384,
                 [from = numbers(f[x].data()), to = numbers(f[y].data()), l = low, h = high](Index begin, Index end) {
                   for (Index i = begin; i < end; ++i) {
                     const A v = from[i];
                     to[i] = std::min(std::max(v, l), h);  // in this order of arguments a NaN stays
                   }
                 });
  }
  void backward(Frame& f) const override {
    const auto xs = numbers(f[x].data());
    parallel_for(
        f[x].size(), 16384,
        [=, dy = numbers(f.grad(y).data()), dx = numbers(f.grad(x).data()), l = low, h = high](Index begin, Index end) {
          for (Index i = begin; i < end; ++i) dx[i] = xs[i] >= l && xs[i] <= h ? A{dy[i]} : A{0};
        });
  }
  GradientRule gradient(int) const override { return {.in_place = true}; }
};

}  // namespace ops

/// min(max(x, low), high), so `high` where low > high; NaN stays NaN. The gradient passes where low <= x <= high, the
/// bounds included as in PyTorch, and is 0 elsewhere. Bounds are rounded to T; an infinite one is none. Error: a NaN.
template <class T>
Var<T> clamp(const Var<T>& x, double low, double high) {
  const auto rounded = [](double bound) { return static_cast<Accum<T>>(static_cast<T>(static_cast<Accum<T>>(bound))); };
  return record(ops::Clamp<T>(rounded(low), rounded(high)), x)[ops::Clamp<T>::y];
}

}}  // namespace remat
