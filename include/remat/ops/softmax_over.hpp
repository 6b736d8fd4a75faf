// softmax and log_softmax over any axis.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <remat/kernels/rows.hpp>
#include <remat/ops/softmax.hpp>

namespace remat { inline namespace REMAT_ABI {
namespace ops {

/// y = e^x / sum e^x over the middle axis of x [outer, D, inner], or its logarithm, in strips of columns, so that x
/// needs no transposition. Backward reads y alone.
template <class T, bool is_log>
struct SoftmaxOver : Op {
  static constexpr In<T> x{0};
  static constexpr Out<T> y{0};

  int axis;  // counted from the front

  explicit SoftmaxOver(int a) : Op(is_log ? "log_softmax" : "softmax"), axis(a) {}
  Specs infer(const Operands& in) const override { return {y(in[x].shape)}; }
  Residuals residuals(const Wanted&) const override { return {y}; }
  void forward(Frame& f) const override {
    for_each_strip(f[x].shape(),
                   [from = f[x].data(), to = f[y].data()](const Strip& s) { forward_strip(s, from, to); });
  }
  void backward(Frame& f) const override {
    const T* const out = f[y].data();
    for_each_strip(f[y].shape(), [out, dy = f.grad(y).data(), dx = f.grad(x).data()](const Strip& s) {
      backward_strip(s, out, dy, dx);
    });
  }
  GradientRule gradient(int) const override { return {.in_place = true}; }

 private:
  using A = Accum<T>;
  static constexpr Index width = 64;
  /// `rows` rows of `columns` elements each, from element `begin` on, `step` apart.
  struct Strip {
    Index begin, step, rows, columns;
    auto row(auto* data, Index i) const { return numbers(data + begin + i * step); }
  };
  template <class Visit>
  void for_each_strip(const Shape& shape, Visit&& visit) const {
    if (shape.size() == 0) return;
    Index inner = 1;
    for (int i = axis + 1; i < shape.rank(); ++i) inner *= shape[i];
    const Index D = shape[axis], outer = shape.size() / (D * inner), strips = (inner - 1) / width + 1;
    parallel_for(outer * strips, row_grain(D * std::min(width, inner)), [&](Index first, Index last) {
      for (Index i = first; i < last; ++i) {
        const Index column = i % strips * width;
        visit(Strip{i / strips * D * inner + column, inner, D, std::min(width, inner - column)});
      }
    });
  }
  /// The sum of each column of what `term` gives for row i, as an array.
  template <class Term>
  static void sum_columns(const Strip& s, Term&& term, A* total) {
    kernels::sum_rows<width>(s.rows, CascadeSum<A>::step, s.columns, term, false, total);
  }
  /// What is summed, so that it is read like an array.
  template <class F>
  struct Terms {
    F f;
    Index at = 0;
    A operator[](Index j) const { return f(at + j); }
    Terms operator+(Index j) const { return {f, at + j}; }
  };
  template <class F>
  static Terms<F> terms(F f) {
    return {f};
  }

  static void forward_strip(const Strip& s, const T* from, T* to) {
    A top[width], total[width];  // of each column
    std::fill_n(top, width, -std::numeric_limits<A>::infinity());
    for (Index i = 0; i < s.rows; ++i) {
      const auto in = s.row(from, i);
#pragma omp simd
      for (Index j = 0; j < s.columns; ++j) top[j] = in[j] > top[j] ? A{in[j]} : top[j];
    }
    if constexpr (!is_log) {
      for (Index i = 0; i < s.rows; ++i) {
        const auto in = s.row(from, i);
        const auto out = s.row(to, i);
        for (Index j = 0; j < s.columns; ++j) out[j] = kernels::fast_exp(in[j] - top[j]);
      }
      sum_columns(
          s, [&](Index i) { return s.row(static_cast<const T*>(to), i); }, total);
      for (Index i = 0; i < s.rows; ++i) {
        const auto out = s.row(to, i);
        for (Index j = 0; j < s.columns; ++j) out[j] = out[j] / total[j];
      }
    } else {
      const auto exponential = [&](Index i) {
        return terms([in = s.row(from, i), &top](Index j) { return kernels::fast_exp(in[j] - top[j]); });
      };
      sum_columns(s, exponential, total);
      for (Index j = 0; j < s.columns; ++j) total[j] = std::log(total[j]);
      for (Index i = 0; i < s.rows; ++i) {
        const auto in = s.row(from, i);
        const auto out = s.row(to, i);
        // In two steps: beside a large maximum the logarithm would be lost.
        for (Index j = 0; j < s.columns; ++j) out[j] = as_written(in[j] - top[j]) - total[j];
      }
    }
  }
  // dx = y (dy - sum(y dy)), or dy - e^y sum(dy).
  static void backward_strip(const Strip& s, const T* result, const T* gradient, T* to) {
    A total[width];
    const auto term = [&](Index i) {
      return terms([out = s.row(result, i), dy = s.row(gradient, i)](Index j) -> A {
        if constexpr (is_log) return dy[j];
        return out[j] * dy[j];
      });
    };
    sum_columns(s, term, total);
    for (Index i = 0; i < s.rows; ++i) {
      const auto out = s.row(result, i), dy = s.row(gradient, i);
      const auto dx = s.row(to, i);
      for (Index j = 0; j < s.columns; ++j)
        dx[j] = is_log ? dy[j] - total[j] * kernels::fast_exp(out[j]) : out[j] * (dy[j] - total[j]);
    }
  }
};

template <bool is_log, class T>
Var<T> softmax_over(const Var<T>& x, int axis) {
  using Last = Softmax<T, is_log>;
  using Any = SoftmaxOver<T, is_log>;
  const int at = x.shape().axis(axis, is_log ? "log_softmax" : "softmax");
  return at == x.shape().rank() - 1 ? record(Last(), x)[Last::y] : record(Any(at), x)[Any::y];
}

}  // namespace ops

/// e^x / sum e^x over `axis` (counted from the end when negative). Error: an axis that x does not have.
template <class T>
Var<T> softmax(const Var<T>& x, int axis) {
  return ops::softmax_over<false>(x, axis);
}
/// log(softmax(x, axis)), without its overflow and cancellation.
template <class T>
Var<T> log_softmax(const Var<T>& x, int axis) {
  return ops::softmax_over<true>(x, axis);
}

}}  // namespace remat
