// Initial values: a pure function of (seed, path, element), so the order of building layers changes nothing.
#pragma once

#include <cmath>
#include <remat/core/random.hpp>
#include <remat/core/tensor.hpp>
#include <sstream>
#include <string>

namespace remat { inline namespace REMAT_ABI {

/// How a parameter starts. Two initializers are equal when kind and amount are.
struct Initializer {
  /// Always `amount`; normal of mean 0; or uniform around 0.
  enum class Kind { constant, normal, uniform };
  Kind kind = Kind::constant;  // how elements are drawn
  double amount = 0;           // the value, the standard deviation, or the half width

  /// Element i of a parameter that draws from `stream`.
  double operator()(const RandomStream& stream, Index i) const {
    if (kind == Kind::constant || amount == 0) return amount;
    const auto index = static_cast<std::uint64_t>(i);
    if (kind == Kind::normal) return amount * stream.normal(index);
    return amount * (2 * static_cast<double>(stream.uniform(index)) - 1);
  }
  /// A constant may be any number, a deviation or a half width none below 0.
  bool is_valid() const { return kind == Kind::constant ? !std::isnan(amount) : amount >= 0 && std::isfinite(amount); }
  /// As reports print it: "normal(0.02)".
  std::string to_string() const {
    static constexpr const char* names[] = {"constant(", "normal(", "uniform("};
    std::ostringstream text;
    text.precision(12);
    text << names[static_cast<int>(kind)] << amount << ')';
    return text.str();
  }
  friend bool operator==(const Initializer&, const Initializer&) = default;
};

namespace init {
/// Every element is `value`.
inline Initializer constant(double value) { return {Initializer::Kind::constant, value}; }
/// Every element is 0, as of biases.
inline Initializer zeros() { return constant(0); }
/// Every element is 1, as of the scales of norms.
inline Initializer ones() { return constant(1); }
/// Mean 0, the given standard deviation.
inline Initializer normal(double deviation) { return {Initializer::Kind::normal, deviation}; }
/// Uniform in [-limit, limit).
inline Initializer uniform(double limit) { return {Initializer::Kind::uniform, limit}; }
/// Uniform with limit sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio 2010).
inline Initializer xavier_uniform(Index fan_in, Index fan_out) {
  return uniform(std::sqrt(6.0 / static_cast<double>(fan_in + fan_out)));
}
}  // namespace init

}}  // namespace remat
