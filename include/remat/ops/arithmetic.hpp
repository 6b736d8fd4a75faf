// Sums, differences, products, quotients, maximum and minimum with NumPy broadcasting, and unary minus.
#pragma once

#include <remat/ops/binary.hpp>
#include <remat/ops/unary.hpp>

namespace remat { inline namespace REMAT_ABI {

namespace functions {

struct Add {
  static constexpr const char* name = "add";
  static constexpr Reading da_reads{}, db_reads{};
  static constexpr bool passes_a = true, passes_b = true;
  static auto value(auto a, auto b) { return a + b; }
  static auto da(auto dy, auto, auto) { return dy; }
  static auto db(auto dy, auto, auto) { return dy; }
};
struct Subtract {
  static constexpr const char* name = "subtract";
  static constexpr Reading da_reads{}, db_reads{};
  static constexpr bool passes_a = true, passes_b = false;
  static auto value(auto a, auto b) { return a - b; }
  static auto da(auto dy, auto, auto) { return dy; }
  static auto db(auto dy, auto, auto) { return -dy; }
};
struct Multiply {
  static constexpr const char* name = "multiply";
  static constexpr Reading da_reads{.b = true}, db_reads{.a = true};
  static constexpr bool passes_a = false, passes_b = false;
  static auto value(auto a, auto b) { return a * b; }
  static auto da(auto dy, auto, auto b) { return dy * b; }
  static auto db(auto dy, auto a, auto) { return dy * a; }
};
struct Divide {
  static constexpr const char* name = "divide";
  static constexpr Reading da_reads{.b = true}, db_reads{true, true};
  static constexpr bool passes_a = false, passes_b = false;
  static auto value(auto a, auto b) { return a / b; }
  static auto da(auto dy, auto, auto b) { return dy / b; }
  static auto db(auto dy, auto a, auto b) { return -dy * (a / b) / b; }
};
struct Negate : Function<Reads::nothing> {
  static constexpr const char* name = "negate";
  static auto value(auto x) { return -x; }
  static auto derivative(auto x) { return decltype(x)(-1); }
};
struct Maximum {  // where the operands are equal, each gets half
  static constexpr const char* name = "maximum";
  static constexpr Reading da_reads{true, true}, db_reads{true, true};
  static constexpr bool passes_a = false, passes_b = false;
  static auto value(auto a, auto b) { return a > b || a != a ? a : b; }  // a NaN of either wins
  static auto da(auto dy, auto a, auto b) { return dy * share(a, b); }
  static auto db(auto dy, auto a, auto b) { return dy * share(b, a); }
  template <class T>
  static T share(T mine, T other) {
    return T(0.5) * static_cast<T>((mine > other) + (mine >= other));
  }
};

struct Minimum {
  static constexpr const char* name = "minimum";
  static constexpr Reading da_reads{true, true}, db_reads{true, true};
  static constexpr bool passes_a = false, passes_b = false;
  static auto value(auto a, auto b) { return a < b || a != a ? a : b; }
  static auto da(auto dy, auto a, auto b) { return dy * Maximum::share(b, a); }
  static auto db(auto dy, auto a, auto b) { return dy * Maximum::share(a, b); }
};

}  // namespace functions

/// @name Arithmetic
/// Each takes two Vars, or a Var and a Parameter, Tensor or number; shapes broadcast as in NumPy. With bfloat16 a
/// number counts as a float, and only the result is rounded, as in PyTorch. Error: shapes that do not broadcast.
///@{

/// a + b.
template <class A, class B, class T = detail::ElementOf<A, B>>
Var<T> operator+(const A& a, const B& b) {
  return detail::binary<functions::Add>(a, b);
}
/// a - b.
template <class A, class B, class T = detail::ElementOf<A, B>>
Var<T> operator-(const A& a, const B& b) {
  return detail::binary<functions::Subtract>(a, b);
}
/// a * b, element by element.
template <class A, class B, class T = detail::ElementOf<A, B>>
Var<T> operator*(const A& a, const B& b) {
  return detail::binary<functions::Multiply>(a, b);
}
/// a / b, element by element.
template <class A, class B, class T = detail::ElementOf<A, B>>
Var<T> operator/(const A& a, const B& b) {
  return detail::binary<functions::Divide>(a, b);
}
/// The greater of a and b, NaN where one of them is; where they are equal each gets half the gradient.
template <class A, class B, class T = detail::ElementOf<A, B>>
Var<T> maximum(const A& a, const B& b) {
  return detail::binary<functions::Maximum>(a, b);
}
/// The smaller of a and b, NaN where one of them is; where they are equal each gets half the gradient.
template <class A, class B, class T = detail::ElementOf<A, B>>
Var<T> minimum(const A& a, const B& b) {
  return detail::binary<functions::Minimum>(a, b);
}
/// -x.
template <class T>
Var<T> operator-(const Var<T>& x) {
  return detail::unary<functions::Negate>(x);
}
///@}

}}  // namespace remat
