// Weighted sums of rows by number: how the experts' results come back to their tokens.
#pragma once

#include <remat/autodiff/var.hpp>
#include <remat/kernels/reduce.hpp>
#include <remat/kernels/row_sums.hpp>
#include <remat/ops/check_ids.hpp>

namespace remat { inline namespace REMAT_ABI {
namespace ops {

template <class T>
struct CombineRows : Op {
  static constexpr In<T> x{0};                // [S, D]
  static constexpr In<std::int32_t> rows{1};  // [N, k]
  static constexpr In<T> weights{2};          // [N, k]
  static constexpr Out<T> y{0};               // [N, D]

  CombineRows() : Op("combine_rows") {}

  Specs infer(const Operands& in) const override {
    const Shape &xs = in[x].shape, &rs = in[rows].shape, &ws = in[weights].shape;
    require(xs.rank() == 2, in.name(x, "x"), " has shape ", xs, ", a matrix is needed");
    require(rs.rank() == 2, "rows have shape ", rs, ", [N, k] is needed");
    require(ws == rs, in.name(weights, "weights"), " have shape ", ws, ", rows have ", rs);
    return {y({rs[0], xs[1]})};
  }
  Cost cost(const Operands& in, const Specs&) const override {
    return {.backward_scratch = Wanted(in)[x] ? kernels::RowSums<T>::bytes(in[x].shape.size()) : 0};
  }
  Residuals residuals(const Wanted& wanted) const override {
    return Residuals{rows}.add(x, wanted[weights]).add(weights, wanted[x]);
  }
  void forward(Frame& f) const override {
    check_ids(f[rows], f[x].rows(), -1, "row", "x has", "rows");
    const Index d = f[x].cols(), k = f[rows].cols();
    const std::int32_t* from = f[rows].data();
    const auto xs = numbers(f[x].data()), ws = numbers(f[weights].data());
    const auto ys = numbers(f[y].data());
    parallel_for(f[y].rows(), row_grain(d * k), [=](Index begin, Index end) {
      constexpr Index width = 256;  // columns summed at a time
      for (Index i = begin; i < end; ++i)
        for (Index at = 0; at < d; at += width) {
          const Index columns = std::min(width, d - at);
          Accum<T> sums[width] = {};
          for (Index j = i * k; j < (i + 1) * k; ++j)
            if (from[j] >= 0) kernels::add_scaled(columns, ws[j], xs + (from[j] * d + at), sums);
          for (Index c = 0; c < columns; ++c) ys[i * d + at + c] = sums[c];
        }
    });
  }
  void backward(Frame& f) const override {
    const Index d = f[x].cols(), k = f[rows].cols(), count = f[rows].size();
    const std::int32_t* from = f[rows].data();
    const T* dy = f.grad(y).data();
    if (f.wants(weights)) {
      const T* xs = f[x].data();
      const auto dw = numbers(f.grad(weights).data());
      parallel_for(count, row_grain(d), [=](Index begin, Index end) {
        for (Index i = begin; i < end; ++i)
          dw[i] = from[i] < 0 ? Accum<T>{0} : kernels::dot(xs + from[i] * d, dy + i / k * d, d);
      });
    }
    if (!f.wants(x)) return;
    const kernels::RowSums<T> sums{f[x].rows(), d, f.grad(x).data(), f.template scratch<Accum<T>>()};
    const auto ws = numbers(f[weights].data());
    sums.add(
        false, count, [=](Index i) { return from[i]; }, dy, k, [=](Index i) { return Accum<T>{ws[i]}; });
  }
};

}  // namespace ops

/// y[n] = the sum over j of weights[n, j] x[rows[n, j]], a row of -1 adding nothing: x [S, D], rows [N, k] in [-1, S),
/// weights [N, k] -> [N, D].
template <class T>
Var<T> combine_rows(const Var<T>& x, const Like<std::int32_t>& rows, const Like<T>& weights) {
  return record(ops::CombineRows<T>(), x, rows, weights)[ops::CombineRows<T>::y];
}

}}  // namespace remat
