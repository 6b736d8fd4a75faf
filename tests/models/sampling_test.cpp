// Tokens are left out as transformers leaves them out: by rank, by sum of probabilities, by part of the likeliest.
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <remat/models/sampling.hpp>
#include <string>
#include <vector>

namespace {

using namespace remat;
using models::Sampling;

/// Which tokens are drawn of 4,000, and how often.
std::map<std::int32_t, double> shares(const std::vector<double>& logits, const Sampling& how,
                                      const std::vector<std::int32_t>& seen = {}) {
  std::map<std::int32_t, double> all;
  for (int i = 0; i < 4000; ++i)
    all[models::sample_token(std::span<const double>(logits), how, seen, (i + 0.5) / 4000, "here: ")] += 1.0 / 4000;
  return all;
}
std::vector<double> logits_of(const std::vector<double>& probabilities) {
  std::vector<double> logits;
  for (const double p : probabilities) logits.push_back(std::log(p));
  return logits;
}

TEST(Sampling, TopPKeepsTheFewestThatReachTheSum) {
  const std::vector<double> logits = logits_of({0.1, 0.5, 0.3, 0.06, 0.04});
  for (const auto& [top_p, expected] :
       std::map<double, std::map<std::int32_t, double>>{{0.3, {{1, 1}}},
                                                        {0.5000001, {{1, 0.625}, {2, 0.375}}},
                                                        {0.8000001, {{0, 0.1 / 0.9}, {1, 0.5 / 0.9}, {2, 0.3 / 0.9}}},
                                                        {1, {{0, 0.1}, {1, 0.5}, {2, 0.3}, {3, 0.06}, {4, 0.04}}}}) {
    const auto drawn = shares(logits, {.temperature = 1, .top_p = top_p});
    ASSERT_EQ(drawn.size(), expected.size()) << top_p;
    for (const auto& [id, share] : expected) EXPECT_NEAR(drawn.at(id), share, 1e-3) << top_p;
  }
  // Of the probabilities that temperature and top_k leave.
  EXPECT_EQ(shares(logits, {.temperature = 0.25, .top_p = 0.8}).size(), 1U);
  EXPECT_EQ(shares(logits, {.temperature = 1, .top_k = 2, .top_p = 0.62}).size(), 1U);
}

TEST(Sampling, MinPKeepsThoseThatAreNearTheLikeliest) {
  const std::vector<double> logits = logits_of({0.1, 0.5, 0.3, 0.06, 0.04});
  EXPECT_EQ(shares(logits, {.temperature = 1, .min_p = 0.59}).size(), 2U);
  EXPECT_EQ(shares(logits, {.temperature = 1, .min_p = 0.19}).size(), 3U);
  EXPECT_EQ(shares(logits, {.temperature = 1, .min_p = 1}).size(), 1U);
  EXPECT_EQ(shares(logits, {.temperature = 1, .min_p = 0}).size(), 5U);
}

TEST(Sampling, RepetitionPenaltyWeakensWhatWasThere) {
  const std::vector<double> logits = {2, 1.5, -1};
  const auto greatest = [&](double penalty, const std::vector<std::int32_t>& seen) {
    return models::sample_token(std::span<const double>(logits),
                                Sampling{.temperature = 0, .repetition_penalty = penalty}, seen, 0.5, "here: ");
  };
  EXPECT_EQ(greatest(1.2, {0}), 0);
  EXPECT_EQ(greatest(1.5, {0}), 1);
  EXPECT_EQ(greatest(1.5, {0, 0, 0}), 1);  // once, however often it was there
  EXPECT_EQ(greatest(1.5, {0, 1}), 0);
  const auto drawn = shares(logits, {.temperature = 1, .repetition_penalty = 2}, {2});
  const double sum = std::exp(2.0) + std::exp(1.5) + std::exp(-2.0);
  EXPECT_NEAR(drawn.at(2), std::exp(-2.0) / sum, 1e-3);
}

}  // namespace
