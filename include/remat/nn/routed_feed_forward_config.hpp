// Settings of a mixture of experts, and which of them hold together.
#pragma once

#include <algorithm>
#include <cmath>
#include <optional>
#include <remat/nn/config_checks.hpp>
#include <remat/ops/activation_kind.hpp>
#include <remat/ops/load_balancing_loss.hpp>
#include <string>
#include <utility>

namespace remat { inline namespace REMAT_ABI { namespace nn {

/// What makes scores of a router's logits: probabilities over all experts, or each by itself (DeepSeek V3).
enum class RouterScore { softmax, sigmoid };

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
  bool dropless = false;         // every choice is computed and nothing else, whatever capacity_factor is (Mixtral)
  bool expert_choice = false;    // experts choose tokens, `capacity` each (Zhou et al. 2022); not for causal models
  Index shared_hidden_dims = 0;  // of a feed-forward beside the experts that every token goes to (DeepSeek); 0: none
  RouterScore router_score = RouterScore::softmax;  // of the router
  bool router_bias = false;  // added to scores where experts are chosen, not to their weights; without a gradient, for
                             // a balance that is kept by hand (DeepSeek V3)
  std::optional<bool> normalize{};  // shares of a token's experts sum to 1; empty: with top_k above 1
  double gate_scale = 1;            // of shares (DeepSeek V3: 2.5)
  Index expert_groups = 1;          // equal groups of experts, of which a token uses `top_expert_groups` (DeepSeek V3)
  Index top_expert_groups = 0;      // 0: all
  Index num_groups = 1;             // equal groups of tokens, each with slots of its own
  Index min_group_size = 0;         // tokens of a group at least: where there are fewer, there are fewer groups
  double jitter = 0;                // in training the router reads tokens times numbers in 1 +- this (Switch: 0.01)
  BalancedChoices balance = BalancedChoices::first;  // what the auxiliary loss counts: Switch's, or Mixtral's
  double balance_weight = 0.01, z_loss_weight = 0;   // of both in what a stack or a decoder adds up
};

/// `c`, if an `Error` does not name the first setting that is out of its range or does not hold beside another.
inline const RoutedFeedForwardConfig& checked(const RoutedFeedForwardConfig& c, const std::string& path) {
  detail::check_rate(path, "dropout", c.dropout);
  detail::check_rate(path, "jitter", c.jitter);
  detail::check_init(path, "init", c.init);
  detail::check_init(path, "out_init", c.out_init);
  require(c.model_dims > 0 && c.hidden_dims > 0, path, ": routed feed-forward needs model_dims and hidden_dims > 0, ",
          "got ", c.model_dims, " and ", c.hidden_dims);
  require(c.top_k > 0 && c.num_experts >= c.top_k, path, ": top_k must be in [1, num_experts], got ", c.top_k, " of ",
          c.num_experts, " experts");
  require(c.capacity_factor > 0 && std::isfinite(c.capacity_factor), path, ": capacity_factor must be > 0, got ",
          c.capacity_factor);
  for (const auto& [name, value] : {std::pair{"shared_hidden_dims", c.shared_hidden_dims},
                                    {"top_expert_groups", c.top_expert_groups},
                                    {"min_group_size", c.min_group_size}})
    detail::check_not_negative(path, name, value);
  detail::check_positive(path, "gate_scale", c.gate_scale);
  detail::check_not_negative(path, "balance_weight", c.balance_weight);
  detail::check_not_negative(path, "z_loss_weight", c.z_loss_weight);
  require(c.num_groups > 0, path, ": num_groups must be > 0, got ", c.num_groups);
  require(!c.dropless || !c.expert_choice, path,
          ": dropless is of tokens that choose experts; leave out it or expert_choice");
  require(!c.dropless || (c.num_groups == 1 && c.min_group_size == 0), path,
          ": dropless has no slots to give out by groups; leave out num_groups and min_group_size");
  require(!c.expert_choice || !c.normalize.value_or(false), path,
          ": normalize is of tokens that choose experts; leave it out beside expert_choice");
  require(c.expert_groups > 0 && c.num_experts % c.expert_groups == 0, path, ": expert_groups ", c.expert_groups,
          " does not divide num_experts ", c.num_experts);
  require(c.top_expert_groups <= c.expert_groups, path, ": top_expert_groups ", c.top_expert_groups,
          " is above expert_groups ", c.expert_groups);
  require(c.top_expert_groups == 0 || c.top_expert_groups * (c.num_experts / c.expert_groups) >= c.top_k, path,
          ": top_k ", c.top_k, " is above the ", c.top_expert_groups * (c.num_experts / c.expert_groups),
          " experts of top_expert_groups ", c.top_expert_groups);
  require(!c.expert_choice || c.top_expert_groups == 0, path,
          ": top_expert_groups is of tokens that choose experts; leave it out beside expert_choice");
  return c;
}

}}}  // namespace remat::nn
