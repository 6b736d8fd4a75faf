// A matrix that nobody trains, left as it is stored.
#pragma once

#include <algorithm>
#include <cstddef>
#include <remat/core/shape.hpp>
#include <string>

namespace remat { inline namespace REMAT_ABI {

/// A matrix that is read and never written, in whatever form it lies: the blocks of a quantized file that is mapped,
/// say. Products read it a few rows at a time as floats, so it never exists as floats whole. A parameter that is kept
/// as one has no bytes of its own, see `ParameterEntry::matrix`.
class FrozenMatrix {
 public:
  /// Of so many rows and columns, as they are stored.
  FrozenMatrix(Index rows, Index columns) : shape_{rows, columns} {}
  FrozenMatrix(const FrozenMatrix&) = delete;
  FrozenMatrix& operator=(const FrozenMatrix&) = delete;
  virtual ~FrozenMatrix() = default;

  /// [rows, columns]
  const Shape& shape() const { return shape_; }
  /// The number of rows as stored.
  Index rows() const { return shape_[0]; }
  /// The number of elements in each.
  Index columns() const { return shape_[1]; }

  /// Rows [first, first + count) to `to` [count, columns]: always the same bits. Any number of threads at once; throws
  /// nothing, allocates nothing.
  virtual void read(Index first, Index count, float* to) const = 0;
  /// Elements of a row that are stored together: `read_part` gives no less. All of a row unless a matrix says
  /// otherwise.
  virtual Index granule() const { return std::max<Index>(1, columns()); }
  /// Columns [column, column + width) of rows [first, first + count), to `to` [count, width]: the bits of `read`. Both
  /// `column` and `width` are multiples of `granule()`, but that a part may end where its rows do. As `read` is, by any
  /// number of threads.
  virtual void read_part(Index first, Index count, [[maybe_unused]] Index column, [[maybe_unused]] Index width,
                         float* to) const {
    read(first, count, to);
  }
  /// How it is stored, for reports: "Q4_1".
  virtual std::string format() const = 0;
  /// The bytes of memory that it takes for itself.
  virtual std::size_t bytes() const = 0;
  /// Those of a mapped file that it reads.
  virtual std::size_t mapped_bytes() const = 0;

 private:
  Shape shape_;
};

}}  // namespace remat
