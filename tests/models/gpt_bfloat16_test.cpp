// A GPT in bfloat16 with float masters: it learns as in float, in half the memory, and remat changes no bit of it.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <remat/io.hpp>
#include <string>
#include <vector>

#include "promises/small_gpt.hpp"

namespace {

using namespace remat;
using remat_test::Threads;
using remat_test::tokens;

constexpr double rate = 1e-3;

/// A training, and how it went.
template <class T>
struct Training {
  ParameterRegistry parameters{5};
  models::Gpt<T> gpt;
  optim::AdamW adamw{parameters};
  Index step = 0;
  TapeStats stats;

  explicit Training(const models::GptConfig& config) : gpt(parameters / "gpt", config) {}
  double run() {
    Tape tape({.seed = 11, .step = step});
    const Var<float> loss = gpt.loss(tape, tokens(4, gpt.config.context, gpt.config.vocabulary, 7 + step % 4));
    ++step;
    tape.backward(loss);
    stats = tape.stats();
    adamw.step(rate);
    return static_cast<double>(loss.item());
  }
  /// The loss of every step, then every parameter, bit by bit.
  std::vector<std::uint32_t> bits_after(int steps) {
    std::vector<std::uint32_t> bits;
    const auto add = [&](float value) {
      bits.emplace_back();
      std::memcpy(&bits.back(), &value, sizeof value);
    };
    for (int i = 0; i < steps; ++i) add(static_cast<float>(run()));
    for (const auto& entry : parameters.entries()) {
      const Tensor<float> values = Parameter<float>(entry).value();
      for (const float value : values.span()) add(value);
    }
    return bits;
  }
};

TEST(GptBfloat16, LearnsLikeFloat) {
  Training<float> exact(remat_test::small_gpt());
  Training<bfloat16> mixed(remat_test::small_gpt());
  double first = 0, last = 0;
  for (int step = 0; step < 40; ++step) {
    last = exact.run();
    if (step == 0) first = last;
    EXPECT_NEAR(mixed.run(), last, 0.01 * last) << "step " << step;
  }
  EXPECT_LT(last, 0.95 * first);
}

TEST(GptBfloat16, KeepsParametersGradientsAndOptimizerInFloat) {
  Training<float> exact(remat_test::small_gpt());
  Training<bfloat16> mixed(remat_test::small_gpt());
  exact.run(), mixed.run();
  const auto floats = exact.parameters.entries(), masters = mixed.parameters.entries();
  ASSERT_EQ(floats.size(), masters.size());
  for (std::size_t i = 0; i < floats.size(); ++i) {
    EXPECT_EQ(masters[i]->path, floats[i]->path);
    EXPECT_EQ(masters[i]->value.dtype, DType::float32);
    EXPECT_EQ(masters[i]->grad.dtype, DType::float32);
  }
  EXPECT_EQ(mixed.adamw.state_bytes(), exact.adamw.state_bytes());
}

TEST(GptBfloat16, WritesTheSameWeightFile) {
  const Training<float> exact(remat_test::small_gpt());
  const Training<bfloat16> mixed(remat_test::small_gpt());
  const auto bytes = [](const ParameterRegistry& parameters, const char* name) {
    const std::string path = testing::TempDir() + name;
    io::save_safetensors(parameters, path);
    std::ifstream file(path, std::ios::binary);
    std::string all{std::istreambuf_iterator<char>(file), {}};
    std::filesystem::remove(path);
    return all;
  };
  EXPECT_EQ(bytes(mixed.parameters, "mixed.safetensors"), bytes(exact.parameters, "exact.safetensors"));
}

// Widths of whole cache lines, so that rounding up each value hides nothing. Statistics of norms stay float.
TEST(GptBfloat16, ActivationsTakeHalfTheBytes) {
  models::GptConfig config = remat_test::small_gpt();
  config.model_dims = config.hidden_dims = 128;
  config.context = 64;
  Training<float> exact(config);
  Training<bfloat16> mixed(config);
  exact.run(), mixed.run();
  const double ratio = static_cast<double>(mixed.stats.saved_bytes) / static_cast<double>(exact.stats.saved_bytes);
  EXPECT_GT(ratio, 0.5);
  EXPECT_LT(ratio, 0.53);
}

class GptBfloat16Remat : public testing::TestWithParam<int> {};

TEST_P(GptBfloat16Remat, ChangesNoBit) {
  const Threads threads(GetParam());
  models::GptConfig config = remat_test::small_gpt();
  config.dropout = 0.1;
  const auto plain = Training<bfloat16>(config).bits_after(3);
  for (const policy::Phrase& phrase : policy::phrase_book()) {
    config.remat = phrase.policy;
    for (const int every : {1, 2}) {
      config.remat_every = every;
      EXPECT_EQ(Training<bfloat16>(config).bits_after(3), plain) << phrase.name << ", every " << every;
    }
  }
}
INSTANTIATE_TEST_SUITE_P(Threads, GptBfloat16Remat, testing::Values(1, 2));

TEST(GptBfloat16, PlanKnowsThePeak) {
  models::GptConfig config = remat_test::small_gpt();
  Training<bfloat16> planned(config);
  const Plan step = plan(
      [&](Tape& tape) { return planned.gpt.loss(tape, tokens(4, config.context, config.vocabulary)); }, CostModel());
  for (const char* name : {"nothing", "dots", "names(out_proj)"}) {
    config.remat = policy::parse(name);
    Training<bfloat16> training(config);
    training.run();
    EXPECT_EQ(training.stats.peak_bytes, step.under(config.remat).stats.peak_bytes) << name;
    EXPECT_EQ(training.stats.saved_bytes, step.under(config.remat).stats.saved_bytes) << name;
  }
}

// The optimizer runs inside backward, between readers of masters and of their casts.
TEST(GptBfloat16, UpdatesInBackwardAsAfterIt) {
  Training<bfloat16> after(remat_test::small_gpt()), inside(remat_test::small_gpt());
  after.run();
  Tape tape({.seed = 11, .step = 0});
  tape.backward(inside.gpt.loss(tape, tokens(4, inside.gpt.config.context, inside.gpt.config.vocabulary, 7)),
                inside.adamw.in_backward(rate));
  const auto expected = after.parameters.entries(), got = inside.parameters.entries();
  for (std::size_t i = 0; i < expected.size(); ++i)
    EXPECT_TRUE(same_bits(Parameter<float>(expected[i]).value(), Parameter<float>(got[i]).value())) << got[i]->path;
}

TEST(GptBfloat16, Generates) {
  const Training<bfloat16> training(remat_test::small_gpt());
  EXPECT_EQ(training.gpt.generate({1, 2, 3}, {.length = 5}).size(), 8U);
}

}  // namespace
