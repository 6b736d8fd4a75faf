// Products of runs of rows, each with a matrix of its own: experts without empty slots.
#pragma once

#include <limits>
#include <remat/autodiff/var.hpp>
#include <remat/kernels/gemm.hpp>
#include <remat/ops/check_ids.hpp>

namespace remat { inline namespace REMAT_ABI {
namespace ops {

template <class T>
struct GroupedMatmul : Op {
  static constexpr In<T> x{0}, w{1};            // [R, D], [E, D, F]
  static constexpr In<std::int32_t> counts{2};  // [E]
  static constexpr Out<T> y{0};                 // [R, F]

  GroupedMatmul() : Op("grouped_matmul") {}

  Specs infer(const Operands& in) const override {
    const Shape &xs = in[x].shape, &ws = in[w].shape;
    require(xs.rank() == 2, in.name(x, "x"), " has shape ", xs, ", a matrix is needed");
    require(ws.rank() == 3 && ws[1] == xs[1], in.name(w, "w"), " has shape ", ws, ", x of shape ", xs, " needs [E, ",
            xs[1], ", F]");
    require(in[counts].shape == Shape{ws[0]}, "counts have shape ", in[counts].shape, ", [", ws[0], "] is needed");
    return {y({xs[0], ws[2]})};
  }
  Cost cost(const Operands& in, const Specs&) const override {
    const double flops = 2.0 * static_cast<double>(in[x].shape.size()) * static_cast<double>(in[w].shape[2]);
    const Wanted wanted(in);
    return {.flops = flops, .backward_flops = flops * (wanted[x] + wanted[w]), .dot = true};
  }
  Residuals residuals(const Wanted& wanted) const override {
    return Residuals{counts}.add(x, wanted[w]).add(w, wanted[x]);
  }
  void forward(Frame& f) const override {
    check_counts(f);
    const Index rows = each_run(f, [&](Index e, Index first, Index count) {
      kernels::gemm({.m = count, .n = columns(f), .k = depth(f)}, f[x].data() + first * depth(f),
                    f[w].data() + e * depth(f) * columns(f), f[y].data() + first * columns(f));
    });
    std::fill(f[y].data() + rows * columns(f), f[y].data() + f[y].size(), T{0});
  }
  void backward(Frame& f) const override {
    using kernels::Trans;
    const T* dy = f.grad(y).data();
    const bool wants_x = f.wants(x), wants_w = f.wants(w);
    const Index rows = each_run(f, [&](Index e, Index first, Index count) {
      if (wants_x)
        kernels::gemm({.b = Trans::yes, .m = count, .n = depth(f), .k = columns(f), .accumulate = f.accumulate(x)},
                      dy + first * columns(f), f[w].data() + e * depth(f) * columns(f),
                      f.grad(x).data() + first * depth(f));
      if (wants_w)
        kernels::gemm({.a = Trans::yes, .m = depth(f), .n = columns(f), .k = count, .accumulate = f.accumulate(w)},
                      f[x].data() + first * depth(f), dy + first * columns(f),
                      f.grad(w).data() + e * depth(f) * columns(f));
    });
    if (wants_x && !f.accumulate(x))
      std::fill(f.grad(x).data() + rows * depth(f), f.grad(x).data() + f[x].size(), T{0});
  }
  GradientRule gradient(int input) const override { return {.adds = input != counts.index}; }

 private:
  static Index depth(const Frame& f) { return f[x].cols(); }
  static Index columns(const Frame& f) { return f[y].cols(); }
  static void check_counts(const Frame& f) {
    check_lengths(f[counts], f[x].rows(), "count", "rows");
    Index sum = 0;
    for (Index e = 0; e < f[counts].size(); ++e) sum += f[counts].data()[e];
    require(sum <= f[x].rows(), "counts are ", sum, " rows in all, x has ", f[x].rows());
  }
  /// Calls `body(e, first, count)` for each run, an empty one too, whose gradient of w is zeros; returns where they
  /// end.
  template <class F>
  static Index each_run(const Frame& f, F&& body) {
    Index first = 0;
    for (Index e = 0; e < f[counts].size(); ++e) {
      const Index count = f[counts].data()[e];
      body(e, first, count);
      first += count;
    }
    return first;
  }
};

}  // namespace ops

/// x [R, D], whose first counts[0] rows are multiplied by w[0] [D, F], the next counts[1] by w[1], ...; w [E, D, F],
/// counts [E] -> [R, F], zeros behind the last run.
template <class T>
Var<T> grouped_matmul(const Var<T>& x, const Like<T>& w, const Like<std::int32_t>& counts) {
  return record(ops::GroupedMatmul<T>(), x, w, counts)[ops::GroupedMatmul<T>::y];
}

}}  // namespace remat
