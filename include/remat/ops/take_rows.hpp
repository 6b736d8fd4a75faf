// Rows of a matrix by number, with empty places.
#pragma once

#include <remat/autodiff/var.hpp>
#include <remat/kernels/row_sums.hpp>
#include <remat/ops/check_ids.hpp>

namespace remat { inline namespace REMAT_ABI {
namespace ops {

template <class T>
struct TakeRows : Op {
  static constexpr In<T> x{0};
  static constexpr In<std::int32_t> rows{1};
  static constexpr Out<T> y{0};

  TakeRows() : Op("take_rows") {}

  Specs infer(const Operands& in) const override {
    require(in[x].shape.rank() == 2, in.name(x, "x"), " has shape ", in[x].shape, ", a matrix is needed");
    return {y(in[rows].shape.with(in[x].shape.back()))};
  }
  Cost cost(const Operands& in, const Specs&) const override {
    return {.backward_scratch = kernels::RowSums<T>::bytes(in[x].shape.size())};
  }
  Residuals residuals(const Wanted&) const override { return {rows}; }
  void forward(Frame& f) const override {
    check_ids(f[rows], f[x].rows(), -1, "row", "x has", "rows");
    const Index d = f[x].cols();
    const std::int32_t* from = f[rows].data();
    const T* xs = f[x].data();
    T* ys = f[y].data();
    parallel_for(f[rows].size(), row_grain(d), [=](Index begin, Index end) {
      for (Index i = begin; i < end; ++i) {
        if (from[i] < 0)
          std::fill_n(ys + i * d, d, T{0});
        else
          std::copy_n(xs + from[i] * d, d, ys + i * d);
      }
    });
  }
  void backward(Frame& f) const override {
    const kernels::RowSums<T> sums{f[x].rows(), f[x].cols(), f.grad(x).data(), f.template scratch<Accum<T>>()};
    const std::int32_t* from = f[rows].data();
    sums.add(
        f.accumulate(x), f[rows].size(), [=](Index i) { return from[i]; }, f.grad(y).data(), 1,
        [](Index) { return Accum<T>{1}; });
  }
  GradientRule gradient(int input) const override { return {.adds = input == x.index}; }
};

}  // namespace ops

/// x[rows], and zeros where a row is -1: x [N, D], rows [...] in [-1, N) -> [..., D].
template <class T>
Var<T> take_rows(const Var<T>& x, const Like<std::int32_t>& rows) {
  return record(ops::TakeRows<T>(), x, rows)[ops::TakeRows<T>::y];
}

}}  // namespace remat
