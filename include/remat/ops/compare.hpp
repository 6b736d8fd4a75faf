// Comparisons with NumPy broadcasting: conditions for `where` and `masked_fill`.
#pragma once

#include <cstdint>
#include <remat/ops/binary.hpp>

namespace remat { inline namespace REMAT_ABI {

/// 1 where something holds, 0 elsewhere: one byte an element like NumPy's and PyTorch's bool, for `where` keeps it for
/// backward. Of two of them a * b is "and", maximum(a, b) "or", and 1 - a "not"; cast<float>(a) can be counted.
using Condition = std::uint8_t;

namespace ops {

/// When a comparison holds: of each pair of numbers one of the four is true, the last where one is NaN.
struct Relation {
  const char* name;
  bool less = false, equal = false, greater = false, unordered = false;
};

/// y = where `relation` holds of a and b, without a gradient.
template <class A, class B>
struct Compare : Op {
  static constexpr In<A> a{0};
  static constexpr In<B> b{1};
  static constexpr Out<Condition> y{0};
  Relation relation;

  explicit Compare(const Relation& r) : Op(r.name), relation(r) {}
  Specs infer(const Operands& in) const override { return {y(broadcast(in[a].shape, in[b].shape, "operands"))}; }
  Residuals residuals(const Wanted&) const override { return {}; }
  void forward(Frame& f) const override {
    const auto as = numbers(f[a].data());
    const auto bs = numbers(f[b].data());
    Condition* const to = f[y].data();
    kernels::Broadcast(f[y].shape(), f[a].shape(), f[b].shape())
        .for_each([=, r = relation](Index i, Index ia, Index ib) {
          const auto x = as[ia];
          const auto z = bs[ib];
          const bool less = x < z;
          const bool equal = x == z;
          const bool greater = x > z;
          const bool unordered = !(less | equal | greater);
          to[i] = static_cast<Condition>((less & r.less) | (equal & r.equal) | (greater & r.greater) |
                                         (unordered & r.unordered));
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

template <class A, class B, class T = detail::ElementOf<A, B>>
requires std::convertible_to<const A&, Argument<T>> && std::convertible_to<const B&, Argument<T>> Var<Condition>
compare(const Relation& relation, const A& a, const B& b) {
  using TypeA = ComparedType<T, A>;
  using TypeB = ComparedType<T, B>;
  using O = Compare<TypeA, TypeB>;
  return record(O(relation), constant<TypeA>(a), constant<TypeB>(b))[O::y];
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
  return ops::compare({.name = "equal", .equal = true}, a, b);
}
/// a != b.
template <class A, class B, class T = detail::ElementOf<A, B>>
Var<Condition> not_equal(const A& a, const B& b) {
  return ops::compare({.name = "not_equal", .less = true, .greater = true, .unordered = true}, a, b);
}
/// a < b.
template <class A, class B, class T = detail::ElementOf<A, B>>
Var<Condition> less(const A& a, const B& b) {
  return ops::compare({.name = "less", .less = true}, a, b);
}
/// a <= b.
template <class A, class B, class T = detail::ElementOf<A, B>>
Var<Condition> less_equal(const A& a, const B& b) {
  return ops::compare({.name = "less_equal", .less = true, .equal = true}, a, b);
}
/// a > b.
template <class A, class B, class T = detail::ElementOf<A, B>>
Var<Condition> greater(const A& a, const B& b) {
  return ops::compare({.name = "greater", .greater = true}, a, b);
}
/// a >= b.
template <class A, class B, class T = detail::ElementOf<A, B>>
Var<Condition> greater_equal(const A& a, const B& b) {
  return ops::compare({.name = "greater_equal", .equal = true, .greater = true}, a, b);
}
///@}

}}  // namespace remat
