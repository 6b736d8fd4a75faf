// Linear layer.
#pragma once

#include <optional>
#include <remat/nn/config_checks.hpp>
#include <remat/ops/linear.hpp>
#include <remat/params/registry.hpp>
#include <string>

namespace remat { inline namespace REMAT_ABI { namespace nn {

/// Settings of `Linear`; input_dims and output_dims must be given.
struct LinearConfig {
  Index input_dims = 0;               // D, of what enters
  Index output_dims = 0;              // F, of what leaves
  bool bias = true;                   // without it, b is never made
  std::optional<Initializer> init{};  // of w; Xavier uniform when empty. b starts at 0
  std::string shared_weight_id{};     // layers with one id share w; each keeps its own bias
};

/// y = x w + b over the last axis: w [D, F] at `w`, b [F] at `b`.
/// A copy is a handle to the same weights.
template <class T>
struct Linear {
  Parameter<Accum<T>> w, b;  // [D, F], [F]
  std::string path;          // the layer's path in the model

  /// Makes its parameters in `where`. An `Error` names the first setting that is out of its range.
  Linear(const Scope& where, const LinearConfig& config) : path(where.use_path()) {
    require(config.input_dims > 0 && config.output_dims > 0, path,
            ": linear needs input_dims and output_dims > 0, got ", config.input_dims, " and ", config.output_dims);
    detail::check_init(path, "init", config.init);
    const Initializer init = config.init.value_or(init::xavier_uniform(config.input_dims, config.output_dims));
    const LayerScope scope(where), shared(scope, config.shared_weight_id);
    w = shared.parameter<Accum<T>>("w", {config.input_dims, config.output_dims}, init);
    if (config.bias) b = scope.parameter<Accum<T>>("b", {config.output_dims}, init::zeros());
    shared.complete();
  }
  /// x [..., D] -> [..., F]
  Var<T> operator()(const Var<T>& x) const {
    const auto here = x.tape().layer(path);
    return linear<T>(x, w, b);
  }
};

}}}  // namespace remat::nn
