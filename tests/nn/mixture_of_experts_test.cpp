// A mixture of experts as published models have it: seats against a plain reference on random cases, Mixtral without
// drops, experts that choose, DeepSeek's routers; padding, groups, auxiliary losses and the same bits under remat.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
#include <remat/nn/routed_feed_forward.hpp>
#include <remat/nn/stacked_transformer.hpp>
#include <remat/ops/cast.hpp>
#include <remat/ops/reduce.hpp>
#include <remat/ops/unary.hpp>
#include <remat/policy/parse.hpp>
#include <remat/policy/phrase_book.hpp>
#include <string_view>
#include <vector>

#include "core/expect_error.hpp"
#include "nn/random_tensor.hpp"

namespace {

using namespace remat;
using remat_test::expect_error;
using remat_test::random_tensor;

constexpr Index D = 6, F = 5, E = 4;

nn::RoutedFeedForwardConfig config(Index top_k = 2) {
  nn::RoutedFeedForwardConfig c{.model_dims = D, .hidden_dims = F, .num_experts = E, .top_k = top_k};
  c.activation = Activation::silu, c.gated = true;
  return c;
}

/// Who sits where, said in the plainest way: choices by choice, tokens in order.
struct PlainSeats {
  std::vector<std::vector<Index>> experts, slots;  // [N][k], -1 for none
  std::vector<std::vector<double>> gates;
  double balance = 0;

  PlainSeats(const Tensor<double>& scores, Index k, Index capacity, Index groups, const std::vector<bool>& is_token) {
    const Index n = scores.shape()[0], e = scores.shape()[1];
    experts.resize(static_cast<std::size_t>(n)), slots = experts;
    gates.resize(experts.size());
    std::vector<double> first(static_cast<std::size_t>(e)), mean = first;
    double tokens = 0;
    for (Index i = 0; i < n; ++i) {
      std::vector<Index> order(static_cast<std::size_t>(e));
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(), [&](Index a, Index b) { return scores(i, a) > scores(i, b); });
      const auto at = static_cast<std::size_t>(i);
      experts[at].assign(order.begin(), order.begin() + k);
      slots[at].assign(static_cast<std::size_t>(k), -1);
      for (const Index expert : experts[at]) gates[at].push_back(is_token[at] ? scores(i, expert) : 1);
      if (!is_token[at]) {
        experts[at].assign(static_cast<std::size_t>(k), -1);
        continue;
      }
      tokens += 1, first[static_cast<std::size_t>(order[0])] += 1;
      for (Index j = 0; j < e; ++j) mean[static_cast<std::size_t>(j)] += scores(i, j);
    }
    for (std::size_t j = 0; j < first.size() && tokens > 0; ++j)
      balance += static_cast<double>(e) * first[j] / tokens * mean[j] / tokens;
    for (Index g = 0; g < groups; ++g) {
      std::vector<Index> taken(static_cast<std::size_t>(e));
      for (Index j = 0; j < k; ++j)
        for (Index i = g * (n / groups); i < (g + 1) * (n / groups); ++i) {
          const Index expert = experts[static_cast<std::size_t>(i)][static_cast<std::size_t>(j)];
          if (expert < 0 || taken[static_cast<std::size_t>(expert)] == capacity) continue;
          slots[static_cast<std::size_t>(i)][static_cast<std::size_t>(j)] =
              (expert * groups + g) * capacity + taken[static_cast<std::size_t>(expert)]++;
        }
    }
  }
};

