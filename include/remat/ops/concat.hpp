// Tensors put one behind the other along an axis.
#pragma once

#include <algorithm>
#include <remat/autodiff/tape.hpp>
#include <remat/core/parallel.hpp>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI {

namespace ops {

/// y [outer, sum of lengths, inner] from any number of x [outer, length, inner].
template <class T>
struct Concat : Op {
  static constexpr Out<T> y{0};

  explicit Concat(int axis) : Op("concat"), axis_(axis) {}
  Specs infer(const Operands& in) const override {
    Shape shape = in[0].spec.shape;
    const int axis = shape.axis(axis_, "axis");
    for (int i = 1; i < in.size(); ++i) {
      Shape next = in[i].spec.shape;
      require(next.rank() == shape.rank(), "operand ", i, " has shape ", next, ", operand 0 has ", in[0].spec.shape);
      const Index length = std::exchange(next[axis], shape[axis]);
      require(next == shape, "operand ", i, " has shape ", in[i].spec.shape, ", operand 0 has ", in[0].spec.shape,
              "; they may differ along axis ", axis, " only");
      shape[axis] += length;
    }
    return {y(shape)};
  }
  Residuals residuals(const Wanted&) const override { return {}; }
  void forward(Frame& f) const override {
    T* to = f[y].data();
    for_each_operand(f, [&](In<T> x, const Part& part) {
      const T* from = f[x].data();
      parallel_for(part.outer, row_grain(part.run), [=](Index begin, Index end) {
        for (Index i = begin; i < end; ++i)
          std::copy_n(from + i * part.run, part.run, to + part.offset + i * part.whole);
      });
    });
  }
  void backward(Frame& f) const override {
    const T* dy = f.grad(y).data();
    for_each_operand(f, [&](In<T> x, const Part& part) {
      if (!f.wants(x)) return;
      T* dx = f.grad(x).data();
      parallel_for(part.outer, row_grain(part.run), [=](Index begin, Index end) {
        for (Index i = begin; i < end; ++i) std::copy_n(dy + part.offset + i * part.whole, part.run, dx + i * part.run);
      });
    });
  }

 private:
  /// `outer` runs of `run` elements of one operand, found in y from `offset` on, `whole` apart.
  struct Part {
    Index outer, run, offset, whole;
  };
  template <class Visit>
  void for_each_operand(Frame& f, Visit&& visit) const {
    const Shape& shape = f[y].shape();
    const int axis = shape.axis(axis_, "axis");
    Index outer = 1;
    for (int i = 0; i < axis; ++i) outer *= shape[i];
    if (outer == 0) return;
    const Index whole = shape.size() / outer;
    Index offset = 0;
    for (int i = 0; i < static_cast<int>(f.inputs.size()); ++i) {
      const In<T> x{i};
      const Index run = f[x].size() / outer;
      visit(x, Part{outer, run, offset, whole});
      offset += run;
    }
  }

  int axis_;
};

}  // namespace ops

///@{
/// The operands one behind the other along `axis` (counted from the end when negative). Error: no operands, or shapes
/// that differ along another axis.
template <class T>
Var<T> concat(const std::vector<Var<T>>& xs, int axis = 0) {
  return record(ops::Concat<T>(axis), xs)[ops::Concat<T>::y];
}
template <class T>
Var<T> concat(std::initializer_list<Var<T>> xs, int axis = 0) {
  return concat(std::vector<Var<T>>(xs), axis);
}
///@}

}}  // namespace remat
