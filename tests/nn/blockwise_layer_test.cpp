// A transformer layer by chunks of queries is the layer: values, gradients, masks of dropout, bits, in less memory.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <optional>
#include <regex>
#include <remat/models.hpp>
#include <remat/remat.hpp>
#include <string>
#include <vector>

#include "core/expect_error.hpp"
#include "nn/random_tensor.hpp"
#include "promises/small_gpt.hpp"

namespace {

using namespace remat;
using remat_test::expect_error;
using remat_test::random_tensor;

constexpr Index D = 8, Dm = 6, S = 7, T = 13;
using Config = nn::TransformerLayerConfig;

struct Outcome {
  std::vector<Tensor<double>> values;  // y, then the gradients of x, of the memory and of every parameter
  TapeStats stats;
};

struct Run {
  Index batch = 1, length = T;
  std::optional<Policy> around{};  // of a region that the layer lies in
  Mode mode = Mode::train;
};

Outcome outcome(const Config& config, const Run& run = {}) {
  ParameterRegistry parameters(3);
  const nn::TransformerLayer<double> layer(parameters / "layer", config);
  for (const auto& entry : parameters.entries()) {  // biases and scales, too
    Tensor<double> values = random_tensor<double>(entry->value.shape, entry->path.size());
    for (Index i = 0; i < values.size(); ++i) values.write()[i] *= 0.4;
    Parameter<double>(entry).set_value(values);
  }
  Tape tape({.seed = 5, .step = 2, .mode = run.mode});
  const auto x = tape.input(random_tensor<double>({run.batch, run.length, D}, 1), {.wants_gradient = true});
  const auto memory = tape.input(random_tensor<double>({run.batch, S, Dm}, 2), {.wants_gradient = true});
  const auto apply = [&] { return config.cross_attention ? layer(x, memory) : layer(x); };
  const auto y = run.around ? tape.checkpoint(*run.around, apply) : apply();
  tape.keep(y);
  Outcome result{{y.value()}, {}};
  if (run.mode == Mode::evaluate) return result;
  tape.backward(sum(y * tape.input(random_tensor<double>(y.shape(), 4))));
  result.stats = tape.stats();
  result.values.push_back(tape.grad(x));
  if (config.cross_attention) result.values.push_back(tape.grad(memory));
  for (const auto& entry : parameters.entries()) result.values.push_back(Parameter<double>(entry).grad());
  return result;
}

/// The largest difference of two outcomes, over the largest magnitude in each tensor or 1.
double distance(const Outcome& a, const Outcome& b) {
  if (a.values.size() != b.values.size()) return HUGE_VAL;
  double worst = 0;
  for (std::size_t k = 0; k < a.values.size(); ++k) {
    const Tensor<double>&x = a.values[k], &y = b.values[k];
    if (x.shape() != y.shape()) return HUGE_VAL;
    double largest = 1, off = 0;
    for (Index i = 0; i < x.size(); ++i) {
      largest = std::max(largest, std::abs(y[i]));
      off = std::isnan(x[i] - y[i]) ? HUGE_VAL : std::max(off, std::abs(x[i] - y[i]));
    }
    worst = std::max(worst, off / largest);
  }
  return worst;
}

bool same_bits(const Outcome& a, const Outcome& b) {
  bool same = a.values.size() == b.values.size();
  for (std::size_t k = 0; same && k < a.values.size(); ++k) same = same_bits(a.values[k], b.values[k]);
  return same;
}

Config by_chunks(Config config, const nn::BlockwiseConfig& blockwise) {
  config.blockwise = blockwise;
  return config;
}

Config base() { return {.model_dims = D, .hidden_dims = 12, .num_heads = 4}; }
Config with(const std::function<void(Config&)>& change) {
  Config config = base();
  change(config);
  return config;
}

const nn::BlockwiseConfig chunkings[] = {{.query_chunk = 1},
                                         {.query_chunk = 5},
                                         {.query_chunk = 5, .key_chunk = 3, .ffn_chunk = 2},
                                         {.query_chunk = static_cast<int>(T)},
                                         {.query_chunk = 100, .ffn_chunk = 4}};

void expect_equal_to_the_whole(const Config& config) {
  for (const Index batch : {1, 3}) {
    const Outcome whole = outcome(config, {.batch = batch});
    for (const nn::BlockwiseConfig& c : chunkings)
      EXPECT_LE(distance(outcome(by_chunks(config, c), {.batch = batch}), whole), 1e-12)
          << "query_chunk " << c.query_chunk << ", batch " << batch;
  }
}

TEST(BlockwiseLayer, IsTheWholeWithNormsBeforeAndBehind) {
  expect_equal_to_the_whole(base());
  expect_equal_to_the_whole(with([](Config& c) { c.norm_placement = nn::NormPlacement::post; }));
  expect_equal_to_the_whole(with([](Config& c) { c.norm = nn::NormKind::rms_norm; }));
}

TEST(BlockwiseLayer, IsTheWholeWithCrossAttention) {
  for (const auto placement : {nn::NormPlacement::pre, nn::NormPlacement::post})
    expect_equal_to_the_whole(with([&](Config& c) {
      c.norm_placement = placement;
      c.cross_attention = {.num_kv_heads = 2, .memory_dims = Dm};
    }));
}

TEST(BlockwiseLayer, IsTheWholeWithGatesAndGroupedHeads) {
  expect_equal_to_the_whole(with([](Config& c) { c.ffn = {.activation = Activation::silu, .gated = true}; }));
  expect_equal_to_the_whole(with([](Config& c) { c.attention.num_kv_heads = 2; }));
  expect_equal_to_the_whole(with([](Config& c) { c.attention.num_kv_heads = 1; }));
}

TEST(BlockwiseLayer, IsTheWholeWhateverAttentionSees) {
  expect_equal_to_the_whole(with([](Config& c) { c.attention.causal = false; }));
  expect_equal_to_the_whole(with([](Config& c) { c.attention.window = 4; }));
  expect_equal_to_the_whole(with([](Config& c) { c.attention.causal = false, c.attention.window = 4; }));
  expect_equal_to_the_whole(with([](Config& c) { c.attention.rotary_base = 100; }));
  expect_equal_to_the_whole(with([](Config& c) { c.attention.alibi = true; }));
  expect_equal_to_the_whole(with([](Config& c) { c.attention.soft_cap = 0.5; }));
  expect_equal_to_the_whole(with([](Config& c) { c.attention.fused = false; }));
}

TEST(BlockwiseLayer, IsTheWholeAtEveryLength) {
  constexpr int chunk = 4;
  for (const Index length : {1, 7, chunk - 1, chunk, chunk + 1, 2 * chunk + 3}) {
    const Config whole = base(), parts = by_chunks(base(), {.query_chunk = chunk, .key_chunk = 3, .ffn_chunk = 3});
    EXPECT_LE(distance(outcome(parts, {.length = length}), outcome(whole, {.length = length})), 1e-12) << length;
  }
  EXPECT_EQ(outcome(by_chunks(base(), {.query_chunk = chunk}), {.length = 0}).values[0].shape(), (Shape{1, 0, D}));
}

Config attention_dropout() {
  return with([](Config& c) { c.attention.dropout = 0.3; });
}
Config residual_dropout() {
  return with([](Config& c) { c.dropout = 0.3; });
}
Config activation_dropout() {
  return with([](Config& c) { c.ffn.dropout = 0.3; });
}

TEST(BlockwiseLayer, DrawsTheMasksOfTheWholeForActivationsAndBranches) {
  expect_equal_to_the_whole(residual_dropout());
  expect_equal_to_the_whole(activation_dropout());
  expect_equal_to_the_whole(with([](Config& c) {
    c.dropout = 0.2, c.ffn.dropout = 0.3, c.cross_attention = {.memory_dims = Dm};
    c.ffn.gated = true;
  }));
}

TEST(BlockwiseLayer, DrawsTheMasksOfTheWholeForProbabilities) {
  expect_equal_to_the_whole(attention_dropout());
  expect_equal_to_the_whole(with([](Config& c) {
    c.dropout = c.attention.dropout = c.ffn.dropout = 0.2;
    c.cross_attention = {.memory_dims = Dm, .dropout = 0.3};
  }));
}

/// Only one kind of dropout is on: it must act in training, in every chunk, and not in evaluation.
void expect_dropout_in_training_only(const Config& config) {
  const Config parts = by_chunks(config, {.query_chunk = 4, .ffn_chunk = 2});
  const Tensor<double> still = outcome(by_chunks(base(), parts.blockwise)).values[0];
  EXPECT_TRUE(same_bits(outcome(parts, {.mode = Mode::evaluate}).values[0], still));
  const Tensor<double> trained = outcome(parts).values[0];
  // Query 0 sees itself alone; with a probability of 1 it may well not be dropped.
  for (Index begin = 0; begin < T; begin += 4) {
    bool differs = false;
    for (Index i = begin * D; i < std::min(T, begin + 4) * D; ++i) differs = differs || trained[i] != still[i];
    EXPECT_TRUE(differs) << "the chunk at " << begin;
  }
}

TEST(BlockwiseLayer, DropsProbabilitiesInTrainingOnly) { expect_dropout_in_training_only(attention_dropout()); }
TEST(BlockwiseLayer, DropsBranchesInTrainingOnly) { expect_dropout_in_training_only(residual_dropout()); }
TEST(BlockwiseLayer, DropsActivationsInTrainingOnly) { expect_dropout_in_training_only(activation_dropout()); }

TEST(BlockwiseLayer, PoliciesAndThreadsChangeNoBit) {
  Config config = with([](Config& c) {
    c.dropout = c.attention.dropout = c.ffn.dropout = 0.2;
    c.cross_attention = {.memory_dims = Dm};
  });
  config.blockwise = {.query_chunk = 5, .ffn_chunk = 2, .policy = policy::everything};
  const Outcome kept = outcome(config, {.batch = 2});
  EXPECT_EQ(kept.stats.ops_replayed, 0);
  for (const int count : {1, 2}) {
    const remat_test::Threads threads(count);
    for (const Policy& inside : {policy::everything, policy::nothing, offload(policy::dots)}) {
      config.blockwise.policy = inside;
      const Outcome alone = outcome(config, {.batch = 2});
      EXPECT_TRUE(same_bits(kept, alone)) << inside << " on " << count << " threads";
      EXPECT_EQ(alone.stats.ops_replayed == 0, inside == policy::everything) << inside;
      for (const Policy& around : {policy::everything, policy::nothing, policy::dots, offload(policy::everything)})
        EXPECT_TRUE(same_bits(kept, outcome(config, {.batch = 2, .around = around})))
            << inside << " inside " << around << " on " << count << " threads";
    }
  }
}

TEST(BlockwiseLayer, NeedsProjectionsOfTheirOwn) {
  ParameterRegistry parameters;
  Config config = with([](Config& c) { c.attention.combined_qkv = true; });
  config.blockwise.query_chunk = 4;
  expect_error({"net: ", "blockwise.query_chunk 4", "attention.combined_qkv = false"},
               [&] { nn::TransformerLayer<double>(parameters / "net", config); });
  EXPECT_EQ(parameters.entries().size(), 0U);
  config.blockwise = {.ffn_chunk = 4};  // attention sees all queries at once
  EXPECT_TRUE(nn::TransformerLayer<double>(parameters / "net", config).attention.qkv.has_value());

  Tape tape;
  const auto x = tape.input(random_tensor<double>({1, T, D}, 1));
  const nn::TransformerLayer<double> other(parameters / "other", by_chunks(base(), {.query_chunk = 4}));
  expect_error({"other: ", "[13, 8]", "[B, T, D]"}, [&] { other(x.reshape({T, D})); });
}

models::GptConfig gpt(const Policy& remat, const nn::BlockwiseConfig& blockwise) {
  models::GptConfig config{.vocabulary = 32, .context = 512, .num_layers = 3, .model_dims = 32, .num_heads = 4};
  config.remat = remat;
  config.combined_qkv = false;
  config.blockwise = blockwise;
  return config;
}
TapeStats planned(const models::GptConfig& config) {
  ParameterRegistry parameters;
  const models::Gpt<float> model(parameters / "gpt", config);
  const auto tokens = remat_test::tokens(2, config.context, config.vocabulary);
  return planned_step([&](Tape& tape) { return model.loss(tape, tokens); }).stats;
}
Policy offloaded() { return offload(policy::names("iteration_input", "transformer_layer_out")); }

// The table of docs/blockwise.md, in units of B T D.
TEST(BlockwiseGpt, StaysBelowItsUnits) {
  constexpr int chunk = 64;
  for (const int layers : {1, 4, 24}) {
    const auto units = [&](const Policy& remat, int query_chunk) {
      models::GptConfig config = gpt(remat, {.query_chunk = query_chunk});
      config.context = 4096, config.model_dims = 128, config.num_layers = layers;
      return static_cast<double>(planned(config).peak_bytes) / (2 * 4096 * 128 * sizeof(float));
    };
    const double at_hand = 18.0 * chunk / 4096;
    EXPECT_LE(units(policy::nothing, chunk), layers + 6 + at_hand);
    EXPECT_GE(units(policy::nothing, chunk), layers + 6);
    EXPECT_LE(units(offloaded(), chunk), 7 + at_hand);
    EXPECT_NEAR(units(policy::nothing, 0), layers + 20, 0.25);
  }
}

TEST(BlockwiseGpt, HoldsNothingForAttentionDropoutOrBiases) {
  const auto peak = [](double dropout, bool alibi) {
    ParameterRegistry parameters;
    Config layer{.model_dims = 32, .num_heads = 4, .blockwise = {.query_chunk = 64}};
    layer.attention.dropout = dropout, layer.attention.alibi = alibi;
    const nn::TransformerLayer<float> net(parameters / "net", layer);
    Tape tape({.step = 0});
    tape.backward(sum(net(tape.input(random_tensor<float>({1, 512, 32}, 1), {.wants_gradient = true}))));
    return tape.stats().peak_bytes;
  };
  EXPECT_EQ(peak(0.3, false), peak(0, false));
  EXPECT_EQ(peak(0, true), peak(0, false));
  EXPECT_LT(peak(0.3, true), 4 * 512 * 512U);  // a mask [N, T, S] of a byte each
}

TEST(BlockwiseGpt, PlansAreTrue) {
  for (const Policy& remat : {policy::everything, policy::nothing, policy::save_out_proj, offloaded()})
    for (const nn::BlockwiseConfig& blockwise :
         {nn::BlockwiseConfig{}, {.query_chunk = 100, .ffn_chunk = 30}, {.query_chunk = 64, .policy = policy::dots}}) {
      models::GptConfig config = gpt(remat, blockwise);
      config.dropout = 0.1;
      const TapeStats real = remat_test::gpt_step<float>(config).stats, plan = planned(config);
      EXPECT_EQ(plan.peak_bytes, real.peak_bytes) << remat;
      EXPECT_EQ(plan.saved_bytes, real.saved_bytes) << remat;
      EXPECT_EQ(plan.offloaded_bytes, real.offloaded_bytes) << remat;
      EXPECT_EQ(plan.replayed_by_op, real.replayed_by_op) << remat;
    }
}

TEST(BlockwisePage, NamesTestsThatExist) {
  const auto read = [](const std::filesystem::path& path) {
    std::ifstream file(path);
    return std::string(std::istreambuf_iterator<char>(file), {});
  };
  const std::filesystem::path root = REMAT_SOURCE_DIR;
  const std::string page = read(root / "docs/blockwise.md");
  const std::regex name("`([a-z]+)\\.([A-Z]\\w+)\\.([A-Z]\\w+)`");
  int count = 0;
  for (std::sregex_iterator at(page.begin(), page.end(), name), end; at != end; ++at, ++count) {
    const std::string head = '(' + at->str(2) + ", " + at->str(3) + ')';
    bool exists = false;
    for (const auto& file : std::filesystem::directory_iterator(root / "tests" / at->str(1)))
      exists = exists || (file.is_regular_file() && read(file).find(head) != std::string::npos);
    EXPECT_TRUE(exists) << at->str();
  }
  EXPECT_GT(count, 20);
}

}  // namespace
