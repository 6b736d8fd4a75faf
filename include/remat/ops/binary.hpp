// The op of two operands with NumPy broadcasting, for a small function object that gives its value and derivatives.
#pragma once

#include <concepts>
#include <remat/autodiff/tape.hpp>
#include <remat/kernels/broadcast.hpp>
#include <type_traits>

namespace remat { inline namespace REMAT_ABI {

namespace functions {

/// Which operands a derivative reads.
struct Reading {
  bool a = false, b = false;
};

}  // namespace functions

namespace ops {

/// y = F(a, b) with the shapes broadcast as in NumPy. `F::da` and `F::db` are the gradients of the operands; an operand
/// that they do not read is given to them as 0. An operand of a type other than `T` is a number, of Accum<T>.
template <class T, class F, class TypeA = T, class TypeB = T>
struct Binary : Op {
  using A = Accum<T>;
  static constexpr In<TypeA> a{0};
  static constexpr In<TypeB> b{1};
  static constexpr Out<T> y{0};

  Binary() : Op(F::name) {}
  Specs infer(const Operands& in) const override { return {y(broadcast(in[a].shape, in[b].shape, "operands"))}; }
  Residuals residuals(const Wanted& wanted) const override {
    return Residuals{}
        .add(a, (wanted[a] && F::da_reads.a) || (wanted[b] && F::db_reads.a))
        .add(b, (wanted[a] && F::da_reads.b) || (wanted[b] && F::db_reads.b));
  }
  /// The gradient of a stretched operand is first computed at its full size, then summed.
  Cost cost(const Operands& in, const Specs& out) const override {
    const auto stretched = [&](auto x, bool passes) {
      return in[x.index].wants_gradient && !passes && in[x].shape.size() != out[0].shape.size();
    };
    const std::size_t bytes = checked_bytes(out[0].shape.size(), sizeof(A));
    return {.backward_scratch = stretched(a, F::passes_a) || stretched(b, F::passes_b) ? bytes : 0};
  }
  void forward(Frame& f) const override {
    const auto pa = numbers(f[a].data());
    const auto pb = numbers(f[b].data());
    const auto to = numbers(f[y].data());
    kernels::Broadcast(f[y].shape(), f[a].shape(), f[b].shape()).for_each([=](Index i, Index ia, Index ib) {
      to[i] = F::value(pa[ia], pb[ib]);
    });
  }
  void backward(Frame& f) const override {
    if (f.wants(b)) gradient<F::db_reads, F::passes_b>(f, b, [](A dy, A u, A v) { return F::db(dy, u, v); });
    // Last, because it may overwrite dy.
    if (f.wants(a)) gradient<F::da_reads, F::passes_a>(f, a, [](A dy, A u, A v) { return F::da(dy, u, v); });
  }
  GradientRule gradient(int input) const override {
    return {.passes = input == a.index ? F::passes_a : F::passes_b, .in_place = input == a.index};
  }

 private:
  template <bool is_read, class X>
  static auto operand(Frame& f, In<X> x, const T* any_array) {
    if constexpr (is_read)
      return numbers(f[x].data());
    else
      return numbers(any_array);
  }
  template <functions::Reading reads, bool passes, class X, class Derivative>
  void gradient(Frame& f, In<X> x, Derivative&& derivative) const {
    const Shape &full = f.grad(y).shape(), &target = f[x].shape();
    const T* dy = f.grad(y).data();
    const bool is_stretched = target.size() != full.size();
    if (passes && is_stretched) return kernels::sum_to(full, dy, target, f.grad(x).data());
    const auto pa = operand<reads.a>(f, a, dy);
    const auto pb = operand<reads.b>(f, b, dy);
    const auto write = [&](const auto to) {
      kernels::Broadcast(full, f[a].shape(), f[b].shape())
          .for_each([=, dys = numbers(dy)](Index i, Index ia, Index ib) {
            to[i] = derivative(dys[i], reads.a ? pa[ia] : A{}, reads.b ? pb[ib] : A{});
          });
    };
    if (!is_stretched) return write(numbers(f.grad(x).data()));
    A* const whole = f.template scratch<A>();
    write(whole);
    kernels::sum_to(full, whole, target, f.grad(x).data());
  }
};

}  // namespace ops

namespace detail {
template <class X>
struct Element {};
template <class T>
struct Element<Var<T>> {
  using type = T;
};
/// The `T` of two operands, of which at least one is a `Var<T>`, the other anything that becomes an `Argument<T>`.
template <class A, class B>
using ElementOf = typename Element<std::conditional_t<std::is_base_of_v<AnyVar, A>, A, B>>::type;

/// The type of the operand that `X` becomes: a number is not rounded to bfloat16, only the result is.
template <class T, class X>
using OperandType = std::conditional_t<std::is_arithmetic_v<X>, Accum<T>, T>;

template <class F, class A, class B, class T = ElementOf<A, B>>
requires std::convertible_to<const A&, Argument<T>> && std::convertible_to<const B&, Argument<T>> Var<T> binary(
    const A& a, const B& b) {
  using TypeA = OperandType<T, A>;
  using TypeB = OperandType<T, B>;
  using O = ops::Binary<T, F, TypeA, TypeB>;
  const auto operand = []<class Type, class X>(std::type_identity<Type>, const X& x)
      -> std::conditional_t<std::is_same_v<X, Var<Type>>, const X&, Argument<Type>> { return x; };
  return record(O(), operand(std::type_identity<TypeA>(), a), operand(std::type_identity<TypeB>(), b))[O::y];
}
}  // namespace detail

}}  // namespace remat
