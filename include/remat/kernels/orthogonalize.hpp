// The nearest matrix with orthonormal rows, nearly: Newton and Schulz's iteration in bfloat16, as Muon steps along it.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
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

}  // namespace detail

/// Floats that `orthogonalize` needs beside x, which it changes.
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
  const double sum = parallel_sum<double>(size, 16384, [x](Index begin, Index end) {
    return sum_of<double>(end - begin, [x, begin](Index i) {
      return static_cast<double>(x[begin + i]) * static_cast<double>(x[begin + i]);
    });
  });
  const float norm = std::max(detail::rounded(static_cast<float>(std::sqrt(sum))), static_cast<float>(how.epsilon));
  detail::round_all(size, x, [=](Index i) { return x[i] / detail::rounded(norm); });
  const auto [a, b, c] = how.coefficients;
  const auto fa = static_cast<float>(a), fb = static_cast<float>(b), fc = static_cast<float>(c);
  for (int step = 0; step < how.steps; ++step) {
    // Of the shorter side: X X^T, or X^T X of a tall matrix, whose transpose is never made.
    gemm<float>({.a = is_tall ? Trans::yes : Trans::no,
                 .b = is_tall ? Trans::no : Trans::yes,
                 .m = least,
                 .n = least,
                 .k = std::max(rows, columns)},
                x, x, gram);
    detail::round_all(least * least, gram, [=](Index i) { return gram[i]; });
    gemm<float>({.m = least, .n = least, .k = least}, gram, gram, square);
    detail::round_all(least * least, square, [=](Index i) { return fb * gram[i] + fc * square[i]; });
    if (is_tall)
      gemm<float>({.b = Trans::yes, .m = rows, .n = columns, .k = least}, x, square, product);
    else
      gemm<float>({.m = rows, .n = columns, .k = least}, square, x, product);
    detail::round_all(size, x, [=](Index i) { return fa * x[i] + product[i]; });
  }
}

}}}  // namespace remat::kernels
