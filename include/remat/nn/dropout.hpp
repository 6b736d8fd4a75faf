// Dropout layer.
#pragma once

#include <remat/ops/dropout.hpp>
#include <remat/params/registry.hpp>
#include <string>

namespace remat { inline namespace REMAT_ABI { namespace nn {

struct DropoutConfig {
  double rate = 0;  // probability of dropping, 0 <= rate < 1
};

/// Drops values with probability `rate` while training and scales the others by 1 / (1 - rate).
template <class T>
struct Dropout {
  double rate;
  std::string path;

  Dropout(const Scope& scope, const DropoutConfig& config) : rate(config.rate), path(scope.use_path()) {
    require(rate >= 0 && rate < 1, path, ": dropout rate must be in [0, 1), got ", rate);
  }
  Var<T> operator()(const Var<T>& x) const {
    const auto here = x.tape().layer(path);
    return dropout(x, rate);
  }
};

}}}  // namespace remat::nn
