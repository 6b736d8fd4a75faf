// Mixture of experts: many feed-forwards, of which each token uses a few.
#pragma once

#include <remat/nn/feed_forward.hpp>
#include <remat/nn/linear.hpp>
#include <remat/nn/routed_feed_forward_config.hpp>
#include <remat/ops/activation.hpp>
#include <remat/ops/arithmetic.hpp>
#include <remat/ops/combine_rows.hpp>
#include <remat/ops/grouped_matmul.hpp>
#include <remat/ops/jitter.hpp>
#include <remat/ops/load_balancing_loss.hpp>
#include <remat/ops/matmul.hpp>
#include <remat/ops/reduce.hpp>
#include <remat/ops/route.hpp>
#include <remat/ops/router_z_loss.hpp>
#include <remat/ops/softmax.hpp>
#include <remat/ops/take_rows.hpp>
#include <remat/ops/unary_activations.hpp>
#include <string>
#include <utility>

namespace remat { inline namespace REMAT_ABI { namespace nn {

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
  Parameter<Accum<T>> router_bias;       // [E], where the config has it
  Parameter<Accum<T>> ffn1, gate, ffn2;  // [E, D, F], the same when gated, [E, F, D]
  std::optional<FeedForward<T>> shared;  // beside the experts, where the config has it

  /// Makes its parameters in `where`. An `Error` names the first setting that is out of its range.
  RoutedFeedForward(const Scope& where, const RoutedFeedForwardConfig& c)
      : config(checked(c, where.use_path())), path(where.use_path()) {
    const LayerScope scope(where, c.shared_weight_id);
    router.emplace(scope / "router",
                   LinearConfig{.input_dims = c.model_dims, .output_dims = c.num_experts, .bias = false});
    if (c.router_bias)
      router_bias = (scope / "router_bias").template parameter<Accum<T>>("b", {c.num_experts}, init::zeros());
    const auto experts = [&](const char* name, Index from, Index to, const std::optional<Initializer>& init) {
      return (scope / name)
          .template parameter<Accum<T>>("w", {c.num_experts, from, to}, init.value_or(init::xavier_uniform(from, to)));
    };
    ffn1 = experts("ffn1", c.model_dims, c.hidden_dims, c.init);
    if (c.gated) gate = experts("ffn1_gate", c.model_dims, c.hidden_dims, c.init);
    ffn2 = experts("ffn2", c.hidden_dims, c.model_dims, c.out_init);
    if (c.shared_hidden_dims > 0) {
      FeedForwardConfig beside{.model_dims = c.model_dims, .hidden_dims = c.shared_hidden_dims};
      beside.activation = c.activation, beside.gated = c.gated, beside.bias = false, beside.dropout = c.dropout;
      beside.init = c.init, beside.out_init = c.out_init;
      shared.emplace(scope / "shared", beside);
    }
    scope.complete();
  }

  /// What a call gives.
  struct Routed {
    Var<T> output;                  // [..., D]
    Var<Accum<T>> balance, z_loss;  // auxiliary losses, see `load_balancing_loss` and `router_z_loss`
    Routing<T> to;                  // who went where

    /// Both losses by the config's weights.
    Var<Accum<T>> auxiliary;
  };

  /// x [..., D] -> the output [..., D], and the load-balancing loss, to be added to the model's loss with a small
  /// weight (Switch: 0.01).
  std::pair<Var<T>, Var<Accum<T>>> operator()(const Var<T>& x) const {
    Routed routed = run(x, {}, false);
    return {routed.output, routed.balance};
  }
  /// x [..., D], of which, where lengths [B] are given, row b of N / B tokens has `lengths[b]`; the others are padding,
  /// which takes no slot, gets zeros from the experts and enters no loss.
  Routed routed(const Var<T>& x, const Like<std::int32_t>& lengths = {}) const { return run(x, lengths, true); }

