// A matrix read a few rows at a time, to be stored with fewer bits.
#pragma once

#include <algorithm>
#include <functional>
#include <remat/core/parallel.hpp>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace kernels {

/// Gives rows [first, first + count) of a matrix as floats, row-major. Called from one thread.
using RowReader = std::function<void(Index first, Index count, float* to)>;

/// `encode(row, floats)` for each of so many rows, strips of which are read in turn and encoded by all threads.
template <class Encode>
void encode_rows(Index rows, Index columns, const RowReader& read, Encode&& encode) {
  constexpr Index strip = 64;
  std::vector<float> floats(checked_bytes(std::min(strip, rows), static_cast<std::size_t>(columns), "rows"));
  for (Index first = 0; first < rows && columns > 0; first += strip) {
    const Index count = std::min(strip, rows - first);
    read(first, count, floats.data());
    parallel_for(count, row_grain(columns), [&, from = floats.data()](Index begin, Index end) {
      for (Index i = begin; i < end; ++i) encode(first + i, from + i * columns);
    });
  }
}

}}}  // namespace remat::kernels
