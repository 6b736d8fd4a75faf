// Eigen: the one header of core that includes it.
#pragma once

#pragma GCC diagnostic push
#if defined(__GNUC__) && !defined(__clang__) && __GNUC__ < 13
// False alarms from g++ 12's own AVX-512 intrinsics (gcc bug 105593), which come through system headers too.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <Eigen/Core>
#pragma GCC diagnostic pop

#include <remat/core/tensor.hpp>
#include <type_traits>

namespace remat { inline namespace REMAT_ABI {

/// A row-major Eigen matrix of any size.
template <class T>
using RowMatrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

/// The tensor as a matrix of rows, leading axes collapsed: [..., D] -> rows x D, for reading. No copy.
template <class T>
Eigen::Map<const RowMatrix<T>> as_eigen(const Tensor<T>& tensor) {
  return {tensor.data(), tensor.shape().rows(), tensor.shape().back()};
}
/// The same for writing, as `Tensor::write`: `write_as_eigen(t) *= 2`.
template <class T>
Eigen::Map<RowMatrix<T>> write_as_eigen(Tensor<T>& tensor) {
  return {tensor.write().data(), tensor.shape().rows(), tensor.shape().back()};
}
template <class T>
void as_eigen(const Tensor<T>&&) = delete;  // it would point into what is gone: name the tensor first

/// Eigen matrices and expressions become tensors [rows, columns]; column vectors become [rows].
template <class Source>
requires std::is_base_of_v<Eigen::DenseBase<Source>, Source>
struct TensorFrom<Source> {
  ///@{
  /// As `TensorSource` asks.
  static constexpr bool is_vector = Source::ColsAtCompileTime == 1;
  static Shape shape(const Source& source) {
    return is_vector ? Shape{source.rows()} : Shape{source.rows(), source.cols()};
  }
  template <class T>
  static void copy(const Source& source, T* destination) {
    Eigen::Map<RowMatrix<T>>(destination, source.rows(), source.cols()) = source.template cast<T>();
  }
  ///@}
};

}}  // namespace remat
