// Normalization over the last axis, alone or with the skip connection before it.
#pragma once

#include <remat/autodiff/var.hpp>
#include <remat/kernels/norm_gradients.hpp>
#include <remat/ops/skip_add.hpp>

namespace remat { inline namespace REMAT_ABI {
namespace ops {

/// The results of a norm: y and the statistics of a Row [..., those of a Row].
template <class X, class Y, class A, bool Skip>
struct NormResults {
  static constexpr Out<Y> y{0};
  static constexpr Out<A> statistics{1};
};
/// With a skip connection, first the sum that is normalized.
template <class X, class Y, class A>
struct NormResults<X, Y, A, true> {
  static constexpr Out<X> sum{0};
  static constexpr Out<Y> y{1};
  static constexpr Out<A> statistics{2};
};

/// y = normal(x) * scale + bias; with `Skip`, of sum = x + dropout(branch), in one pass over memory. `Row`:
/// LayerNormRow or RmsNormRow. `X`: the type of x and sum; `Y`: that of the result; `T`: that of the branch.
template <class T, template <class> class Row, bool Skip, class X = T, class Y = T>
struct Norm : Op, NormResults<X, Y, Accum<T>, Skip> {
  using A = Accum<T>;
  using Results = NormResults<X, Y, A, Skip>;
  using Results::statistics, Results::y;
  static constexpr bool is_mixed = Skip && !std::is_same_v<X, T>;
  static constexpr In<X> x{0};
  static constexpr In<A> scale{1}, bias{2};
  static constexpr In<T> branch{3};  // of Skip
  double epsilon;
  DropoutMask mask;

  Norm(const char* name, double e, const DropoutMask& m = {}) : Op(name), epsilon(e), mask(m) {}

