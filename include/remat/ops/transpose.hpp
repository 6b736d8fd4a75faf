// Axes in another order.
#pragma once

#include <algorithm>
#include <remat/autodiff/tape.hpp>
#include <remat/core/parallel.hpp>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI {

namespace detail {

/// Writes x to y with axis `axes[i]` of x as axis i of y.
template <class T>
void permute(const Shape& shape, const std::vector<int>& axes, const T* x, T* y) {
  if (shape.size() == 0) return;
  struct Axis {
    Index length, x, y;  // number of elements, and their distance in x and in y
  };
  std::vector<Axis> loops;  // of y, innermost first; axes that stay neighbours are merged
  Index step = 1;
  for (auto axis = axes.rbegin(); axis != axes.rend(); ++axis) {
    const Index length = shape[*axis];
    Index in_x = 1;
    for (int inner = *axis + 1; inner < shape.rank(); ++inner) in_x *= shape[inner];
    if (length == 1) continue;
    if (!loops.empty() && in_x == loops.back().x * loops.back().length)
      loops.back().length *= length;
    else
      loops.push_back({length, in_x, step});
    step *= length;
  }
  // Of the two innermost loops one follows the memory of y, the other that of x; they run in square tiles.
  Axis along_y{1, 1, 1}, along_x{1, 1, 1};
  if (!loops.empty()) along_y = loops.front(), loops.erase(loops.begin());
  const auto found = std::find_if(loops.begin(), loops.end(), [](const Axis& axis) { return axis.x == 1; });
  if (found != loops.end()) along_x = *found, loops.erase(found);
  Index outer = 1;
  for (const Axis& axis : loops) outer *= axis.length;

  constexpr Index tile = 32;
  const Index strips = (along_x.length - 1) / tile + 1;
  const Index strip_work = std::min(tile, along_x.length) * along_y.length;
  parallel_for(outer * strips, row_grain(strip_work), [&](Index begin, Index end) {
    for (Index item = begin; item < end; ++item) {
      const Index first = item % strips * tile, last = std::min(first + tile, along_x.length);
      const T* from = x;
      T* to = y;
      Index position = item / strips;
      for (const Axis& axis : loops) {
        from += position % axis.length * axis.x;
        to += position % axis.length * axis.y;
        position /= axis.length;
      }
      for (Index column = 0; column < along_y.length; column += tile)
        for (Index i = first; i < last; ++i)
#pragma omp simd
          for (Index j = column; j < std::min(column + tile, along_y.length); ++j)
            to[i * along_x.y + j] = from[i + j * along_y.x];
    }
  });
}

}  // namespace detail

namespace ops {

/// y = x with its axes in another order.
template <class T>
struct Transpose : Op {
  static constexpr In<T> x{0};
  static constexpr Out<T> y{0};

  explicit Transpose(std::vector<int> axes) : Op("transpose"), axes_(std::move(axes)) {}
  Specs infer(const Operands& in) const override {
    const Shape& from = in[x].shape;
    require(static_cast<int>(axes_.size()) == from.rank(), "axes name ", axes_.size(), " axes, x has shape ", from);
    std::vector<int> sorted = order(from);
    Shape shape;
    for (const int axis : sorted) shape.push_back(from[axis]);
    std::sort(sorted.begin(), sorted.end());
    require(std::adjacent_find(sorted.begin(), sorted.end()) == sorted.end(), "axes name one axis twice");
    return {y(shape)};
  }
  Residuals residuals(const Wanted&) const override { return {}; }
  void forward(Frame& f) const override {
    detail::permute(f[x].shape(), order(f[x].shape()), f[x].data(), f[y].data());
  }
  void backward(Frame& f) const override {
    const std::vector<int> there = order(f[x].shape());
    std::vector<int> back(there.size());
    for (std::size_t i = 0; i < there.size(); ++i) back[static_cast<std::size_t>(there[i])] = static_cast<int>(i);
    detail::permute(f[y].shape(), back, f.grad(y).data(), f.grad(x).data());
  }

 private:
  /// `axes` counted from the front.
  std::vector<int> order(const Shape& shape) const {
    std::vector<int> axes;
    for (const int axis : axes_) axes.push_back(shape.axis(axis, "axes"));
    return axes;
  }

  std::vector<int> axes_;
};

}  // namespace ops

/// x with axis `axes[i]` of x as axis i of the result (counted from the end when negative). Error: unless `axes` names
/// each axis of x once.
template <class T>
Var<T> transpose(const Var<T>& x, const std::vector<int>& axes) {
  return record(ops::Transpose<T>(axes), x)[ops::Transpose<T>::y];
}
/// x with its last two axes swapped. Error: fewer than 2 axes.
template <class T>
Var<T> transpose(const Var<T>& x) {
  const int rank = x.shape().rank();
  require(rank >= 2, "transpose: x has shape ", x.shape(), ", swapping the last two axes needs two");
  std::vector<int> axes;
  for (int axis = 0; axis < rank - 2; ++axis) axes.push_back(axis);
  axes.insert(axes.end(), {rank - 1, rank - 2});
  return transpose(x, axes);
}

}}  // namespace remat
