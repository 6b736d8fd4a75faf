// Products by Eigen, for float and double; fast only in programs compiled for their CPU (-march=native).
#pragma once

#include <remat/core/eigen.hpp>
#include <remat/kernels/gemm/shape.hpp>
#include <string>

namespace remat { inline namespace REMAT_ABI { namespace kernels::eigen {

inline std::string name() {
  return "Eigen " + std::to_string(EIGEN_WORLD_VERSION) + "." + std::to_string(EIGEN_MAJOR_VERSION) + "." +
         std::to_string(EIGEN_MINOR_VERSION);
}

/// One product with k > 0 in the calling thread, all leading dimensions given.
template <class T>
void product(const Gemm& shape, const T* a, const T* b, T* c) {
  using Source = Eigen::Map<const RowMatrix<T>, 0, Eigen::OuterStride<>>;
  const auto view = [&](const T* data, Trans trans, Index rows, Index columns, Index stride) {
    return trans == Trans::no ? Source(data, rows, columns, Eigen::OuterStride<>(stride))
                              : Source(data, columns, rows, Eigen::OuterStride<>(stride));
  };
  const Source left = view(a, shape.a, shape.m, shape.k, shape.lda);
  const Source right = view(b, shape.b, shape.k, shape.n, shape.ldb);
  Eigen::Map<RowMatrix<T>, 0, Eigen::OuterStride<>> result(c, shape.m, shape.n, Eigen::OuterStride<>(shape.ldc));
  // Adding is the one form that is instantiated: each combination of storage orders costs compile time.
  if (!shape.accumulate) result.setZero();
  if (shape.a == Trans::no) {
    if (shape.b == Trans::no)
      result.noalias() += left * right;
    else
      result.noalias() += left * right.transpose();
  } else {
    if (shape.b == Trans::no)
      result.noalias() += left.transpose() * right;
    else
      result.noalias() += left.transpose() * right.transpose();
  }
}

}}}  // namespace remat::kernels::eigen
