// A frozen matrix over the blocks of a quantized file.
#pragma once

#include <cstddef>
#include <memory>
#include <remat/core/frozen_matrix.hpp>
#include <remat/kernels/quantized/block_decode.hpp>
#include <span>
#include <string>
#include <utility>

namespace remat { inline namespace REMAT_ABI { namespace kernels {

/// Reads a matrix whose bytes lie elsewhere, in a mapped file for instance.
class BlockMatrix final : public FrozenMatrix {
 public:
  /// The bytes of a matrix.
  struct Source {
    std::span<const std::byte> bytes{};   // rows one after another, each of whole blocks
    std::shared_ptr<const void> owner{};  // keeps them where they are
    bool is_mapped = true;                // do they belong to a file? else to this program's memory
    Index paired_heads = 0;               // as in `io::WeightLayout`: rows are read in our order
  };

  /// An `Error` where a row is not whole blocks, the bytes are not those of so many rows, or the rows not those of so
  /// many heads with halves.
  BlockMatrix(BlockFormat format, Index rows, Index columns, Source source)
      : FrozenMatrix(rows, columns), format_(format), source_(std::move(source)) {
    const BlockLayout layout = layout_of(format);
    require(columns % layout.elements == 0, "block matrix: rows of ", columns, " elements are not whole blocks of ",
            layout.name, ", which have ", layout.elements);
    const std::size_t bytes = checked_bytes(checked_mul(rows, columns / layout.elements, "block matrix"),
                                            static_cast<std::size_t>(layout.bytes), "block matrix");
    require(source_.bytes.size() == bytes, "block matrix: ", shape(), " of ", layout.name, " takes ", bytes,
            " bytes, but there are ", source_.bytes.size());
    const Index heads = source_.paired_heads;
    require(heads >= 0 && (heads == 0 || rows % (2 * heads) == 0), "block matrix: ", rows, " rows are not ", heads,
            " heads of an even number of rows");
    if (heads > 0) half_head_ = rows / heads / 2;
  }

  void read(Index first, Index count, float* to) const override {
    if (half_head_ == 0) return decode_blocks(format_, source_.bytes.data(), first * columns(), count * columns(), to);
    for (Index i = 0; i < count; ++i)
      decode_blocks(format_, source_.bytes.data(), stored_row(first + i) * columns(), columns(), to + i * columns());
  }
  std::string format() const override { return name_of(format_); }
  std::size_t bytes() const override { return source_.is_mapped ? 0 : source_.bytes.size(); }
  std::size_t mapped_bytes() const override { return source_.is_mapped ? source_.bytes.size() : 0; }

 private:
  /// Row i of the first half of a head is stored as its row 2 i, the same row of the second half right after it.
  Index stored_row(Index row) const {
    const Index within = row % (2 * half_head_);
    return row - within + within % half_head_ * 2 + within / half_head_;
  }

  BlockFormat format_;
  Source source_;
  Index half_head_ = 0;  // rows of half a head, or 0
};

}}}  // namespace remat::kernels
