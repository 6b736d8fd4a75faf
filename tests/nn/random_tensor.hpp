// Inputs of layers.
#pragma once

#include <remat/core/random.hpp>
#include <remat/core/tensor.hpp>

namespace remat_test {

/// Standard normal values, another set for each `seed`.
template <class T>
remat::Tensor<T> random_tensor(const remat::Shape& shape, std::uint64_t seed) {
  remat::Tensor<T> x(shape);
  const remat::RandomStream stream{.seed = seed};
  for (remat::Index i = 0; i < x.size(); ++i)
    x.write()[i] = static_cast<T>(stream.normal(static_cast<std::uint64_t>(i)));
  return x;
}

}  // namespace remat_test
