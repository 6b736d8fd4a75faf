// The products of y = x w and of its gradient by x with a w that is never floats as a whole.
#pragma once

#include <algorithm>
#include <cstddef>
#include <remat/core/frozen_matrix.hpp>
#include <remat/kernels/frozen_tiles.hpp>
#include <remat/kernels/gemm.hpp>
#include <remat/kernels/row_dots.hpp>
#include <type_traits>

namespace remat { inline namespace REMAT_ABI { namespace kernels {

/// Of x [rows, inputs], a frozen matrix of [inputs, outputs], or [outputs, inputs] if `transposed`, and y [rows,
/// outputs]. Products of floats are made by tiles, see `frozen_product`. Of others strips of the matrix, some stored
/// rows each, are decoded by all threads and then multiplied. For few rows of x each row of the matrix is used while it
/// is in the cache of the thread that decoded it, and not rounded to T. How the matrix is cut depends on shapes alone,
/// so the number of threads changes no bit. Scratch is aligned to 64 bytes.
template <class T>
struct FrozenProducts {
  Index rows;
  const FrozenMatrix* matrix;
  bool transposed;
  std::size_t strip_bytes = std::size_t{4} << 20;  // of a decoded strip, about: it should stay in the cache; the part
                                                   // of a tile, of which each thread has one, takes a quarter

  Index inputs() const { return matrix->shape()[transposed ? 1 : 0]; }
  Index outputs() const { return matrix->shape()[transposed ? 0 : 1]; }
  ///@{
  /// Bytes of scratch, a multiple of 64.
  std::size_t forward_scratch() const { return transposed ? dots_scratch() : sums_scratch(); }
  std::size_t gradient_scratch() const { return transposed ? sums_scratch() : dots_scratch(); }
  ///@}

  /// y = x w + bias [outputs], or without it if null.
  template <class Y>
  void forward(const T* x, const Accum<T>* bias, Y* y, std::byte* scratch) const {
    if (transposed)
      dots(x, bias, false, y, scratch);
    else
      sums(x, bias, false, y, scratch);
  }
  /// dx = (or +=, if `add`) dy w^T
  void input_gradient(const T* dy, bool add, T* dx, std::byte* scratch) const {
    if (transposed)
      sums(dy, nullptr, add, dx, scratch);
    else
      dots(dy, nullptr, add, dx, scratch);
  }

 private:
  using A = Accum<T>;
  static constexpr Index few = 8;      // rows; products of more are faster by strips
  static constexpr Index piece = 512;  // rows whose sums are kept in float; the matrix is decoded once for each piece
  static constexpr bool is_rounded = !std::is_same_v<T, A>;

  /// Hands out parts of the scratch, or only counts them.
  struct Scratch {
    std::byte* begin;
    std::size_t used = 0;

    template <class P>
    P* take(Index count) {
      std::byte* const at = begin == nullptr ? nullptr : begin + used;
      used += round_up(checked_bytes(count, sizeof(P), "scratch"));
      return reinterpret_cast<P*>(at);
    }
  };

  /// Stored rows of a strip: a multiple of 16, if the matrix has as many, and no less than 64, or products would read
  /// and write their results more often than is worth the memory.
  Index strip_rows() const {
    const auto bytes = static_cast<Index>(sizeof(T)) * std::max<Index>(1, matrix->columns());
    const Index fitting = static_cast<Index>(strip_bytes) / bytes / 16 * 16;
    return std::min(matrix->rows(), std::max<Index>(64, fitting));
  }

  /// Where a strip is decoded, by blocks of at least a 32nd; of other types than float row by row by way of floats.
  struct Strip {
    Index grain;
    T* rows;
    float* floats;

    Strip(const FrozenMatrix& from, Index count, Scratch& scratch)
        : grain(std::max(row_grain(from.columns()), (count + 31) / 32)),
          rows(scratch.template take<T>(checked_mul(count, from.columns()))),
          floats(std::is_same_v<T, float>
                     ? nullptr
                     : scratch.template take<float>(checked_mul((count + grain - 1) / grain, from.columns()))) {}
    void decode(const FrozenMatrix& from, Index first, Index count) const {
      const Index columns = from.columns();
      parallel_for(columns > 0 ? count : 0, grain, [&](Index begin, Index end) {
        if constexpr (std::is_same_v<T, float>) {
          from.read(first + begin, end - begin, rows + begin * columns);
        } else {
          float* const row = floats + begin / grain * columns;
          for (Index i = begin; i < end; ++i) {
            from.read(first + i, 1, row);
            convert(row, columns, rows + i * columns);
          }
        }
      });
    }
  };
  template <class From, class To>
  static void convert(const From* from, Index count, To* to) {
    const auto source = numbers(from);
    const auto target = numbers(to);
#pragma omp simd
    for (Index i = 0; i < count; ++i) target[i] = static_cast<Accum<To>>(source[i]);
  }
  template <class From, class To>
  static void convert_in_parallel(const From* from, Index count, To* to) {
    parallel_for(count, row_grain(1), [=](Index begin, Index end) { convert(from + begin, end - begin, to + begin); });
  }

  /// Blocks of stored rows, a few of which are decoded at one time, and the rows of x as numbers to compute with.
  struct FewRows {
    Index grain, at_once;
    A* x;
    float* floats;

    FewRows(Index x_rows, const FrozenMatrix& from, Scratch& scratch)
        : grain(std::max(row_grain(from.columns()), (from.rows() + 63) / 64)),
          at_once(std::max<Index>(1, 2048 / from.columns())),
          x(is_rounded ? scratch.template take<A>(checked_mul(x_rows, from.columns())) : nullptr),
          floats(scratch.template take<float>(
              checked_mul((from.rows() + grain - 1) / grain, checked_mul(at_once, from.columns())))) {}
  };
  bool has_few_rows() const { return rows <= few && matrix->columns() > 0; }

