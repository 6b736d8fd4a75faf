// Matrix products, batched.
#pragma once

#include <algorithm>
#include <array>
#include <remat/autodiff/tape.hpp>
#include <remat/kernels/broadcast.hpp>
#include <remat/kernels/gemm.hpp>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI {

/// Settings of `matmul`.
struct MatmulOptions {
  bool transposed_a = false, transposed_b = false;  // the last two axes of a are [K, M], of b [N, K]
};

namespace ops {

/// y [.., M, N] = a [.., M, K] b [.., K, N]; the leading axes are broadcast as in NumPy.
template <class T>
struct Matmul : Op {
  static constexpr In<T> a{0}, b{1};
  static constexpr Out<T> y{0};
  MatmulOptions options;

  explicit Matmul(const MatmulOptions& o = {}) : Op("matmul"), options(o) {}
  Specs infer(const Operands& in) const override {
    const Shape &sa = in[a].shape, &sb = in[b].shape;
    require(sa.rank() >= 2 && sb.rank() >= 2, in.name(a, "a"), " and ", in.name(b, "b"), " have shapes ", sa, " and ",
            sb, "; both need at least 2 axes (reshape a vector to a row or a column)");
    const Matrix ma(sa, options.transposed_a), mb(sb, options.transposed_b);
    const auto turned = [](bool is) { return is ? " when transposed" : ""; };
    require(ma.columns == mb.rows, in.name(a, "a"), " has ", ma.columns, " columns", turned(options.transposed_a), ", ",
            in.name(b, "b"), " has ", mb.rows, " rows", turned(options.transposed_b));
    const Shape batch = broadcast(batch_of(sa), batch_of(sb), "leading axes");
    return {y(batch.with(ma.rows).with(mb.columns))};
  }
  Cost cost(const Operands& in, const Specs& out) const override {
    const Index k = Matrix(in[a].shape, options.transposed_a).columns;
    const double flops = 2.0 * static_cast<double>(out[0].shape.size()) * static_cast<double>(k);
    const int wanted = in[a.index].wants_gradient + in[b.index].wants_gradient;
    return {.flops = flops,
            .backward_flops = flops * wanted,
            .dot = true,
            .batched = in[a].shape.rank() > 2 && in[b].shape.rank() > 2};
  }
  Residuals residuals(const Wanted& wanted) const override { return Residuals{}.add(a, wanted[b]).add(b, wanted[a]); }
  void forward(Frame& f) const override {
    const Products p(f, options);
    p.run({.a = turn(options.transposed_a), .b = turn(options.transposed_b), .m = p.M, .n = p.N, .k = p.K}, a.index,
          f[a].data(), b.index, f[b].data(), 2, f[y].data());
  }
  void backward(Frame& f) const override {
    const Products p(f, options);
    const T* dy = f.grad(y).data();
    const bool ta = options.transposed_a, tb = options.transposed_b;
    // da = dy b^T and db = a^T dy, or their transposes.
    if (f.wants(a)) {
      const kernels::Gemm plain{.b = turn(!tb), .m = p.M, .n = p.K, .k = p.N, .accumulate = f.accumulate(a)};
      const kernels::Gemm turned{
          .a = turn(tb), .b = turn(true), .m = p.K, .n = p.M, .k = p.N, .accumulate = f.accumulate(a)};
      T* da = f.grad(a).data();
      ta ? p.run(turned, b.index, f[b].data(), 2, dy, a.index, da)
         : p.run(plain, 2, dy, b.index, f[b].data(), a.index, da);
    }
    if (f.wants(b)) {
      const kernels::Gemm plain{.a = turn(!ta), .m = p.K, .n = p.N, .k = p.M, .accumulate = f.accumulate(b)};
      const kernels::Gemm turned{
          .a = turn(true), .b = turn(ta), .m = p.N, .n = p.K, .k = p.M, .accumulate = f.accumulate(b)};
      T* db = f.grad(b).data();
      tb ? p.run(turned, 2, dy, a.index, f[a].data(), b.index, db)
         : p.run(plain, a.index, f[a].data(), 2, dy, b.index, db);
    }
  }
  GradientRule gradient(int) const override { return {.adds = true}; }