  Specs infer(const Operands& in) const override {
    const Shape& xs = in[x].shape;
    require(epsilon > 0, "epsilon ", epsilon, " must be positive");
    require(xs.rank() > 0, "x is a number, a last axis to normalize over is needed");
    for (const auto& [operand, what] : {std::pair{scale, "scale"}, std::pair{bias, "bias"}})
      if (in.has(operand))  // RMS norms are recorded without a bias
        require(in[operand].shape == Shape{xs.back()}, in.name(operand, what), " has shape ", in[operand].shape,
                ", x has ", xs.back(), " features");
    const Spec stats = statistics(xs.drop_last().with(Row<A>::statistics));
    if constexpr (Skip) {
      check_rate(mask);
      require(in[branch].shape == xs, "branch has shape ", in[branch].shape, ", x has ", xs);
      return {Results::sum(xs), y(xs), stats};
    } else {
      return {y(xs), stats};
    }
  }
  Cost cost(const Operands& in, const Specs&) const override {
    const Wanted wanted(in);
    Cost cost;
    const bool row_alone = is_mixed && wanted[branch] && !wanted[x];
    const Index sums = (wanted[scale] ? 1 : 0) + (wanted[bias] ? 1 : 0) + (row_alone ? 1 : 0);
    cost.backward_scratch = kernels::RowBlocks(in[x].shape.rows()).sum_block_bytes<A>(sums * in[x].shape.back());
    return cost;
  }
  Residuals residuals(const Wanted& wanted) const override {
    const bool wants_row = wanted[x] || (Skip && wanted[branch]), reads_row = wants_row || wanted[scale];
    return Residuals().add(normalized(), reads_row).add(statistics, reads_row).add(scale, wants_row);
  }
  void forward(Frame& f) const override {
    const Index d = f[x].cols();
    const X* xs = f[x].data();
    const T* branches = nullptr;
    X* sums = nullptr;
    if constexpr (Skip) branches = f[branch].data(), sums = f[Results::sum].data();
    const A *s = f.has(scale) ? f[scale].data() : nullptr, *b = f.has(bias) ? f[bias].data() : nullptr;
    const auto ys = numbers(f[y].data());
    A* stats = f[statistics].data();
    kernels::with_row(s, A{1}, [&](auto weight) {
      kernels::with_row(b, A{0}, [&](auto shift) {
        parallel_for(f[x].rows(), row_grain(4 * d), [=, this](Index begin, Index end) {
          for (Index i = begin; i < end; ++i) {
            if constexpr (Skip) add_branch(mask, i * d, d, xs + i * d, branches + i * d, sums + i * d);
            const auto at = [row = numbers((Skip ? sums : xs) + i * d)](Index j) -> A { return row[j]; };
            const auto row = Row<A>::of(at, d, static_cast<A>(epsilon));
            row.write(stats + i * Row<A>::statistics);
            const auto normal = row.normal(at);
#pragma omp simd
            for (Index j = 0; j < d; ++j) ys[i * d + j] = normal(j) * weight(j) + shift(j);
          }
        });
      });
    });
  }
  void backward(Frame& f) const override {
    const Index rows = f[x].rows(), d = f[x].cols();
    const kernels::RowBlocks blocks(rows);
    const kernels::NormGradients<Y, X, Row> gradients = gradients_of(f);
    X* dx = f.wants(x) ? f.grad(x).data() : nullptr;
    T* dbranch = nullptr;
    if constexpr (Skip)
      if (f.wants(branch)) dbranch = f.grad(branch).data();
    if constexpr (Skip && !is_mixed)
      if (dx == nullptr) dx = dbranch;
    // Of each block the partial sums of dscale, then those of dbias, then one row of dx on its way to the branch, where
    // nobody wants that of x: each if wanted.
    const bool wants_scale = f.wants(scale), wants_bias = f.wants(bias),
               row_alone = dbranch != nullptr && dx == nullptr;
    const Index at_bias = wants_scale ? d : 0, at_row = at_bias + (wants_bias ? d : 0);
    const Index stride = at_row + (row_alone ? d : 0);
    A* partials = f.template scratch<A>();
    kernels::with_row(gradients.scales, A{1}, [&](auto weight) {
      parallel_for(rows, blocks.grain, [=, this](Index begin, Index end) {
        blocks.sum_block(begin, end, stride, partials, [&](Index i, A* sums) {
          X* to = dx != nullptr ? dx + i * d : nullptr;
          if constexpr (is_mixed)
            if (row_alone) to = sums + at_row;
          gradients(i, weight, to, wants_scale ? sums : nullptr, wants_bias ? sums + at_bias : nullptr);
          if (dbranch != nullptr) branch_gradient(mask, i * d, d, to, dbranch + i * d);
        });
      });
    });
    if (wants_scale) kernels::add_partials(blocks, partials, stride, 0, d, f.accumulate(scale), f.grad(scale).data());
    if (wants_bias)
      kernels::add_partials(blocks, partials, stride, at_bias, d, f.accumulate(bias), f.grad(bias).data());
  }
  GradientRule gradient(int input) const override {
    const bool is_sum = Skip && !is_mixed && !mask.active();  // of x and the branch as it is
    return {.adds = input != branch.index && !(Skip && input == x.index),
            .in_place = input == x.index,
            .same_as = is_sum && input == branch.index ? x.index : -1};
  }

 private:
  /// What is normalized: the sum, or x.
  static constexpr auto normalized() {
    if constexpr (Skip)
      return Results::sum;
    else
      return x;
  }
  kernels::NormGradients<Y, X, Row> gradients_of(const Frame& f) const {
    kernels::NormGradients<Y, X, Row> to{.d = f[x].cols()};
    const bool wants_row = f.wants(x) || (Skip && f.wants(branch));
    if (f.has_grad(y)) to.dy = f.grad(y).data();
    if (f.wants(x) && f.accumulate(x)) to.dskip = f.grad(x).data();
    if constexpr (Skip)
      if (f.has_grad(Results::sum)) to.dskip = f.grad(Results::sum).data();
    if (wants_row || f.wants(scale)) {
      to.x = f[normalized()].data();
      to.statistics = f[statistics].data();
    }
    if (wants_row && f.has(scale)) to.scales = f[scale].data();
    return to;
  }
};

}  // namespace ops

/// A sum at the end of a branch, and the same normalized.
template <class T, class X = T>
struct SkipNorm {
  Var<X> sum;     // [..., D]
  Var<T> normal;  // the same
};

}}  // namespace remat
