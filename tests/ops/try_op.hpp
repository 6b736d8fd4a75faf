// What tests of single ops share: random tensors, a scalar to start backward from, errors as text.
#pragma once

#include <core/expect_error.hpp>
#include <remat/autodiff/tape.hpp>
#include <remat/params/registry.hpp>

namespace remat_test {

/// Values in [-2, 2), another set for each `seed`.
template <class T>
remat::Tensor<T> random_tensor(const remat::Shape& shape, std::uint64_t seed) {
  remat::Tensor<T> x(shape);
  const remat::RandomStream stream{.seed = seed};
  for (remat::Index i = 0; i < x.size(); ++i)
    x.write()[i] = static_cast<T>(4 * stream.uniform(static_cast<std::uint64_t>(i)) - 2);
  return x;
}

/// A parameter `test/name` with the given value.
template <class T>
remat::Parameter<T> parameter_of(remat::ParameterRegistry& registry, const char* name, const remat::Tensor<T>& value) {
  const auto parameter = (registry / "test").parameter<T>(name, value.shape(), remat::init::zeros());
  parameter.set_value(value);
  return parameter;
}

/// The weight of element i in `weigh`: the gradient that `weigh` hands to its operand.
template <class T>
T weight_of(remat::Index i) {
  return static_cast<T>(0.25 * static_cast<double>(i % 7) - 0.5);
}

template <class T>
struct Weigh : remat::Op {
  static constexpr remat::In<T> x{0};
  static constexpr remat::Out<T> y{0};
  Weigh() : Op("weigh") {}
  remat::Specs infer(const remat::Operands&) const override { return {y(remat::Shape{})}; }
  remat::Residuals residuals(const remat::Wanted&) const override { return {}; }
  void forward(remat::Frame& f) const override {
    T sum = 0;
    for (remat::Index i = 0; i < f[x].size(); ++i) sum += f[x].data()[i] * weight_of<T>(i);
    *f[y].data() = sum;
  }
  void backward(remat::Frame& f) const override {
    for (remat::Index i = 0; i < f[x].size(); ++i) f.grad(x).data()[i] = *f.grad(y).data() * weight_of<T>(i);
  }
};

/// The sum of x[i] weight_of(i).
template <class T>
remat::Var<T> weigh(const remat::Var<T>& x) {
  return remat::record(Weigh<T>(), x)[Weigh<T>::y];
}

}  // namespace remat_test
