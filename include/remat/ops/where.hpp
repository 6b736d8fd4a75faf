// The choice between two tensors, element by element.
#pragma once

#include <remat/ops/binary.hpp>

namespace remat { inline namespace REMAT_ABI {
namespace ops {

/// y = a where c is not 0, b elsewhere, all three stretched to one shape.
template <class T, class C>
struct Where : Op {
  static constexpr In<C> c{0};
  static constexpr In<T> a{1}, b{2};
  static constexpr Out<T> y{0};

  Where() : Op("where") {}
  Specs infer(const Operands& in) const override {
    const Shape sides = broadcast(in[a].shape, in[b].shape, "a and b");
    return {y(broadcast(in[c].shape, sides, "condition and sides"))};
  }
  Residuals residuals(const Wanted&) const override { return {c}; }
  /// The gradient of a stretched side is first made at its full size, then summed.
  Cost cost(const Operands& in, const Specs& out) const override {
    const Index full = out[0].shape.size();
    const auto stretched = [&](In<T> x) { return in[x.index].wants_gradient && in[x].shape.size() != full; };
    return {.backward_scratch = stretched(a) || stretched(b) ? checked_bytes(full, sizeof(T)) : 0};
  }
  void forward(Frame& f) const override {
    const Shape& full = f[y].shape();
    const C* const choose_a = f[c].data();
    T* const to = f[y].data();
    const T *as = f[a].data(), *bs = f[b].data();
    if (f[b].size() == full.size()) {
      kernels::Broadcast(full, f[c].shape(), f[a].shape()).for_each<true>([=](Index i, Index ic, Index ia) {
        to[i] = choose_a[ic] != 0 ? as[ia] : bs[i];
      });
      return;
    }
    if (f[a].size() != full.size()) {  // no walk has three stretched operands: a is laid out first
      kernels::Broadcast(full, full, f[a].shape()).for_each([=](Index i, Index, Index ia) { to[i] = as[ia]; });
      as = to;
    }
    kernels::Broadcast(full, f[c].shape(), f[b].shape()).for_each<true>([=](Index i, Index ic, Index ib) {
      to[i] = choose_a[ic] != 0 ? as[i] : bs[ib];
    });
  }
  void backward(Frame& f) const override {
    if (f.wants(b)) write_gradient(f, b, [](C chosen) { return chosen == 0; });
    // Last, because it may overwrite dy.
    if (f.wants(a)) write_gradient(f, a, [](C chosen) { return chosen != 0; });
  }
  GradientRule gradient(int input) const override { return {.in_place = input == a.index}; }

 private:
  /// Chosen, never multiplied: 0 times the gradient of what was not chosen would be NaN where that is.
  template <class IsChosen>
  static void write_gradient(Frame& f, In<T> x, IsChosen is_chosen) {
    const Shape& full = f.grad(y).shape();
    const bool is_stretched = f[x].size() != full.size();
    const T* const dy = f.grad(y).data();
    const C* const chosen = f[c].data();
    T* const to = is_stretched ? f.template scratch<T>() : f.grad(x).data();
    kernels::Broadcast(full, full, f[c].shape()).for_each([=](Index i, Index, Index ic) {
      to[i] = is_chosen(chosen[ic]) ? dy[i] : static_cast<T>(0);
    });
    if (is_stretched) kernels::sum_to(full, static_cast<const T*>(to), f[x].shape(), f.grad(x).data());
  }
};

}  // namespace ops

///@{
/// a where `condition` is not 0, b elsewhere; all three broadcast as in NumPy. The condition is an integer Var or
/// Tensor, of `less` and its like or of your own; of the sides one is a Var, the other a Var, Parameter, Tensor or
/// number. The side that is not chosen gets a gradient of exactly 0, whatever its value; behind an infinite derivative
/// that is NaN, as in PyTorch: of where(x > 0, log(x), 0) choose x before the logarithm, too. Error: shapes that do not
/// broadcast.
template <class C, class A, class B, class T = detail::ElementOf<A, B>>
requires std::convertible_to<const A&, Argument<T>> && std::convertible_to<const B&, Argument<T>> Var<T> where(
    const Var<C>& condition, const A& a, const B& b) {
  static_assert(!is_floating(dtype_of<C>()), "where: the condition is of an integer type; not_equal(x, 0) makes one");
  return record(ops::Where<T, C>(), condition, Argument<T>(a), Argument<T>(b))[ops::Where<T, C>::y];
}
template <class C, class A, class B, class T = detail::ElementOf<A, B>>
Var<T> where(const Tensor<C>& condition, const A& a, const B& b) {
  static_assert(!is_floating(dtype_of<C>()), "where: the condition is of an integer type");
  return record(ops::Where<T, C>(), Argument<C>(condition), Argument<T>(a), Argument<T>(b))[ops::Where<T, C>::y];
}
///@}

/// x with `value` where `mask` is not 0; the mask, an integer Var or Tensor, is stretched to the shape of x. Error: a
/// mask that does not broadcast to it.
template <class Mask, class T>
Var<T> masked_fill(const Var<T>& x, const Mask& mask, std::type_identity_t<Accum<T>> value) {
  require(broadcast(mask.shape(), x.shape(), "masked_fill: mask and x") == x.shape(),
          "masked_fill: the mask has shape ", mask.shape(), ", which does not broadcast to that of x, ", x.shape());
  return where(mask, value, x);
}

}}  // namespace remat
