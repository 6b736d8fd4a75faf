// The experts that tests of their routing and of their layers have.
#pragma once

#include <remat/nn/routed_feed_forward.hpp>

namespace remat_test::experts {

inline constexpr remat::Index D = 6, F = 5, E = 4;  // model, hidden, experts

inline remat::nn::RoutedFeedForwardConfig config(remat::Index top_k = 2) {
  remat::nn::RoutedFeedForwardConfig c{.model_dims = D, .hidden_dims = F, .num_experts = E, .top_k = top_k};
  c.activation = remat::Activation::silu, c.gated = true;
  return c;
}

}  // namespace remat_test::experts
