// Normalization layers over the last axis.
#pragma once

#include <optional>
#include <remat/nn/config_checks.hpp>
#include <remat/ops/arithmetic.hpp>
#include <remat/ops/layer_norm.hpp>
#include <remat/ops/rms_norm.hpp>
#include <remat/params/registry.hpp>
#include <string>
#include <variant>

namespace remat { inline namespace REMAT_ABI { namespace nn {

/// Settings of `LayerNorm`; model_dims must be given.
struct LayerNormConfig {
  Index model_dims = 0;            // D, the length of the last axis
  bool bias = true;                // without it, only `scale` is made
  double epsilon = 1e-5;           // added to the variance
  std::string shared_weight_id{};  // layers that carry one id use one set of weights
};

/// Mean 0 and variance 1, then `scale` [D] and `bias` [D] (Ba, Kiros, Hinton 2016).
/// A copy is a handle to the same weights.
template <class T>
struct LayerNorm {
  Parameter<Accum<T>> scale, bias;  // [D], at `scale` and `bias`
  double epsilon;                   // added to the variance
  std::string path;                 // the layer's path in the model

  /// Makes its parameters in `where`. An `Error` names the first setting that is out of its range.
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

/// What an RMS norm multiplies by: its weight w, which begins at 1; or 1 + w, w beginning at 0, so that weight decay
/// pulls towards 1 (Gemma).
enum class NormScale { weight, one_plus_weight };

/// Settings of `RmsNorm`; model_dims must be given.
struct RmsNormConfig {
  Index model_dims = 0;                 // D, the length of the last axis
  double epsilon = 1e-6;                // added to the mean square
  std::string shared_weight_id{};       // layers that carry one id use one set of weights
  NormScale scale = NormScale::weight;  // what is multiplied by
};

/// Root mean square 1, then `scale` [D], or 1 + `scale` (Zhang and Sennrich 2019).
/// A copy is a handle to the same weights.
template <class T>
struct RmsNorm {
  Parameter<Accum<T>> scale;  // [D], at `scale`
  double epsilon;             // added to the mean square
  std::string path;           // the layer's path in the model
  NormScale scale_is;         // what `scale` holds

  /// Makes its parameters in `where`. An `Error` names the first setting that is out of its range.
  RmsNorm(const Scope& where, const RmsNormConfig& config)
      : epsilon(config.epsilon), path(where.use_path()), scale_is(config.scale) {
    require(config.model_dims > 0, path, ": RMS norm needs model_dims > 0, got ", config.model_dims);
    detail::check_positive(path, "epsilon", epsilon);
    const LayerScope scope(where, config.shared_weight_id);
    scale = scope.parameter<Accum<T>>("scale", {config.model_dims},
                                      scale_is == NormScale::weight ? init::ones() : init::zeros());
    scope.complete();
  }
  /// x [..., D] -> [..., D]
  template <SkipTypeOf<T> X>
  Var<T> operator()(const Var<X>& x) const {
    const auto here = x.tape().layer(path);
    return rms_norm<T>(x, factor(x.tape()), epsilon);
  }
  /// x + dropout(branch, rate), and the norm of that, of type Y: x and branch [..., D].
  template <class Y = T, SkipTypeOf<T> X>
  SkipNorm<Y, X> operator()(const Var<X>& x, const Var<T>& branch, double rate) const {
    const auto here = x.tape().layer(path);
    return skip_rms_norm<T, Y>(x, branch, rate, factor(x.tape()), epsilon);
  }

 private:
  Like<Accum<T>> factor(Tape& tape) const {
    if (scale_is == NormScale::weight) return scale;
    return tape.parameter(scale) + Accum<T>{1};
  }
};

/// Which normalization a transformer layer uses.
enum class NormKind { layer_norm, rms_norm };

/// A norm of either kind.
/// A copy is a handle to the same weights.
template <class T>
struct Norm {
  std::variant<LayerNorm<T>, RmsNorm<T>> layer;  // the one that was asked for

  /// Of vectors of `model_dims` numbers; `bias` is of layer norms alone, `epsilon` that of the norm's config when
  /// empty; `scale_is` is of RMS norms.
  Norm(const Scope& scope, NormKind kind, Index model_dims, bool bias = true, std::optional<double> epsilon = {},
       NormScale scale_is = NormScale::weight)
      : layer(made(scope, kind, model_dims, bias, epsilon, scale_is)) {}
  /// x [..., D] -> [..., D]
  template <SkipTypeOf<T> X>
  Var<T> operator()(const Var<X>& x) const {
    return std::visit([&](const auto& norm) { return norm(x); }, layer);
  }
  /// x + dropout(branch, rate), and the norm of that: x and branch [..., D].
  template <SkipTypeOf<T> X>
  SkipNorm<T, X> operator()(const Var<X>& x, const Var<T>& branch, double rate) const {
    return std::visit([&](const auto& norm) { return norm(x, branch, rate); }, layer);
  }
  /// norm(x + dropout(branch, rate)) in the type of x.
  template <SkipTypeOf<T> X>
  Var<X> behind(const Var<X>& x, const Var<T>& branch, double rate) const {
    return std::visit([&](const auto& norm) { return norm.template operator()<X>(x, branch, rate).normal; }, layer);
  }

 private:
  static std::variant<LayerNorm<T>, RmsNorm<T>> made(const Scope& scope, NormKind kind, Index model_dims, bool bias,
                                                     std::optional<double> epsilon, NormScale scale_is) {
    LayerNormConfig layer_norm{.model_dims = model_dims, .bias = bias};
    RmsNormConfig rms_norm{.model_dims = model_dims, .scale = scale_is};
    if (epsilon) layer_norm.epsilon = rms_norm.epsilon = *epsilon;
    if (kind == NormKind::layer_norm) return LayerNorm<T>(scope, layer_norm);
    return RmsNorm<T>(scope, rms_norm);
  }
};

/// Where it stands: pre, x + f(norm(x)), which trains deep stacks without warm-up (Xiong et al. 2020); post,
/// norm(x + f(x)), as in the first transformer (Vaswani et al. 2017) and BERT; sandwich, x + norm(f(norm(x))), two
/// norms to a branch (Gemma 2 and 3); or branch_output, x + norm(f(x)), so that nothing but sums stands in the stream's
/// way (OLMo 2; "post" in Praxis).
enum class NormPlacement { pre, post, sandwich, branch_output };

/// The type of the skip connections of a layer of `T`, which every branch adds to: `Accum<T>`, that is float for layers
/// of bfloat16, so that no sum is rounded, nor that of its gradients; or `T` itself, half the bytes. One and the same
/// for float and double.
enum class SkipStream { accum, compute };

}}}  // namespace remat::nn
