// Layer normalization over the last axis (Ba, Kiros, Hinton 2016).
#pragma once

#include <cmath>
#include <remat/autodiff/var.hpp>
#include <remat/kernels/reduce.hpp>
#include <remat/kernels/rows.hpp>

namespace remat::inline REMAT_ABI {
namespace ops {

template <class T>
struct LayerNorm : Op {
  using A = Accum<T>;
  static constexpr In<T> x{0};
  static constexpr In<A> scale{1}, bias{2};
  static constexpr Out<T> y{0};
  static constexpr Out<A> mean{1}, rstd{2};  // [...]: of each row, rstd = 1 / sqrt(variance + epsilon)
  double epsilon;

  explicit LayerNorm(double e) : Op("layer_norm"), epsilon(e) {}

  Specs infer(const Operands& in) const override {
    const Shape& xs = in[x].shape;
    require(epsilon > 0, "epsilon ", epsilon, " must be positive");
    require(xs.rank() > 0, "x is a number, a last axis to normalize over is needed");
    for (const auto& [operand, what] : {std::pair{scale, "scale"}, std::pair{bias, "bias"}})
      require(!in.has(operand) || in[operand].shape == Shape{xs.back()}, in.name(operand, what), " has shape ",
              in[operand].shape, ", x has ", xs.back(), " features");
    return {y(xs), mean(xs.drop_last()), rstd(xs.drop_last())};
  }
  Cost cost(const Operands& in, const Specs&) const override {
    const Wanted wanted(in);
    Cost cost;
    const Index sums = (wanted[scale] ? 1 : 0) + (wanted[bias] ? 1 : 0);
    cost.backward_scratch = kernels::RowBlocks(in[x].shape.rows()).bytes<A>(sums * in[x].shape.back());
    return cost;
  }
  Residuals residuals(const Wanted& wanted) const override {
    const bool reads_x = wanted[x] || wanted[scale];
    return Residuals().add(x, reads_x).add(mean, reads_x).add(rstd, reads_x).add(scale, wanted[x]);
  }
  void forward(Frame& f) const override {
    const Index d = f[x].cols();
    const T* xs = f[x].data();
    const A *s = f.has(scale) ? f[scale].data() : nullptr, *b = f.has(bias) ? f[bias].data() : nullptr;
    const auto ys = numbers(f[y].data());
    A *means = f[mean].data(), *rstds = f[rstd].data();
    const A per_feature = A{1} / static_cast<A>(std::max<Index>(d, 1)), eps = static_cast<A>(epsilon);
    kernels::with_row(s, A{1}, [&](auto weight) {
      kernels::with_row(b, A{0}, [&](auto shift) {
        parallel_for(f[x].rows(), row_grain(4 * d), [=](Index begin, Index end) {
          for (Index i = begin; i < end; ++i) {
            const auto row = numbers(xs + i * d);
            const A m = kernels::sum(xs + i * d, d) * per_feature;
            const A variance =
                kernels::sum_of<A>(d, [=](Index j) { return (row[j] - m) * (row[j] - m); }) * per_feature;
            const A r = A{1} / std::sqrt(variance + eps);
            means[i] = m, rstds[i] = r;
#pragma omp simd
            for (Index j = 0; j < d; ++j) ys[i * d + j] = (row[j] - m) * r * weight(j) + shift(j);
          }
        });
      });
    });
  }
  void backward(Frame& f) const override {
    const Index rows = f[x].rows(), d = f[x].cols();
    const kernels::RowBlocks blocks(rows);
    const bool reads_x = f.wants(x) || f.wants(scale);
    const T *dy = f.grad(y).data(), *xs = reads_x ? f[x].data() : nullptr;
    const A *means = reads_x ? f[mean].data() : nullptr, *rstds = reads_x ? f[rstd].data() : nullptr;
    const A* s = f.wants(x) && f.has(scale) ? f[scale].data() : nullptr;
    T* dx = f.wants(x) ? f.grad(x).data() : nullptr;
    // Partial sums of each block: those of dscale if wanted, then those of dbias if wanted.
    const bool wants_scale = f.wants(scale), wants_bias = f.wants(bias);
    const Index at_bias = wants_scale ? d : 0, stride = at_bias + (wants_bias ? d : 0);
    A* partials = f.template scratch<A>();
    kernels::with_row(s, A{1}, [&](auto weight) {
      parallel_for(rows, blocks.grain, [=](Index begin, Index end) {
        A* partial = partials + begin / blocks.grain * stride;
        std::fill_n(partial, stride, A{0});
        for (Index i = begin; i < end; ++i) {
          const auto g = numbers(dy + i * d);
          if (wants_bias)
            add_row(
                d, [=](Index j) { return g[j]; }, partial + at_bias);
          if (!reads_x) continue;
          const auto row = numbers(xs + i * d);
          const A m = means[i], r = rstds[i];
          const auto normal = [=](Index j) { return (row[j] - m) * r; };
          if (wants_scale)
            add_row(
                d, [=](Index j) { return g[j] * normal(j); }, partial);
          if (dx != nullptr)
            differentiate_row(
                d, r, normal, [=](Index j) { return g[j] * weight(j); }, dx + i * d);
        }
      });
    });
    if (wants_scale) kernels::add_partials(blocks, partials, stride, 0, d, f.accumulate(scale), f.grad(scale).data());
    if (wants_bias)
      kernels::add_partials(blocks, partials, stride, at_bias, d, f.accumulate(bias), f.grad(bias).data());
  }
  bool accumulates(int input) const override { return input != x.index; }
  bool in_place_gradient(int input) const override { return input == x.index; }

 private:
  template <class F>
  static void add_row(Index d, F&& term, A* sum) {
#pragma omp simd
    for (Index j = 0; j < d; ++j) sum[j] += term(j);
  }
  /// dx = rstd (g - mean(g) - normal mean(g normal)), g the gradient of the normalized row; dx may lie where dy does.
  template <class Normal, class Gradient>
  static void differentiate_row(Index d, A r, Normal&& normal, Gradient&& g, T* dx) {
    const A along_one = kernels::sum_of<A>(d, g) / static_cast<A>(d);
    const A along_row = kernels::sum_of<A>(d, [&](Index j) { return g(j) * normal(j); }) / static_cast<A>(d);
    const auto to = numbers(dx);
#pragma omp simd
    for (Index j = 0; j < d; ++j) to[j] = r * (g(j) - along_one - normal(j) * along_row);
  }
};

}  // namespace ops

/// (x - mean) / sqrt(variance + epsilon) * scale + bias over the last axis: x [..., D]; scale and bias [D] or nothing.
template <class T>
Var<T> layer_norm(const Var<T>& x, const Like<Accum<T>>& scale = {}, const Like<Accum<T>>& bias = {},
                  double epsilon = 1e-5) {
  using O = ops::LayerNorm<T>;
  return record(O(epsilon), x, scale, bias)[O::y];
}

}  // namespace remat::inline REMAT_ABI
