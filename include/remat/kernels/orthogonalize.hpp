// The nearest matrix with orthonormal rows, nearly: Newton and Schulz's iteration in bfloat16, as Muon steps along it.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <exception>
#include <remat/core/eigen.hpp>
#include <remat/core/parallel.hpp>
#include <remat/kernels/gemm.hpp>
#include <remat/kernels/reduce.hpp>

namespace remat { inline namespace REMAT_ABI { namespace kernels {

/// Settings of `orthogonalize`; the defaults are Keller Jordan's, whose singular values end between 0.7 and 1.2.
struct NewtonSchulz {
  int steps = 5;
  std::array<double, 3> coefficients{3.4445, -4.775, 2.0315};  // of X, X X^T X and (X X^T)^2 X
  double epsilon = 1e-7;                                       // least norm that x is divided by
};

namespace detail {

inline float rounded(float x) { return static_cast<float>(static_cast<bfloat16>(x)); }

/// Each of `count` floats to the nearest bfloat16 of of(i).
template <class Of>
void round_all(Index count, float* to, Of&& of) {
  parallel_for(count, 2048, [&](Index begin, Index end) {
    for (Index i = begin; i < end; ++i) to[i] = rounded(static_cast<float>(of(i)));
  });
}

/// The products of a step: X X^T, or X^T X of a tall matrix, whose transpose is never made; its square; and that with
/// X.
inline std::array<Gemm, 3> newton_schulz_products(Index rows, Index columns) {
  const Index least = std::min(rows, columns), most = std::max(rows, columns);
  const Gemm square{.m = least, .n = least, .k = least, .lda = least, .ldb = least, .ldc = least};
  Gemm gram{.m = least, .n = least, .k = most, .lda = columns, .ldb = columns, .ldc = least};
  (rows >= columns ? gram.a : gram.b) = Trans::yes;
  Gemm product{.m = rows, .n = columns, .k = least, .lda = least, .ldb = columns, .ldc = columns};
  if (rows >= columns) product.b = Trans::yes, product.lda = columns, product.ldb = least;
  return {gram, square, product};
}
/// Where a library finds no memory, our own makes the product, in that which was reserved.
inline void reserved_product(const Gemm& shape, const float* a, const float* b, float* c) {
  try {
    gemm<float>(shape, a, b, c);
  } catch (const std::exception&) {
    packed::Product<float, float>(shape, a, b, nullptr, c).run();
  }
}

}  // namespace detail

/// Takes what memory `orthogonalize` needs of each thread: the calling thread's next one throws nothing.
template <class = void>
void reserve_orthogonalize(Index rows, Index columns) {
  packed::WorkspaceBytes most;
  for (const Gemm& shape : detail::newton_schulz_products(rows, columns)) {
    const packed::WorkspaceBytes bytes = packed::Product<float, float>::needs(shape);
    most = {std::max(most.tiles, bytes.tiles), std::max(most.shared, bytes.shared)};
  }
  packed::reserve(most);
}

/// Floats that `orthogonalize` needs beside x, at a multiple of 64 bytes.
inline Index orthogonalize_scratch(Index rows, Index columns) {
  const Index least = std::min(rows, columns);
  return rows * columns + 2 * least * least;
}

/// x [rows, columns] becomes about the U V^T of its U S V^T. Numbers are floats that a bfloat16 holds, rounded where
/// PyTorch's Muon rounds: the norm, what is divided by it, and each product once it is summed.
template <class = void>
void orthogonalize(Index rows, Index columns, float* x, float* scratch, const NewtonSchulz& how = {}) {
  const bool is_tall = rows >= columns;  // what is tall here is wide in PyTorch, where weights lie transposed
  const Index least = std::min(rows, columns), size = rows * columns;
  float *const product = scratch, *const gram = product + size, *const square = gram + least * least;
  detail::round_all(size, x, [x](Index i) { return x[i]; });
  // Half as many doubles as there are floats for each block's sum, since a block has thousands of elements.
  double* const partial = reinterpret_cast<double*>(scratch);
  const double sum = parallel_sum(size, 16384, partial, [x](Index begin, Index end) {
    return sum_of<double>(end - begin, [x, begin](Index i) {
      return static_cast<double>(x[begin + i]) * static_cast<double>(x[begin + i]);
    });
  });
  const float norm = std::max(detail::rounded(static_cast<float>(std::sqrt(sum))), static_cast<float>(how.epsilon));
  detail::round_all(size, x, [=](Index i) { return x[i] / detail::rounded(norm); });
  const auto [a, b, c] = how.coefficients;
  const auto fa = static_cast<float>(a), fb = static_cast<float>(b), fc = static_cast<float>(c);
  const auto [of_gram, of_square, of_product] = detail::newton_schulz_products(rows, columns);
  for (int step = 0; step < how.steps; ++step) {
    detail::reserved_product(of_gram, x, x, gram);
    detail::round_all(least * least, gram, [=](Index i) { return gram[i]; });
    detail::reserved_product(of_square, gram, gram, square);
    detail::round_all(least * least, square, [=](Index i) { return fb * gram[i] + fc * square[i]; });
    detail::reserved_product(of_product, is_tall ? x : square, is_tall ? square : x, product);
    detail::round_all(size, x, [=](Index i) { return fa * x[i] + product[i]; });
  }
}

}}}  // namespace remat::kernels
