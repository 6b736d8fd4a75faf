// How long the columns of a matrix and what an adapter adds to it are together, though that sum never exists whole.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <remat/core/frozen_matrix.hpp>
#include <remat/kernels/gemm.hpp>
#include <remat/kernels/reduce.hpp>
#include <type_traits>

namespace remat { inline namespace REMAT_ABI { namespace kernels {

/// Of w [inputs, outputs], numbers or stored, and low-rank products down up. Strips of some rows, as w lies, are copied
/// or decoded, and the product is added to them; squares are summed in double. How w is cut depends on shapes alone.
template <class A>
struct AdaptedNorms {
  Index inputs, outputs;
  const FrozenMatrix* matrix;  // w as it is stored; null: numbers
  bool transposed;             // it holds the transpose

  /// Columns [begin, end) of w, with down [inputs, rank] and up [rank, end - begin], whose rows are so far apart.
  struct Columns {
    Index begin, end, rank, down_leading, up_leading;
  };
  /// Bytes, for any columns and ranks up to `rank`.
  std::size_t scratch(Index rank) const { return place(rank, nullptr).bytes; }

  /// norms[j] = |column begin + j of w + scale down up|; `w` is null where it is stored.
  void run(const A* w, const A* down, const A* up, double scale, const Columns& c, A* norms, std::byte* memory) const {
    const Index width = c.end - c.begin, count = strip_rows();
    const Scratch s = place(c.rank, memory);
    for (Index r = 0; r < c.rank; ++r)
      for (Index j = 0; j < width; ++j) s.up[r * width + j] = static_cast<A>(scale) * up[r * c.up_leading + j];
    if (transposed) {
      for (Index first = c.begin; first < c.end; first += count) {
        Gemm product{.a = Trans::yes, .b = Trans::yes, .m = std::min(count, c.end - first), .n = inputs, .k = c.rank};
        product.lda = width, product.ldb = c.down_leading, product.accumulate = true;
        decode(first, product.m, s);
        gemm(product, s.up + first - c.begin, down, s.strip);
        parallel_for(product.m, row_grain(inputs), [&](Index begin, Index end) {
          for (Index i = begin; i < end; ++i) {
            const A* const row = s.strip + i * inputs;
            const double sum = sum_of<double>(inputs, [=](Index k) { return square(row[k]); });
            norms[first - c.begin + i] = static_cast<A>(std::sqrt(sum));
          }
        });
      }
      return;
    }
    std::fill_n(s.sums, width, 0.0);
    for (Index first = 0; first < inputs; first += count) {
      Gemm product{.m = std::min(count, inputs - first), .n = width, .k = c.rank};
      product.lda = c.down_leading, product.ldb = width, product.ldc = outputs, product.accumulate = true;
      if (matrix != nullptr)
        decode(first, product.m, s);
      else
        std::copy_n(w + first * outputs, product.m * outputs, s.strip);
      gemm(product, down + first * c.down_leading, s.up, s.strip + c.begin);
      parallel_for(width, 256, [&, rows = product.m](Index begin, Index end) {
        for (Index i = 0; i < rows; ++i)
          for (Index j = begin; j < end; ++j) s.sums[j] += square(s.strip[i * outputs + c.begin + j]);
      });
    }
    for (Index j = 0; j < width; ++j) norms[j] = static_cast<A>(std::sqrt(s.sums[j]));
  }

 private:
  static double square(A value) { return static_cast<double>(value) * static_cast<double>(value); }

  struct Scratch {
    A *strip, *up;   // some rows; up, scaled
    float* decoded;  // the same rows, where A is no float
    double* sums;
    std::size_t bytes;
  };
  Scratch place(Index rank, std::byte* memory) const {
    std::size_t used = 0;
    const auto take = [&]<class P>(P*, Index count) {
      P* const at = memory == nullptr ? nullptr : reinterpret_cast<P*>(memory + used);
      used += round_up(checked_bytes(count, sizeof(P), "scratch"));
      return at;
    };
    const Index strip = checked_mul(strip_rows(), transposed ? inputs : outputs);
    Scratch s{};
    s.strip = take(s.strip, strip);
    s.up = take(s.up, checked_mul(rank, outputs));
    s.decoded = take(s.decoded, matrix == nullptr || std::is_same_v<A, float> ? 0 : strip);
    s.sums = take(s.sums, transposed ? 0 : outputs);
    s.bytes = used;
    return s;
  }
  /// As w lies: about 2 MiB of them, and no less than 16.
  Index strip_rows() const {
    const Index width = std::max<Index>(1, transposed ? inputs : outputs), rows = transposed ? outputs : inputs;
    const auto fitting = static_cast<Index>((std::size_t{2} << 20) / sizeof(A)) / width;
    return std::max<Index>(1, std::min(rows, std::max<Index>(16, fitting)));
  }
  void decode(Index first, Index count, const Scratch& s) const {
    const Index columns = matrix->columns();
    parallel_for(columns > 0 ? count : 0, row_grain(columns), [&](Index begin, Index end) {
      if constexpr (std::is_same_v<A, float>) {
        matrix->read(first + begin, end - begin, s.strip + begin * columns);
      } else {
        matrix->read(first + begin, end - begin, s.decoded + begin * columns);
        std::copy(s.decoded + begin * columns, s.decoded + end * columns, s.strip + begin * columns);
      }
    });
  }
};

}}}  // namespace remat::kernels
