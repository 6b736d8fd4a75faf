// Mixture of experts: many feed-forwards, of which each token uses a few.
#pragma once

#include <algorithm>
#include <cmath>
#include <optional>
#include <remat/nn/linear.hpp>
#include <remat/ops/activation.hpp>
#include <remat/ops/arithmetic.hpp>
#include <remat/ops/combine_rows.hpp>
#include <remat/ops/load_balancing_loss.hpp>
#include <remat/ops/matmul.hpp>
#include <remat/ops/reduce.hpp>
#include <remat/ops/route.hpp>
#include <remat/ops/softmax.hpp>
#include <remat/ops/take_rows.hpp>
#include <string>
#include <utility>

namespace remat { inline namespace REMAT_ABI { namespace nn {

/// Settings of `RoutedFeedForward`; model_dims, hidden_dims and num_experts must be given.
struct RoutedFeedForwardConfig {
  Index model_dims = 0;           // D, of what enters and leaves
  Index hidden_dims = 0;          // of each expert
  Index num_experts = 0;          // E, of which each token goes to `top_k`
  Index top_k = 1;                // experts a token goes to
  double capacity_factor = 1.25;  // of an expert, relative to an even share; num_experts / top_k drops no token
  Activation activation = Activation::gelu;       // of the first matrix, or of the gate
  bool gated = false;                             // act(x Wg) * (x W1), as in Mixtral
  double dropout = 0;                             // on the activation
  std::optional<Initializer> init{}, out_init{};  // of the first and of the second matrices; Xavier uniform when empty
  std::string shared_weight_id{};                 // layers that carry one id use one set of weights, router included
};

/// Experts of two matrices each, without biases (Shazeer et al. 2017). A router picks `top_k` of them for each token
/// and weighs their results: by its probability for one (Fedus et al. 2021), by shares that sum to 1 for more (Lepikhin
/// et al. 2021). A token that finds all slots full contributes zero, so that only the skip connection around the layer
/// carries it on.
/// A copy is a handle to the same weights.
template <class T>
struct RoutedFeedForward {
  const RoutedFeedForwardConfig config;  // as built
  std::string path;                      // the layer's path in the model
  std::optional<Linear<T>> router;       // [D, E]
  Parameter<Accum<T>> ffn1, gate, ffn2;  // [E, D, F], the same when gated, [E, F, D]

  /// Makes its parameters in `where`. An `Error` names the first setting that is out of its range.
  RoutedFeedForward(const Scope& where, const RoutedFeedForwardConfig& c) : config(c), path(where.use_path()) {
    detail::check_rate(path, "dropout", c.dropout);
    detail::check_init(path, "init", c.init);
    detail::check_init(path, "out_init", c.out_init);
    require(c.model_dims > 0 && c.hidden_dims > 0, path, ": routed feed-forward needs model_dims and hidden_dims > 0, ",
            "got ", c.model_dims, " and ", c.hidden_dims);
    require(c.top_k > 0 && c.num_experts >= c.top_k, path, ": top_k must be in [1, num_experts], got ", c.top_k, " of ",
            c.num_experts, " experts");
    require(c.capacity_factor > 0 && std::isfinite(c.capacity_factor), path, ": capacity_factor must be > 0, got ",
            c.capacity_factor);
    const LayerScope scope(where, c.shared_weight_id);
    router.emplace(scope / "router",
                   LinearConfig{.input_dims = c.model_dims, .output_dims = c.num_experts, .bias = false});
    const auto experts = [&](const char* name, Index from, Index to, const std::optional<Initializer>& init) {
      return (scope / name)
          .template parameter<Accum<T>>("w", {c.num_experts, from, to}, init.value_or(init::xavier_uniform(from, to)));
    };
    ffn1 = experts("ffn1", c.model_dims, c.hidden_dims, c.init);
    if (c.gated) gate = experts("ffn1_gate", c.model_dims, c.hidden_dims, c.init);
    ffn2 = experts("ffn2", c.hidden_dims, c.model_dims, c.out_init);
    scope.complete();
  }

  /// x [..., D] -> the output [..., D], and the load-balancing loss, to be added to the model's loss with a small
  /// weight (Switch: 0.01).
  std::pair<Var<T>, Var<Accum<T>>> operator()(const Var<T>& x) const {
    const auto here = x.tape().layer(path);
    const auto regrouped = x.tape().regrouped();  // an expert's slots go to tokens of any row
    require(x.shape().rank() > 0 && x.shape().back() == config.model_dims, path, ": x has shape ", x.shape(),
            ", [..., ", config.model_dims, "] is needed");
    const Index tokens = x.shape().rows();
    const Var<T> rows = x.reshape({tokens, config.model_dims});
    const Var<T> probabilities = softmax(checkpoint_name((*router)(rows), "moe_router"));
    const Routing<T> to = route(probabilities, {.top_k = config.top_k, .capacity = capacity(tokens)});
    const Var<T> y = run_experts(take_rows(rows, to.tokens));
    const Var<T> shares = config.top_k == 1 ? to.gates : to.gates / sum(to.gates, {-1}, true);
    const Var<T> out = combine_rows(y.reshape({y.shape()[0] * y.shape()[1], config.model_dims}), to.slots, shares);
    return {out.reshape(x.shape()), load_balancing_loss(probabilities, to.experts)};
  }

  /// The slots of each expert for so many tokens: an even share of them times `capacity_factor`.
  Index capacity(Index tokens) const {
    const double share =
        static_cast<double>(tokens) * static_cast<double>(config.top_k) / static_cast<double>(config.num_experts);
    // An expert is asked at most once by each token.
    return static_cast<Index>(std::min(std::ceil(share * config.capacity_factor), static_cast<double>(tokens)));
  }

 private:
  // [E, C, D] -> [E, C, D]
  Var<T> run_experts(const Var<T>& x) const { return checkpoint_name(matmul<T>(hidden(x), ffn2), "moe_ffn2"); }
  // [E, C, F]
  Var<T> hidden(const Var<T>& x) const {
    const Var<T> h = checkpoint_name(matmul<T>(x, ffn1), "moe_ffn1");
    if (!gate) return activate(h, config.activation, config.dropout);
    return gated_activate(checkpoint_name(matmul<T>(x, gate), "moe_ffn1_gate"), h, config.activation, config.dropout);
  }
};

}}}  // namespace remat::nn
