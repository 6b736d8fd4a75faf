// Ops of one operand, element by element. Each is a small function object: its value, its derivative, and whether the
// derivative is told by the operand or by the result, so that backward keeps only that.
#pragma once

#include <cmath>
#include <remat/autodiff/tape.hpp>
#include <remat/core/parallel.hpp>
#include <remat/kernels/vector_math.hpp>

namespace remat { inline namespace REMAT_ABI {

namespace functions {

enum class Reads { nothing, operand, result };

/// `derivative` is given the operand or the result, as `reads` says.
template <Reads what>
struct Function {
  static constexpr Reads reads = what;
};

struct Sin : Function<Reads::operand> {
  static constexpr const char* name = "sin";
  static auto value(auto x) { return std::sin(x); }
  static auto derivative(auto x) { return std::cos(x); }
};
struct Cos : Function<Reads::operand> {
  static constexpr const char* name = "cos";
  static auto value(auto x) { return std::cos(x); }
  static auto derivative(auto x) { return -std::sin(x); }
};
struct Exp : Function<Reads::result> {
  static constexpr const char* name = "exp";
  static auto value(auto x) { return kernels::fast_exp(x); }
  static auto derivative(auto y) { return y; }
};
struct Log : Function<Reads::operand> {
  static constexpr const char* name = "log";
  static auto value(auto x) { return std::log(x); }
  static auto derivative(auto x) { return 1 / x; }
};
struct Tanh : Function<Reads::result> {
  static constexpr const char* name = "tanh";
  static auto value(auto x) { return kernels::fast_tanh(x); }
  static auto derivative(auto y) { return 1 - y * y; }
};
struct Sqrt : Function<Reads::result> {
  static constexpr const char* name = "sqrt";
  static auto value(auto x) { return std::sqrt(x); }
  static auto derivative(auto y) { return decltype(y)(0.5) / y; }
};
struct Square : Function<Reads::operand> {
  static constexpr const char* name = "square";
  static auto value(auto x) { return x * x; }
  static auto derivative(auto x) { return 2 * x; }
};
struct Abs : Function<Reads::operand> {
  static constexpr const char* name = "abs";
  static auto value(auto x) { return std::abs(x); }
  static auto derivative(auto x) { return static_cast<decltype(x)>((x > 0) - (x < 0)); }
};

}  // namespace functions

namespace ops {

/// y = F(x), of any shape.
template <class T, class F>
struct Unary : Op {
  static constexpr In<T> x{0};
  static constexpr Out<T> y{0};

  Unary() : Op(F::name) {}
  Specs infer(const Operands& in) const override { return {y(in[x].shape)}; }
  Residuals residuals(const Wanted&) const override {
    return Residuals{}.add(x, F::reads == functions::Reads::operand).add(y, F::reads == functions::Reads::result);
  }
  void forward(Frame& f) const override {
    const auto from = numbers(f[x].data());
    const auto to = numbers(f[y].data());
    parallel_for(f[x].size(), grain, [=](Index begin, Index end) {
      for (Index i = begin; i < end; ++i) to[i] = F::value(from[i]);
    });
  }
  void backward(Frame& f) const override {
    using functions::Reads;
    const auto dy = numbers(f.grad(y).data());
    auto read = dy;
    if constexpr (F::reads == Reads::operand) read = numbers(f[x].data());
    if constexpr (F::reads == Reads::result) read = numbers(static_cast<const T*>(f[y].data()));
    const auto dx = numbers(f.grad(x).data());
    parallel_for(f[x].size(), grain, [=](Index begin, Index end) {
      for (Index i = begin; i < end; ++i) dx[i] = dy[i] * F::derivative(read[i]);
    });
  }
  GradientRule gradient(int) const override { return {.in_place = true}; }

 private:
  static constexpr Index grain = 16384;
};

}  // namespace ops

namespace detail {
template <class F, class T>
Var<T> unary(const Var<T>& x) {
  return record(ops::Unary<T, F>(), x)[ops::Unary<T, F>::y];
}
}  // namespace detail

/// sin x, x in radians.
template <class T>
Var<T> sin(const Var<T>& x) {
  return detail::unary<functions::Sin>(x);
}
/// cos x, x in radians.
template <class T>
Var<T> cos(const Var<T>& x) {
  return detail::unary<functions::Cos>(x);
}
/// e^x.
template <class T>
Var<T> exp(const Var<T>& x) {
  return detail::unary<functions::Exp>(x);
}
/// The natural logarithm; -infinity at 0, NaN below.
template <class T>
Var<T> log(const Var<T>& x) {
  return detail::unary<functions::Log>(x);
}
/// The hyperbolic tangent.
template <class T>
Var<T> tanh(const Var<T>& x) {
  return detail::unary<functions::Tanh>(x);
}
/// The square root; NaN below 0. The derivative at 0 is infinite.
template <class T>
Var<T> sqrt(const Var<T>& x) {
  return detail::unary<functions::Sqrt>(x);
}
/// x * x.
template <class T>
Var<T> square(const Var<T>& x) {
  return detail::unary<functions::Square>(x);
}
/// |x|; the derivative at 0 is 0.
template <class T>
Var<T> abs(const Var<T>& x) {
  return detail::unary<functions::Abs>(x);
}

}}  // namespace remat
