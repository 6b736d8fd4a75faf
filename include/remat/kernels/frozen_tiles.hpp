// Products of floats with a stored matrix by tiles: each thread makes floats of the part that its tile needs, in a
// cache of its own, and waits for no other.
#pragma once

#include <algorithm>
#include <cstddef>
#include <numeric>
#include <remat/core/frozen_matrix.hpp>
#include <remat/core/parallel.hpp>
#include <remat/kernels/gemm/choice.hpp>
#include <remat/kernels/gemm/few_rows.hpp>
#include <remat/kernels/gemm/library.hpp>
#include <remat/kernels/gemm/workspace.hpp>

namespace remat { inline namespace REMAT_ABI { namespace kernels {

namespace detail {

/// How such a product is cut, by its shape alone: tiles of C, one thread each, and pieces of k.
struct FrozenTiling {
  static constexpr Index most_rows = 256, most_columns = 512;  // of a product; a tile may have several
  Index rows, columns, deep;

  /// Columns of which all of k is one part, if they are enough for a product; enough tiles for some threads.
  FrozenTiling(const Gemm& shape, Index granule, std::size_t part_bytes) {
    constexpr Index enough = 8, vector = 16;
    const Index least_columns = shape.m <= most_rows ? 128 : 192;
    const Index unit = shape.b == Trans::no ? std::lcm(vector, granule) : vector;
    const auto part = static_cast<Index>(part_bytes / sizeof(float));
    const Index fitting = std::clamp(part / shape.k, least_columns, most_columns);
    const Index groups = packed::blocks_of(shape.m, most_rows);
    Index strips = packed::blocks_of(shape.n, std::max(unit, fitting / unit * unit));
    while (strips * groups < enough && shape.n > strips * least_columns) ++strips;
    columns = packed::part_of(shape.n, strips, unit);
    strips = packed::blocks_of(shape.n, columns);
    rows = packed::part_of(shape.m, std::min(groups, packed::blocks_of(enough, strips)), vector);
    // Panels of our own kernel begin where they begin in a product of floats, so its sums are the same.
    const Index step = std::lcm(packed::MicroKernel<float>::depth, granule);
    deep = packed::part_of(shape.k, packed::blocks_of(shape.k, std::max(step, part / columns)), step);
  }
};

/// C = (or +=) A B + bias of very few rows: each row of a part of B is added to theirs while it is in the first cache.
inline void few_frozen_rows(const Gemm& shape, const float* a, const FrozenMatrix& b, const float* bias, float* c,
                            const FrozenTiling& tiling) {
  parallel_for(shape.n, tiling.columns, [&](Index left, Index end) {
    constexpr Index together = 8;
    alignas(alignment) float rows[together * FrozenTiling::most_columns];
    alignas(alignment) float sums[row_dots_most * FrozenTiling::most_columns] = {};
    const Index wide = end - left;
    for (Index p = 0; p < shape.k; p += together) {
      const Index count = std::min(together, shape.k - p);
      b.read_part(p, count, left, wide, rows);
      switch (shape.m) {
        case 1: add_rows<1>(count, wide, a + p, shape.lda, rows, wide, sums); break;
        case 2: add_rows<2>(count, wide, a + p, shape.lda, rows, wide, sums); break;
        case 3: add_rows<3>(count, wide, a + p, shape.lda, rows, wide, sums); break;
        case 4: add_rows<4>(count, wide, a + p, shape.lda, rows, wide, sums); break;
      }
    }
    for (Index i = 0; i < shape.m; ++i)
      for (Index j = 0; j < wide; ++j) {
        float& to = c[i * shape.ldc + left + j];
        to = (shape.accumulate ? to : 0.0F) + (bias == nullptr ? 0.0F : bias[left + j]) + sums[i * wide + j];
      }
  });
}

}  // namespace detail

/// Is the product one that `frozen_product` makes? Small parts of the matrix can be read; and where products are our
/// own, those of many rows are as fast with panels that all threads share.
inline bool has_tiles(const Gemm& shape, const FrozenMatrix& matrix) {
  return std::min({shape.m, shape.n, shape.k}) > 0 && 256 % matrix.granule() == 0 &&
         (shape.m <= detail::FrozenTiling::most_rows || gemm_choice().of(shape) != Backend::own);
}

/// C = (or +=) A op(B) + bias [n], or without it if null, of which no extent is 0 and all leading dimensions but B's
/// are given. B is stored, as [k, n], or [n, k] if it is to be transposed. About `part_bytes` of it at a time are
/// floats in a workspace of each thread. Same bits for any number of threads.
inline void frozen_product(const Gemm& shape, const float* a, const FrozenMatrix& b, const float* bias, float* c,
                           std::size_t part_bytes) {
  const detail::FrozenTiling tiling(shape, b.granule(), part_bytes);
  if (shape.m <= row_dots_most && shape.b == Trans::no) return detail::few_frozen_rows(shape, a, b, bias, c, tiling);
  const Index strips = packed::blocks_of(shape.n, tiling.columns), groups = packed::blocks_of(shape.m, tiling.rows);
  const Backend backend = gemm_choice().of(shape);
  parallel_for(strips * groups, 1, [&](Index item, Index) {
    const Index left = item / groups * tiling.columns, top = item % groups * tiling.rows;
    const Index end = std::min(shape.m, top + tiling.rows);
    Gemm part = shape;
    part.n = std::min(tiling.columns, shape.n - left);
    const Index most = checked_mul(part.n, std::min(tiling.deep, shape.k));
    auto* const floats = static_cast<float*>(packed::Workspace::of_decoded().get(checked_bytes(most, sizeof(float))));
    for (Index p = 0; p < shape.k; p += tiling.deep) {
      part.k = std::min(tiling.deep, shape.k - p);
      part.accumulate = shape.accumulate || p > 0;
      if (shape.b == Trans::yes) {
        part.ldb = part.k;
        b.read_part(left, part.n, p, part.k, floats);
      } else {
        part.ldb = part.n;
        b.read_part(p, part.k, left, part.n, floats);
      }
      const float* const start = p > 0 || bias == nullptr ? nullptr : bias + left;
      for (Index i = top; i < end; i += detail::FrozenTiling::most_rows) {
        part.m = std::min(detail::FrozenTiling::most_rows, end - i);
        detail::serial_product(backend, part, a + i * shape.lda + p, floats, start, c + i * shape.ldc + left);
      }
    }
  });
}

}}}  // namespace remat::kernels
