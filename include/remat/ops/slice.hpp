// A part of one axis.
#pragma once

#include <algorithm>
#include <remat/autodiff/tape.hpp>
#include <remat/core/parallel.hpp>

namespace remat { inline namespace REMAT_ABI {

namespace ops {

/// y [outer, end - begin, inner] = x [outer, length, inner] from `begin` to `end`.
template <class T>
struct Slice : Op {
  static constexpr In<T> x{0};
  static constexpr Out<T> y{0};

  Slice(int axis, Index begin, Index end) : Op("slice"), axis_(axis), begin_(begin), end_(end) {}
  Specs infer(const Operands& in) const override {
    Shape shape = in[x].shape;
    const int axis = shape.axis(axis_, "axis");
    require(0 <= begin_ && begin_ <= end_ && end_ <= shape[axis], "[", begin_, ", ", end_, ") of axis ", axis,
            " of x, which has shape ", shape);
    shape[axis] = end_ - begin_;
    return {y(shape)};
  }
  Residuals residuals(const Wanted&) const override { return {}; }
  void forward(Frame& f) const override {
    const Runs r(f[x].shape(), f[x].shape().axis(axis_, "axis"));
    const T* from = f[x].data() + begin_ * r.inner;
    T* to = f[y].data();
    const Index run = (end_ - begin_) * r.inner;
    parallel_for(r.outer, row_grain(run), [=](Index first, Index last) {
      for (Index i = first; i < last; ++i) std::copy_n(from + i * r.whole, run, to + i * run);
    });
  }
  // Slices are added up in the gradient of their tensor: each touches its own part only.
  GradientRule gradient(int) const override { return {.adds = true}; }
  void backward(Frame& f) const override {
    const Runs r(f[x].shape(), f[x].shape().axis(axis_, "axis"));
    const T* dy = f.grad(y).data();
    T* dx = f.grad(x).data();
    const Index before = begin_ * r.inner, run = (end_ - begin_) * r.inner;
    const bool add = f.accumulate(x);
    parallel_for(r.outer, row_grain(add ? run : r.whole), [=](Index first, Index last) {
      for (Index i = first; i < last; ++i) {
        T* row = dx + i * r.whole;
        if (!add) {
          std::fill_n(row, before, static_cast<T>(0));
          std::copy_n(dy + i * run, run, row + before);
          std::fill_n(row + before + run, r.whole - before - run, static_cast<T>(0));
          continue;
        }
        const auto sum = numbers(row + before);
        const auto terms = numbers(dy + i * run);
        for (Index j = 0; j < run; ++j) sum[j] = sum[j] + terms[j];
      }
    });
  }

 private:
  struct Runs {
    Index outer = 1, inner = 1, whole;
    Runs(const Shape& shape, int axis) {
      for (int i = 0; i < axis; ++i) outer *= shape[i];
      for (int i = axis + 1; i < shape.rank(); ++i) inner *= shape[i];
      whole = shape[axis] * inner;
    }
  };

  int axis_;
  Index begin_, end_;
};

}  // namespace ops

/// x from `begin` to `end` along `axis` (counted from the end when negative). Along axis 0 it is a view and no op.
/// Error: unless 0 <= begin <= end <= the axis's length.
template <class T>
Var<T> slice(const Var<T>& x, int axis, Index begin, Index end) {
  if (axis == 0 || axis == -x.shape().rank()) return x.slice(begin, end);
  return record(ops::Slice<T>(axis, begin, end), x)[ops::Slice<T>::y];
}

}}  // namespace remat
