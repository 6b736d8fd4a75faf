// Products of our own: both operands are copied into panels in the order in which registers read them (Goto and van de
// Geijn, "Anatomy of high-performance matrix multiplication", 2008). Each element of C is added up by itself, over k in
// order, by blocks of one depth: however C is cut, by however many threads, its bits are the same.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cstddef>
#include <limits>
#include <remat/core/parallel.hpp>
#include <remat/kernels/gemm/micro_kernel.hpp>
#include <remat/kernels/gemm/panels.hpp>
#include <remat/kernels/gemm/shape.hpp>
#include <remat/kernels/gemm/workspace.hpp>
#include <type_traits>

namespace remat { inline namespace REMAT_ABI { namespace kernels::packed {

constexpr Index blocks_of(Index size, Index block) { return (size + block - 1) / block; }
/// The least multiple of `unit` of which `parts` cover `size`.
constexpr Index part_of(Index size, Index parts, Index unit) { return blocks_of(blocks_of(size, parts), unit) * unit; }

/// `size` rows or columns in parts that differ by no more than one panel of `unit`, so that threads end together.
struct Cuts {
  Index size, unit, panels, parts;
  Cuts(Index all, Index width, Index most)
      : size(all), unit(width), panels(blocks_of(all, width)), parts(std::max<Index>(1, std::min(most, panels))) {}
  Index begin(Index part) const { return std::min(size, panels * part / parts * unit); }
};

/// How C is cut into tiles, one thread each, and whether all of B is packed before, for all of them.
struct Grid {
  Index rows = 1, columns = 1;  // of tiles
  bool shares_b = false;

  /// That which takes least time on paper, in nanoseconds: packing an element costs as much as some multiplications,
  /// and waking the threads as much as many.
  static Grid best(Index m, Index n, Index k, Index most_rows, Index most_columns, int threads) {
    constexpr double pack_a = 0.4, pack_b = 0.5, share_b = 0.7, flop = 0.01, wake = 20e3;
    const auto number = [](Index count) { return static_cast<double>(count); };
    const double deep = number(std::max<Index>(1, k));
    Grid best;
    double least = std::numeric_limits<double>::infinity();
    for (Index columns = blocks_of(n, most_columns); columns == 1 || n / columns >= 16; columns *= 2) {
      const double wide = number(blocks_of(n, columns));
      for (Index rows = blocks_of(m, most_rows); rows == 1 || m / rows >= 24; rows *= 2) {
        const double high = number(blocks_of(m, rows)), turns = number(blocks_of(rows * columns, threads));
        const double multiply = high * wide * 2 * flop + high * pack_a;
        const double own = turns * deep * (multiply + wide * pack_b) + (rows * columns > 1 ? wake : 0);
        const double shared = turns * deep * multiply + number(n) * deep * share_b / threads + 2 * wake;
        if (std::min(own, shared) < least) least = std::min(own, shared), best = {rows, columns, shared < own};
      }
    }
    return best;
  }
};

/// One product, all leading dimensions given. A and B of S are summed as Accum<S>, to a C of either.
template <class S, class C, class Kernel = MicroKernel<Accum<S>>>
class Product {
 public:
  using T = Accum<S>;
  Product(const Gemm& shape, const S* a, const S* b, const T* bias, C* c)
      : g_(shape), a_(a), b_(b), bias_(bias), c_(c) {}

  /// On all threads, or in the calling one inside a parallel region.
  void run() const {
    if (g_.m == 0 || g_.n == 0) return;
    run(grid_of(g_));
  }
  /// What `run` takes of the workspaces of each thread.
  static WorkspaceBytes needs(const Gemm& shape) {
    if (shape.m == 0 || shape.n == 0) return {};
    const Grid grid = grid_of(shape);
    const Index high = std::min(shape.m, part_of(shape.m, grid.rows, Kernel::rows));
    const Index wide = std::min(shape.n, part_of(shape.n, grid.columns, Kernel::columns));
    const auto bytes = [](Index count) { return checked_bytes(count, sizeof(T), "gemm"); };
    return {bytes(tile_elements(high, wide)), grid.shares_b ? bytes(SharedPiece(shape).elements()) : 0};
  }
  /// The same by a grid of one's own; neither extent of C is 0.
  void run(const Grid& grid) const {
    if (adds_to_c && g_.accumulate && bias_ != nullptr) add_bias();
    if (!grid.shares_b) return tiles(grid, {0, g_.n, 0, g_.k}, nullptr);
    const SharedPiece most(g_);
    T* const panels = scratch(Workspace::of_shared(), most.elements());
    for (Index first = 0; first < g_.n; first += most.wide)
      for (Index p = 0; p < std::max<Index>(1, g_.k); p += most.deep) {
        const Piece piece{first, std::min(most.wide, g_.n - first), p, std::min(most.deep, g_.k - p)};
        const Index groups = blocks_of(piece.width, group);
        parallel_for(groups * blocks_of(piece.deep, depth), 1, [&](Index item, Index) {
          const Index q = item / groups * depth, j = item % groups * group;
          pack_b(p + q, first + j, std::min(group, piece.width - j), panels + panel_at(q, j, piece.width));
        });
        tiles(grid, piece, panels);
      }
  }

