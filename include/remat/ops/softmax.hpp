// softmax and log_softmax over the last axis.
#pragma once

#include <algorithm>
#include <cmath>
#include <optional>
#include <remat/autodiff/tape.hpp>
#include <remat/kernels/reduce.hpp>
#include <remat/kernels/vector_math.hpp>
#include <remat/ops/check_ids.hpp>

namespace remat { inline namespace REMAT_ABI {

namespace ops {

/// y = e^x / sum e^x in each row of x [.., D], or its logarithm. Backward reads y alone.
template <class T, bool is_log>
struct Softmax : Op {
  static constexpr In<T> x{0};
  static constexpr Out<T> y{0};

  std::optional<Index> offset;  // row t of x [.., T, D] is that of its first t + offset + 1 elements, the others give 0

  explicit Softmax(std::optional<Index> o = {}) : Op(is_log ? "log_softmax" : "softmax"), offset(o) {}
  Specs infer(const Operands& in) const override {
    require(in[x].shape.rank() > (offset ? 1 : 0), "x has shape ", in[x].shape, ", softmax runs over the last axis",
            offset ? " of rows" : "");
    check_position(offset.value_or(0), "offset");
    return {y(in[x].shape)};
  }
  Residuals residuals(const Wanted&) const override { return {y}; }
  void forward(Frame& f) const override {
    const auto from = f[x];
    const auto to = f[y];
    const Index D = from.cols();
    parallel_for(from.size() == 0 ? 0 : from.rows(), row_grain(D), [=, this](Index begin, Index end) {
      for (Index i = begin; i < end; ++i) {
        const Index count = seen(i, from.shape());
        if (count > 0) forward_row(from.row(i), to.row(i), count);
        std::fill(to.row(i) + count, to.row(i) + D, static_cast<T>(0));
      }
    });
  }
  void backward(Frame& f) const override {
    const auto out = f[y];
    const auto dy = f.grad(y);
    const auto dx = f.grad(x);
    const Index D = out.cols();
    parallel_for(out.size() == 0 ? 0 : out.rows(), row_grain(D), [=](Index begin, Index end) {
      for (Index i = begin; i < end; ++i) backward_row(out.row(i), dy.row(i), dx.row(i), D);
    });
  }
  GradientRule gradient(int) const override { return {.in_place = true}; }

  /// Of the first D numbers of a row, which may be written over.
  static void forward_row(const T* from, T* to, Index D) {
    using A = Accum<T>;
    const A top = kernels::max(from, D);  // so that no exponential overflows
    const auto xs = numbers(from);
    const auto ys = numbers(to);
    if constexpr (is_log) {
      const A log_sum = std::log(kernels::sum_of<A>(D, [=](Index j) { return kernels::fast_exp(xs[j] - top); }));
      // In two steps: beside a large maximum the logarithm would be lost.
      for (Index j = 0; j < D; ++j) ys[j] = as_written(xs[j] - top) - log_sum;
    } else {
      for (Index j = 0; j < D; ++j) ys[j] = kernels::fast_exp(xs[j] - top);
      const A scale = A{1} / kernels::sum(static_cast<const T*>(to), D);
      for (Index j = 0; j < D; ++j) ys[j] = ys[j] * scale;
    }
  }
  // dx = y (dy - sum(y dy)), or dy - e^y sum(dy).
  static void backward_row(const T* out, const T* gradient, T* to, Index D) {
    using A = Accum<T>;
    const auto ys = numbers(out), dy = numbers(gradient);
    const auto dx = numbers(to);
    if constexpr (is_log) {
      const A total = kernels::sum(gradient, D);
      for (Index j = 0; j < D; ++j) dx[j] = dy[j] - total * kernels::fast_exp(ys[j]);
    } else {
      const A mean = kernels::dot(out, gradient, D);
      for (Index j = 0; j < D; ++j) dx[j] = ys[j] * (dy[j] - mean);
    }
  }

 private:
  Index seen(Index row, const Shape& shape) const {
    if (!offset) return shape.back();
    return std::clamp<Index>(row % shape[shape.rank() - 2] + *offset + 1, 0, shape.back());
  }
};

}  // namespace ops

/// e^x / sum e^x over the last axis of x [.., D]. Error: a scalar.
template <class T>
Var<T> softmax(const Var<T>& x) {
  return record(ops::Softmax<T, false>(), x)[ops::Softmax<T, false>::y];
}
/// softmax over the first t + offset + 1 elements of row t of x [.., T, D], zeros behind them: attention where query t
/// lies at position t + offset. Errors: fewer than two axes, an offset beyond 2^48.
template <class T>
Var<T> causal_softmax(const Var<T>& x, Index offset = 0) {
  return record(ops::Softmax<T, false>(offset), x)[ops::Softmax<T, false>::y];
}
/// log(softmax(x)), without its overflow and cancellation.
template <class T>
Var<T> log_softmax(const Var<T>& x) {
  return record(ops::Softmax<T, true>(), x)[ops::Softmax<T, true>::y];
}

}}  // namespace remat
