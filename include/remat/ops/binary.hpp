// The op of two operands with NumPy broadcasting, for a small function object that gives its value and derivatives.
#pragma once

#include <concepts>
#include <remat/autodiff/tape.hpp>
#include <remat/kernels/broadcast.hpp>
#include <type_traits>

namespace remat::inline REMAT_ABI {

namespace functions {

/// Which operands a derivative reads.
struct Reading {
  bool a = false, b = false;
};

}  // namespace functions

/// y = F(a, b) with the shapes broadcast as in NumPy. `F::da` and `F::db` are the gradients of the operands; an operand
/// that they do not read is given to them as 0.
template <class T, class F>
struct Binary : Op {
  static constexpr In<T> a{0}, b{1};
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
    const auto stretched = [&](In<T> x, bool passes) {
      return in[x.index].wants_gradient && !passes && in[x].shape.size() != out[0].shape.size();
    };
    return {.backward_scratch = stretched(a, F::passes_a) || stretched(b, F::passes_b) ? out[0].bytes() : 0};
  }
  void forward(Frame& f) const override {
    const T *pa = f[a].data(), *pb = f[b].data();
    T* to = f[y].data();
    kernels::Broadcast(f[y].shape(), f[a].shape(), f[b].shape()).for_each([=](Index i, Index ia, Index ib) {
      to[i] = F::value(pa[ia], pb[ib]);
    });
  }
  void backward(Frame& f) const override {
    if (f.wants(b)) gradient<F::db_reads, F::passes_b>(f, b, [](T dy, T u, T v) { return F::db(dy, u, v); });
    // Last, because it may overwrite dy.
    if (f.wants(a)) gradient<F::da_reads, F::passes_a>(f, a, [](T dy, T u, T v) { return F::da(dy, u, v); });
  }
  bool passes_gradient(int input) const override { return input == 0 ? F::passes_a : F::passes_b; }
  bool in_place_gradient(int input) const override { return input == 0; }

 private:
  template <functions::Reading reads, bool passes, class Derivative>
  void gradient(Frame& f, In<T> x, Derivative&& derivative) const {
    const Shape &full = f.grad(y).shape(), &target = f[x].shape();
    const T* dy = f.grad(y).data();
    const bool is_stretched = target.size() != full.size();
    if (passes && is_stretched) return kernels::sum_to(full, dy, target, f.grad(x).data());
    const T *pa = nullptr, *pb = nullptr;
    if constexpr (reads.a) pa = f[a].data();
    if constexpr (reads.b) pb = f[b].data();
    T* to = is_stretched ? f.template scratch<T>() : f.grad(x).data();
    kernels::Broadcast(full, f[a].shape(), f[b].shape()).for_each([=](Index i, Index ia, Index ib) {
      to[i] = derivative(dy[i], reads.a ? pa[ia] : T{}, reads.b ? pb[ib] : T{});
    });
    if (is_stretched) kernels::sum_to(full, to, target, f.grad(x).data());
  }
};

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

template <class F, class A, class B, class T = ElementOf<A, B>>
requires std::convertible_to<const A&, Argument<T>> && std::convertible_to<const B&, Argument<T>> Var<T> binary(
    const A& a, const B& b) {
  return record(Binary<T, F>(), Argument<T>(a), Argument<T>(b))[Binary<T, F>::y];
}
}  // namespace detail

}  // namespace remat::inline REMAT_ABI
