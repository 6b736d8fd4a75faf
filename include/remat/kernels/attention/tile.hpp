// Small dense tiles for attention: copies, transposes and products with fixed lanes, hence a fixed order of every sum.
#pragma once

#include <cstddef>
#include <cstring>
#include <remat/core/numbers.hpp>
#include <remat/core/shape.hpp>
#include <remat/kernels/gemm/shape.hpp>
#include <remat/kernels/vector.hpp>
#include <utility>

namespace remat { inline namespace REMAT_ABI { namespace kernels::attention {

#if defined(__AVX512F__)
inline constexpr int block_rows = 8;  // whole blocks in every tile, and chains enough: 16
#else
inline constexpr int block_rows = 6;  // 12 chains of 16 with AVX
#endif

/// Queries and keys are visited in tiles of this many rows.
inline constexpr Index tile_rows = 64;

/// `dims` rounded up to whole registers: the row pitch of every tile.
template <class T>
constexpr Index padded(Index dims) {
  return (dims + Vector<T>::width - 1) / Vector<T>::width * Vector<T>::width;
}

/// c[i][:] = (or +=, if Accumulate) sum over p of a(i, p) b[p][:], for Rows x (Columns registers) held in registers.
/// a lies by rows or, if Left is Trans::yes, by columns: two strides known only at run time would leave the inner loop
/// too few registers for addresses.
template <int Rows, int Columns, bool Accumulate, Trans Left, class T>
inline void multiply_block(Index depth, const T* a, Index a_pitch, const T* b, Index b_pitch, T* c, Index c_pitch) {
  using V = typename Vector<T>::type;
  constexpr int width = Vector<T>::width;
  V sum[Rows][Columns];
#pragma GCC unroll 16
  for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 2
    for (int j = 0; j < Columns; ++j) sum[i][j] = V{};
  }
#pragma GCC unroll 4
  for (Index p = 0; p < depth; ++p) {
    V right[Columns];
#pragma GCC unroll 2
    for (int j = 0; j < Columns; ++j) std::memcpy(&right[j], b + p * b_pitch + j * width, sizeof(V));
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i) {
      const T left = a[offset(Left, i, p, a_pitch)];
#pragma GCC unroll 2
      for (int j = 0; j < Columns; ++j) sum[i][j] += left * right[j];
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 2
    for (int j = 0; j < Columns; ++j) {
      if constexpr (Accumulate) {  // at the end: sums of sums of a tile each lose fewer digits than one long sum
        V before;
        std::memcpy(&before, c + i * c_pitch + j * width, sizeof(V));
        sum[i][j] += before;
      }
      std::memcpy(c + i * c_pitch + j * width, &sum[i][j], sizeof(V));
    }
  }
}

/// As `multiply_block` for any number of rows.
template <int Columns, bool Accumulate, Trans Left, class T>
inline void multiply_panel(Index rows, Index depth, const T* a, Index a_pitch, const T* b, Index b_pitch, T* c,
                           Index c_pitch) {
  Index i = 0;
  const auto blocks = [&]<int Rows>(std::integral_constant<int, Rows>) {
    for (; i + Rows <= rows; i += Rows)
      multiply_block<Rows, Columns, Accumulate, Left>(depth, a + offset(Left, i, 0, a_pitch), a_pitch, b, b_pitch,
                                                      c + i * c_pitch, c_pitch);
  };
  blocks(std::integral_constant<int, block_rows>{});
  blocks(std::integral_constant<int, 4>{});
  blocks(std::integral_constant<int, 1>{});
}

/// c[rows, columns] = (or +=) a b; `columns` is a whole number of registers.
/// Not inlined, like all of a tile's work here: one copy of the register blocks is enough to compile.
template <bool Accumulate, Trans Left, class T>
[[gnu::noinline]] void multiply(Index rows, Index columns, Index depth, const T* a, Index a_pitch, const T* b,
                                Index b_pitch, T* c, Index c_pitch) {
  constexpr int width = Vector<T>::width;
  Index j = 0;
  for (; j + 2 * width <= columns; j += 2 * width)
    multiply_panel<2, Accumulate, Left>(rows, depth, a, a_pitch, b + j, b_pitch, c + j, c_pitch);
  if (j < columns) multiply_panel<1, Accumulate, Left>(rows, depth, a, a_pitch, b + j, b_pitch, c + j, c_pitch);
}

/// c += a b in which a zero weight of a hides whatever is in b, NaN too: masked rows must not leak.
template <Trans Left, class T, class E = T>
[[gnu::noinline]] void multiply_hiding(Index rows, Index columns, Index depth, const E* a, Index a_pitch, const E* b,
                                       Index b_pitch, T* c, Index c_pitch) {
  const auto lefts = numbers(a), rights = numbers(b);
  for (Index i = 0; i < rows; ++i)
    for (Index p = 0; p < depth; ++p)
      if (const T left = lefts[offset(Left, i, p, a_pitch)]; left != 0)
        for (Index j = 0; j < columns; ++j) c[i * c_pitch + j] += left * rights[p * b_pitch + j];
}

/// c += a b, hiding unless b is finite.
template <Trans Left, class T>
void multiply_weights(bool b_finite, Index rows, Index columns, Index depth, const T* a, Index a_pitch, const T* b,
                      Index b_pitch, T* c, Index c_pitch) {
  const auto product = b_finite ? multiply<true, Left, T> : multiply_hiding<Left, T>;
  product(rows, columns, depth, a, a_pitch, b, b_pitch, c, c_pitch);
}

/// Calls a row into the cache: the processor does not foresee short pieces of long rows. Worth it `rows_ahead` before.
template <class E>
void prefetch_row(const E* row, Index dims) {
  constexpr Index line = 64 / static_cast<Index>(sizeof(E));
  for (Index j = 0; j < dims; j += line) __builtin_prefetch(row + j);
}
inline constexpr Index rows_ahead = 8;

/// Copies [rows, dims] from a strided source into a tile of `filled` rows, zeros around it. False if anything copied
/// is infinite or NaN. bfloat16 is widened.
template <class E, class T>
[[gnu::noinline]] bool copy_rows(const E* from, Index stride, Index rows, Index dims, T* tile, Index filled) {
  using V = typename Vector<T>::type;
  constexpr Index width = Vector<T>::width;
  const Index pitch = padded<T>(dims), whole = dims / width * width;
  V odd{};
  T odd_tail = 0;  // 0 x is zero exactly for finite x
  for (Index i = 0; i < rows; ++i) {
    const auto source = numbers(from + i * stride);
    T* row = tile + i * pitch;
    if (i + rows_ahead < rows) prefetch_row(from + (i + rows_ahead) * stride, dims);
    for (Index j = 0; j < whole; j += width) {
      T widened[width];
      for (Index lane = 0; lane < width; ++lane) widened[lane] = source[j + lane];
      V value;
      std::memcpy(&value, widened, sizeof(V));
      std::memcpy(row + j, &value, sizeof(V));
      odd += as_written(value * T{0});
    }
    for (Index j = whole; j < pitch; ++j) {
      row[j] = j < dims ? source[j] : T{0};
      odd_tail += as_written(row[j] * T{0});
    }
  }
  std::memset(tile + rows * pitch, 0, static_cast<std::size_t>((filled - rows) * pitch) * sizeof(T));
  for (int j = 0; j < width; ++j) odd_tail += odd[j];
  return odd_tail == 0;
}

/// to[j][i] = scale * from[i][j] for one square of registers: log2(width) rounds of perfect shuffles.
template <class T>
inline void transpose_square(const T* from, Index from_row, T* to, Index to_row, T scale) {
  using V = typename Vector<T>::type;
  constexpr int width = Vector<T>::width;
  V rows[width];
#pragma GCC unroll 16
  for (int i = 0; i < width; ++i) std::memcpy(&rows[i], from + i * from_row, sizeof(V));
  const auto shuffle = [&]<int... Lane>(std::integer_sequence<int, Lane...>) {
    V mixed[width];
#pragma GCC unroll 16
    for (int i = 0; i < width / 2; ++i) {
      const V &first = rows[i], &second = rows[i + width / 2];
      mixed[2 * i] = __builtin_shufflevector(first, second, (Lane / 2 + Lane % 2 * width)...);
      mixed[2 * i + 1] = __builtin_shufflevector(first, second, (Lane / 2 + width / 2 + Lane % 2 * width)...);
    }
#pragma GCC unroll 16
    for (int i = 0; i < width; ++i) rows[i] = mixed[i];
  };
#pragma GCC unroll 4
  for (int round = 1; round < width; round *= 2) shuffle(std::make_integer_sequence<int, width>{});
#pragma GCC unroll 16
  for (int i = 0; i < width; ++i) {
    const V scaled = rows[i] * scale;
    std::memcpy(to + i * to_row, &scaled, sizeof(V));
  }
}

/// Turns a tile [rows, pitch] into panels [rows / group][pitch][group] of its transpose, times `scale`.
template <class T>
[[gnu::noinline]] void transpose_panels(const T* tile, Index rows, Index pitch, T scale, T* panels) {
  constexpr Index width = Vector<T>::width, group = Vector<T>::group;
  for (Index i = 0; i < rows; i += width)
    for (Index j = 0; j < pitch; j += width)
      transpose_square(tile + i * pitch + j, pitch, panels + i / group * group * pitch + j * group + i % group, group,
                       scale);
}

}}}  // namespace remat::kernels::attention
