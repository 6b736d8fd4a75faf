// Matrices as panels: the order in which the innermost loop of a product reads them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <remat/core/dtype.hpp>
#include <remat/core/numbers.hpp>
#include <remat/core/shape.hpp>
#include <type_traits>

namespace remat { inline namespace REMAT_ABI { namespace kernels::packed {

/// Unused elements behind a panel: panels a power of two apart would share sets of the caches, and rows of a panel are
/// written by eights, past its end.
inline constexpr Index panel_gap = 16;

/// Elements from one panel of `width` to the next.
constexpr Index panel_stride(Index width, Index depth) { return width * depth + panel_gap; }

namespace detail {

using Eight = float __attribute__((vector_size(32)));
typedef float UnalignedEight __attribute__((vector_size(32), aligned(4), may_alias));

[[gnu::always_inline]] inline void load_eight(const float* from, Eight& to) {
  to = *reinterpret_cast<const UnalignedEight*>(from);
}
[[gnu::always_inline]] inline void load_eight(const bfloat16* from, Eight& to) {
  typedef std::uint16_t Halves __attribute__((vector_size(16), aligned(2), may_alias));
  typedef std::uint32_t Words __attribute__((vector_size(32)));
  const Words words = __builtin_convertvector(*reinterpret_cast<const Halves*>(from), Words) << 16;
  std::memcpy(&to, &words, sizeof to);
}

/// Eight rows `stride` apart, of which no more than `last` are read, as eight columns: rows of `to`, `width` apart, in
/// their order, so that what a row is too long for its successor may cover.
template <class S>
[[gnu::always_inline]] inline void transpose_eight(const S* from, Index stride, Index last, float* to, Index width) {
  Eight r[8], t[8];
  for (Index i = 0; i < 8; ++i) load_eight(from + std::min(i, last) * stride, r[i]);
  for (int i = 0; i < 8; i += 2) {
    t[i] = __builtin_shufflevector(r[i], r[i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
    t[i + 1] = __builtin_shufflevector(r[i], r[i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
  }
  for (int i = 0; i < 8; i += 4) {
    r[i] = __builtin_shufflevector(t[i], t[i + 2], 0, 1, 8, 9, 4, 5, 12, 13);
    r[i + 1] = __builtin_shufflevector(t[i], t[i + 2], 2, 3, 10, 11, 6, 7, 14, 15);
    r[i + 2] = __builtin_shufflevector(t[i + 1], t[i + 3], 0, 1, 8, 9, 4, 5, 12, 13);
    r[i + 3] = __builtin_shufflevector(t[i + 1], t[i + 3], 2, 3, 10, 11, 6, 7, 14, 15);
  }
  for (int i = 0; i < 4; ++i) {
    t[i] = __builtin_shufflevector(r[i], r[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
    t[i + 4] = __builtin_shufflevector(r[i], r[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
  }
  for (int i = 0; i < 8; ++i) *reinterpret_cast<UnalignedEight*>(to + i * width) = t[i];
}

/// Panels of `width` rows of `from`, of which there are `count`, each of `depth` elements.
template <int width, class S, class T>
void pack_rows(const S* from, Index stride, Index count, Index depth, T* to, Index to_stride) {
  for (Index first = 0; first < count; first += width, to += to_stride) {
    const S* const rows = from + first * stride;
    const Index last = std::min<Index>(width, count - first) - 1;
    Index p = 0;
    if constexpr (std::is_same_v<T, float>) {
      const auto transpose = [&](Index i) {
        const Index within = std::max<Index>(0, last - i);
        const S* const eight = rows + std::min(i, last) * stride + p;
        // A cache line of each row at a time: the next rows may be in the same sets.
        transpose_eight(eight, stride, within, to + p * width + i, width);
        transpose_eight(eight + 8, stride, within, to + (p + 8) * width + i, width);
      };
      for (; p + 16 <= depth; p += 16) {
        for (Index i = 0; i + 8 <= width; i += 8) transpose(i);
        if constexpr (width % 8 != 0) transpose(std::max(0, width - 8));
      }
    }
    const auto numbers_of = numbers(rows);
    for (; p < depth; ++p)
      for (Index i = 0; i < width; ++i) to[p * width + i] = static_cast<T>(numbers_of[std::min(i, last) * stride + p]);
  }
}

/// A row of a panel: `count` elements, and zeros up to `width`.
template <int width, class S, class T>
[[gnu::always_inline]] inline void copy_row(const S* from, Index count, T* to) {
  const auto row = numbers(from);
  if (count == width && std::is_same_v<S, T>)
    std::memcpy(to, from, width * sizeof(T));  // g++ makes of a loop over 6 or 12 one instruction for each
  else if (count == width)
    for (Index i = 0; i < width; ++i) to[i] = static_cast<T>(row[i]);
  else
    for (Index i = 0; i < width; ++i) to[i] = i < count ? static_cast<T>(row[i]) : T{0};
}

/// Panels of `width` columns of `from`, which has `depth` rows of `count` elements.
template <int width, class S, class T>
void pack_columns(const S* from, Index stride, Index count, Index depth, T* to, Index to_stride) {
  constexpr Index together = 8;  // rows, so that both sides are walked in runs
  for (Index first = 0; first < depth; first += together) {
    const Index end = std::min(depth, first + together);
    constexpr Index line = 64 / static_cast<Index>(sizeof(S));
    // The processor does not foresee short pieces of long rows.
    for (Index p = end; p < std::min(depth, end + together); ++p)
      for (Index j = 0; j < count; j += line) __builtin_prefetch(from + p * stride + j, 0, 2);
    for (Index j = 0; j < count; j += width) {
      T* const panel = to + j / width * to_stride;
      for (Index p = first; p < end; ++p) {
        copy_row<width>(from + p * stride + j, std::min<Index>(width, count - j), panel + p * width);
      }
    }
  }
}

}  // namespace detail

/// Panels of `width` of the `count` rows of a matrix [count, depth], or of the columns of its transpose if
/// `by_columns`, `to_stride` apart, which is at least `panel_stride(width, depth)`: element p of row i comes to `i /
/// width * to_stride + p * width + i % width`. What a last panel lacks is filled with numbers that mean nothing.
template <int width, class S, class T>
void pack(bool by_columns, const S* from, Index stride, Index count, Index depth, T* to, Index to_stride) {
  if (by_columns)
    detail::pack_columns<width>(from, stride, count, depth, to, to_stride);
  else
    detail::pack_rows<width>(from, stride, count, depth, to, to_stride);
}

}}}  // namespace remat::kernels::packed
