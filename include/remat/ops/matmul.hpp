// Matrix products, batched.
#pragma once

#include <algorithm>
#include <array>
#include <remat/autodiff/tape.hpp>
#include <remat/kernels/broadcast.hpp>
#include <remat/kernels/gemm.hpp>
#include <vector>

namespace remat { inline namespace REMAT_ABI {

namespace ops {

/// y [.., M, N] = a [.., M, K] b [.., K, N]; the leading axes are broadcast as in NumPy.
template <class T>
struct Matmul : Op {
  static constexpr In<T> a{0}, b{1};
  static constexpr Out<T> y{0};

  Matmul() : Op("matmul") {}
  Specs infer(const Operands& in) const override {
    const Shape &sa = in[a].shape, &sb = in[b].shape;
    require(sa.rank() >= 2 && sb.rank() >= 2, in.name(a, "a"), " and ", in.name(b, "b"), " have shapes ", sa, " and ",
            sb, "; both need at least 2 axes (reshape a vector to a row or a column)");
    require(sa.back() == sb.drop_last().back(), in.name(a, "a"), " has ", sa.back(), " columns, ", in.name(b, "b"),
            " has ", sb.drop_last().back(), " rows");
    const Shape batch = broadcast(batch_of(sa), batch_of(sb), "leading axes");
    return {y(batch.with(sa.drop_last().back()).with(sb.back()))};
  }
  Cost cost(const Operands& in, const Specs& out) const override {
    const double flops = 2.0 * static_cast<double>(out[0].shape.size()) * static_cast<double>(in[a].shape.back());
    const int wanted = in[a.index].wants_gradient + in[b.index].wants_gradient;
    return {.flops = flops,
            .backward_flops = flops * wanted,
            .dot = true,
            .batched = in[a].shape.rank() > 2 && in[b].shape.rank() > 2};
  }
  Residuals residuals(const Wanted& wanted) const override { return Residuals{}.add(a, wanted[b]).add(b, wanted[a]); }
  void forward(Frame& f) const override {
    const Products p(f);
    p.run({.m = p.M, .n = p.N, .k = p.K}, a.index, f[a].data(), b.index, f[b].data(), 2, f[y].data());
  }
  void backward(Frame& f) const override {
    const Products p(f);
    const T* dy = f.grad(y).data();
    if (f.wants(a)) {
      const kernels::Gemm shape{.b = kernels::Trans::yes, .m = p.M, .n = p.K, .k = p.N, .accumulate = f.accumulate(a)};
      p.run(shape, 2, dy, b.index, f[b].data(), a.index, f.grad(a).data());
    }
    if (f.wants(b)) {
      const kernels::Gemm shape{.a = kernels::Trans::yes, .m = p.K, .n = p.N, .k = p.M, .accumulate = f.accumulate(b)};
      p.run(shape, a.index, f[a].data(), 2, dy, b.index, f.grad(b).data());
    }
  }
  GradientRule gradient(int) const override { return {.adds = true}; }

 private:
  static Shape batch_of(const Shape& shape) { return shape.drop_last().drop_last(); }

  /// The products that make up one op, as distances in a, b and y (numbered 0, 1, 2).
  struct Products {
    Index M, N, K;
    Index count = 1;
    std::array<Index, 3> matrix, whole;            // elements of one matrix, and of all
    bool is_stretched = false;                     // a or b, along leading axes
    std::vector<std::array<Index, 3>> matrices{};  // that each product reads and writes, when stretched

    explicit Products(const Frame& f)
        : M(f[a].shape().drop_last().back()),
          N(f[b].cols()),
          K(f[a].cols()),
          whole{f[a].size(), f[b].size(), f[y].size()} {
      const Shape batch_a = batch_of(f[a].shape()), batch_b = batch_of(f[b].shape()), batch = batch_of(f[y].shape());
      if (batch_b.size() == 1) {
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
/// y [.., M, N] = a [.., M, K] b [.., K, N], leading axes broadcast as in NumPy. Errors: fewer than 2 axes, columns of
/// a that are not the rows of b, leading axes that do not broadcast.
template <class T>
Var<T> matmul(const Var<T>& a, const Var<T>& b) {
  return record(ops::Matmul<T>(), a, b)[ops::Matmul<T>::y];
}
template <class T>
Var<T> matmul(const Var<T>& a, const Like<T>& b) {
  return record(ops::Matmul<T>(), a, b)[ops::Matmul<T>::y];
}
template <class T>
Var<T> matmul(const Like<T>& a, const Var<T>& b) {
  return record(ops::Matmul<T>(), a, b)[ops::Matmul<T>::y];
}
///@}

}}  // namespace remat
