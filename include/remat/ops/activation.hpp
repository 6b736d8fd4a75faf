// Activations of feed-forward layers, plain and gated, with dropout in the same pass.
#pragma once

#include <remat/ops/activation_kind.hpp>
#include <remat/ops/dropout.hpp>

namespace remat { inline namespace REMAT_ABI {
namespace ops {

// Loops that call an activation carry no simd pragma: double has no vector functions, and clang would warn. Gradients
// are made in two steps, because a loop over arrays that may be the same one is vectorized by pragma only.

template <class T>
struct Activate : Op {
  using A = Accum<T>;
  static constexpr In<T> x{0};
  static constexpr Out<T> y{0};
  Activation kind;
  DropoutMask mask;

  Activate(Activation k, const DropoutMask& m) : Op("activate"), kind(k), mask(m) {}

  Specs infer(const Operands& in) const override {
    check_rate(mask);
    return {y(in[x].shape)};
  }
  // Of relu the result tells all: it is positive where x is and dropout kept it.
  Residuals residuals(const Wanted&) const override {
    if (kind == Activation::relu) return {y};
    return {x};
  }
  void forward(Frame& f) const override {
    const auto xs = numbers(f[x].data());
    const auto ys = numbers(f[y].data());
    with_kernel(kind, [&](auto act) {
      with_factors<A>(mask, f[x].size(), [=](Index at, Index count, A* factors) {
        for (Index i = 0; i < count; ++i) ys[at + i] = act.value(xs[at + i]) * factors[i];
      });
    });
  }
  void backward(Frame& f) const override {
    const auto dy = numbers(f.grad(y).data());
    const auto dx = numbers(f.grad(x).data());
    if (kind == Activation::relu) {
      const auto ys = numbers(f[y].data());
      const A scale = static_cast<A>(mask.scale());
      parallel_for(f[x].size(), 16384, [=](Index begin, Index end) {
        for (Index i = begin; i < end; ++i) dx[i] = dy[i] * (static_cast<A>(ys[i] > A{0}) * scale);
      });
      return;
    }
    const auto xs = numbers(f[x].data());
    with_kernel(kind, [&](auto act) {
      with_factors<A>(mask, f[x].size(), [=](Index at, Index count, A* factors) {
        for (Index i = 0; i < count; ++i) factors[i] *= act.derivative(xs[at + i]);
        for (Index i = 0; i < count; ++i) dx[at + i] = dy[at + i] * factors[i];
      });
    });
  }
  GradientRule gradient(int) const override { return {.in_place = true}; }
};

template <class T>
struct GatedActivate : Op {
  using A = Accum<T>;
  static constexpr In<T> gate{0}, x{1};
  static constexpr Out<T> y{0};
  Activation kind;
  DropoutMask mask;

  GatedActivate(Activation k, const DropoutMask& m) : Op("gated_activate"), kind(k), mask(m) {}

  Specs infer(const Operands& in) const override {
    check_rate(mask);
    require(in[gate].shape == in[x].shape, "gate has shape ", in[gate].shape, ", x has ", in[x].shape);
    return {y(in[x].shape)};
  }
  Residuals residuals(const Wanted& wanted) const override { return Residuals{gate}.add(x, wanted[gate]); }
  void forward(Frame& f) const override {
    const auto gates = numbers(f[gate].data()), xs = numbers(f[x].data());
    const auto ys = numbers(f[y].data());
    with_kernel(kind, [&](auto act) {
      with_factors<A>(mask, f[x].size(), [=](Index at, Index count, A* factors) {
        for (Index i = 0; i < count; ++i) ys[at + i] = act.value(gates[at + i]) * xs[at + i] * factors[i];
      });
    });
  }
  // dx first: dgate may lie where dy does.
  void backward(Frame& f) const override {
    const bool wants_x = f.wants(x), wants_gate = f.wants(gate);
    const auto dy = numbers(f.grad(y).data()), gates = numbers(f[gate].data());
    const auto xs = numbers(wants_gate ? f[x].data() : nullptr);
    const auto dgate = numbers(wants_gate ? f.grad(gate).data() : nullptr);
    const auto dx = numbers(wants_x ? f.grad(x).data() : nullptr);
    with_kernel(kind, [&](auto act) {
      with_factors<A>(mask, f[x].size(), [=](Index at, Index count, A* factors) {
        if (wants_x)
          for (Index i = 0; i < count; ++i) dx[at + i] = dy[at + i] * factors[i] * act.value(gates[at + i]);
        if (!wants_gate) return;
        for (Index i = 0; i < count; ++i) factors[i] *= xs[at + i] * act.derivative(gates[at + i]);
        for (Index i = 0; i < count; ++i) dgate[at + i] = dy[at + i] * factors[i];
      });
    });
  }
  GradientRule gradient(int input) const override { return {.in_place = input == gate.index}; }
};

}  // namespace ops

/// kind(x), then dropout of `dropout_rate` while training.
template <class T>
Var<T> activate(const Var<T>& x, Activation kind, double dropout_rate = 0) {
  using O = ops::Activate<T>;
  return record(O(kind, ops::next_mask(x.tape(), dropout_rate, x.shape())), x)[O::y];
}

/// kind(gate) * x, gate shaped like x, then dropout while training; SwiGLU with silu (Shazeer 2020).
template <class T>
Var<T> gated_activate(const Var<T>& gate, const Var<T>& x, Activation kind, double dropout_rate = 0) {
  using O = ops::GatedActivate<T>;
  return record(O(kind, ops::next_mask(x.tape(), dropout_rate, x.shape())), gate, x)[O::y];
}

}}  // namespace remat
