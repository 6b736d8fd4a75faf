// Layers and stacks with experts: the same bits under remat, losses that count once, what does not hold together.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <initializer_list>
#include <remat/nn/routed_feed_forward.hpp>
#include <remat/nn/stacked_transformer.hpp>
#include <remat/ops/cast.hpp>
#include <remat/ops/reduce.hpp>
#include <remat/ops/unary.hpp>
#include <remat/policy/parse.hpp>
#include <remat/policy/phrase_book.hpp>
#include <string_view>
#include <tuple>
#include <vector>

#include "core/expect_error.hpp"
#include "nn/random_tensor.hpp"
#include "nn/small_experts.hpp"

namespace {

using namespace remat;
using namespace remat_test::experts;
using remat_test::expect_error;
using remat_test::random_tensor;

/// Output, losses and all gradients.
template <class T>
std::vector<Tensor<T>> step(const nn::RoutedFeedForwardConfig& c, const Policy& policy) {
  ParameterRegistry parameters(3);
  const nn::RoutedFeedForward<T> layer(parameters / "moe", c);
  Tape tape({.seed = 5, .step = 2});
  const auto x = tape.input(random_tensor<T>({3, 4, D}, 1), {.wants_gradient = true});
  const auto [y, auxiliary] = tape.checkpoint(policy, [&] {
    const auto r = layer.routed(x * T(1), Tensor<std::int32_t>({3}, {4, 1, 3}));
    return std::tuple(r.output, r.auxiliary);
  });
  std::vector<Tensor<T>> all{y.value()};
  tape.backward(sum(square(y)) + auxiliary);
  all.push_back(tape.grad(x));
  for (const auto& entry : parameters.entries())
    if (entry->has_grad) all.push_back(Tensor<T>(entry->grad_or_zeros()));
  return all;
}

// The decisions are those of the forward pass, whatever is recomputed: dropout and jitter on.
TEST(MixtureOfExperts, RoutesTheSameBitsUnderEveryPolicy) {
  const std::function<void(nn::RoutedFeedForwardConfig&)> changes[] = {
      [](auto&) {}, [](auto& c) { c.dropless = true; }, [](auto& c) { c.expert_choice = true; },
      [](auto& c) { c.router_score = nn::RouterScore::sigmoid, c.router_bias = true, c.shared_hidden_dims = 3; },
      [](auto& c) { c.num_groups = 3, c.balance = BalancedChoices::all, c.gate_scale = 2; }};
  for (const auto& change : changes) {
    nn::RoutedFeedForwardConfig c = config();
    c.dropout = 0.2, c.jitter = 0.3, c.z_loss_weight = 0.1, c.balance_weight = 0.5;
    change(c);
    const auto plain = step<float>(c, policy::everything);
    std::vector<Policy> policies{policy::nothing, policy::parse("dots"), policy::names("moe_ffn1"),
                                 policy::parse("!names(*)"),
                                 Policy([](const SlotInfo& slot) { return slot.index % 2 == 1; })};
    for (const policy::Phrase& phrase : policy::phrase_book()) policies.push_back(phrase.policy);
    for (const Policy& policy : policies) {
      const auto other = step<float>(c, policy);
      ASSERT_EQ(other.size(), plain.size());
      for (std::size_t i = 0; i < plain.size(); ++i) EXPECT_TRUE(same_bits(plain[i], other[i])) << "tensor " << i;
    }
  }
}

// All experts are asked, so that no rounding changes a decision.
TEST(MixtureOfExperts, WithoutDropsComputesInBfloat16) {
  ParameterRegistry parameters(1);
  nn::RoutedFeedForwardConfig c = config(E);
  c.dropless = true, c.shared_weight_id = "experts", c.shared_hidden_dims = 4;
  const auto run = [&]<class T>(T) {
    const nn::RoutedFeedForward<T> layer(parameters / (sizeof(T) == 2 ? "narrow" : "wide"), c);
    parameters.zero_grad();
    Tape tape;
    Tensor<T> x({2, 10, D});
    const auto exact = random_tensor<float>({2, 10, D}, 1);
    for (Index i = 0; i < x.size(); ++i) x.write()[static_cast<std::size_t>(i)] = static_cast<T>(exact[i]);
    const auto r = layer.routed(tape.input(x));
    tape.backward(sum(square(cast<float>(r.output))) + r.auxiliary);
    return layer.ffn1.grad().copy();
  };
  const Tensor<float> exact = run(float{}), rounded = run(bfloat16{});
  float greatest = 0;
  for (Index i = 0; i < exact.size(); ++i) greatest = std::max(greatest, std::abs(exact[i]));
  for (Index i = 0; i < exact.size(); ++i) ASSERT_NEAR(rounded[i], exact[i], 0.03F * greatest) << i;
}

/// Layers of which the second and the last have experts.
nn::StackedTransformerConfig stack_of(Index layers) {
  nn::StackedTransformerConfig stack;
  for (Index i = 0; i < layers; ++i) {
    nn::TransformerLayerConfig layer{.model_dims = D, .hidden_dims = F, .num_heads = 2, .dropout = 0.1};
    if (i % 2 == 1) {
      layer.routed = nn::RoutedFeedForwardConfig{.num_experts = E, .top_k = 2, .balance_weight = 0.5};
      layer.routed->z_loss_weight = 0.25, layer.routed->jitter = 0.1;
    }
    stack.layers.push_back(layer);
  }
  return stack;
}

// Losses of experts come out of a stack once, whatever its regions recompute, and with them every gradient.
TEST(MixtureOfExperts, InAStackLossesCountOnceUnderEveryPolicy) {
  const auto run = [](const Policy& policy, Index every) {
    nn::StackedTransformerConfig c = stack_of(4);
    c.remat = policy, c.remat_every = every;
    ParameterRegistry parameters(3);
    const nn::StackedTransformer<double> stack(parameters / "net", c);
    Tape tape({.seed = 5, .step = 2});
    const auto x = tape.input(random_tensor<double>({3, 4, D}, 1), {.wants_gradient = true});
    const auto [y, auxiliary] = stack.with_auxiliary(x * 1.0, {.key_lengths = Tensor<std::int32_t>({3}, {4, 1, 3})});
    std::vector<Tensor<double>> all{y.value(), auxiliary.value()};
    tape.backward(sum(square(y)) + auxiliary);
    all.push_back(tape.grad(x));
    for (const auto& entry : parameters.entries()) all.push_back(Parameter<double>(entry).grad().copy());
    return all;
  };
  const auto plain = run(policy::everything, 1);
  EXPECT_GT(plain[1].item(), 0);
  for (const policy::Phrase& phrase : policy::phrase_book())
    for (const Index every : {1, 3}) {
      const auto other = run(phrase.policy, every);
      for (std::size_t i = 0; i < plain.size(); ++i) EXPECT_TRUE(same_bits(plain[i], other[i])) << "tensor " << i;
    }
}

TEST(MixtureOfExperts, OfALayerIsTheSumOfItsPartsAndItsLossIsNeverLost) {
  ParameterRegistry parameters(3);
  nn::StackedTransformerConfig c = stack_of(2);
  for (auto& layer : c.layers) layer.dropout = 0;
  c.layers[1].routed->jitter = 0;
  const nn::StackedTransformer<double> stack(parameters / "net", c);
  const nn::TransformerLayer<double>& layer = stack.layers[1];
  Tape tape;
  const auto x = tape.input(random_tensor<double>({2, 4, D}, 1));
  const auto h = x + layer.attention(layer.attention_norm(x));
  const auto r = layer.routed->routed(layer.ffn_norm(h));
  const auto made = layer.with_auxiliary(x);
  EXPECT_TRUE(same_bits(made.output.value(), (h + r.output).value()));
  EXPECT_NEAR(made.auxiliary.item(), 0.5 * r.balance.item() + 0.25 * r.z_loss.item(), 1e-15);
  expect_error({"net/layer_1: has experts", "with_auxiliary", "Mode::evaluate"}, [&] { layer(x); });
  expect_error({"net: has experts", "with_auxiliary"}, [&] { stack(x); });
  expect_error({"net/layer_0: has no experts"}, [&] { stack.layers[0].with_auxiliary(x); });
  expect_error({"net/layer_1/ffn: ", "routed"}, [&] { layer.ffn(x); });
  Tape evaluate({.mode = Mode::evaluate});
  EXPECT_NO_THROW(stack(evaluate.input(random_tensor<double>({2, 4, D}, 1))));
  for (const auto& entry : parameters.entries()) EXPECT_EQ(entry->path.find("layer_1/ffn/ffn1/b"), std::string::npos);
}

TEST(MixtureOfExperts, WhatDoesNotHoldTogetherIsRefused) {
  const auto refuse_layer = [](std::initializer_list<std::string_view> parts, auto&& change) {
    nn::TransformerLayerConfig layer = stack_of(2).layers[1];
    change(layer);
    ParameterRegistry registry;
    remat_test::expect_error(parts, [&] { nn::TransformerLayer<float>(registry / "net", layer); });
    EXPECT_EQ(registry.entries().size(), 0U);
  };
  refuse_layer({"net: routed", "blockwise.query_chunk"}, [](auto& c) { c.blockwise.query_chunk = 2; });
  refuse_layer({"net: routed", "ffn_chunk"}, [](auto& c) { c.ffn.blockwise.ffn_chunk = 2; });
  refuse_layer({"net: routed", "place of ffn"}, [](auto& c) { c.ffn.hidden_dims = 2; });
  refuse_layer({"net: routed.model_dims 7"}, [](auto& c) { c.routed->model_dims = 7; });
  refuse_layer({"net/ffn: top_k"}, [](auto& c) { c.routed->top_k = 9; });
  const auto refuse = [](std::initializer_list<std::string_view> parts, auto&& change) {
    nn::RoutedFeedForwardConfig c = config();
    change(c);
    ParameterRegistry parameters;
    remat_test::expect_error(parts, [&] { nn::RoutedFeedForward<float>(parameters / "moe", c); });
    EXPECT_EQ(parameters.entries().size(), 0U);
  };
  refuse({"moe: dropless", "expert_choice"}, [](auto& c) { c.dropless = c.expert_choice = true; });
  refuse({"moe: dropless", "num_groups"}, [](auto& c) { c.dropless = true, c.num_groups = 2; });
  refuse({"moe: normalize", "expert_choice"}, [](auto& c) { c.expert_choice = true, c.normalize = true; });
  refuse({"moe: expert_groups 3", "num_experts 4"}, [](auto& c) { c.expert_groups = 3; });
  refuse({"moe: expert_groups 0"}, [](auto& c) { c.expert_groups = 0; });
  refuse({"moe: top_expert_groups 3", "expert_groups 2"},
         [](auto& c) { c.expert_groups = 2, c.top_expert_groups = 3; });
  refuse({"moe: top_k 3", "2 experts", "top_expert_groups 1"},
         [](auto& c) { c.expert_groups = 2, c.top_expert_groups = 1, c.top_k = 3; });
  refuse({"moe: top_expert_groups", "expert_choice"},
         [](auto& c) { c.expert_choice = true, c.expert_groups = 2, c.top_expert_groups = 1; });
  refuse({"moe: num_groups must be > 0, got 0"}, [](auto& c) { c.num_groups = 0; });
  refuse({"moe: min_group_size", "-1"}, [](auto& c) { c.min_group_size = -1; });
  refuse({"moe: jitter", "1"}, [](auto& c) { c.jitter = 1; });
  refuse({"moe: gate_scale must be > 0"}, [](auto& c) { c.gate_scale = 0; });
  refuse({"moe: balance_weight"}, [](auto& c) { c.balance_weight = -1; });
  refuse({"moe: z_loss_weight"}, [](auto& c) { c.z_loss_weight = std::nan(""); });
  refuse({"moe: shared_hidden_dims"}, [](auto& c) { c.shared_hidden_dims = -4; });
}

}  // namespace
