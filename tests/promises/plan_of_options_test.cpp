// Promise: the plan is true of what layers may have beyond the plain one, too: experts, stochastic depth, sinks, gates,
// values of another width, positions told by token. Predicted peak = that of the step, to the byte.
#include <gtest/gtest.h>

#include <functional>
#include <remat/models/encoder_decoder.hpp>
#include <remat/nn/stacked_transformer.hpp>
#include <remat/ops/reduce.hpp>
#include <remat/plan/plan.hpp>
#include <remat/policy/parse.hpp>
#include <string>
#include <vector>

#include "nn/random_tensor.hpp"

namespace {

using namespace remat;
using remat_test::random_tensor;

struct Option {
  const char* name;
  std::function<void(nn::TransformerLayerConfig&)> change;
};
void PrintTo(const Option& option, std::ostream* out) { *out << option.name; }

nn::RoutedFeedForwardConfig& experts_of(nn::TransformerLayerConfig& c) {
  c.routed = nn::RoutedFeedForwardConfig{.num_experts = 4, .top_k = 2};
  c.routed->gated = true, c.routed->dropout = 0.1;
  return *c.routed;
}

const Option options[] = {
    {"DropPath", [](auto& c) { c.drop_path = 0.3; }},
    {"NoAttentionNorm", [](auto& c) { c.attention_norm = false; }},
    {"Sinks", [](auto& c) { c.attention.sinks = true; }},
    {"SinksOfACombinedProjection", [](auto& c) { c.attention.sinks = c.attention.combined_qkv = true; }},
    {"OutputGate", [](auto& c) { c.attention.output_gate = true; }},
    {"NarrowValues", [](auto& c) { c.attention.value_head_dims = 3, c.attention.rotary_base = 100; }},
    {"WideValues", [](auto& c) { c.attention.value_head_dims = 9, c.attention.rotary_base = 100; }},
    {"WindowOfTwoSides",
     [](auto& c) { c.attention.causal = false, c.attention.window = 2, c.attention.window_right = 4; }},
    {"InterleavedYarn",
     [](auto& c) {
       c.attention.rotary_base = 100, c.attention.rotary_interleaved = true;
       c.attention.rotary_scaling = {RotaryScaling::yarn, 4, 1, 4, 16};
     }},
    {"Experts", [](auto& c) { experts_of(c).z_loss_weight = 0.1; }},
    {"ExpertsWithoutDrops", [](auto& c) { experts_of(c).dropless = true; }},
    {"ExpertsThatChoose", [](auto& c) { experts_of(c).expert_choice = true; }},
    {"ExpertsOfDeepSeek",
     [](auto& c) {
       nn::RoutedFeedForwardConfig& r = experts_of(c);
       r.router_score = nn::RouterScore::sigmoid, r.router_bias = true, r.shared_hidden_dims = 5, r.gate_scale = 2;
       r.expert_groups = 2, r.top_expert_groups = 1, r.jitter = 0.1;
     }},
    {"ExpertsInGroups", [](auto& c) { experts_of(c).num_groups = 2; }},
};

class PlanOfOptions : public testing::TestWithParam<Option> {};
INSTANTIATE_TEST_SUITE_P(All, PlanOfOptions, testing::ValuesIn(options),
                         [](const auto& info) { return std::string(info.param.name); });

TEST_P(PlanOfOptions, PeakIsThatOfTheStepToTheByte) {
  nn::TransformerLayerConfig layer{.model_dims = 12, .hidden_dims = 20, .num_heads = 2, .dropout = 0.1};
  layer.attention.dropout = 0.1;
  GetParam().change(layer);
  ParameterRegistry parameters(5);
  nn::StackedTransformer<float> stack(parameters / "net", {.layers = {3, layer}});
  const Tensor<float> x = random_tensor<float>({2, 9, 12}, 1).copy();
  const Tensor<std::int32_t> lengths({2}, {9, 4});
  for (const bool has_positions : {false, true}) {
    Tensor<std::int32_t> positions({2, 9}, 3);
    positions = positions.copy();
    const auto record = [&](Tape& tape) {
      AttentionMasks<float> masks{.key_lengths = tape.input(lengths)};
      if (has_positions) masks.positions = tape.input(positions);
      const auto input = tape.input(x, {.wants_gradient = true});
      if (!stack.has_experts()) return mean(square(stack(input, masks)));
      const auto [y, auxiliary] = stack.with_auxiliary(input, masks);
      return mean(square(y)) + auxiliary;
    };
    for (const char* text : {"everything", "nothing", "dots", "names(*)", "!names(*)"}) {
      SCOPED_TRACE(text);
      stack.remat = std::string(text) == "everything" ? Policy(policy::everything)
                    : std::string(text) == "nothing"  ? Policy(policy::nothing)
                                                      : policy::parse(text);
      const auto stats = [&](Mode mode) {
        Tape tape({.seed = 11, .step = 0, .mode = mode});
        tape.backward(record(tape));
        return tape.stats();
      };
      stats(Mode::train);  // from here on parameters have a gradient, which no tape counts
      const TapeStats real = stats(Mode::train), predicted = stats(Mode::plan);
      EXPECT_EQ(predicted.peak_bytes, real.peak_bytes);
      EXPECT_EQ(predicted.saved_bytes, real.saved_bytes);
      EXPECT_EQ(predicted.ops_recorded, real.ops_recorded);
      EXPECT_EQ(predicted.replayed_by_op, real.replayed_by_op);
    }
  }
}

TEST(PlanOfOptions, OfAnEncoderDecoderIsTrue) {
  nn::TransformerLayerConfig layer{.hidden_dims = 20, .num_heads = 2, .dropout = 0.1};
  models::EncoderDecoderConfig config{.vocabulary = 23, .model_dims = 12, .context = 9};
  config.encoder = {layer, layer}, config.decoder = {layer, layer};
  for (const Policy& policy : {Policy(policy::everything), Policy(policy::nothing), policy::parse("dots")}) {
    config.remat = policy;
    ParameterRegistry parameters(5);
    const models::EncoderDecoder<float> model(parameters / "m", config);
    const models::SourceBatch batch{.source = Tensor<std::int32_t>({2, 7}, 3),
                                    .source_lengths = Tensor<std::int32_t>({2}, {7, 2}),
                                    .inputs = Tensor<std::int32_t>({2, 9}, 4),
                                    .targets = Tensor<std::int32_t>({2, 9}, 5)};
    const auto peak = [&](Mode mode) {
      Tape tape({.seed = 11, .step = 0, .mode = mode});
      tape.backward(model.loss(tape, batch));
      return tape.stats().peak_bytes;
    };
    peak(Mode::train);
    const std::size_t real = peak(Mode::train);
    EXPECT_EQ(peak(Mode::plan), real);
  }
}

}  // namespace
