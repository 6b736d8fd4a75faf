// Multiplicative noise: what a router reads in training (Fedus et al. 2021).
#pragma once

#include <remat/ops/dropout.hpp>

namespace remat { inline namespace REMAT_ABI {
namespace ops {

template <class T>
struct Jitter : Op {
  static constexpr In<T> x{0};
  static constexpr Out<T> y{0};
  DropoutMask mask;  // whose rate is how far from 1 factors go

  explicit Jitter(const DropoutMask& m) : Op("jitter"), mask(m) {}

  Specs infer(const Operands& in) const override {
    require(mask.rate >= 0 && mask.rate < 1, "jitter ", mask.rate, " is not in [0, 1)");
    return {y(in[x].shape)};
  }
  Residuals residuals(const Wanted&) const override { return {}; }
  void forward(Frame& f) const override { apply(f[x].data(), f[y].data(), f[y].size()); }
  void backward(Frame& f) const override { apply(f.grad(y).data(), f.grad(x).data(), f[x].size()); }
  GradientRule gradient(int) const override { return {.in_place = true}; }

 private:
  void apply(const T* from, T* to, Index size) const {
    const auto least = static_cast<Accum<T>>(1 - mask.rate), width = static_cast<Accum<T>>(2 * mask.rate);
    parallel_for(size, 4096, [&, xs = numbers(from), ys = numbers(to)](Index begin, Index end) {
      for (Index i = begin; i < end; ++i) {
        const auto u = mask.stream.uniform(mask.coordinate(static_cast<std::uint64_t>(i)));
        ys[i] = xs[i] * (least + width * static_cast<Accum<T>>(u));
      }
    });
  }
};

}  // namespace ops

/// x times numbers drawn evenly from [1 - epsilon, 1 + epsilon), 0 <= epsilon < 1; x itself for 0 and in evaluate mode.
template <class T>
Var<T> jitter(const Var<T>& x, double epsilon) {
  return ops::masked<ops::Jitter>(x, ops::next_mask(x.tape(), epsilon, x.shape()));
}

}}  // namespace remat