  /// Those of `dots` and of `sums`.
  Gemm dots_shape(bool add = false) const {
    const Index width = matrix->rows(), depth = matrix->columns();
    return {.b = Trans::yes, .m = rows, .n = width, .k = depth, .lda = depth, .ldc = width, .accumulate = add};
  }
  Gemm sums_shape(bool add = false) const {
    const Index width = matrix->columns(), depth = matrix->rows();
    return {.m = rows, .n = width, .k = depth, .lda = depth, .ldc = width, .accumulate = add};
  }
  bool is_by_tiles(const Gemm& shape) const { return std::is_same_v<T, float> && has_tiles(shape, *matrix); }

  std::size_t dots_scratch() const {
    Scratch scratch{nullptr};
    if (has_few_rows())
      FewRows(rows, *matrix, scratch);
    else if (!is_by_tiles(dots_shape()))
      Strip(*matrix, strip_rows(), scratch);
    return scratch.used;
  }
  /// to [rows, matrix rows] = (or +=) a [rows, matrix columns] times the transpose of the matrix, plus `bias` or null.
  template <class Y>
  void dots(const T* a, const A* bias, bool add, Y* to, std::byte* memory) const {
    const Index width = matrix->rows(), depth = matrix->columns();
    if (rows == 0 || width == 0) return;
    Scratch scratch{memory};
    if (has_few_rows()) return few_dots(a, bias, add, to, FewRows(rows, *matrix, scratch));
    if constexpr (std::is_same_v<T, float>)
      if (is_by_tiles(dots_shape())) return frozen_product(dots_shape(add), a, *matrix, bias, to, strip_bytes / 4);
    const Index count = strip_rows();
    const Strip strip(*matrix, count, scratch);
    for (Index first = 0; first < width; first += count) {
      Gemm product{.b = Trans::yes, .m = rows, .n = std::min(count, width - first), .k = depth, .ldc = width};
      product.accumulate = add;
      strip.decode(*matrix, first, product.n);
      gemm(product, a, strip.rows, to + first, bias == nullptr ? nullptr : bias + first);
    }
  }
  template <class Y>
  void few_dots(const T* a, const A* bias, bool add, Y* to, const FewRows& part) const {
    const Index width = matrix->rows(), depth = matrix->columns();
    if constexpr (is_rounded) convert(a, rows * depth, part.x);
    const A* x = part.x;
    if constexpr (!is_rounded) x = a;
    parallel_for(width, part.grain, [&, y = numbers(to)](Index begin, Index end) {
      float* const decoded = part.floats + begin / part.grain * part.at_once * depth;
      for (Index first = begin; first < end; first += part.at_once) {
        const Index count = std::min(part.at_once, end - first);
        matrix->read(first, count, decoded);
        for (Index j = first; j < first + count; ++j) {
          A sums[few];
          for (Index i = 0; i < rows; i += row_dots_most)
            row_dots(depth, decoded + (j - first) * depth, std::min(row_dots_most, rows - i), x + i * depth, sums + i);
          for (Index i = 0; i < rows; ++i) {
            const A before = (add ? static_cast<A>(y[i * width + j]) : A{0}) + (bias == nullptr ? A{0} : bias[j]);
            y[i * width + j] = before + sums[i];
          }
        }
      }
    });
  }

  /// Are sums of several strips to be kept in another type than that of the result?
  bool has_float_sums() const { return is_rounded && strip_rows() < matrix->rows(); }

  std::size_t sums_scratch() const {
    Scratch scratch{nullptr};
    if (is_by_tiles(sums_shape())) return 0;
    Strip(*matrix, strip_rows(), scratch);
    if (has_float_sums()) scratch.template take<A>(checked_mul(std::min(rows, piece), matrix->columns()));
    return scratch.used;
  }
  /// to [rows, matrix columns] = (or +=) a [rows, matrix rows] times the matrix, plus `bias` or null.
  template <class Y>
  void sums(const T* a, const A* bias, bool add, Y* to, std::byte* memory) const {
    const Index width = matrix->columns(), depth = matrix->rows();
    if (width == 0) return;
    if constexpr (std::is_same_v<T, float>)
      if (is_by_tiles(sums_shape())) return frozen_product(sums_shape(add), a, *matrix, bias, to, strip_bytes / 4);
    Scratch scratch{memory};
    const Strip strip(*matrix, strip_rows(), scratch);
    if constexpr (!std::is_same_v<Y, A>) {
      if (has_float_sums()) {
        A* const floats = scratch.template take<A>(std::min(rows, piece) * width);
        for (Index top = 0; top < rows; top += piece) {
          const Index count = std::min(piece, rows - top);
          if (add) convert_in_parallel(to + top * width, count * width, floats);
          add_strips(strip, count, a + top * depth, bias, add, floats);
          convert_in_parallel(floats, count * width, to + top * width);
        }
        return;
      }
    }
    if (rows > 0) add_strips(strip, rows, a, bias, add, to);
  }
  template <class Y>
  void add_strips(const Strip& strip, Index count, const T* a, const A* bias, bool add, Y* to) const {
    Gemm product{.m = count, .n = matrix->columns(), .lda = matrix->rows()};
    Index first = 0;
    do {  // once where the matrix has no rows: the result is then the bias
      product.k = std::min(strip_rows(), matrix->rows() - first);
      product.accumulate = add || first > 0;
      strip.decode(*matrix, first, product.k);
      gemm(product, a + first, strip.rows, to, first == 0 ? bias : nullptr);
      first += product.k;
    } while (first < matrix->rows());
  }
};

}}}  // namespace remat::kernels
