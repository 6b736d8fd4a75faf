// A frozen matrix of 8 bits an element, quantized when it is made.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <remat/core/frozen_matrix.hpp>
#include <remat/core/numbers.hpp>
#include <remat/core/pool.hpp>
#include <remat/kernels/quantized/encode_rows.hpp>
#include <string>

namespace remat { inline namespace REMAT_ABI { namespace kernels {

/// Whole numbers from -127 to 127 with one scale a row, its greatest magnitude / 127: no element is off by more than
/// half of it. A row with an element that is not finite is NaN throughout.
class Int8Rows final : public FrozenMatrix {
 public:
  /// Quantizes the rows that `read` gives.
  Int8Rows(Index rows, Index columns, const RowReader& read)
      : FrozenMatrix(rows, columns),
        numbers_(pool().allocate(checked_bytes(shape().size(), 1))),
        scales_(pool().allocate(checked_bytes(rows, sizeof(float)))) {
    encode_rows(rows, columns, read, [this](Index row, const float* from) { encode(row, from); });
  }

  void read(Index first, Index count, float* to) const override { read_part(first, count, 0, columns(), to); }
  Index granule() const override { return 1; }
  void read_part(Index first, Index count, Index column, Index width, float* to) const override {
    const auto* const scales = reinterpret_cast<const float*>(scales_->data());
    for (Index i = 0; i < count; ++i) {
      const auto* const from =
          reinterpret_cast<const std::int8_t*>(numbers_->data()) + (first + i) * columns() + column;
      float* const row = to + i * width;
      const float scale = scales[first + i];
#pragma omp simd
      for (Index j = 0; j < width; ++j) row[j] = scale * static_cast<float>(from[j]);
    }
  }
  std::string format() const override { return "INT8"; }
  std::size_t bytes() const override { return static_cast<std::size_t>(shape().size() + rows() * 4); }
  std::size_t mapped_bytes() const override { return 0; }

 private:
  void encode(Index row, const float* __restrict from) {
    std::uint32_t greatest = 0;  // by bits, where a NaN is above all
    for (Index j = 0; j < columns(); ++j)
      greatest = std::max(greatest, std::bit_cast<std::uint32_t>(from[j]) & 0x7fffffffU);
    const bool is_finite = greatest < 0x7f800000U;
    const float scale = std::bit_cast<float>(is_finite ? greatest : 0x7fc00000U) / 127.0F;
    reinterpret_cast<float*>(scales_->data())[row] = scale;
    const float inverse = scale > 0 ? 1.0F / scale : 0.0F;
    auto* const to = reinterpret_cast<std::int8_t*>(numbers_->data()) + row * columns();
    constexpr float round = 0x1.8p23F;  // adding it leaves the nearest integer in the low bits
    for (Index j = 0; j < columns(); ++j) {
      const float shifted = as_written(as_written(from[j] * inverse) + round);
      to[j] = static_cast<std::int8_t>(std::bit_cast<std::uint32_t>(shifted));
    }
  }

  Storage numbers_, scales_;
};

}}}  // namespace remat::kernels