// Ties, experts that nobody asks, all tokens to one expert, fewer tokens than experts, groups and padding among them.
TEST(MixtureOfExperts, SeatsGatesDropsAndBalanceAreThoseOfAPlainReference) {
  const RandomStream random{.seed = 11};
  std::uint64_t drawn = 0;
  const auto below = [&](Index limit) {
    return static_cast<Index>(random.word(drawn++) % static_cast<std::uint32_t>(limit));
  };
  for (int round = 0; round < 1000; ++round) {
    const Index groups = 1 + below(3), n = groups * (1 + below(5)), e = 2 + below(6),
                k = std::min<Index>(e, 1 + below(3));
    const Index capacity = 1 + below(4);
    Tensor<double> scores({n, e});
    for (double& x : scores.write()) x = static_cast<double>(1 + below(6)) / 8;
    if (round % 10 == 0)
      for (Index i = 0; i < n; ++i) scores.write()[static_cast<std::size_t>(i * e)] = 1;
    const bool has_padding = round % 3 == 0;
    const Index real = has_padding ? below(n + 1) : n;
    std::vector<bool> is_token(static_cast<std::size_t>(n));
    for (Index i = 0; i < n; ++i) is_token[static_cast<std::size_t>(i)] = i < real;
    Tape tape;
    Like<std::int32_t> lengths;
    if (has_padding) lengths = Tensor<std::int32_t>({1}, {static_cast<std::int32_t>(real)});
    const auto x = tape.input(scores);
    const auto to = route(x, {.top_k = k, .capacity = capacity, .groups = groups}, {}, lengths);
    const Tensor<std::int32_t> experts = to.experts.value(), slots = to.slots.value(), tokens = to.tokens.value();
    const Tensor<double> gates = to.gates.value();
    const PlainSeats plain(scores, k, capacity, groups, is_token);
    for (Index i = 0; i < n; ++i)
      for (Index j = 0; j < k; ++j) {
        const auto a = static_cast<std::size_t>(i), b = static_cast<std::size_t>(j);
        ASSERT_EQ(experts(i, j), plain.experts[a][b]) << round;
        ASSERT_EQ(slots(i, j), plain.slots[a][b]) << round;
        ASSERT_EQ(gates(i, j), plain.gates[a][b]) << round;
        const bool is_seated = slots(i, j) < 0 || tokens[slots(i, j)] == i;
        ASSERT_TRUE(is_seated) << round;
      }
    Index seated = 0, taken = 0;
    for (const std::int32_t slot : slots) seated += slot >= 0;
    for (const std::int32_t count : to.counts.value()) taken += count;
    ASSERT_EQ(seated, taken);
    ASSERT_NEAR(load_balancing_loss(x, to.experts).item(), plain.balance, 1e-12) << round;
  }
}

/// What expert e makes of one token.
std::vector<double> expert(const nn::RoutedFeedForward<double>& layer, Index e, const double* x) {
  const Tensor<double> w1 = layer.ffn1.value(), wg = layer.gate.value(), w2 = layer.ffn2.value();
  std::vector<double> y(D);
  for (Index i = 0; i < F; ++i) {
    double h = 0, g = 0;
    for (Index d = 0; d < D; ++d) h += x[d] * w1[(e * D + d) * F + i], g += x[d] * wg[(e * D + d) * F + i];
    h *= g / (1 + std::exp(-g));
    for (Index d = 0; d < D; ++d) y[static_cast<std::size_t>(d)] += h * w2[(e * F + i) * D + d];
  }
  return y;
}
std::vector<double> logits_of(const nn::RoutedFeedForward<double>& layer, const double* x) {
  const Tensor<double> router = layer.router->w.value();
  std::vector<double> logits(E);
  for (Index e = 0; e < E; ++e)
    for (Index d = 0; d < D; ++d) logits[static_cast<std::size_t>(e)] += x[d] * router[d * E + e];
  return logits;
}
void expect_row(const Tensor<double>& y, Index row, const std::vector<double>& expected) {
  for (Index d = 0; d < D; ++d) EXPECT_NEAR(y[row * D + d], expected[static_cast<std::size_t>(d)], 1e-12) << row;
}