 private:
  static Shape batch_of(const Shape& shape) { return shape.drop_last().drop_last(); }
  static kernels::Trans turn(bool is) { return is ? kernels::Trans::yes : kernels::Trans::no; }
  struct Matrix {
    Index rows, columns;  // of the last two axes, as they are multiplied
    Matrix(const Shape& shape, bool transposed) : rows(shape.drop_last().back()), columns(shape.back()) {
      if (transposed) std::swap(rows, columns);
    }
  };

  /// The products that make up one op, as distances in a, b and y (numbered 0, 1, 2).
  struct Products {
    Index M, N, K;
    Index count = 1;
    std::array<Index, 3> matrix, whole;            // elements of one matrix, and of all
    bool is_stretched = false;                     // a or b, along leading axes
    std::vector<std::array<Index, 3>> matrices{};  // that each product reads and writes, when stretched

    Products(const Frame& f, const MatmulOptions& options)
        : M(Matrix(f[a].shape(), options.transposed_a).rows),
          N(f[y].cols()),
          K(Matrix(f[a].shape(), options.transposed_a).columns),
          whole{f[a].size(), f[b].size(), f[y].size()} {
      const Shape batch_a = batch_of(f[a].shape()), batch_b = batch_of(f[b].shape()), batch = batch_of(f[y].shape());
      if (batch_b.size() == 1 && !options.transposed_a) {
        M *= batch_a.size();  // the rows of a are one long matrix
      } else {
        count = batch.size();
        is_stretched = batch_a.size() != count || batch_b.size() != count;
      }
      matrix = {M * K, K * N, M * N};
      if (!is_stretched) return;
      matrices.resize(static_cast<std::size_t>(count));
      kernels::Broadcast(batch, batch_a, batch_b).for_each([this](Index i, Index ia, Index ib) {
        matrices[static_cast<std::size_t>(i)] = {ia, ib, i};
      });
    }
    /// to = left right for each product; gradients of stretched operands are summed in the order of the products.
    void run(kernels::Gemm shape, int left, const T* l, int right, const T* r, int to, T* t) const {
      const auto size = [this](int which) { return matrix[static_cast<std::size_t>(which)]; };
      if (!is_stretched) return kernels::gemm_batched(shape, {count, size(left), size(right), size(to)}, l, r, t);
      if (to != 2 && !shape.accumulate) std::fill_n(t, whole[static_cast<std::size_t>(to)], static_cast<T>(0));
      shape.accumulate = to != 2;
      for (const auto& at : matrices) {
        const auto offset = [&](int which) { return at[static_cast<std::size_t>(which)] * size(which); };
        kernels::gemm(shape, l + offset(left), r + offset(right), t + offset(to));
      }
    }
  };
};

}  // namespace ops

///@{
/// y [.., M, N] = a [.., M, K] b [.., K, N], leading axes broadcast as in NumPy; of operands that are `transposed` the
/// last two axes are swapped, with no copy. Errors: fewer than 2 axes, columns of a that are not the rows of b, leading
/// axes that do not broadcast.
template <class T>
Var<T> matmul(const Var<T>& a, const Var<T>& b, const MatmulOptions& options = {}) {
  return record(ops::Matmul<T>(options), a, b)[ops::Matmul<T>::y];
}
template <class T>
Var<T> matmul(const Var<T>& a, const Like<T>& b, const MatmulOptions& options = {}) {
  return record(ops::Matmul<T>(options), a, b)[ops::Matmul<T>::y];
}
template <class T>
Var<T> matmul(const Like<T>& a, const Var<T>& b, const MatmulOptions& options = {}) {
  return record(ops::Matmul<T>(options), a, b)[ops::Matmul<T>::y];
}
///@}

}}  // namespace remat
