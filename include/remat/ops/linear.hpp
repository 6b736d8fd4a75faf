// x w + b over the last axis.
#pragma once

#include <remat/autodiff/var.hpp>
#include <remat/kernels/linear.hpp>
#include <remat/kernels/rows.hpp>

namespace remat { inline namespace REMAT_ABI {

/// How `linear` reads its matrix.
struct LinearOptions {
  bool transposed = false;  // w is [F, D]: a tied embedding table, or weights of PyTorch
};

namespace ops {

template <class T>
struct Linear : Op {
  static constexpr In<T> x{0};
  static constexpr Weight<T> w{1};
  static constexpr In<Accum<T>> b{2};
  static constexpr Out<T> y{0};
  LinearOptions options;

  explicit Linear(const LinearOptions& o) : Op("linear"), options(o) {}

  Specs infer(const Operands& in) const override {
    const Shape &xs = in[x].shape, &ws = in[w].shape;
    require(ws.rank() == 2, in.name(w, "w"), " has shape ", ws, ", a matrix is needed");
    require(xs.rank() > 0, "x is a number, a last axis of ", inputs(ws), " features is needed");
    require(xs.back() == inputs(ws), "x has ", xs.back(), " features, ", in.name(w, "w"), " expects ", inputs(ws));
    require(!in.has(b) || in[b].shape == Shape{outputs(ws)}, in.name(b, "b"), " has shape ", in[b].shape, ", ",
            in.name(w, "w"), " makes ", outputs(ws), " features");
    return {y(xs.drop_last().with(outputs(ws)))};
  }
  Cost cost(const Operands& in, const Specs& out) const override {
    const Index rows = out[0].shape.rows(), features = out[0].shape.back();
    const Wanted wanted(in);
    Cost cost;
    cost.dot = true;
    cost.flops = 2.0 * static_cast<double>(in[x].shape.size()) * static_cast<double>(features);
    cost.backward_flops = cost.flops * (wanted[x] + wanted[w]);
    if (wanted[b]) cost.backward_scratch = kernels::RowBlocks(rows).bytes<Accum<T>>(features);
    return cost;
  }
  Residuals residuals(const Wanted& wanted) const override { return Residuals().add(x, wanted[w]).add(w, wanted[x]); }
  void forward(Frame& f) const override {
    products(f).forward(f[x].data(), f[w].data(), f.has(b) ? f[b].data() : nullptr, f[y].data());
  }
  void backward(Frame& f) const override {
    const T* dy = f.grad(y).data();
    if (f.wants(x)) products(f).input_gradient(dy, f[w].data(), f.accumulate(x), f.grad(x).data());
    if (f.wants(w)) products(f).weight_gradient(f[x].data(), dy, f.accumulate(w), f.grad(w).data());
    if (f.wants(b))
      kernels::column_sums(dy, f[y].rows(), f[y].cols(), f.accumulate(b), f.grad(b).data(),
                           f.template scratch<Accum<T>>());
  }
  GradientRule gradient(int input) const override { return {.adds = true, .wide = input == w.index}; }

 private:
  kernels::LinearProducts<T> products(const Frame& f) const {
    return {f[y].rows(), f[x].cols(), f[y].cols(), options.transposed};
  }
  Index inputs(const Shape& w_shape) const { return w_shape[options.transposed ? 1 : 0]; }
  Index outputs(const Shape& w_shape) const { return w_shape[options.transposed ? 0 : 1]; }
};

}  // namespace ops

/// x w + b: x [..., D], w [D, F] ([F, D] when `transposed`), b [F] or nothing -> [..., F]. Of bfloat16, w is one or a
/// float parameter that is cast, b is of float, and gradients of both are.
template <class T>
Var<T> linear(const Var<T>& x, const Like<T>& w, const Like<Accum<T>>& b = {}, const LinearOptions& options = {}) {
  using O = ops::Linear<T>;
  return record(O(options), x, w, b)[O::y];
}

}}  // namespace remat
