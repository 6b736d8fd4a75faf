// Powers, with NumPy broadcasting.
#pragma once

#include <cmath>
#include <remat/ops/binary.hpp>

namespace remat { inline namespace REMAT_ABI {

namespace functions {

struct Pow {
  static constexpr const char* name = "pow";
  static constexpr Reading da_reads{true, true}, db_reads{true, true};
  static constexpr bool passes_a = false, passes_b = false;
  template <class T>
  static T value(T a, T b) {
    if (b == 1) return a;  // small powers and their derivatives, many times faster than std::pow
    if (b == 2) return a * a;
    if (b == 3) return a * a * a;
    return std::pow(a, b);
  }
  template <class T>
  static T da(T dy, T a, T b) {
    return b == 0 ? T(0) : dy * (b * value(a, b - 1));
  }
  template <class T>
  static T db(T dy, T a, T b) {
    return a == 0 && b >= 0 ? T(0) : dy * (value(a, b) * std::log(a));
  }
};

}  // namespace functions

/// a to the power b, element by element: of two Vars, or of a Var and a Parameter, Tensor or number, as in arithmetic;
/// pow(0, 0) is 1, and a negative base gives NaN unless b is whole. Derivatives are those of PyTorch: that by a is 0
/// where b is 0, and b a^(b - 1) elsewhere, so infinite at 0 for b < 1; that by b is 0 at a = 0 for b >= 0, and NaN for
/// a < 0. Error: shapes that do not broadcast.
template <class A, class B, class T = detail::ElementOf<A, B>>
Var<T> pow(const A& a, const B& b) {
  static_assert(is_floating(dtype_of<T>()), "pow: cast integers to a floating type first");
  return detail::binary<functions::Pow>(a, b);
}

}}  // namespace remat