// Mixtral: softmax over all, the best k, shares that sum to 1; no token is dropped, though all ask for the same expert.
TEST(MixtureOfExperts, WithoutDropsEveryTokenGetsItsExperts) {
  ParameterRegistry parameters(3);
  nn::RoutedFeedForwardConfig c = config();
  c.dropless = true, c.capacity_factor = 0.1;
  const nn::RoutedFeedForward<double> layer(parameters / "moe", c);
  for (const bool is_same : {false, true}) {
    Tape tape;
    const Tensor<double> x = is_same ? Tensor<double>({2, 5, D}, 0.5) : random_tensor<double>({2, 5, D}, 4);
    const Tensor<double> y = layer(tape.input(x)).first.value();
    for (Index n = 0; n < 10; ++n) {
      std::vector<double> p = logits_of(layer, x.data() + n * D), expected(D);
      std::vector<Index> order{0, 1, 2, 3};
      std::stable_sort(order.begin(), order.end(), [&](Index a, Index b) {
        return p[static_cast<std::size_t>(a)] > p[static_cast<std::size_t>(b)];
      });
      const double a = std::exp(p[static_cast<std::size_t>(order[0])]),
                   b = std::exp(p[static_cast<std::size_t>(order[1])]);
      const auto first = expert(layer, order[0], x.data() + n * D), second = expert(layer, order[1], x.data() + n * D);
      for (std::size_t d = 0; d < D; ++d) expected[d] = (a * first[d] + b * second[d]) / (a + b);
      expect_row(y, n, expected);
    }
  }
}

// Dropless computes what seats for everyone compute.
TEST(MixtureOfExperts, WithoutDropsIsWithSeatsForAll) {
  const auto run = [&](bool dropless) {
    ParameterRegistry parameters(3);
    nn::RoutedFeedForwardConfig c = config();
    c.dropless = dropless, c.capacity_factor = 2;
    const nn::RoutedFeedForward<double> layer(parameters / "moe", c);
    Tape tape;
    const auto x = tape.input(random_tensor<double>({3, 4, D}, 4), {.wants_gradient = true});
    const auto r = layer.routed(x, Tensor<std::int32_t>({3}, {4, 0, 2}));
    std::vector<Tensor<double>> all{r.output.value(), r.balance.value()};
    tape.backward(sum(square(r.output)) + r.auxiliary);
    all.push_back(tape.grad(x));
    for (const auto& entry : parameters.entries()) all.push_back(Parameter<double>(entry).grad().copy());
    return all;
  };
  const auto seats = run(false), runs = run(true);
  ASSERT_EQ(seats.size(), runs.size());
  for (std::size_t i = 0; i < seats.size(); ++i)
    for (Index k = 0; k < seats[i].size(); ++k) EXPECT_NEAR(seats[i][k], runs[i][k], 1e-11) << i;
}

// Each expert takes its best tokens; a token may get several, or none.
TEST(MixtureOfExperts, ExpertsMayChooseTokens) {
  ParameterRegistry parameters(3);
  nn::RoutedFeedForwardConfig c = config(1);
  c.expert_choice = true, c.capacity_factor = 2, c.num_groups = 2;
  const nn::RoutedFeedForward<double> layer(parameters / "moe", c);
  Tape tape;
  const Tensor<double> x = random_tensor<double>({2, 8, D}, 4);
  const auto r = layer.routed(tape.input(x));
  const Tensor<double> y = r.output.value();
  ASSERT_EQ(layer.capacity(8), 4);
  EXPECT_EQ(r.balance.item(), 0);
  std::vector<std::vector<double>> p, expected(16, std::vector<double>(D));
  for (Index n = 0; n < 16; ++n) {
    p.push_back(logits_of(layer, x.data() + n * D));
    double total = 0;
    for (double& value : p.back()) total += value = std::exp(value);
    for (double& value : p.back()) value /= total;
  }
  for (Index g = 0; g < 2; ++g)
    for (Index e = 0; e < E; ++e) {
      std::vector<Index> order(8);
      std::iota(order.begin(), order.end(), 8 * g);
      std::sort(order.begin(), order.end(), [&](Index a, Index b) {
        return p[static_cast<std::size_t>(a)][static_cast<std::size_t>(e)] >
               p[static_cast<std::size_t>(b)][static_cast<std::size_t>(e)];
      });
      for (std::size_t i = 0; i < 4; ++i) {
        const auto made = expert(layer, e, x.data() + order[i] * D);
        const double weight = p[static_cast<std::size_t>(order[i])][static_cast<std::size_t>(e)];
        for (std::size_t d = 0; d < D; ++d) expected[static_cast<std::size_t>(order[i])][d] += weight * made[d];
      }
    }
  for (Index n = 0; n < 16; ++n) expect_row(y, n, expected[static_cast<std::size_t>(n)]);
}

