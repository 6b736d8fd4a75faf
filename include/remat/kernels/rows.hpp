// What ops over the rows of a matrix share: fixed blocks of rows, sums over rows, rows that may be left out.
#pragma once

#include <algorithm>
#include <cstddef>
#include <remat/core/cascade_sum.hpp>
#include <remat/core/numbers.hpp>
#include <remat/core/parallel.hpp>

// Loops for any function: clang would warn of each that has no form in vectors.
#if defined(__clang__)
#pragma clang diagnostic push
#pragma clang diagnostic ignored "-Wpass-failed"
#endif

namespace remat { inline namespace REMAT_ABI { namespace kernels {

/// total[j] = (or +=, if `accumulate`) the sum of row(i)[j] over i < count, for j < width: `run` rows are added in
/// order, and their sums by a `CascadeSum` of `strip` columns at a time.
template <Index strip, class T, class Row>
void sum_rows(Index count, Index run, Index width, Row row, bool accumulate, T* total) {
  const auto add_run = [&](Index first, Index at, Index n, T* to) {
    for (Index i = first; i < std::min(count, first + run); ++i) {
      const auto from = row(i) + at;
#pragma omp simd
      for (Index j = 0; j < n; ++j) to[j] += from[j];
    }
  };
  if (!accumulate) std::fill_n(total, width, T{0});
  if (count <= run) return add_run(0, 0, width, total);
  for (Index at = 0; at < width; at += strip) {
    const Index n = std::min(strip, width - at);
    CascadeSum<T, strip> sums;
    for (Index first = 0; first < count; first += run) {
      T part[strip] = {};
      if (first == 0) std::copy_n(total + at, n, part);
      add_run(first, at, n, part);
      sums.add(part, n);
    }
    std::copy_n(sums.total(n), n, total + at);
  }
}

/// Rows cut into at most 64 blocks by their number alone. Each block sums its rows in order, or longer runs of them,
/// then the blocks' partial sums are added in order: the same bits for any number of threads, and less rounding than
/// one long sum.
struct RowBlocks {
  static constexpr Index run = 128;  // rows added in order
  Index grain, count;

  explicit RowBlocks(Index rows) : grain(std::max<Index>(16, (rows + 63) / 64)), count((rows + grain - 1) / grain) {}
  /// Scratch for one partial sum of `width` numbers a block.
  template <class T>
  std::size_t bytes(Index width) const {
    return checked_bytes(checked_mul(count, width, "scratch"), sizeof(T), "scratch");
  }
  /// The same where `sum_block` makes the sums: twice, if a block has many rows.
  template <class T>
  std::size_t sum_block_bytes(Index width) const {
    return bytes<T>(has_runs() ? checked_mul(2, width, "scratch") : width);
  }
  /// The partial sum of the block [begin, end), `width` numbers, of what `add(i, sums)` adds to it for each row.
  template <class T, class F>
  void sum_block(Index begin, Index end, Index width, T* scratch, F&& add) const {
    T* const partial = scratch + begin / grain * width;
    T* const sums = has_runs() ? partial + count * width : partial;
    std::fill_n(partial, width, T{0});
    for (Index first = begin; first < end; first += run) {
      if (sums != partial) std::fill_n(sums, width, T{0});
      for (Index i = first; i < std::min(end, first + run); ++i) add(i, sums);
      for (Index j = 0; j < width && sums != partial; ++j) partial[j] += sums[j];
    }
  }

 private:
  bool has_runs() const { return grain > run; }
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
    const auto row = [=](Index i) { return x + (begin + i) * width; };
    sum_rows<1024>(end - begin, RowBlocks::run, width, row, false, scratch + begin / blocks.grain * width);
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

}}}  // namespace remat::kernels

#if defined(__clang__)
#pragma clang diagnostic pop
#endif
