// Normalization layers over the last axis.
#pragma once

#include <remat/nn/config_checks.hpp>
#include <remat/ops/layer_norm.hpp>
#include <remat/ops/rms_norm.hpp>
#include <remat/params/registry.hpp>
#include <string>
#include <variant>

namespace remat { inline namespace REMAT_ABI { namespace nn {

struct LayerNormConfig {
  Index model_dims = 0;
  bool bias = true;
  double epsilon = 1e-5;
  std::string shared_weight_id{};
};

/// Mean 0 and variance 1, then `scale` [D] and `bias` [D] (Ba, Kiros, Hinton 2016).
/// A copy is a handle to the same weights.
template <class T>
struct LayerNorm {
  Parameter<Accum<T>> scale, bias;
  double epsilon;
  std::string path;

  LayerNorm(const Scope& where, const LayerNormConfig& config) : epsilon(config.epsilon), path(where.use_path()) {
    require(config.model_dims > 0, path, ": layer norm needs model_dims > 0, got ", config.model_dims);
    detail::check_positive(path, "epsilon", epsilon);
    const LayerScope scope(where, config.shared_weight_id);
    scale = scope.parameter<Accum<T>>("scale", {config.model_dims}, init::ones());
    if (config.bias) bias = scope.parameter<Accum<T>>("bias", {config.model_dims}, init::zeros());
    scope.complete();
  }
  /// x [..., D] -> [..., D]
  template <SkipTypeOf<T> X>
  Var<T> operator()(const Var<X>& x) const {
    const auto here = x.tape().layer(path);
    return layer_norm<T>(x, scale, bias, epsilon);
  }
  /// x + dropout(branch, rate), and the norm of that, of type Y: x and branch [..., D].
  template <class Y = T, SkipTypeOf<T> X>
  SkipNorm<Y, X> operator()(const Var<X>& x, const Var<T>& branch, double rate) const {
    const auto here = x.tape().layer(path);
    return skip_layer_norm<T, Y>(x, branch, rate, scale, bias, epsilon);
  }
};

struct RmsNormConfig {
  Index model_dims = 0;
  double epsilon = 1e-6;
  std::string shared_weight_id{};
};

/// Root mean square 1, then `scale` [D] (Zhang and Sennrich 2019).
/// A copy is a handle to the same weights.
template <class T>
struct RmsNorm {
  Parameter<Accum<T>> scale;
  double epsilon;
  std::string path;

  RmsNorm(const Scope& where, const RmsNormConfig& config) : epsilon(config.epsilon), path(where.use_path()) {
    require(config.model_dims > 0, path, ": RMS norm needs model_dims > 0, got ", config.model_dims);
    detail::check_positive(path, "epsilon", epsilon);
    const LayerScope scope(where, config.shared_weight_id);
    scale = scope.parameter<Accum<T>>("scale", {config.model_dims}, init::ones());
    scope.complete();
  }
  /// x [..., D] -> [..., D]
  template <SkipTypeOf<T> X>
  Var<T> operator()(const Var<X>& x) const {
    const auto here = x.tape().layer(path);
    return rms_norm<T>(x, scale, epsilon);
  }
  /// x + dropout(branch, rate), and the norm of that, of type Y: x and branch [..., D].
  template <class Y = T, SkipTypeOf<T> X>
  SkipNorm<Y, X> operator()(const Var<X>& x, const Var<T>& branch, double rate) const {
    const auto here = x.tape().layer(path);
    return skip_rms_norm<T, Y>(x, branch, rate, scale, epsilon);
  }
};

/// Which normalization a transformer layer uses.
enum class NormKind { layer_norm, rms_norm };

/// A norm of either kind.
/// A copy is a handle to the same weights.
template <class T>
struct Norm {
  std::variant<LayerNorm<T>, RmsNorm<T>> layer;

  Norm(const Scope& scope, NormKind kind, Index model_dims, bool bias = true)
      : layer(
            kind == NormKind::layer_norm
                ? std::variant<LayerNorm<T>, RmsNorm<T>>(LayerNorm<T>(scope, {.model_dims = model_dims, .bias = bias}))
                : std::variant<LayerNorm<T>, RmsNorm<T>>(RmsNorm<T>(scope, {.model_dims = model_dims}))) {}
  template <SkipTypeOf<T> X>
  Var<T> operator()(const Var<X>& x) const {
    return std::visit([&](const auto& norm) { return norm(x); }, layer);
  }
  template <SkipTypeOf<T> X>
  SkipNorm<T, X> operator()(const Var<X>& x, const Var<T>& branch, double rate) const {
    return std::visit([&](const auto& norm) { return norm(x, branch, rate); }, layer);
  }
  /// norm(x + dropout(branch, rate)) in the type of x.
  template <SkipTypeOf<T> X>
  Var<X> behind(const Var<X>& x, const Var<T>& branch, double rate) const {
    return std::visit([&](const auto& norm) { return norm.template operator()<X>(x, branch, rate).normal; }, layer);
  }
};

/// Where it stands: pre, x + f(norm(x)), which trains deep stacks without warm-up (Xiong et al. 2020); or post,
/// norm(x + f(x)), as in the first transformer (Vaswani et al. 2017) and BERT.
enum class NormPlacement { pre, post };

/// The type of the skip connections of a layer of `T`, which every branch adds to: `Accum<T>`, that is float for layers
/// of bfloat16, so that no sum is rounded, nor that of its gradients; or `T` itself, half the bytes. One and the same
/// for float and double.
enum class SkipStream { accum, compute };

}}}  // namespace remat::nn
