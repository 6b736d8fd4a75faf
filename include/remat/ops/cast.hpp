// The same numbers in another floating type.
#pragma once

#include <remat/autodiff/var.hpp>
#include <remat/core/numbers.hpp>
#include <remat/core/parallel.hpp>
#include <type_traits>

namespace remat { inline namespace REMAT_ABI {
namespace ops {

template <class T, class U>
struct Cast : Op {
  static constexpr In<T> x{0};
  static constexpr Out<U> y{0};

  Cast() : Op("cast") {}
  Specs infer(const Operands& in) const override { return {y(in[x].shape)}; }
  Residuals residuals(const Wanted&) const override { return {}; }
  void forward(Frame& f) const override { copy(f[x].data(), f[y].data(), f[x].size()); }
  void backward(Frame& f) const override { copy(f.grad(y).data(), f.grad(x).data(), f[x].size()); }

 private:
  template <class From, class To>
  static void copy(const From* from, To* to, Index size) {
    parallel_for(size, 16384, [xs = numbers(from), ys = numbers(to)](Index begin, Index end) {
#pragma omp simd
      for (Index i = begin; i < end; ++i) ys[i] = static_cast<Accum<To>>(xs[i]);
    });
  }
};

}  // namespace ops

/// x in the floating type U, rounded to nearest where U holds less; its gradient is in the type of x. x itself where
/// that is of U.
template <class U, class T>
Var<U> cast(const Var<T>& x) {
  static_assert(is_floating(dtype_of<T>()) && is_floating(dtype_of<U>()));
  if constexpr (std::is_same_v<T, U>)
    return x;
  else
    return record(ops::Cast<T, U>(), x)[ops::Cast<T, U>::y];
}

}}  // namespace remat
