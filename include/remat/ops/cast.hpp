// The same numbers in another element type.
#pragma once

#include <limits>
#include <remat/autodiff/var.hpp>
#include <remat/core/numbers.hpp>
#include <remat/core/parallel.hpp>
#include <type_traits>

namespace remat { inline namespace REMAT_ABI {
namespace ops {

/// x as an integer, rounded towards zero. C++ leaves open what becomes of a number that `To` does not hold: here it is
/// the nearest that it does, and 0 for NaN, so that machines and replays agree.
template <class To, class From>
To to_integer(From x) {
  constexpr From low = static_cast<From>(std::numeric_limits<To>::min());
  constexpr From beyond = 2 * static_cast<From>(std::numeric_limits<To>::max() / 2 + 1);  // a power of two, exact
  if (!(x >= low)) return x < low ? std::numeric_limits<To>::min() : To{0};
  return x < beyond ? static_cast<To>(x) : std::numeric_limits<To>::max();
}

template <class T, class U>
struct Cast : Op {
  static constexpr In<T> x{0};
  static constexpr Out<U> y{0};

  Cast() : Op("cast") {}
  Specs infer(const Operands& in) const override { return {y(in[x].shape)}; }
  Residuals residuals(const Wanted&) const override { return {}; }
  void forward(Frame& f) const override { copy(f[x].data(), f[y].data(), f[x].size()); }
  void backward(Frame& f) const override {
    if constexpr (is_floating(dtype_of<T>()) && is_floating(dtype_of<U>()))
      copy(f.grad(y).data(), f.grad(x).data(), f[x].size());
  }

 private:
  template <class From, class To>
  static void copy(const From* from, To* to, Index size) {
    parallel_for(size, 16384, [xs = numbers(from), ys = numbers(to)](Index begin, Index end) {
      if constexpr (is_floating(dtype_of<From>()) && !is_floating(dtype_of<To>())) {
        for (Index i = begin; i < end; ++i) ys[i] = to_integer<To>(xs[i]);
      } else {
#pragma omp simd
        for (Index i = begin; i < end; ++i) ys[i] = static_cast<Accum<To>>(xs[i]);
      }
    });
  }
};

}  // namespace ops

/// x in the element type U; x itself where it is of U. To a floating type it is rounded to nearest, and between
/// floating types the gradient comes back in the type of x. To an integer type there is no gradient: floating numbers
/// lose their fraction, those out of range become the nearest there is and NaN 0; integers wrap around.
template <class U, class T>
Var<U> cast(const Var<T>& x) {
  if constexpr (std::is_same_v<T, U>)
    return x;
  else if constexpr (is_floating(dtype_of<U>()))
    return record(ops::Cast<T, U>(), x)[ops::Cast<T, U>::y];
  else
    return record(ops::Cast<T, U>(), stop_gradient(x))[ops::Cast<T, U>::y];
}

}}  // namespace remat
