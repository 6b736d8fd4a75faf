// xtensor: expressions, broadcasting, printing. The one header that includes it.
#pragma once

#include <algorithm>
#include <ostream>
#include <remat/core/tensor.hpp>
#include <vector>
#include <xtensor/xadapt.hpp>
#include <xtensor/xarray.hpp>
#include <xtensor/xio.hpp>

namespace remat { inline namespace REMAT_ABI {

/// The tensor as an xtensor array over the same elements, for reading. No copy.
template <class T>
auto as_xtensor(const Tensor<T>& tensor) {
  const std::vector<std::size_t> shape(tensor.shape().begin(), tensor.shape().end());
  return xt::adapt(tensor.data(), static_cast<std::size_t>(tensor.size()), xt::no_ownership(), shape);
}
/// The same for writing, as `Tensor::write`: `write_as_xtensor(t) = 2 * as_xtensor(u)`.
template <class T>
auto write_as_xtensor(Tensor<T>& tensor) {
  const std::vector<std::size_t> shape(tensor.shape().begin(), tensor.shape().end());
  return xt::adapt(tensor.write().data(), static_cast<std::size_t>(tensor.size()), xt::no_ownership(), shape);
}
template <class T>
void as_xtensor(const Tensor<T>&&) = delete;  // it would point into what is gone: name the tensor first

/// Any xtensor expression becomes a tensor of its shape.
template <class Source>
requires xt::is_xexpression<Source>::value struct TensorFrom<Source> {
  ///@{
  /// As `TensorSource` asks.
  static Shape shape(const Source& source) { return Shape(source.shape().begin(), source.shape().end()); }
  template <class T>
  static void copy(const Source& source, T* destination) {
    std::transform(source.template begin<xt::layout_type::row_major>(),
                   source.template end<xt::layout_type::row_major>(), destination,
                   [](const auto& value) { return static_cast<T>(value); });
  }
  ///@}
};

/// Prints as xtensor does: nested braces, long axes shortened.
template <class T>
std::ostream& operator<<(std::ostream& out, const Tensor<T>& tensor) {
  return out << as_xtensor(tensor);
}

}}  // namespace remat