 private:
  static constexpr bool adds_to_c = std::is_same_v<C, T>;  // else sums are rounded when they are whole
  static constexpr Index depth = Kernel::depth;
  static constexpr Index a_stride = panel_stride(Kernel::rows, depth), b_stride = panel_stride(Kernel::columns, depth);
  static constexpr Index most_rows = 288, most_columns = 1024;  // of a tile: its A fills half of a second cache
  static constexpr Index group = 8 * Kernel::columns;           // columns of B that are packed at a time
  static constexpr Index b_size = group / Kernel::columns * b_stride;
  static constexpr Index shared_elements = Index{1} << 20;  // of B that is packed for all

  static T* scratch(Workspace& space, Index count) {
    return static_cast<T*>(space.get(checked_bytes(count, sizeof(T), "gemm")));
  }
  static Grid grid_of(const Gemm& shape) {
    const int threads = omp_in_parallel() ? 1 : omp_get_max_threads();
    return Grid::best(shape.m, shape.n, shape.k, most_rows, most_columns, threads);
  }
  /// Of the panels of a tile of C, and of its sums where these are not in C.
  static Index tile_elements(Index m, Index n) {
    return b_size + blocks_of(m, Kernel::rows) * a_stride + (adds_to_c ? 0 : m * n);
  }
  /// The largest part of B that is packed at a time for all tiles, which a cache holds: some columns, and as much of k
  /// as C can be added up from.
  struct SharedPiece {
    Index wide, deep;
    explicit SharedPiece(const Gemm& shape) {
      constexpr Index unit = Kernel::columns;
      const Index whole = std::max<Index>(1, shape.k), least = adds_to_c ? std::min(whole, depth) : whole;
      wide = part_of(shape.n, blocks_of(shape.n, std::max(unit, shared_elements / least / unit * unit)), unit);
      deep = adds_to_c ? part_of(whole, blocks_of(whole, std::max(depth, shared_elements / wide)), depth) : whole;
    }
    Index elements() const { return blocks_of(wide, Kernel::columns) * blocks_of(deep, depth) * b_stride; }
  };
  /// Columns [first, first + width) of C and B, and [p, p + deep) of k.
  struct Piece {
    Index first, width, p, deep;
  };
  /// Where in shared panels of `width` columns those of (p, j) are.
  static Index panel_at(Index p, Index j, Index width) {
    return (p / depth * blocks_of(width, Kernel::columns) + j / Kernel::columns) * b_stride;
  }
  void pack_b(Index p, Index j, Index count, T* to) const {
    pack<Kernel::columns>(g_.b == Trans::no, b_ + offset(g_.b, p, j, g_.ldb), g_.ldb, count, std::min(depth, g_.k - p),
                          to, b_stride);
  }

  /// What a piece adds to C, by tiles; from B in panels if they are given.
  void tiles(const Grid& grid, const Piece& piece, const T* panels) const {
    const Cuts down(g_.m, Kernel::rows, grid.rows);
    const Cuts across(piece.width, Kernel::columns, blocks_of(grid.columns * piece.width, g_.n));
    parallel_for(down.parts * across.parts, 1, [&](Index item, Index) {
      const Index r = item / across.parts, s = item % across.parts, i = down.begin(r), j = across.begin(s);
      tile(piece, i, down.begin(r + 1) - i, j, across.begin(s + 1) - j, panels);
    });
  }

