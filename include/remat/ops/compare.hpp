// Comparisons with NumPy broadcasting: conditions for `where` and `masked_fill`.
#pragma once

#include <cstdint>
#include <remat/ops/binary.hpp>

namespace remat { inline namespace REMAT_ABI {

/// 1 where something holds, 0 elsewhere: one byte an element like NumPy's and PyTorch's bool, for `where` keeps it for
/// backward. Of two of them a * b is "and", maximum(a, b) "or", and 1 - a "not"; cast<float>(a) can be counted.
using Condition = std::uint8_t;

namespace functions {

struct Equal {
  static constexpr const char* name = "equal";
  static bool value(auto a, auto b) { return a == b; }
};
struct NotEqual {
  static constexpr const char* name = "not_equal";
  static bool value(auto a, auto b) { return a != b; }
};
struct Less {
  static constexpr const char* name = "less";
  static bool value(auto a, auto b) { return a < b; }
};
struct LessEqual {
  static constexpr const char* name = "less_equal";
  static bool value(auto a, auto b) { return a <= b; }
};
struct Greater {
  static constexpr const char* name = "greater";
  static bool value(auto a, auto b) { return a > b; }
};
struct GreaterEqual {
  static constexpr const char* name = "greater_equal";
  static bool value(auto a, auto b) { return a >= b; }
};

}  // namespace functions

namespace ops {

/// y = F(a, b), without a gradient.
template <class F, class A, class B>
struct Compare : Op {
  static constexpr In<A> a{0};
  static constexpr In<B> b{1};
  static constexpr Out<Condition> y{0};

  Compare() : Op(F::name) {}
  Specs infer(const Operands& in) const override { return {y(broadcast(in[a].shape, in[b].shape, "operands"))}; }
  Residuals residuals(const Wanted&) const override { return {}; }
  void forward(Frame& f) const override {
    const auto as = numbers(f[a].data());
    const auto bs = numbers(f[b].data());
    Condition* const to = f[y].data();
    kernels::Broadcast(f[y].shape(), f[a].shape(), f[b].shape()).for_each([=](Index i, Index ia, Index ib) {
      to[i] = static_cast<Condition>(F::value(as[ia], bs[ib]));
    });
  }
  void backward(Frame&) const override {}
};

/// The operand as a constant, so that nothing is kept for a gradient that is none.
template <class T>
Var<T> constant(const Var<T>& x) {
  return stop_gradient(x);
}
template <class T, class X>
Argument<T> constant(const X& x) {
  return x;
}

/// The type in which a `T` is compared with `X`: a number beside integers keeps its fraction and its size, beside
/// floating types it is rounded to theirs.
template <class T, class X>
using ComparedType = std::conditional_t<is_floating(dtype_of<T>()) || !std::is_arithmetic_v<X>, T,
                                        std::conditional_t<std::is_floating_point_v<X>, double, std::int64_t>>;

template <class F, class A, class B, class T = detail::ElementOf<A, B>>
requires std::convertible_to<const A&, Argument<T>> && std::convertible_to<const B&, Argument<T>> Var<Condition>
compare(const A& a, const B& b) {
  using TypeA = ComparedType<T, A>;
  using TypeB = ComparedType<T, B>;
  using O = Compare<F, TypeA, TypeB>;
  return record(O(), constant<TypeA>(a), constant<TypeB>(b))[O::y];
}

}  // namespace ops

/// @name Comparisons
/// Each takes two Vars of one element type, or a Var and a Parameter, Tensor or number; shapes broadcast as in NumPy.
/// The result has no gradient. A NaN is unequal to everything and neither less nor greater. Error: shapes that do not
/// broadcast.
///@{

/// a == b.
template <class A, class B, class T = detail::ElementOf<A, B>>
Var<Condition> equal(const A& a, const B& b) {
  return ops::compare<functions::Equal>(a, b);
}
/// a != b.
template <class A, class B, class T = detail::ElementOf<A, B>>
Var<Condition> not_equal(const A& a, const B& b) {
  return ops::compare<functions::NotEqual>(a, b);
}
/// a < b.
template <class A, class B, class T = detail::ElementOf<A, B>>
Var<Condition> less(const A& a, const B& b) {
  return ops::compare<functions::Less>(a, b);
}
/// a <= b.
template <class A, class B, class T = detail::ElementOf<A, B>>
Var<Condition> less_equal(const A& a, const B& b) {
  return ops::compare<functions::LessEqual>(a, b);
}
/// a > b.
template <class A, class B, class T = detail::ElementOf<A, B>>
Var<Condition> greater(const A& a, const B& b) {
  return ops::compare<functions::Greater>(a, b);
}
/// a >= b.
template <class A, class B, class T = detail::ElementOf<A, B>>
Var<Condition> greater_equal(const A& a, const B& b) {
  return ops::compare<functions::GreaterEqual>(a, b);
}
///@}

}}  // namespace remat