// DeepSeek V3: sigmoid scores, a bias that only chooses, groups of experts by their two best, shares times a factor,
// and a feed-forward beside.
TEST(MixtureOfExperts, DeepSeeksRouterChoosesByABiasAndWeighsWithoutIt) {
  ParameterRegistry parameters(3);
  nn::RoutedFeedForwardConfig c = config();
  c.router_score = nn::RouterScore::sigmoid, c.router_bias = true, c.gate_scale = 2.5, c.dropless = true;
  c.expert_groups = 2, c.top_expert_groups = 1, c.shared_hidden_dims = 3;
  const nn::RoutedFeedForward<double> layer(parameters / "moe", c);
  layer.router_bias.set_value(Tensor<double>({E}, {0.6, -0.1, 0.05, 0.1}));
  Tape tape;
  const auto x = tape.input(random_tensor<double>({1, 9, D}, 4));
  const Tensor<double> y = layer(x).first.value(), beside = (*layer.shared)(x).value();
  bool has_other = false;  // does the bias change any choice?
  for (Index n = 0; n < 9; ++n) {
    std::vector<double> s = logits_of(layer, x.value().data() + n * D), biased;
    for (std::size_t e = 0; e < E; ++e) {
      s[e] = 1 / (1 + std::exp(-s[e]));
      biased.push_back(s[e] + std::vector<double>{0.6, -0.1, 0.05, 0.1}[e]);
    }
    const std::size_t group = biased[0] + biased[1] >= biased[2] + biased[3] ? 0 : 2;
    has_other = has_other || (group == 0) != (s[0] + s[1] >= s[2] + s[3]);
    const Tensor<double> value = x.value();
    std::vector<double> expected(D);
    for (std::size_t e = group; e < group + 2; ++e) {
      const auto made = expert(layer, static_cast<Index>(e), value.data() + n * D);
      for (std::size_t d = 0; d < D; ++d) expected[d] += 2.5 * s[e] / (s[group] + s[group + 1]) * made[d];
    }
    for (std::size_t d = 0; d < D; ++d) expected[d] += beside[n * D + static_cast<Index>(d)];
    expect_row(y, n, expected);
  }
  EXPECT_TRUE(has_other);
  Tape step;
  const auto r = layer.routed(step.input(random_tensor<double>({1, 9, D}, 4)));
  step.backward(sum(square(r.output)) + r.auxiliary);
  EXPECT_FALSE(parameters.at<double>("moe/router_bias/b").entry()->has_grad);
}