  /// The slots of each expert for so many tokens of a group: an even share of them times `capacity_factor`, at least 1.
  Index capacity(Index tokens) const {
    const double share =
        static_cast<double>(tokens) * static_cast<double>(config.top_k) / static_cast<double>(config.num_experts);
    // An expert is asked at most once by each token.
    return static_cast<Index>(std::min(std::ceil(share * config.capacity_factor), static_cast<double>(tokens)));
  }
  /// The groups of so many tokens. An `Error` where they do not divide them.
  Index groups(Index tokens) const {
    Index count = config.num_groups;
    if (config.min_group_size > 0 && tokens / count < config.min_group_size)
      count = std::max<Index>(1, (tokens + config.min_group_size - 1) / config.min_group_size);
    require(tokens % count == 0, path, ": ", tokens, " tokens are not ", count,
            " equal groups; choose num_groups and min_group_size so that groups divide the batch");
    return count;
  }

 private:
  Routed run(const Var<T>& x, const Like<std::int32_t>& lengths, bool with_z_loss) const {
    const auto here = x.tape().layer(path);
    const auto regrouped = x.tape().regrouped();  // an expert's slots go to tokens of any row
    require(x.shape().rank() > 0 && x.shape().back() == config.model_dims, path, ": x has shape ", x.shape(),
            ", [..., ", config.model_dims, "] is needed");
    const Index tokens = x.shape().rows(), parts = groups(tokens);
    const Var<T> rows = x.reshape({tokens, config.model_dims});
    const Var<T> logits = checkpoint_name((*router)(jitter(rows, config.jitter)), "moe_router");
    const bool is_softmax = config.router_score == RouterScore::softmax;
    const Var<T> scores = is_softmax ? softmax(logits) : sigmoid(logits);
    const Var<T> by = router_bias ? scores + Argument<T>(router_bias) : Var<T>();
    Routed r;
    r.to = route(scores,
                 {.top_k = config.top_k,
                  .capacity = capacity(tokens / parts),
                  .groups = parts,
                  .dropless = config.dropless,
                  .expert_choice = config.expert_choice,
                  .expert_groups = config.expert_groups,
                  .top_groups = config.top_expert_groups},
                 by, lengths);
    const Var<T> seated = take_rows(rows, r.to.tokens);
    const Var<T> y = run_experts(seated, r.to.counts);
    const Var<T> out = combine_rows(y.reshape({y.shape().rows(), config.model_dims}), r.to.slots, shares(r.to.gates));
    r.output = out.reshape(x.shape());
    if (shared) r.output = r.output + (*shared)(x);
    if (config.expert_choice) {  // whose experts are equally busy
      r.balance = x.tape().input(Tensor<Accum<T>>(Shape{}, Accum<T>{0}));
    } else {
      const Var<T> probabilities = is_softmax ? scores : scores / sum(scores, {-1}, true);
      r.balance = load_balancing_loss(probabilities, r.to.experts, config.balance);
    }
    if (!with_z_loss) return r;
    r.z_loss = router_z_loss(logits, r.to.experts);
    r.auxiliary = r.balance * static_cast<Accum<T>>(config.balance_weight);
    if (config.z_loss_weight > 0) r.auxiliary = r.auxiliary + r.z_loss * static_cast<Accum<T>>(config.z_loss_weight);
    return r;
  }
  /// What the experts of each token count for.
  Var<T> shares(const Var<T>& gates) const {
    const bool sums_to_one = !config.expert_choice && config.normalize.value_or(config.top_k > 1);
    const Var<T> parts = sums_to_one ? gates / sum(gates, {-1}, true) : gates;
    return config.gate_scale == 1 ? parts : parts * config.gate_scale;
  }
  /// Rows by matrices of their experts: [E, C, .], or [R, .] by their counts.
  Var<T> product(const Var<T>& x, const Parameter<Accum<T>>& w, const Var<std::int32_t>& counts) const {
    return config.dropless ? grouped_matmul<T>(x, w, counts) : matmul<T>(x, w);
  }
  // [E, C, D] -> [E, C, D]
  Var<T> run_experts(const Var<T>& x, const Var<std::int32_t>& counts) const {
    const Var<T> h = checkpoint_name(product(x, ffn1, counts), "moe_ffn1");
    const Var<T> y = gate ? gated_activate(checkpoint_name(product(x, gate, counts), "moe_ffn1_gate"), h,
                                           config.activation, config.dropout)
                          : activate(h, config.activation, config.dropout);
    return checkpoint_name(product(y, ffn2, counts), "moe_ffn2");
  }
};

}}}  // namespace remat::nn
