// NumPy broadcasting: one walk over a full shape and two operands that are stretched to it, and the sum that undoes it.
#pragma once

#include <algorithm>
#include <remat/core/parallel.hpp>
#include <remat/kernels/reduce.hpp>
#include <remat/kernels/rows.hpp>

// Loops for any function: clang would warn of each that has no form in vectors.
#if defined(__clang__)
#pragma clang diagnostic push
#pragma clang diagnostic ignored "-Wpass-failed"
#endif

namespace remat { inline namespace REMAT_ABI { namespace kernels {

/// A full shape and the distances of two operands along its axes, 0 where an operand is stretched. Neighbouring axes
/// are merged where they can be, so that equal shapes are one axis, and [.., D] with [D] two.
class Broadcast {
 public:
  struct Axis {
    Index length, a, b;
  };

  Broadcast(const Shape& full, const Shape& a, const Shape& b) : size_(full.size()) {
    Index step_a = 1, step_b = 1;
    for (int axis = full.rank() - 1; axis >= 0; --axis) {
      const Index length = full[axis];
      const Index la = length_of(a, axis - full.rank()), lb = length_of(b, axis - full.rank());
      if (length != 1) add({length, la == 1 ? 0 : step_a, lb == 1 ? 0 : step_b});
      step_a *= la;
      step_b *= lb;
    }
    if (rank_ == 0) axes_[rank_++] = {1, 1, 1};
  }

  /// Calls `f(i, ia, ib)` for each element i of the full shape and the elements of the operands that belong to it, in
  /// parallel and in vectors: `f` may write what belongs to i alone. `along_a_third`: the full shape is that of yet
  /// another operand, so that both may be stretched along one axis.
  template <bool along_a_third = false, class F>
  void for_each(F&& f) const {
    const Axis inner = axes_[0];
    parallel_for(size_, 16384, [&](Index begin, Index end) {
      for (Index i = begin; i < end;) {
        const Index at = i % inner.length, n = std::min(inner.length - at, end - i);
        Index ia = at * inner.a, ib = at * inner.b;
        for (Index axis = 1, outer = i / inner.length; axis < rank_; outer /= axes_[axis++].length) {
          ia += outer % axes_[axis].length * axes_[axis].a;
          ib += outer % axes_[axis].length * axes_[axis].b;
        }
        if (along_a_third && inner.a == 0 && inner.b == 0) {
#pragma omp simd
          for (Index j = 0; j < n; ++j) f(i + j, ia, ib);
        } else if (inner.b == 0) {
#pragma omp simd
          for (Index j = 0; j < n; ++j) f(i + j, ia + j, ib);
        } else if (inner.a == 0) {
#pragma omp simd
          for (Index j = 0; j < n; ++j) f(i + j, ia, ib + j);
        } else {
#pragma omp simd
          for (Index j = 0; j < n; ++j) f(i + j, ia + j, ib + j);
        }
        i += n;
      }
    });
  }

  const Axis& inner() const { return axes_[0]; }
  Index rank() const { return rank_; }
  /// Number of positions on the outer axes along which b is stretched, or on those where it is not.
  Index count(bool stretched) const {
    Index count = 1;
    for (Index axis = 1; axis < rank_; ++axis)
      if ((axes_[axis].b == 0) == stretched) count *= axes_[axis].length;
    return count;
  }
  /// The element of a at the given one of these positions.
  Index offset(bool stretched, Index position) const {
    Index offset = 0;
    for (Index axis = 1; axis < rank_; ++axis) {
      if ((axes_[axis].b == 0) != stretched) continue;
      offset += position % axes_[axis].length * axes_[axis].a;
      position /= axes_[axis].length;
    }
    return offset;
  }

 private:
  static Index length_of(const Shape& shape, int from_end) {
    return shape.rank() + from_end < 0 ? 1 : shape[shape.rank() + from_end];
  }
  void add(const Axis& outer) {
    if (rank_ > 0) {
      Axis& last = axes_[rank_ - 1];
      if (outer.a == last.a * last.length && outer.b == last.b * last.length) {
        last.length *= outer.length;
        return;
      }
    }
    axes_[rank_++] = outer;
  }
  Axis axes_[Shape::max_rank]{};  // innermost first
  Index rank_ = 0;
  Index size_;
};

namespace detail {

/// The terms of one row of a sum by columns, as an array.
template <class Term>
struct TermRow {
  Term term;
  Index i, k;
  auto operator[](Index j) const { return term(i + j, k + j); }
  TermRow operator+(Index j) const { return {term, i + j, k + j}; }
};

}  // namespace detail

/// Calls `write(k, sum)` for each element k of `target`: the sum of `term(i, k)` over the elements i of `full` that
/// belong to it, along whose axes `target` is stretched. The order of each sum is fixed by the shapes.
template <class T, class Term, class Write>
void sums_to(const Shape& full, const Shape& target, Term term, Write write) {
  if (target.size() == 0) return;
  const Broadcast walk(full, full, target);
  const auto inner = walk.inner();
  const auto sum_of_run = [=](Index begin, Index length, Index k) {
    return sum_of<T>(length, [=](Index j) { return term(begin + j, k); });
  };
  if (inner.b == 0 && walk.rank() == 1) {  // all of it
    write(Index{0}, parallel_sum<T>(inner.length, 16384,
                                    [&](Index begin, Index end) { return sum_of_run(begin, end - begin, 0); }));
    return;
  }
  const Index rows = walk.count(true), kept = walk.count(false);
  if (inner.b == 0) {  // sums of runs
    parallel_for(kept, row_grain(checked_mul(rows, inner.length)), [&](Index begin, Index end) {
      for (Index k = begin; k < end; ++k) {
        const Index from = walk.offset(false, k);
        CascadeSum<T> total;
        for (Index r = 0; r < rows; ++r) {
          const T part = sum_of_run(from + walk.offset(true, r), inner.length, k);
          total.add(&part);
        }
        write(k, *total.total());
      }
    });
    return;
  }
  // Sums of columns, a few cache lines wide; rows are summed in blocks first, which rounds less.
  constexpr Index width = 64;
  const Index strips = (inner.length - 1) / width + 1;
  parallel_for(kept * strips, row_grain(rows * width), [&](Index begin, Index end) {
    for (Index item = begin; item < end; ++item) {
      const Index column = item % strips * width, n = std::min(width, inner.length - column);
      const Index from = walk.offset(false, item / strips) + column, to = item / strips * inner.length + column;
      T total[width];
      const auto row = [&](Index r) { return detail::TermRow<Term>{term, from + walk.offset(true, r), to}; };
      sum_rows<width>(rows, CascadeSum<T>::step, n, row, false, total);
      for (Index j = 0; j < n; ++j) write(to + j, total[j]);
    }
  });
}

/// y = scale * the sum of x over the axes along which `target`, the shape of y, is stretched to `full`, that of x.
template <class X, class Y>
void sum_to(const Shape& full, const X* x, const Shape& target, Y* y, Accum<Y> scale = 1) {
  sums_to<Accum<Y>>(
      full, target, [from = numbers(x)](Index i, Index) { return from[i]; },
      [to = numbers(y), scale](Index k, Accum<Y> sum) { to[k] = scale * sum; });
}

}}}  // namespace remat::kernels

#if defined(__clang__)
#pragma clang diagnostic pop
#endif
