// What ops over the rows of a matrix share: fixed blocks of rows, sums over rows, rows that may be left out.
#pragma once

#include <algorithm>
#include <cstddef>
#include <remat/core/numbers.hpp>
#include <remat/core/parallel.hpp>

namespace remat::inline REMAT_ABI::kernels {

/// Rows cut into at most 64 blocks by their number alone. Each block sums its rows in order, then the blocks' partial
/// sums are added in order: the same bits for any number of threads, and less rounding than one long sum.
struct RowBlocks {
  Index grain, count;

  explicit RowBlocks(Index rows) : grain(std::max<Index>(16, (rows + 63) / 64)), count((rows + grain - 1) / grain) {}
  /// Scratch for one partial sum of `width` numbers a block.
  template <class T>
  std::size_t bytes(Index width) const {
    return checked_bytes(checked_mul(count, width, "scratch"), sizeof(T), "scratch");
  }
};

/// total[j] = (or +=, if `accumulate`) the sum over blocks of partials[block * stride + at + j], for j < width.
template <class T>
void add_partials(const RowBlocks& blocks, const T* partials, Index stride, Index at, Index width, bool accumulate,
                  T* total) {
  parallel_for(width, 512, [=](Index begin, Index end) {
    if (!accumulate) std::fill(total + begin, total + end, T{0});
    for (Index block = 0; block < blocks.count; ++block) {
      const T* partial = partials + block * stride + at;
#pragma omp simd
      for (Index j = begin; j < end; ++j) total[j] += partial[j];
    }
  });
}

/// sums[j] = (or +=, if `accumulate`) the sum of column j of data [rows, width]. `scratch` is of RowBlocks(rows).bytes.
template <class T>
void column_sums(const T* data, Index rows, Index width, bool accumulate, Accum<T>* sums, Accum<T>* scratch) {
  const RowBlocks blocks(rows);
  parallel_for(rows, blocks.grain, [=, x = numbers(data)](Index begin, Index end) {
    Accum<T>* partial = scratch + begin / blocks.grain * width;
    std::fill_n(partial, width, Accum<T>{0});
    for (Index i = begin; i < end; ++i) {
#pragma omp simd
      for (Index j = 0; j < width; ++j) partial[j] += x[i * width + j];
    }
  });
  add_partials(blocks, scratch, width, 0, width, accumulate, sums);
}

/// to[i] = (or +=, if `accumulate`) scale * from[i].
template <class T>
void scale_into(const T* from, Index count, Accum<T> scale, bool accumulate, T* to) {
  parallel_for(count, row_grain(1), [=, x = numbers(from), y = numbers(to)](Index begin, Index end) {
    if (accumulate) {
#pragma omp simd
      for (Index i = begin; i < end; ++i) y[i] = y[i] + scale * x[i];
    } else {
#pragma omp simd
      for (Index i = begin; i < end; ++i) y[i] = scale * x[i];
    }
  });
}

/// Calls `body(at)`, where at(j) is row[j], or `otherwise` when there is no row: two loops without a branch in them.
template <class T, class F>
void with_row(const T* row, Accum<T> otherwise, F&& body) {
  if (row != nullptr)
    body([numbers = numbers(row)](Index j) -> Accum<T> { return numbers[j]; });
  else
    body([otherwise](Index) { return otherwise; });
}

}  // namespace remat::inline REMAT_ABI::kernels
