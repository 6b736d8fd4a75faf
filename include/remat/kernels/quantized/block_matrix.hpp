// A frozen matrix over the blocks of a quantized file.
#pragma once

#include <cstddef>
#include <memory>
#include <remat/core/frozen_matrix.hpp>
#include <remat/kernels/quantized/block_decode.hpp>
#include <remat/kernels/quantized/row_order.hpp>
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
    Index paired_heads = 0;               // as in `RowOrder`: rows are read in our order
    Index qkv_heads = 0, qkv_groups = 0;  // likewise

    /// Of its rows.
    RowOrder order() const { return {paired_heads, qkv_heads, qkv_groups}; }
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
    const RowOrder order = source_.order();
    require(order.fits(rows), "block matrix: ", rows, " rows are not ", order.paired_heads,
            " heads of an even number of rows, or not those of ", order.qkv_heads, " query heads and ",
            order.qkv_groups, " key/value heads");
  }

  void read(Index first, Index count, float* to) const override {
    const RowOrder order = source_.order();
    if (order.is_ours()) return decode_blocks(format_, source_.bytes.data(), first * columns(), count * columns(), to);
    for (Index i = 0; i < count; ++i)
      decode_blocks(format_, source_.bytes.data(), order.stored(first + i, rows()) * columns(), columns(),
                    to + i * columns());
  }
  Index granule() const override { return layout_of(format_).elements; }
  void read_part(Index first, Index count, Index column, Index width, float* to) const override {
    const RowOrder order = source_.order();
    for (Index i = 0; i < count; ++i)
      decode_blocks(format_, source_.bytes.data(), order.stored(first + i, rows()) * columns() + column, width,
                    to + i * width);
  }
  std::string format() const override { return name_of(format_); }
  std::size_t bytes() const override { return source_.is_mapped ? 0 : source_.bytes.size(); }
  std::size_t mapped_bytes() const override { return source_.is_mapped ? source_.bytes.size() : 0; }

 private:
  BlockFormat format_;
  Source source_;
};

}}}  // namespace remat::kernels
