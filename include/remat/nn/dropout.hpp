// Dropout layer.
#pragma once

#include <remat/ops/dropout.hpp>
#include <remat/params/registry.hpp>
#include <string>

namespace remat { inline namespace REMAT_ABI { namespace nn {

/// Settings of `Dropout`.
struct DropoutConfig {
  double rate = 0;  // probability of dropping, 0 <= rate < 1
};

/// Drops values with probability `rate` while training and scales the others by 1 / (1 - rate).
template <class T>
struct Dropout {
  double rate;       // probability of dropping
  std::string path;  // the layer's path in the model

  /// An `Error` for a rate outside of [0, 1).
  Dropout(const Scope& scope, const DropoutConfig& config) : rate(config.rate), path(scope.use_path()) {
    require(rate >= 0 && rate < 1, path, ": dropout rate must be in [0, 1), got ", rate);
  }
  /// x [...] -> [...]
  Var<T> operator()(const Var<T>& x) const {
    const auto here = x.tape().layer(path);
    return dropout(x, rate);
  }
};

}}}  // namespace remat::nn