  void tile(const Piece& piece, Index top, Index m, Index left, Index n, const T* panels) const {
    const Index a_size = blocks_of(m, Kernel::rows) * a_stride;
    T* const b = scratch(Workspace::of_tiles(), tile_elements(m, n));
    T* const a = b + b_size;
    C* const c = c_ + top * g_.ldc + piece.first + left;
    Target to{nullptr, g_.ldc};
    if constexpr (adds_to_c)
      to.data = c;
    else
      to = {a + a_size, n};
    Index q = 0;
    do {  // once where k is 0: C is then what it starts from
      const Index p = piece.p + q, count = std::min(depth, piece.deep - q);
      pack<Kernel::rows>(g_.a == Trans::yes, a_ + offset(g_.a, top, p, g_.lda), g_.lda, m, count, a, a_stride);
      const Start start = start_of(p, piece.first + left, to);
      for (Index j = 0; j < n; j += group) {
        const Index some = std::min(group, n - j);
        if (panels == nullptr) pack_b(p, piece.first + left + j, some, b);
        multiply(count, m, some, a, panels ? panels + panel_at(q, left + j, piece.width) : b, start + j, to + j);
      }
      q += depth;
    } while (q < piece.deep);
    if constexpr (!adds_to_c) round(m, n, to.data, c);
  }

  struct Target {
    T* data;
    Index stride;
    Target operator+(Index j) const { return {data + j, stride}; }
  };
  /// What the sums of a block of k are added to; null: nothing.
  struct Start {
    const T* data;
    Index stride;
    Start operator+(Index j) const { return {data == nullptr ? nullptr : data + j, stride}; }
  };
  Start start_of(Index p, Index column, const Target& to) const {
    if (p > 0 || (g_.accumulate && adds_to_c)) return {to.data, to.stride};
    if (bias_ != nullptr) return {bias_ + column, 0};
    return {nullptr, 0};
  }

  /// A block of `m` x `n` of C from its panels, of `count` elements of k.
  static void multiply(Index count, Index m, Index n, const T* a, const T* b, const Start& start, const Target& to) {
    constexpr Index rows = Kernel::rows, columns = Kernel::columns;
    constexpr Index line = 64 / static_cast<Index>(sizeof(T));
    const Index lines = blocks_of(count * columns, line * blocks_of(m, rows));  // of the next panel, for each tile
    alignas(alignment) static constexpr T zeros[columns] = {};
    for (Index j = 0; j < n; j += columns, b += b_stride) {
      for (Index i = 0; i < m; i += rows) {
        const T* const next = b + b_stride + i / rows * lines * line;
        const T* const left = a + i / rows * a_stride;
        if (m - i >= rows && n - j >= columns) {
          const T* const from = start.data == nullptr ? zeros : start.data + i * start.stride + j;
          Kernel::run(count, left, b, from, start.data == nullptr ? 0 : start.stride, to.data + i * to.stride + j,
                      to.stride, next, lines);
        } else {
          alignas(alignment) T whole[rows * columns];
          Kernel::run(count, left, b, zeros, 0, whole, columns, next, lines);
          const Index h = std::min(rows, m - i), w = std::min(columns, n - j);
          for (Index r = 0; r < h; ++r)
            for (Index s = 0; s < w; ++s) {
              const T before = start.data == nullptr ? T{0} : start.data[(i + r) * start.stride + j + s];
              to.data[(i + r) * to.stride + j + s] = before + whole[r * columns + s];
            }
        }
      }
    }
  }

  void add_bias() const {
    for (Index i = 0; i < g_.m; ++i) {
      const auto row = numbers(c_ + i * g_.ldc);
      for (Index j = 0; j < g_.n; ++j) row[j] = row[j] + bias_[j];
    }
  }
  void round(Index m, Index n, const T* from, C* c) const {
    for (Index i = 0; i < m; ++i) {
      const auto row = numbers(c + i * g_.ldc);
      if (g_.accumulate)
        for (Index j = 0; j < n; ++j) row[j] = static_cast<T>(row[j]) + from[i * n + j];
      else
        for (Index j = 0; j < n; ++j) row[j] = from[i * n + j];
    }
  }

  Gemm g_;
  const S* a_;
  const S* b_;
  const T* bias_;
  C* c_;
};

}}}  // namespace remat::kernels::packed
