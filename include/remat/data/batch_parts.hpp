// What all kinds of batches have in common: rows cut out, and a walk over a sequence of batches.
#pragma once

#include <cstddef>
#include <cstdint>
#include <remat/core/tensor.hpp>
#include <span>

namespace remat { inline namespace REMAT_ABI { namespace data {

namespace detail {

/// Rows [begin, end) of `all` [B, T], in bytes of their own. An `Error` unless there are such rows, and at least one.
inline Tensor<std::int32_t> rows_of(const Tensor<std::int32_t>& all, Index begin, Index end) {
  const Shape& whole = all.shape();
  require(begin >= 0 && begin < end && end <= whole[0], "batch: rows [", begin, ", ", end, ") of ", whole[0]);
  return {{end - begin, whole[1]},
          std::span(all.data() + begin * whole[1], static_cast<std::size_t>((end - begin) * whole[1]))};
}

}  // namespace detail

/// Goes from batch to batch of `Batches`; good as long as they are where they are.
template <class Batches>
struct BatchIterator {
  ///@{
  /// What a loop asks of an iterator: batch `i` of `batches` is made when it is read.
  const Batches* batches;
  Index i;
  auto operator*() const { return batches->at(i); }
  BatchIterator& operator++() { return ++i, *this; }
  bool operator==(const BatchIterator& other) const { return i == other.i; }
  ///@}
};

}}}  // namespace remat::data
