// Adapters that learn how long each column of a matrix is apart from where it points: DoRA (Liu et al. 2024, arXiv
// 2402.09353).
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <remat/kernels/adapted_norms.hpp>
#include <remat/kernels/rows.hpp>
#include <remat/ops/product_weight.hpp>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace ops {

/// The length of column j of w + scale down up, for all columns that an adapter is of. Its operands are constants, as
/// the paper (section 4.3) and PEFT have it: no gradient passes through a length.
template <class A>
struct DoraNorms : Op {
  static constexpr In<A> down{0}, up{1};  // as of `AdaptedLinear`
  static constexpr Weight<A> w{2};        // [D, F]; left out where it is stored elsewhere
  static constexpr Out<A> norms{0};       // [U]
  ProductWeight<A> weight;
  double scale;
  std::vector<MatrixPart> parts;

  DoraNorms(ProductWeight<A> matrix, double factor, std::vector<MatrixPart> some)
      : Op("dora_norms"), weight(std::move(matrix)), scale(factor), parts(std::move(some)) {}

  Specs infer(const Operands& in) const override {
    for (int i = 0; i < in.size(); ++i)
      require(!in[i].wants_gradient, "lengths are constants; give operands by stop_gradient");
    return {norms(Shape{in[up].shape.back()})};
  }
  Cost cost(const Operands& in, const Specs&) const override {
    Cost cost;
    cost.dot = true;
    cost.flops = 2.0 * static_cast<double>(in[down].shape.front()) * static_cast<double>(in[up].shape.size());
    cost.forward_scratch = lengths(weight.inputs(in, w), weight.outputs(in, w)).scratch(in[up].shape.front());
    return cost;
  }
  Residuals residuals(const Wanted&) const override { return {}; }
  void forward(Frame& f) const override {
    const Index outputs = weight.stored ? weight.outputs() : f[w].cols();
    each_part(parts, f[up].rows(), outputs, [&](const AdaptedColumns& c) {
      lengths(f[down].rows(), outputs)
          .run(weight.data(f, w), f[down].data() + c.of_down, f[up].data() + c.of_up, scale,
               {c.of_w, c.of_w + c.width, c.rank, f[down].cols(), f[up].cols()}, f[norms].data() + c.of_up,
               f.template scratch<std::byte>());
    });
  }
  void backward(Frame&) const override {}

 private:
  kernels::AdaptedNorms<A> lengths(Index inputs, Index outputs) const {
    return {inputs, outputs, weight.stored.get(), weight.stored_transposed};
  }
};

/// y = v m / norms + b: columns of v that were norms long are as long as m says. Columns that no part has stay.
template <class T>
struct Dora : Op {
  using A = Accum<T>;
  static constexpr In<T> v{0};                  // [..., F]
  static constexpr In<A> m{1}, b{2}, norms{3};  // [U], [F] or left out, [U]; norms is a constant
  static constexpr Out<T> y{0};                 // [..., F]
  std::vector<MatrixPart> parts;

  explicit Dora(std::vector<MatrixPart> some) : Op("dora"), parts(std::move(some)) {}

  Specs infer(const Operands& in) const override {
    require(in[v].shape.rank() > 0, "v is a number, a last axis is needed");
    const Index outputs = in[v].shape.back();
    const Shape adapted{adapted_columns(parts, outputs)};
    require(in[m].shape == adapted && in[norms].shape == adapted, in.name(m, "m"), " has shape ", in[m].shape,
            " and norms ", in[norms].shape, ", both must be ", adapted);
    require(!in.has(b) || in[b].shape == Shape{outputs}, in.name(b, "b"), " has shape ", in[b].shape, ", v has ",
            outputs, " features");
    require(!in[norms.index].wants_gradient, "norms are constants");
    return {y(in[v].shape)};
  }
  Cost cost(const Operands& in, const Specs&) const override {
    const std::size_t factors = checked_bytes(in[v].shape.back(), sizeof(A));
    const Wanted wanted(in);
    const kernels::RowBlocks blocks(in[v].shape.rows());
    Cost cost;
    cost.forward_scratch = cost.backward_scratch = factors;
    if (wanted[m] || wanted[b]) cost.backward_scratch += blocks.sum_block_bytes<A>(in[v].shape.back());
    return cost;
  }
  Residuals residuals(const Wanted& wanted) const override {
    return Residuals().add(v, wanted[m]).add(m, wanted[v]).add(norms, wanted[m] || wanted[v]);
  }
  void forward(Frame& f) const override {
    const A* const factors = factors_of(f, f[m].data(), 1);
    const A* const bias = f.has(b) ? f[b].data() : nullptr;
    const Index width = f[v].cols();
    parallel_for(f[v].rows(), row_grain(width), [=, from = f[v].data(), to = f[y].data()](Index begin, Index end) {
      for (Index i = begin; i < end; ++i) {
        const auto x = numbers(from + i * width);
        const auto z = numbers(to + i * width);
        for (Index j = 0; j < width; ++j) z[j] = x[j] * factors[j] + (bias == nullptr ? A{0} : bias[j]);
      }
    });
  }
  void backward(Frame& f) const override {
    const Index width = f[v].cols(), rows = f[v].rows();
    const T* const dy = f.grad(y).data();
    A* const sums = f.template scratch<A>() + width;
    if (f.wants(b)) kernels::column_sums(dy, rows, width, f.accumulate(b), f.grad(b).data(), sums);
    if (f.wants(m)) {
      const A* const shares = factors_of(f, nullptr, 0);
      const kernels::RowBlocks blocks(rows);
      parallel_for(rows, blocks.grain, [&, from = f[v].data()](Index begin, Index end) {
        blocks.sum_block(begin, end, width, sums, [&](Index i, A* sum) {
          const auto x = numbers(from + i * width), d = numbers(dy + i * width);
          for (Index j = 0; j < width; ++j) sum[j] += shares[j] * x[j] * d[j];
        });
      });
      each_part(parts, 0, width, [&](const AdaptedColumns& c) {
        kernels::add_partials(blocks, sums, width, c.of_w, c.width, f.accumulate(m), f.grad(m).data() + c.of_up);
      });
    }
    if (!f.wants(v)) return;
    const A* const factors = factors_of(f, f[m].data(), 1);
    parallel_for(rows, row_grain(width), [=, to = f.grad(v).data()](Index begin, Index end) {
      for (Index i = begin; i < end; ++i) {
        const auto d = numbers(dy + i * width);
        const auto z = numbers(to + i * width);
        for (Index j = 0; j < width; ++j) z[j] = d[j] * factors[j];
      }
    });
  }
  GradientRule gradient(int input) const override {
    return {.adds = input == m.index || input == b.index, .in_place = input == v.index};
  }

 private:
  /// m / norms, or 1 / norms where m is null, and `otherwise` where nothing is adapted. A column of zeros stays one.
  const A* factors_of(const Frame& f, const A* lengths, A otherwise) const {
    A* const to = f.template scratch<A>();
    const Index width = f[v].cols();
    std::fill_n(to, width, otherwise);
    each_part(parts, 0, width, [&, n = f[norms].data()](const AdaptedColumns& c) {
      for (Index j = 0; j < c.width; ++j) {
        const A norm = n[c.of_up + j], length = lengths == nullptr ? A{1} : lengths[c.of_up + j];
        to[c.of_w + j] = norm > 0 ? length / norm : A{0};
      }
    });
    return to;
  }
};

}}}  // namespace remat::ops
