// A frozen matrix of 4 bits an element, NF4 (Dettmers et al. 2023, arXiv 2305.14314), quantized when it is made.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <remat/core/frozen_matrix.hpp>
#include <remat/core/pool.hpp>
#include <remat/kernels/quantized/encode_rows.hpp>
#include <string>

namespace remat { inline namespace REMAT_ABI { namespace kernels {

namespace detail {

/// The 16 values of NF4: quantiles of a normal distribution, scaled to [-1, 1], 0 among them.
inline constexpr float nf4_values[16] = {
    -1.0F,
    -0.6961928009986877F,
    -0.5250730514526367F,
    -0.39491748809814453F,
    -0.28444138169288635F,
    -0.18477343022823334F,
    -0.09105003625154495F,
    0.0F,
    0.07958029955625534F,
    0.16093020141124725F,
    0.24611230194568634F,
    0.33791524171829224F,
    0.44070982933044434F,
    0.5626170039176941F,
    0.7229568362236023F,
    1.0F,
};

/// The values of each byte, that of its upper half first.
struct Nf4Pairs {
  float values[256][2];
  constexpr Nf4Pairs() : values{} {
    for (int byte = 0; byte < 256; ++byte) {
      values[byte][0] = nf4_values[byte / 16];
      values[byte][1] = nf4_values[byte % 16];
    }
  }
};
inline constexpr Nf4Pairs nf4_pairs;

}  // namespace detail

/// Each element is one of the 16 values of NF4, the nearest one, times the greatest magnitude of its block, a float.
/// Blocks are 64 elements of a row, the last one of a row as many as are left; 4.5 bits an element. In rows of whole
/// blocks the elements are those that bitsandbytes has. A block with an element that is not finite is NaN throughout.
class Nf4Blocks final : public FrozenMatrix {
 public:
  /// Elements of a block.
  static constexpr Index block = 64;

  /// Quantizes the rows that `read` gives.
  Nf4Blocks(Index rows, Index columns, const RowReader& read)
      : FrozenMatrix(rows, columns),
        codes_(pool().allocate(checked_bytes(checked_mul(rows, row_bytes()), 1))),
        scales_(pool().allocate(checked_bytes(checked_mul(rows, row_blocks()), sizeof(float)))) {
    encode_rows(rows, columns, read, [this](Index row, const float* from) { encode(row, from); });
  }

  void read(Index first, Index count, float* to) const override {
    const Index width = columns(), pairs = width / 2, whole = width / block * block;
    for (Index i = 0; i < count; ++i, to += width) {
      const std::uint8_t* const from = codes(first + i);
      const float* const scale = scales(first + i);
#pragma GCC unroll 4
      for (Index j = 0; j < pairs; ++j) std::memcpy(to + 2 * j, detail::nf4_pairs.values[from[j]], 2 * sizeof(float));
      if (width % 2 != 0) to[width - 1] = detail::nf4_values[from[pairs] / 16];
      for (Index j = 0; j < whole; j += block) {
        const float by = scale[j / block];
#pragma omp simd
        for (Index k = j; k < j + block; ++k) to[k] *= by;
      }
      for (Index j = whole; j < width; ++j) to[j] *= scale[whole / block];
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
