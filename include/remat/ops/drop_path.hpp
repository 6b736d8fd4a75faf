// Stochastic depth (Huang et al. 2016): a branch is dropped whole, for some sequences of a batch.
#pragma once

#include <remat/ops/dropout.hpp>

namespace remat { inline namespace REMAT_ABI {
namespace ops {

template <class T>
struct DropPath : Op {
  static constexpr In<T> x{0};
  static constexpr Out<T> y{0};
  DropoutMask mask;

  explicit DropPath(const DropoutMask& m) : Op("drop_path"), mask(m) {}

  Specs infer(const Operands& in) const override {
    check_rate(mask);
    require(in[x].shape.rank() > 0, "x is a number, a first axis of sequences is needed");
    return {y(in[x].shape)};
  }
  Residuals residuals(const Wanted&) const override { return {}; }
  void forward(Frame& f) const override { apply(f[x].shape(), f[x].data(), f[y].data()); }
  void backward(Frame& f) const override { apply(f[x].shape(), f.grad(y).data(), f.grad(x).data()); }
  GradientRule gradient(int) const override { return {.in_place = true}; }

 private:
  void apply(const Shape& shape, const T* from, T* to) const {
    const Index rows = shape.front(), size = rows == 0 ? 0 : shape.size() / rows;
    parallel_for(rows * size, 4096, [this, size, xs = numbers(from), ys = numbers(to)](Index begin, Index end) {
      for (Index i = begin; i < end;) {
        const Index row = i / size, last = std::min(end, (row + 1) * size);
        const auto factor = mask.active() ? mask.template factor<Accum<T>>(static_cast<std::uint64_t>(row)) : 1;
        for (; i < last; ++i) ys[i] = factor == 0 ? Accum<T>{0} : xs[i] * factor;
      }
    });
  }
};

}  // namespace ops

/// Zeros for each row of the first axis of x [B, ...] with probability `rate`, 0 <= rate < 1, and the others times
/// 1 / (1 - rate). x itself for rate 0 and in evaluate mode.
template <class T>
Var<T> drop_path(const Var<T>& x, double rate) {
  DropoutMask mask = ops::next_mask(x.tape(), rate);
  // A row is dropped as a whole, whatever part of its tokens `blockwise` is at.
  if (mask.active() && x.shape().rank() > 0) mask.first = ops::first_in_batch(x.tape(), {x.shape().front()});
  return ops::masked<ops::DropPath>(x, mask);
}

}}  // namespace remat
