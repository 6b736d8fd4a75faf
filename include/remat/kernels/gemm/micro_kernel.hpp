// The innermost loop of products on packed panels.
#pragma once

#include <cstddef>
#include <remat/core/shape.hpp>
#include <utility>

namespace remat { inline namespace REMAT_ABI { namespace kernels::packed {

/// One tile of C in registers of `bytes`, added up from a panel of A and one of B.
template <class T, int bytes = vector_bytes>
struct MicroKernel {
  static constexpr int width = bytes / static_cast<int>(sizeof(T)), vectors = 2;  // of a row of the tile
  static constexpr int rows = bytes == 64 ? 12 : 6;  // 24 of 32 registers hold sums, or 12 of 16
  static constexpr int columns = vectors * width;
  /// Of a panel: that of B then fills three quarters of a first cache of 32 KiB, or half of it.
  static constexpr Index depth = bytes == 64 ? 192 : 256;

  /// C[rows, columns] = start + a^T b, where a [count, rows] and b [count, columns] are packed, b by whole vectors.
  /// Rows of `start`, which may be C, are `start_stride` apart. Each sum is added up in the order of k. Cache lines of
  /// `next` are called meanwhile.
#if defined(__clang__)
  [[clang::min_vector_width(8 * vector_bytes)]]  // else it halves registers of 64 bytes on some processors
#endif
  [[gnu::noinline]] static void
  run(Index count, const T* a, const T* b, const T* start, Index start_stride, T* c, Index ldc, const T* next,
      Index next_lines) {
    for (int i = 0; i < rows; ++i)
      for (int j = 0; j < columns; j += 64 / static_cast<int>(sizeof(T))) __builtin_prefetch(c + i * ldc + j, 1);
    for (Index i = 0; i < next_lines; ++i) __builtin_prefetch(reinterpret_cast<const char*>(next) + 64 * i, 0, 2);
    sum(count, a, b, start, start_stride, c, ldc, std::make_index_sequence<static_cast<std::size_t>(rows) * vectors>());
  }

 private:
  typedef T Register __attribute__((vector_size(bytes)));
  typedef T Unaligned __attribute__((vector_size(bytes), aligned(alignof(T)), may_alias));

  template <std::size_t... I>
  [[gnu::always_inline]] static void sum(Index count, const T* __restrict a, const T* __restrict b, const T* start,
                                         Index start_stride, T* c, Index ldc, std::index_sequence<I...>) {
    Register sums[sizeof...(I)];
    ((sums[I] = Register{}), ...);
    for (Index p = 0; p < count; ++p, a += rows, b += columns) {
      Register right[vectors];
      for (int v = 0; v < vectors; ++v) right[v] = *reinterpret_cast<const Register*>(b + v * width);
      ((sums[I] += a[I / vectors] * right[I % vectors]), ...);
    }
    const auto put = [&](Index i, Index j, const Register& total) {
      const Register before = *reinterpret_cast<const Unaligned*>(start + i * start_stride + j);
      *reinterpret_cast<Unaligned*>(c + i * ldc + j) = before + total;
    };
    (put(static_cast<Index>(I / vectors), static_cast<Index>(I % vectors) * width, sums[I]), ...);
  }
};

}}}  // namespace remat::kernels::packed
