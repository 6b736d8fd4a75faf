// The activations of feed-forward layers by name.
#pragma once

#include <array>
#include <ostream>
#include <remat/core/error.hpp>
#include <remat/kernels/activations.hpp>
#include <string>
#include <string_view>

namespace remat { inline namespace REMAT_ABI {

/// gelu is x Phi(x) by the error function, gelu_tanh its approximation (GPT-2's); squared_relu: So et al. 2021.
enum class Activation { relu, gelu, gelu_tanh, silu, squared_relu };

/// Their names, in order.
inline constexpr std::array<std::string_view, 5> activation_names = {"relu", "gelu", "gelu_tanh", "silu",
                                                                     "squared_relu"};

///@{
/// "relu", "gelu", "gelu_tanh", "silu" or "squared_relu".
constexpr std::string_view to_string(Activation kind) { return activation_names[static_cast<std::size_t>(kind)]; }
inline std::ostream& operator<<(std::ostream& out, Activation kind) { return out << to_string(kind); }
///@}

/// The activation that prints as `name`; an `Error` lists the names when there is none.
inline Activation parse_activation(std::string_view name) {
  for (std::size_t i = 0; i < activation_names.size(); ++i)
    if (name == activation_names[i]) return static_cast<Activation>(i);
  std::string known;
  for (const auto& each : activation_names) known.append(known.empty() ? "" : ", ").append(each);
  fail("activation: no \"", name, "\"; there are ", known);
}

namespace ops {

struct SquaredRelu {
  template <class T>
  [[gnu::always_inline]] static T value(T x) {
    const T positive = kernels::Relu::value(x);
    return positive * positive;  // times x it would be NaN of -infinity
  }
  template <class T>
  [[gnu::always_inline]] static T derivative(T x) {
    return T(2) * kernels::Relu::value(x);
  }
};

/// Calls `body` with the kernel of `kind`.
template <class F>
void with_kernel(Activation kind, F&& body) {
  switch (kind) {
    case Activation::relu: return body(kernels::Relu());
    case Activation::gelu: return body(kernels::Gelu());
    case Activation::gelu_tanh: return body(kernels::GeluTanh());
    case Activation::silu: return body(kernels::Silu());
    case Activation::squared_relu: return body(SquaredRelu());
  }
}

}  // namespace ops

}}  // namespace remat
