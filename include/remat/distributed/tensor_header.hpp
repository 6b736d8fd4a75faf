// What a tensor is, as ranks tell each other before its bytes.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <remat/core/tensor.hpp>

namespace remat { inline namespace REMAT_ABI { namespace distributed { namespace detail {

/// Type, rank and axes.
using TensorHeader = std::array<std::int64_t, 2 + Shape::max_rank>;

inline TensorHeader header_of(const AnyTensor& tensor) {
  TensorHeader header{static_cast<std::int64_t>(tensor.dtype), tensor.shape.rank()};
  std::copy(tensor.shape.begin(), tensor.shape.end(), header.begin() + 2);
  return header;
}

/// A tensor with room for the bytes to come.
inline AnyTensor made_of(const TensorHeader& header) {
  AnyTensor tensor{static_cast<DType>(header[0]), Shape(header.begin() + 2, header.begin() + 2 + header[1]), {}, 0};
  tensor.storage = pool().allocate(tensor.bytes());
  return tensor;
}

}}}}  // namespace remat::distributed::detail
