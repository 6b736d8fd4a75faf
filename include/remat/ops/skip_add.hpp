// The end of a branch: its sum with the skip connection, which may be wider than the branch.
#pragma once

#include <concepts>
#include <remat/ops/arithmetic.hpp>
#include <remat/ops/dropout.hpp>

namespace remat { inline namespace REMAT_ABI {

/// What may run past branches of type `T`: `T` itself, or the type in which `T` is summed.
template <class X, class T>
concept SkipTypeOf = std::same_as<X, T> || std::same_as<X, Accum<T>>;

namespace ops {

/// sums = xs + dropout(branches) for n elements, the first of which is element `at` to the mask.
template <class T, class X>
void add_branch(const DropoutMask& mask, Index at, Index n, const X* xs, const T* branches, X* sums) {
  const auto from = numbers(xs);
  const auto more = numbers(branches);
  const auto to = numbers(sums);
  if (mask.active()) {
    each_factors<Accum<T>>(mask, at, at + n, [=](Index begin, Index count, const Accum<T>* factors) {
      const Index i = begin - at;
      for (Index j = 0; j < count; ++j) to[i + j] = from[i + j] + more[i + j] * factors[j];
    });
  } else {
#pragma omp simd
    for (Index j = 0; j < n; ++j) to[j] = from[j] + more[j];
  }
}

/// The gradient of such branches, given that of the sums.
template <class T, class X>
void branch_gradient(const DropoutMask& mask, Index at, Index n, const X* dsums, T* dbranches) {
  const auto from = numbers(dsums);
  const auto to = numbers(dbranches);
  if (mask.active()) {
    each_factors<Accum<T>>(mask, at, at + n, [=](Index begin, Index count, const Accum<T>* factors) {
      const Index i = begin - at;
      for (Index j = 0; j < count; ++j) to[i + j] = from[i + j] * factors[j];
    });
  } else {
#pragma omp simd
    for (Index j = 0; j < n; ++j) to[j] = from[j];
  }
}

/// y = x + dropout(branch), where x is wider than the branch.
template <class T, class X>
struct SkipAdd : Op {
  static constexpr In<X> x{0};
  static constexpr In<T> branch{1};
  static constexpr Out<X> y{0};
  DropoutMask mask;

  explicit SkipAdd(const DropoutMask& m) : Op("skip_add"), mask(m) {}

  Specs infer(const Operands& in) const override {
    check_rate(mask);
    require(in[branch].shape == in[x].shape, "branch has shape ", in[branch].shape, ", x has ", in[x].shape);
    return {y(in[x].shape)};
  }
  Residuals residuals(const Wanted&) const override { return {}; }
  void forward(Frame& f) const override {
    parallel_for(f[x].size(), 4096,
                 [this, xs = f[x].data(), more = f[branch].data(), ys = f[y].data()](Index begin, Index end) {
                   add_branch(mask, begin, end - begin, xs + begin, more + begin, ys + begin);
                 });
  }
  // Only of the branch; that of x passes.
  void backward(Frame& f) const override {
    parallel_for(f[x].size(), 4096, [this, dy = f.grad(y).data(), to = f.grad(branch).data()](Index begin, Index end) {
      branch_gradient(mask, begin, end - begin, dy + begin, to + begin);
    });
  }
  GradientRule gradient(int input) const override { return {.passes = input == x.index}; }
};

}  // namespace ops

/// x + dropout(branch, rate), of the type of x: that of the branch, or the one it is summed in, and then one op; both
/// of one shape.
template <class T, SkipTypeOf<T> X>
Var<X> skip_add(const Var<X>& x, const Var<T>& branch, double rate = 0) {
  if constexpr (std::is_same_v<X, T>)
    return x + dropout(branch, rate);
  else
    return record(ops::SkipAdd<T, X>(ops::next_mask(x.tape(), rate, branch.shape())), x, branch)[ops::SkipAdd<T, X>::y];
}

}}  // namespace remat
