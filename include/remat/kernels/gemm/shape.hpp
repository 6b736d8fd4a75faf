// What a matrix product is, for all backends.
#pragma once

#include <remat/core/shape.hpp>

namespace remat { inline namespace REMAT_ABI { namespace kernels {

enum class Trans : bool { no, yes };

/// Where in memory element (row, column) of op(A) is, whose rows, or columns if transposed, are `leading` apart.
constexpr Index offset(Trans trans, Index row, Index column, Index leading) {
  return trans == Trans::no ? row * leading + column : column * leading + row;
}

/// C[m, n] = op(A)[m, k] op(B)[k, n], or C += when `accumulate`. Everything is row-major; `op(A)` is A[m, k], or the
/// transpose of A[k, m], and likewise B. A leading dimension is the distance between rows in elements; 0: no gap.
struct Gemm {
  Trans a = Trans::no, b = Trans::no;
  Index m = 0, n = 0, k = 0;
  Index lda = 0, ldb = 0, ldc = 0;
  bool accumulate = false;
};

/// Distances in elements between the operands of `count` products; 0 reuses an A or B.
struct Batch {
  Index count = 1;
  Index stride_a = 0, stride_b = 0, stride_c = 0;
};

}}}  // namespace remat::kernels
