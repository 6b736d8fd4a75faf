// Activations as ops of their own, of any shape. With dropout behind it, `activation` does both in one pass.
#pragma once

#include <algorithm>
#include <cmath>
#include <remat/kernels/activations.hpp>
#include <remat/ops/unary.hpp>

namespace remat { inline namespace REMAT_ABI {

namespace functions {

struct Relu : Function<Reads::result>, kernels::Relu {  // the result is positive just where the operand is
  static constexpr const char* name = "relu";
};
struct Gelu : Function<Reads::operand>, kernels::Gelu {
  static constexpr const char* name = "gelu";
};
struct GeluTanh : Function<Reads::operand>, kernels::GeluTanh {
  static constexpr const char* name = "gelu_tanh";
};
struct Silu : Function<Reads::operand>, kernels::Silu {
  static constexpr const char* name = "silu";
};
struct Sigmoid : Function<Reads::result> {
  static constexpr const char* name = "sigmoid";
  static auto value(auto x) { return 1 / (1 + kernels::fast_exp(-x)); }
  static auto derivative(auto y) { return y * (1 - y); }
};
struct Softplus : Function<Reads::operand> {
  static constexpr const char* name = "softplus";
  static auto value(auto x) { return std::max(x, decltype(x)(0)) + std::log1p(kernels::fast_exp(-std::abs(x))); }
  static auto derivative(auto x) { return Sigmoid::value(x); }
};

}  // namespace functions

/// max(x, 0); the derivative at 0 is 0.
template <class T>
Var<T> relu(const Var<T>& x) {
  return detail::unary<functions::Relu>(x);
}
/// x Phi(x), Phi the normal distribution, exact by the error function (Hendrycks, Gimpel 2016).
template <class T>
Var<T> gelu(const Var<T>& x) {
  return detail::unary<functions::Gelu>(x);
}
/// The tanh approximation of `gelu`, from the same paper; GPT-2's.
template <class T>
Var<T> gelu_tanh(const Var<T>& x) {
  return detail::unary<functions::GeluTanh>(x);
}
/// x sigmoid(x), also called swish (Elfwing, Uchibe, Doya 2018).
template <class T>
Var<T> silu(const Var<T>& x) {
  return detail::unary<functions::Silu>(x);
}
/// 1 / (1 + e^-x), the logistic function.
template <class T>
Var<T> sigmoid(const Var<T>& x) {
  return detail::unary<functions::Sigmoid>(x);
}
/// log(1 + e^x), without its overflow.
template <class T>
Var<T> softplus(const Var<T>& x) {
  return detail::unary<functions::Softplus>(x);
}

}}  // namespace remat
