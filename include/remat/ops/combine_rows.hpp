// Weighted sums of rows by number: how the experts' results come back to their tokens.
#pragma once

#include <remat/autodiff/var.hpp>
#include <remat/core/parallel.hpp>
#include <remat/kernels/reduce.hpp>
#include <remat/ops/check_ids.hpp>

namespace remat::inline REMAT_ABI {
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
  Residuals residuals(const Wanted& wanted) const override {
    return Residuals{rows}.add(x, wanted[weights]).add(weights, wanted[x]);
  }
  void forward(Frame& f) const override {
    check_ids(f[rows], f[x].rows(), -1, "row", "x has", "rows");
    const Index d = f[x].cols(), k = f[rows].cols();
    const std::int32_t* from = f[rows].data();
    const T *xs = f[x].data(), *ws = f[weights].data();
    T* ys = f[y].data();
    parallel_for(f[y].rows(), row_grain(d * k), [=](Index begin, Index end) {
      std::fill(ys + begin * d, ys + end * d, T{0});
      for (Index i = begin * k; i < end * k; ++i)
        if (from[i] >= 0) add(d, ws[i], xs + from[i] * d, ys + i / k * d);
    });
  }
  void backward(Frame& f) const override {
    const Index d = f[x].cols(), k = f[rows].cols(), count = f[rows].size(), n = f[x].rows();
    const std::int32_t* from = f[rows].data();
    const T* dy = f.grad(y).data();
    if (f.wants(weights)) {
      const T* xs = f[x].data();
      T* dw = f.grad(weights).data();
      parallel_for(count, row_grain(d), [=](Index begin, Index end) {
        for (Index i = begin; i < end; ++i)
          dw[i] = from[i] < 0 ? T{0} : kernels::dot(xs + from[i] * d, dy + i / k * d, d);
      });
    }
    if (!f.wants(x)) return;
    const T* ws = f[weights].data();
    T* dx = f.grad(x).data();
    // Each task owns some columns, as in take_rows: a row may be asked for more than once.
    parallel_for(d, 64, [=](Index begin, Index end) {
      for (Index i = 0; i < n; ++i) std::fill(dx + i * d + begin, dx + i * d + end, T{0});
      for (Index i = 0; i < count; ++i)
        if (from[i] >= 0) add(end - begin, ws[i], dy + i / k * d + begin, dx + from[i] * d + begin);
    });
  }

 private:
  static void add(Index d, T weight, const T* row, T* sum) {
#pragma omp simd
    for (Index j = 0; j < d; ++j) sum[j] += weight * row[j];
  }
};

}  // namespace ops

/// y[n] = the sum over j of weights[n, j] x[rows[n, j]], a row of -1 adding nothing: x [S, D], rows [N, k] in [-1, S),
/// weights [N, k] -> [N, D].
template <class T>
Var<T> combine_rows(const Var<T>& x, const Like<std::int32_t>& rows, const Like<T>& weights) {
  return record(ops::CombineRows<T>(), x, rows, weights)[ops::CombineRows<T>::y];
}

}  // namespace remat::inline REMAT_ABI
