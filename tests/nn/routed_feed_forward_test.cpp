// Mixture of experts: who goes where, what comes back, and what policies see of it.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <remat/remat.hpp>

#include "core/expect_error.hpp"
#include "nn/random_tensor.hpp"

namespace {

using namespace remat;
using remat_test::expect_error;
using remat_test::random_tensor;

std::vector<std::int32_t> numbers(const Var<std::int32_t>& x) {
  const Tensor<std::int32_t> value = x.value();
  return {value.span().begin(), value.span().end()};
}
using Ids = std::vector<std::int32_t>;

TEST(Route, SeatsFirstChoicesBeforeSecondOnesInOrderOfTokens) {
  Tape tape;
  const auto scores = tape.input(Tensor<double>({3, 2}, {.6, .4, .7, .3, .2, .8}));
  const auto to = route(scores, {.top_k = 2, .capacity = 2});
  EXPECT_EQ(numbers(to.experts), (Ids{0, 1, 0, 1, 1, 0}));
  EXPECT_EQ(numbers(to.slots), (Ids{0, 3, 1, -1, 2, -1}));
  EXPECT_EQ(numbers(to.tokens), (Ids{0, 1, 2, 0}));
  EXPECT_TRUE(same_bits(to.gates.value(), Tensor<double>({3, 2}, {.6, .4, .7, .3, .8, .2})));
}

TEST(Route, TheFirstOfEqualsWinsAndNaNsStillGetDifferentExperts) {
  Tape tape;
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const auto scores = tape.input(Tensor<double>({2, 3}, {.25, .5, .5, nan, nan, nan}));
  const auto to = route(scores, {.top_k = 2, .capacity = 2});
  EXPECT_EQ(numbers(to.experts), (Ids{1, 2, 0, 1}));
  EXPECT_EQ(numbers(to.tokens), (Ids{1, -1, 0, 1, 0, -1}));
}

TEST(Route, RefusesWhatDoesNotFit) {
  Tape tape;
  const auto scores = tape.input(random_tensor<double>({4, 2}, 1));
  expect_error({"route: ", "top_k is 3", "2 experts"}, [&] { route(scores, {.top_k = 3, .capacity = 1}); });
  expect_error({"route: ", "top_k is 0"}, [&] { route(scores, {.top_k = 0, .capacity = 1}); });
  expect_error({"route: ", "capacity of -1"}, [&] { route(scores, {.capacity = -1}); });
  expect_error({"route: ", "[8]"}, [&] { route(scores.reshape({8}), {.capacity = 1}); });
  const Tensor<std::int32_t> far({1, 1}, {4});
  expect_error({"take_rows: row 4 at [0, 0], but x has 4 rows"}, [&] { take_rows(scores, far); });
  expect_error({"combine_rows: row 4 at [0, 0], but x has 4 rows"}, [&] {
    combine_rows<double>(scores, far, Tensor<double>({1, 1}, 1.0));
  });
  expect_error({"combine_rows: ", "[4, 2]", "[1, 1]"}, [&] { combine_rows<double>(scores, far, scores); });
  expect_error({"load_balancing_loss: ", "[1, 1]", "[4, k]"}, [&] { load_balancing_loss<double>(scores, far); });
}

TEST(LoadBalancingLoss, IsOneForEqualLoadsAndTheNumberOfExpertsForTheWorst) {
  Tape tape;
  const Tensor<std::int32_t> equal({4, 1}, {0, 1, 2, 3}), first({4, 1}, {0, 0, 0, 0});
  EXPECT_DOUBLE_EQ(load_balancing_loss<double>(tape.input(Tensor<double>({4, 4}, 0.25)), equal).item(), 1);
  const auto certain = tape.input(Tensor<double>({4, 4}, {1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0}));
  EXPECT_DOUBLE_EQ(load_balancing_loss<double>(certain, first).item(), 4);
}

constexpr Index N = 7, D = 6, F = 5, E = 3;

nn::RoutedFeedForwardConfig config(int top_k = 2, double capacity_factor = 3) {
  return {.model_dims = D,
          .hidden_dims = F,
          .num_experts = E,
          .top_k = top_k,
          .capacity_factor = capacity_factor,
          .activation = Activation::silu};
}

/// What one token gets, by the formula; `kept`, by choice, tells which experts had a free slot.
std::vector<double> by_hand(const nn::RoutedFeedForward<double>& layer, const double* x,
                            const std::vector<bool>& kept) {
  const Tensor<double> router = layer.router->w.value(), w1 = layer.ffn1.value(), w2 = layer.ffn2.value();
  std::vector<std::pair<double, Index>> weights;
  double total = 0, chosen = 0;
  for (Index e = 0; e < E; ++e) {
    double score = 0;
    for (Index d = 0; d < D; ++d) score += x[d] * router[d * E + e];
    weights.emplace_back(-std::exp(score), e);
    total += std::exp(score);
  }
  std::sort(weights.begin(), weights.end());
  for (std::size_t j = 0; j < kept.size(); ++j) chosen += weights[j].first;
  std::vector<double> y(D);
  for (std::size_t j = 0; j < kept.size(); ++j) {
    const Index e = weights[j].second;
    const double weight = kept.size() == 1 ? -weights[j].first / total : weights[j].first / chosen;
    for (Index i = 0; i < F && kept[j]; ++i) {
      double h = 0;
      for (Index d = 0; d < D; ++d) h += x[d] * w1[(e * D + d) * F + i];
      h = h / (1 + std::exp(-h));
      for (Index d = 0; d < D; ++d) y[static_cast<std::size_t>(d)] += weight * h * w2[(e * F + i) * D + d];
    }
  }
  return y;
}

TEST(RoutedFeedForward, IsTheWeightedSumOfTheChosenExperts) {
  for (const int top_k : {1, 2, 3}) {
    ParameterRegistry parameters(3);
    const nn::RoutedFeedForward<double> layer(parameters / "ffn", config(top_k));
    Tape tape;
    const Tensor<double> x = random_tensor<double>({1, N, D}, 4);
    const Tensor<double> y = layer(tape.input(x)).first.value();
    ASSERT_EQ(y.shape(), x.shape());
    for (Index n = 0; n < N; ++n) {
      const auto expected = by_hand(layer, x.data() + n * D, std::vector<bool>(static_cast<std::size_t>(top_k), true));
      for (Index d = 0; d < D; ++d) EXPECT_NEAR(y[n * D + d], expected[static_cast<std::size_t>(d)], 1e-13) << n;
    }
  }
}

// All tokens equal: one expert is asked by all, and its slots go to the first.
TEST(RoutedFeedForward, ATokenWithoutASeatContributesZero) {
  ParameterRegistry parameters(3);
  const nn::RoutedFeedForward<double> layer(parameters / "ffn", config(1, 1.0));
  Tape tape;
  const Tensor<double> y = layer(tape.input(Tensor<double>({N, D}, 0.5))).first.value();
  ASSERT_EQ(layer.capacity(N), 3);
  for (Index n = 0; n < N; ++n)
    for (Index d = 0; d < D; ++d) EXPECT_EQ(y[n * D + d] != 0, n < 3) << n;
}

TEST(RoutedFeedForward, SeatsAreAShareOfTheTokens) {
  const auto capacity = [](int experts, int top_k, double factor, Index tokens) {
    ParameterRegistry parameters;
    nn::RoutedFeedForwardConfig c = config(top_k, factor);
    c.num_experts = experts;
    return nn::RoutedFeedForward<float>(parameters / "ffn", c).capacity(tokens);
  };
  EXPECT_EQ(capacity(4, 1, 1.25, 10), 4);
  EXPECT_EQ(capacity(4, 2, 1, 10), 5);
  EXPECT_EQ(capacity(4, 2, 2, 10), 10);  // num_experts / top_k: a slot for everyone
  EXPECT_EQ(capacity(4, 1, 100, 10), 10);
  EXPECT_EQ(capacity(4, 1, 0.01, 10), 1);
  EXPECT_EQ(capacity(4, 1, 1, 0), 0);
}

TEST(RoutedFeedForward, GradientsAreRightThroughTheWholeLayer) {
  for (const bool gated : {false, true}) {
    for (const double capacity_factor : {3.0, 0.5}) {
      ParameterRegistry parameters(3);
      nn::RoutedFeedForwardConfig c = config(2, capacity_factor);
      c.gated = gated;
      const nn::RoutedFeedForward<double> layer(parameters / "ffn", c);
      const auto fn = [&](Tape& tape, const std::vector<Var<double>>& in) {
        const auto [y, balance] = tape.checkpoint(policy::nothing, [&] { return layer(in[0]); });
        return y * (balance + 1.0);
      };
      const auto result = gradient_check(fn, {random_tensor<double>({N, D}, 4)});
      EXPECT_TRUE(result.ok(1e-7)) << result;
      for (const auto& entry : parameters.entries()) EXPECT_TRUE(entry->has_grad) << entry->path;
    }
  }
}

TEST(RoutedFeedForward, PoliciesSeeItsNamesAndDecisionsAreKept) {
  const auto saved = [](const Policy& policy) {
    ParameterRegistry parameters(3);
    const nn::RoutedFeedForward<float> layer(parameters / "ffn", config(1));
    Tape tape;
    const auto x = tape.input(random_tensor<float>({N, D}, 4));
    const auto [y, balance] = tape.checkpoint(policy, [&] { return layer(x); });
    tape.backward(sum(square(y)) + balance);
    std::map<std::string, Index> names;
    for (const SavedResidual& each : saved_residuals(tape))
      ++names[each.labels.empty() ? each.op : each.labels.front()];
    return names;
  };
  // Experts and slots, which backward reads, and the token in each slot; beside them only what lies outside the region.
  const std::map<std::string, Index> decisions{{"combine_rows", 1}, {"route", 3}};
  EXPECT_EQ(saved(policy::nothing), decisions);
  for (const char* label : {"moe_router", "moe_ffn1", "moe_ffn2"}) {
    auto expected = decisions;
    expected[label] = 1;
    EXPECT_EQ(saved(policy::names(label)), expected);
  }
}

TEST(RoutedFeedForward, WorksWithoutTokensAndIsSharedAsAWhole) {
  ParameterRegistry parameters(3);
  nn::RoutedFeedForwardConfig c = config();
  c.shared_weight_id = "experts";
  const nn::RoutedFeedForward<double> a(parameters / "a", c), b(parameters / "b", c);
  EXPECT_EQ(parameters.entries().size(), 3U);
  EXPECT_EQ(parameters.at<double>("shared/experts/ffn1/w").shape(), (Shape{E, D, F}));
  Tape tape;
  const auto x = tape.input(Tensor<double>({2, 0, D}), {.wants_gradient = true});
  const auto [y, balance] = a(x);
  EXPECT_EQ(y.shape(), (Shape{2, 0, D}));
  EXPECT_EQ(balance.item(), 0);
  tape.backward(sum(b(y).first) + balance);
  EXPECT_EQ(parameters.at<double>("shared/experts/ffn2/w").grad()[0], 0);
}

TEST(RoutedFeedForward, RefusesWhatDoesNotFit) {
  ParameterRegistry parameters;
  const auto build = [&](const nn::RoutedFeedForwardConfig& c) { nn::RoutedFeedForward<float>(parameters / "moe", c); };
  expect_error({"moe: ", "top_k", "4 of 3 experts"}, [&] { build(config(4)); });
  expect_error({"moe: ", "top_k", "0 of 3 experts"}, [&] { build(config(0)); });
  expect_error({"moe: ", "capacity_factor", "0"}, [&] { build(config(1, 0)); });
  expect_error({"moe: ", "capacity_factor", "nan"}, [&] { build(config(1, std::nan(""))); });
  expect_error({"moe: ", "hidden_dims"}, [&] { build({.model_dims = 4, .num_experts = 2}); });
  const nn::RoutedFeedForward<float> layer(parameters / "ffn", config());
  Tape tape;
  expect_error({"ffn: ", "[2, 5]", "[..., 6]"}, [&] { layer(tape.input(Tensor<float>({2, 5}, 1.0F))); });
}

// All experts are asked and have slots for all, so that no rounding changes a decision.
TEST(RoutedFeedForward, ComputesInBfloat16WithFloatMasters) {
  ParameterRegistry parameters(1);
  const nn::RoutedFeedForwardConfig config{.model_dims = 24,
                                           .hidden_dims = 40,
                                           .num_experts = 3,
                                           .top_k = 3,
                                           .capacity_factor = 1,
                                           .gated = true,
                                           .shared_weight_id = "experts"};
  const auto run = [&]<class T>(T) {
    const nn::RoutedFeedForward<T> layer(parameters / (sizeof(T) == 2 ? "narrow" : "wide"), config);
    parameters.zero_grad();
    Tape tape;
    Tensor<T> x({2, 10, 24});
    const auto exact = random_tensor<float>({2, 10, 24}, 1);
    for (Index i = 0; i < x.size(); ++i) x.write()[i] = static_cast<T>(exact[i]);
    const auto [y, balance] = layer(tape.input(x));
    const Var<float> loss = cross_entropy(y, Tensor<std::int32_t>({2, 10}, 3)) + 0.01F * balance;
    tape.backward(loss);
    return std::pair(loss.item(), layer.ffn1.grad().copy());
  };
  const auto [exact_loss, exact] = run(float{});
  const auto [loss, gradient] = run(bfloat16{});
  EXPECT_NEAR(loss, exact_loss, 0.02F * exact_loss);
  float greatest = 0;
  for (Index i = 0; i < exact.size(); ++i) greatest = std::max(greatest, std::abs(exact[i]));
  for (Index i = 0; i < exact.size(); ++i) ASSERT_NEAR(gradient[i], exact[i], 0.03F * greatest) << i;
}

// Slots go to tokens of any row, so that the experts' dropout cannot follow rows when a batch is trained in parts: each
// part draws what no other draws, also where the number of experts looks like one of rows.
TEST(RoutedFeedForward, DropsApartInEachPartOfABatch) {
  ParameterRegistry parameters(3);
  const nn::RoutedFeedForward<float> layer(parameters / "moe",
                                           {.model_dims = 4, .hidden_dims = 8, .num_experts = 4, .dropout = 0.5});
  for (const Index first_row : {0, 1, 4}) {
    Tape tape({.seed = 1, .step = 0, .first_row = first_row, .rows = 2});
    const auto x = tape.input(random_tensor<float>({2, 3, 4}, 1));
    layer(x);
    activate(x, Activation::gelu, 0.5);
    std::vector<std::uint64_t> firsts;
    for (const Node& node : tape.program().nodes)
      if (const auto* op = dynamic_cast<const ops::Activate<float>*>(node.op.get())) firsts.push_back(op->mask.first);
    const auto row = static_cast<std::uint64_t>(first_row);
    EXPECT_EQ(firsts, (std::vector<std::uint64_t>{row << 34, row * 3 * 4}));
  }
}

}  // namespace
