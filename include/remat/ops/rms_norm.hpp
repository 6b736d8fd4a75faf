// Root mean square normalization over the last axis (Zhang and Sennrich 2019).
#pragma once

#include <cmath>
#include <remat/autodiff/var.hpp>
#include <remat/kernels/reduce.hpp>
#include <remat/kernels/rows.hpp>

namespace remat::inline REMAT_ABI {
namespace ops {

template <class T>
struct RmsNorm : Op {
  using A = Accum<T>;
  static constexpr In<T> x{0};
  static constexpr In<A> scale{1};
  static constexpr Out<T> y{0};
  static constexpr Out<A> rrms{1};  // [...]: 1 / sqrt(mean square + epsilon) of each row
  double epsilon;

  explicit RmsNorm(double e) : Op("rms_norm"), epsilon(e) {}

  Specs infer(const Operands& in) const override {
    const Shape& xs = in[x].shape;
    require(epsilon > 0, "epsilon ", epsilon, " must be positive");
    require(xs.rank() > 0, "x is a number, a last axis to normalize over is needed");
    require(!in.has(scale) || in[scale].shape == Shape{xs.back()}, in.name(scale, "scale"), " has shape ",
            in[scale].shape, ", x has ", xs.back(), " features");
    return {y(xs), rrms(xs.drop_last())};
  }
  Cost cost(const Operands& in, const Specs&) const override {
    Cost cost;
    if (Wanted(in)[scale]) cost.backward_scratch = kernels::RowBlocks(in[x].shape.rows()).bytes<A>(in[x].shape.back());
    return cost;
  }
  Residuals residuals(const Wanted& wanted) const override { return Residuals{x, rrms}.add(scale, wanted[x]); }
  void forward(Frame& f) const override {
    const Index d = f[x].cols();
    const T* xs = f[x].data();
    const A* s = f.has(scale) ? f[scale].data() : nullptr;
    const auto ys = numbers(f[y].data());
    A* rs = f[rrms].data();
    const A per_feature = A{1} / static_cast<A>(std::max<Index>(d, 1)), eps = static_cast<A>(epsilon);
    kernels::with_row(s, A{1}, [&](auto weight) {
      parallel_for(f[x].rows(), row_grain(4 * d), [=](Index begin, Index end) {
        for (Index i = begin; i < end; ++i) {
          const auto row = numbers(xs + i * d);
          const A r = A{1} / std::sqrt(kernels::sum_squares(xs + i * d, d) * per_feature + eps);
          rs[i] = r;
#pragma omp simd
          for (Index j = 0; j < d; ++j) ys[i * d + j] = row[j] * r * weight(j);
        }
      });
    });
  }
  void backward(Frame& f) const override {
    const Index rows = f[x].rows(), d = f[x].cols();
    const kernels::RowBlocks blocks(rows);
    const T *dy = f.grad(y).data(), *xs = f[x].data();
    const A* rs = f[rrms].data();
    const A* s = f.wants(x) && f.has(scale) ? f[scale].data() : nullptr;
    T* dx = f.wants(x) ? f.grad(x).data() : nullptr;
    const bool wants_scale = f.wants(scale);
    A* partials = f.template scratch<A>();
    kernels::with_row(s, A{1}, [&](auto weight) {
      parallel_for(rows, blocks.grain, [=](Index begin, Index end) {
        A* dscale = wants_scale ? partials + begin / blocks.grain * d : nullptr;
        if (wants_scale) std::fill_n(dscale, d, A{0});
        for (Index i = begin; i < end; ++i) {
          const auto row = numbers(xs + i * d), g = numbers(dy + i * d);
          const A r = rs[i];
          if (wants_scale) {
#pragma omp simd
            for (Index j = 0; j < d; ++j) dscale[j] += g[j] * row[j] * r;
          }
          if (dx == nullptr) continue;
          // dx = r (g - normal mean(g normal)) with normal = x r; dx may lie where dy does.
          const A along_row = kernels::sum_of<A>(d, [=](Index j) { return g[j] * weight(j) * row[j]; });
          const A pull = along_row * r * r / static_cast<A>(d);
          const auto to = numbers(dx + i * d);
#pragma omp simd
          for (Index j = 0; j < d; ++j) to[j] = r * (g[j] * weight(j) - row[j] * pull);
        }
      });
    });
    if (wants_scale) kernels::add_partials(blocks, partials, d, 0, d, f.accumulate(scale), f.grad(scale).data());
  }
  bool accumulates(int input) const override { return input == scale.index; }
  bool in_place_gradient(int input) const override { return input == x.index; }
};

}  // namespace ops

/// x / sqrt(mean(x^2) + epsilon) * scale over the last axis: x [..., D], scale [D] or nothing.
template <class T>
Var<T> rms_norm(const Var<T>& x, const Like<Accum<T>>& scale = {}, double epsilon = 1e-6) {
  using O = ops::RmsNorm<T>;
  return record(O(epsilon), x, scale)[O::y];
}

}  // namespace remat::inline REMAT_ABI