// Padding takes nobody's seat, gets nothing, and no loss sees it: a batch with it is the batch without.
TEST(MixtureOfExperts, PaddingTakesNoSeatAndEntersNoLoss) {
  for (const bool expert_choice : {false, true}) {
    ParameterRegistry parameters(3);
    nn::RoutedFeedForwardConfig c = config(expert_choice ? 1 : 2);
    c.expert_choice = expert_choice, c.z_loss_weight = 0.1;
    c.capacity_factor = expert_choice ? 1 : 100;
    const nn::RoutedFeedForward<double> layer(parameters / "moe", c);
    Tape tape;
    const Tensor<double> some = random_tensor<double>({1, 4, D}, 4);
    Tensor<double> padded({1, 7, D}, 9);
    std::copy_n(some.data(), some.size(), padded.write().data());
    const auto x = tape.input(padded, {.wants_gradient = true});
    const auto with = layer.routed(x, Tensor<std::int32_t>({1}, {4}));
    if (!expert_choice) {
      const auto without = layer.routed(tape.input(some));
      for (Index i = 0; i < some.size(); ++i)
        EXPECT_NEAR(with.output.value()[i], without.output.value()[i], 1e-12) << i;
      EXPECT_NEAR(with.balance.item(), without.balance.item(), 1e-12);
      EXPECT_NEAR(with.z_loss.item(), without.z_loss.item(), 1e-12);
    }
    const Tensor<double> y = with.output.value();
    for (Index i = some.size(); i < padded.size(); ++i) EXPECT_EQ(y[i], 0) << i;
    for (const std::int32_t token : with.to.tokens.value()) EXPECT_LT(token, 4);
    tape.backward(sum(square(with.output)) + with.auxiliary);
    const Tensor<double> dx = tape.grad(x);
    for (Index i = some.size(); i < padded.size(); ++i) EXPECT_EQ(dx[i], 0) << i;
  }
}

TEST(MixtureOfExperts, GroupsHaveSeatsOfTheirOwn) {
  ParameterRegistry parameters(3);
  nn::RoutedFeedForwardConfig c = config(1);
  c.num_groups = 4, c.capacity_factor = 1;
  const nn::RoutedFeedForward<double> layer(parameters / "a", c);
  Tape tape;
  const auto r = layer.routed(tape.input(Tensor<double>({4, 8, D}, 0.5)));
  const Tensor<std::int32_t> slots = r.to.slots.value();
  for (Index n = 0; n < 32; ++n) EXPECT_EQ(slots[n] >= 0, n % 8 < 2) << n;  // all ask for one expert
  c.min_group_size = 16;
  const nn::RoutedFeedForward<double> fewer(parameters / "b", c);
  EXPECT_EQ(fewer.groups(32), 2);
  EXPECT_EQ(fewer.groups(8), 1);
  EXPECT_EQ(fewer.groups(128), 4);
  expect_error({"b: 34 tokens are not 3 equal groups", "num_groups"}, [&] { fewer.groups(34); });
}

TEST(MixtureOfExperts, AuxiliaryLossesCountAllChoicesAndLogits) {
  Tape tape;
  const auto p = tape.input(Tensor<double>({2, 2}, {0.75, 0.25, 0.5, 0.5}));
  const Tensor<std::int32_t> experts({2, 2}, {0, 1, 1, 0});
  // Both experts get 2 of 2 tokens: E (1 x .625 + 1 x .375).
  EXPECT_DOUBLE_EQ(load_balancing_loss<double>(p, experts, BalancedChoices::all).item(), 2);
  const double a = std::log(std::exp(0.75) + std::exp(0.25)), b = std::log(2 * std::exp(0.5));
  EXPECT_NEAR(router_z_loss<double>(p, experts).item(), (a * a + b * b) / 2, 1e-15);
}

TEST(MixtureOfExperts, JitterIsOfTrainingAlone) {
  const auto x = random_tensor<double>({300}, 3);
  Tape train({.seed = 2, .step = 1}), evaluate({.mode = Mode::evaluate});
  const Tensor<double> y = jitter(train.input(x), 0.1).value();
  double least = 2, greatest = 0;
  for (Index i = 0; i < 300; ++i) least = std::min(least, y[i] / x[i]), greatest = std::max(greatest, y[i] / x[i]);
  EXPECT_GT(least, 0.9 - 1e-12);
  EXPECT_LT(least, 0.91);
  EXPECT_GT(greatest, 1.09);
  EXPECT_LT(greatest, 1.1 + 1e-12);
  EXPECT_TRUE(same_bits(jitter(evaluate.input(x), 0.1).value(), x));
}

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
