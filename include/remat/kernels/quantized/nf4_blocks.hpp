// A frozen matrix of 4 bits an element, NF4 (Dettmers et al. 2023, arXiv 2305.14314), quantized when it is made.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <remat/core/frozen_matrix.hpp>
#include <remat/core/pool.hpp>
#include <remat/kernels/quantized/encode_rows.hpp>
#include <remat/kernels/quantized/nf4_decode.hpp>
#include <string>

namespace remat { inline namespace REMAT_ABI { namespace kernels {

/// Each element is one of the 16 values of NF4, the nearest one, times the greatest magnitude of its block, a float.
/// Blocks are 64 elements of a row, the last one of a row as many as are left; 4.5 bits an element. In rows of whole
/// blocks the elements are those that bitsandbytes has. A block with an element that is not finite is NaN throughout.
class Nf4Blocks final : public FrozenMatrix {
 public:
  /// Elements of a block.
  static constexpr Index block = detail::nf4_block;

  /// Quantizes the rows that `read` gives.
  Nf4Blocks(Index rows, Index columns, const RowReader& read)
      : FrozenMatrix(rows, columns),
        codes_(pool().allocate(checked_bytes(checked_mul(rows, row_bytes()), 1))),
        scales_(pool().allocate(checked_bytes(checked_mul(rows, row_blocks()), sizeof(float)))) {
    encode_rows(rows, columns, read, [this](Index row, const float* from) { encode(row, from); });
  }

  void read(Index first, Index count, float* to) const override { read_part(first, count, 0, columns(), to); }
  Index granule() const override { return block; }
  void read_part(Index first, Index count, Index column, Index width, float* to) const override {
    const Index whole = width / block * block;
    for (Index i = 0; i < count; ++i, to += width) {
      const std::uint8_t* const from = codes(first + i) + column / 2;
      const float* const scale = scales(first + i) + column / block;
      for (Index j = 0; j < whole; j += block) detail::decode_nf4_block(from + j / 2, scale[j / block], to + j);
      for (Index j = whole; j < width; ++j)
        to[j] = detail::nf4_values[j % 2 == 0 ? from[j / 2] / 16 : from[j / 2] % 16] * scale[whole / block];
    }
  }
  std::string format() const override { return "NF4"; }
  std::size_t bytes() const override { return static_cast<std::size_t>(rows() * (row_bytes() + row_blocks() * 4)); }
  std::size_t mapped_bytes() const override { return 0; }

 private:
  Index row_bytes() const { return columns() / 2 + columns() % 2; }
  Index row_blocks() const { return columns() / block + (columns() % block != 0 ? 1 : 0); }
  std::uint8_t* codes(Index row) const { return reinterpret_cast<std::uint8_t*>(codes_->data()) + row * row_bytes(); }
  float* scales(Index row) const { return reinterpret_cast<float*>(scales_->data()) + row * row_blocks(); }

  /// How many middles between two values lie below x: the code of the nearest value.
  static int code_of(float x) {
    int code = 0;
    for (int i = 0; i < 15; ++i) code += x > (detail::nf4_values[i] + detail::nf4_values[i + 1]) / 2 ? 1 : 0;
    return code;
  }
  void encode(Index row, const float* from) {
    std::uint8_t* const to = codes(row);
    for (Index j = 0; j < columns(); j += block) {
      const Index count = std::min(block, columns() - j);
      std::uint32_t greatest = 0;  // by bits, where a NaN is above all
      for (Index k = 0; k < count; ++k)
        greatest = std::max(greatest, std::bit_cast<std::uint32_t>(from[j + k]) & 0x7fffffffU);
      const float scale = std::bit_cast<float>(greatest < 0x7f800000U ? greatest : 0x7fc00000U);
      scales(row)[j / block] = scale;
      int block_codes[block] = {};
      for (Index k = 0; k < count; ++k) block_codes[k] = code_of(scale > 0 ? from[j + k] / scale : 0.0F);
      for (Index k = 0; k < count; k += 2)
        to[(j + k) / 2] = static_cast<std::uint8_t>(block_codes[k] << 4 | block_codes[k + 1]);
    }
  }

  Storage codes_, scales_;
};

}}}  // namespace remat::kernels
