// A loss of two arrays, element by element, for a small function object that gives its value and derivatives.
#pragma once

#include <remat/autodiff/var.hpp>
#include <remat/core/parallel.hpp>
#include <remat/kernels/reduce.hpp>
#include <remat/kernels/rows.hpp>
#include <remat/kernels/vector_math.hpp>
#include <remat/ops/loss_reduction.hpp>

namespace remat { inline namespace REMAT_ABI { namespace ops {

/// F(x, target) with its derivatives `dx` and `dtarget`; `F::input` is what errors call x. What weighs 0 is not looked
/// at.
template <class T, class F>
struct PairLoss : Op {
  using A = Accum<T>;
  static constexpr In<T> x{0}, target{1};  // [...], [...]
  static constexpr In<A> weights{2};       // [...]
  static constexpr Out<A> loss{0};         // [], or [...] one by one
  F fn;
  LossReduction<A> reduction;

  PairLoss(F f, Reduction r) : Op(F::name), fn(f), reduction{r} {}

  Specs infer(const Operands& in) const override {
    const Shape &xs = in[x].shape, &ts = in[target].shape;
    require(ts == xs, "target has shape ", ts, ", ", F::input, " ", xs, ": they must be equal");
    require(!in.has(weights) || in[weights].shape == xs, "weights have shape ", in[weights].shape, ", ", F::input, " ",
            xs, ": they must be equal");
    return {loss(reduction.shape(xs))};
  }
  Residuals residuals(const Wanted& wanted) const override {
    return wanted[x] || wanted[target] ? Residuals{x, target, weights} : Residuals{};
  }
  void forward(Frame& f) const override {
    const Index count = f[x].size();
    A* const each = reduction.each(f[loss]);
    kernels::with_row(weight_data(f), A{1}, [&](const auto weight) {
      const auto at = [weight, fn = fn, xs = numbers(f[x].data()), ts = numbers(f[target].data())](Index i) {
        const A scale = weight(i);
        return kernels::detail::select(scale == 0, A{0}, scale * fn.value(xs[i], ts[i]));
      };
      if (reduction.kind == Reduction::none)
        return parallel_for(count, grain, [=](Index begin, Index end) {
          for (Index i = begin; i < end; ++i) each[i] = at(i);
        });
      const A sum = parallel_sum<A>(count, grain, [=](Index begin, Index end) {
        return kernels::sum_of_calls<A>(end - begin, [=](Index i) { return at(begin + i); });
      });
      reduction.write(sum, total_weight(f), f[loss]);
    });
  }
  void backward(Frame& f) const override {
    pass_nothing_to(weights, f);
    if (!f.wants(x) && !f.wants(target)) return;
    const auto shares = reduction.shares(f.grad(loss), total_weight(f));
    kernels::with_row(shares.each, shares.all, [&](const auto share) {
      kernels::with_row(weight_data(f), A{1}, [&](const auto weight) {
        const auto fill = [&](const auto to, const auto derivative) {
          const auto xs = numbers(f[x].data()), ts = numbers(f[target].data());
          parallel_for(f[x].size(), grain, [=](Index begin, Index end) {
            for (Index i = begin; i < end; ++i) {
              const A scale = share(i) * weight(i);
              to[i] = kernels::detail::select(scale == 0, A{0}, scale * derivative(xs[i], ts[i]));
            }
          });
        };
        if (f.wants(target))
          fill(numbers(f.grad(target).data()), [fn = fn](A from, A to) { return fn.dtarget(from, to); });
        // Last, because it may overwrite the gradients of losses one by one.
        if (f.wants(x)) fill(numbers(f.grad(x).data()), [fn = fn](A from, A to) { return fn.dx(from, to); });
      });
    });
  }
  GradientRule gradient(int input) const override { return {.in_place = input == x.index}; }

 protected:
  static constexpr Index grain = 16384;

  const A* weight_data(const Frame& f) const { return f.has(weights) ? f[weights].data() : nullptr; }

 private:
  auto total_weight(const Frame& f) const {
    return [&f, this] {
      const Index count = f[x].size();
      const A* const data = weight_data(f);
      return data == nullptr ? static_cast<A>(count) : kernels::sum(data, count);
    };
  }
};

}}}  // namespace remat::ops
