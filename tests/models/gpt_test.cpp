// What a built GPT lets one change, and what its generation refuses.
#include <gtest/gtest.h>

#include <limits>
#include <remat/models/gpt.hpp>
#include <remat/nn/routed_feed_forward.hpp>
#include <set>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/expect_error.hpp"

namespace {

using namespace remat;
using models::sample_token;
using remat_test::expect_error;
using Gpt = models::Gpt<float>;
using Ids = std::vector<std::int32_t>;

constexpr double nan = std::numeric_limits<double>::quiet_NaN(), inf = std::numeric_limits<double>::infinity();

struct Tokens {
  Tensor<std::int32_t> inputs, targets;
};

models::GptConfig config() {
  return {.vocabulary = 16, .context = 8, .num_layers = 2, .model_dims = 8, .num_heads = 2};
}

// A copy that rules nothing any more must not look as if it did: assigning to it does not compile.
template <class Layer>
concept TakesConfig = requires(Layer& layer) {
  layer.config = std::as_const(layer).config;
};
template <class Layer>
concept TakesRemat = requires(Layer& layer) {
  layer.config.remat = policy::nothing;
};
template <class Layer>
concept TakesDropout = requires(Layer& layer) {
  layer.config.dropout = 0.5;
};
template <class Layer>
constexpr bool is_as_built = !TakesConfig<Layer> && !TakesDropout<Layer> && !TakesRemat<Layer> &&
                             std::is_move_constructible_v<Layer> && std::is_copy_constructible_v<Layer>;
static_assert(is_as_built<Gpt> && is_as_built<nn::TransformerLayer<float>> &&
              is_as_built<nn::MultiHeadAttention<float>> && is_as_built<nn::FeedForward<float>> &&
              is_as_built<nn::RoutedFeedForward<float>>);

TEST(GptRemat, IsSetOnABuiltModel) {
  ParameterRegistry parameters;
  Gpt gpt(parameters / "gpt", config());
  const Tokens tokens{Tensor<std::int32_t>({2, 8}, 3), Tensor<std::int32_t>({2, 8}, 5)};
  const auto replayed = [&] {
    Tape tape;
    tape.backward(gpt.loss(tape, tokens));
    return tape.stats().ops_replayed;
  };
  EXPECT_EQ(replayed(), 0);
  gpt.set_remat(policy::nothing);
  EXPECT_GT(replayed(), 0);
  EXPECT_EQ(gpt.decoder.remat, policy::nothing);
  gpt.decoder.remat = policy::everything;
  EXPECT_EQ(replayed(), 0);
  gpt.decoder.set_remat(policy::dots);
  EXPECT_GT(replayed(), 0);
  gpt.decoder.remat_every = 0;  // it would never get through its layers
  expect_error({"gpt/decoder: remat_every must be > 0"}, [&] { replayed(); });
}

class Generation : public testing::Test {
 protected:
  ParameterRegistry parameters_{1};
  Gpt gpt_{parameters_ / "gpt", config()};
};

TEST_F(Generation, RefusesOptionsBeforeAnyWork) {
  const Ids prompt = {1, 2};
  pool().set_limit(0);  // no work is done
  expect_error({"gpt: generate", "prompt"}, [&] { gpt_.generate({}, {}); });
  expect_error({"gpt: generate: length", "-1"}, [&] { gpt_.generate(prompt, {.length = -1}); });
  expect_error({"gpt: generate: top_k", "-2"}, [&] { gpt_.generate(prompt, {.top_k = -2}); });
  for (const double temperature : {-0.5, nan, inf})
    expect_error({"gpt: generate: temperature"}, [&] { gpt_.generate(prompt, {.temperature = temperature}); });
  expect_error({"gpt: generate: prompt[1] is 16", "16 tokens"}, [&] { gpt_.generate({1, 16}, {}); });
  expect_error({"gpt: generate: prompt[0] is -1"}, [&] { gpt_.generate({-1, 2}, {}); });
  for (const models::Generation& more : {models::Generation{.top_p = 1.5}, models::Generation{.min_p = 1.5}})
    expect_error({"gpt: generate: top_p", "are parts of 1"}, [&] { gpt_.generate(prompt, more); });
  pool().set_limit();
}

TEST_F(Generation, LearnedPositionsAreNotOfPackedSequences) {
  const Tensor<std::int32_t> ids({1, 4}, 1), segments({1, 4}, std::vector<std::int32_t>{0, 0, 1, 1});
  Tape tape({.step = 1});
  expect_error({"gpt: packed sequences begin at other positions than 0"}, [&] { gpt_.loss(tape, ids, ids, segments); });
}

TEST_F(Generation, NamesTheTokenWhoseLogitsAreNan) {
  EXPECT_EQ(gpt_.generate({1, 2}, {.length = 4}).size(), 6U);
  Tensor<float> table = gpt_.positions.value().copy();
  for (Index d = 0; d < 8; ++d) table.write()[5 * 8 + d] = std::numeric_limits<float>::quiet_NaN();
  gpt_.positions.set_value(table);
  // The sixth position is first looked at for the fifth new token.
  expect_error({"gpt: generate: token 5 of 9: ", "NaN"}, [&] { gpt_.generate({1, 2}, {.length = 9}); });
  expect_error({"token 5 of 9: ", "NaN"}, [&] { gpt_.generate({1, 2}, {.length = 9, .temperature = 0}); });
}

TEST(SampleToken, DrawsByTemperatureAmongTheGreatest) {
  const std::vector<float> logits = {1, 3, -2, 3, 2.5F};
  const auto draw = [&](double temperature, int top_k, double uniform) {
    return sample_token<float>(logits, temperature, top_k, uniform, "here: ");
  };
  for (const double uniform : {0.0, 0.5, 0.999}) EXPECT_EQ(draw(0, 0, uniform), 1);  // of equals the first
  std::set<std::int32_t> seen, near;
  for (int i = 0; i < 200; ++i) seen.insert(draw(10, 3, i / 200.0)), near.insert(draw(10, 0, i / 200.0));
  EXPECT_EQ(seen, (std::set<std::int32_t>{1, 3, 4}));
  EXPECT_EQ(near.size(), 5U);
  EXPECT_EQ(draw(1, 100, 0), 1);
}

TEST(SampleToken, InfiniteLogits) {
  constexpr float infinity = std::numeric_limits<float>::infinity();
  const auto draw = [](const std::vector<float>& logits, double uniform, double temperature = 1) {
    return sample_token<float>(logits, temperature, 0, uniform, "here: ");
  };
  for (int i = 0; i < 100; ++i) EXPECT_NE(draw({0, -infinity, 0}, i / 100.0), 1);
  for (const double temperature : {0.0, 1.0}) {
    expect_error({"here: ", "token 1", "infinite"}, [&] { draw({0, infinity, 0}, 0.5, temperature); });
    expect_error({"here: ", "no token is left"}, [&] { draw({-infinity, -infinity}, 0.5, temperature); });
    expect_error({"here: ", "NaN"}, [&] { draw({0, static_cast<float>(nan)}, 0.5, temperature); });
  }
}

}  // namespace
