// Routing of a mixture of experts as published models have it: slots against a plain reference on random cases, Mixtral
// without drops, experts that choose, DeepSeek's routers; padding, groups and auxiliary losses.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <remat/nn/routed_feed_forward.hpp>
#include <remat/ops/reduce.hpp>
#include <remat/ops/unary.hpp>
#include <vector>

#include "core/expect_error.hpp"
#include "nn/random_tensor.hpp"
#include "nn/small_experts.hpp"

namespace {

using namespace remat;
using namespace remat_test::experts;
using remat_test::expect_error;
using remat_test::random_tensor;

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

// Dropless computes what slots for everyone compute.
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
  const auto slots = run(false), runs = run(true);
  ASSERT_EQ(slots.size(), runs.size());
  for (std::size_t i = 0; i < slots.size(); ++i)
    for (Index k = 0; k < slots[i].size(); ++k) EXPECT_NEAR(slots[i][k], runs[i][k], 1e-11) << i;
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

// Padding takes nobody's slot, gets nothing, and no loss sees it: a batch with it is the batch without.
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

}  // namespace
