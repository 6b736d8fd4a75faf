// A decoder whose layers are recomputed: the same bits for less memory, and once it is disabled the step is recorded as
// it was before.
#include <gtest/gtest.h>

#include <cstring>
#include <remat/models/decoder.hpp>
#include <string>
#include <vector>

#include "core/expect_error.hpp"

namespace {

using namespace remat;
using remat_test::expect_error;

models::DecoderConfig small_decoder() {
  nn::TransformerLayerConfig layer{.hidden_dims = 24, .num_heads = 4, .norm = nn::NormKind::rms_norm, .dropout = 0.25};
  layer.attention = {.num_kv_heads = 2, .bias = false, .rotary_base = 100};
  layer.ffn = {.activation = Activation::silu, .gated = true, .bias = false};
  models::DecoderConfig config{.vocabulary = 23, .model_dims = 16, .dropout = 0.25};
  config.layers.assign(4, layer);
  config.init_deviation = 0.5;
  return config;
}
struct Outcome {
  float loss = 0;
  TapeStats stats{};
  std::vector<Tensor<float>> gradients{};
};
Outcome step_of(const ParameterRegistry& parameters, const models::Decoder<float>& model) {
  std::vector<std::int32_t> ids, next;
  for (int t = 0; t < 14; ++t) ids.push_back((7 * t * t + t) % 23), next.push_back((5 * t + 2) % 23);
  parameters.zero_grad();
  Tape tape({.step = 3});
  const Var<float> loss =
      model.loss(tape, {{2, 7}, std::span<const std::int32_t>(ids)}, {{2, 7}, std::span<const std::int32_t>(next)});
  Outcome outcome{loss.item()};
  tape.backward(loss);
  outcome.stats = tape.stats();
  for (const auto& entry : parameters.entries()) outcome.gradients.push_back(Parameter<float>(entry).grad().copy());
  return outcome;
}
void expect_same_bits(const Outcome& a, const Outcome& b) {
  EXPECT_EQ(a.loss, b.loss);
  ASSERT_EQ(a.gradients.size(), b.gradients.size());
  for (std::size_t i = 0; i < a.gradients.size(); ++i)
    EXPECT_EQ(std::memcmp(a.gradients[i].data(), b.gradients[i].data(),
                          static_cast<std::size_t>(a.gradients[i].size()) * sizeof(float)),
              0);
}

TEST(DecoderCheckpointing, ChangesNoBitAndGivesTheFormerRecordingBack) {
  for (const bool has_regions : {false, true}) {
    const ParameterRegistry parameters(3);
    models::DecoderConfig config = small_decoder();
    if (has_regions) config.remat = policy::dots, config.remat_every = 2;
    models::Decoder<float> model(parameters / "m", config);
    const Outcome plain = step_of(parameters, model);
    EXPECT_EQ(plain.stats.ops_replayed > 0, has_regions);
    model.enable_gradient_checkpointing();
    const Outcome all = step_of(parameters, model);
    expect_same_bits(all, plain);
    EXPECT_LT(all.stats.saved_bytes, plain.stats.saved_bytes);
    EXPECT_GT(all.stats.ops_replayed, plain.stats.ops_replayed);
    model.enable_gradient_checkpointing({.every_n_layers = 3});  // layers 0 and 3
    const Outcome half = step_of(parameters, model);
    expect_same_bits(half, plain);
    EXPECT_EQ(2 * half.stats.ops_replayed, all.stats.ops_replayed);
    model.enable_gradient_checkpointing({.policy = policy::dots});
    expect_same_bits(step_of(parameters, model), plain);
    model.activation_checkpointing_enable(1);
    EXPECT_EQ(step_of(parameters, model).stats.ops_replayed, all.stats.ops_replayed);
    model.activation_checkpointing_enable(1, true);
    const Outcome offloaded = step_of(parameters, model);
    expect_same_bits(offloaded, plain);
    EXPECT_GT(offloaded.stats.offloaded_bytes, 0U);
    EXPECT_LT(offloaded.stats.saved_bytes, all.stats.saved_bytes);
    model.disable_gradient_checkpointing();
    const Outcome again = step_of(parameters, model);
    expect_same_bits(again, plain);
    EXPECT_EQ(again.stats.saved_bytes, plain.stats.saved_bytes);
    EXPECT_EQ(again.stats.peak_bytes, plain.stats.peak_bytes);
    EXPECT_EQ(again.stats.ops_replayed, plain.stats.ops_replayed);
    EXPECT_EQ(again.stats.ops_recorded, plain.stats.ops_recorded);
  }
}

TEST(DecoderCheckpointing, RefusesWhatDoesNotHoldTogether) {
  const ParameterRegistry parameters(3);
  models::Decoder<float> model(parameters / "m", small_decoder());
  expect_error({"m/decoder: enable_gradient_checkpointing: every_n_layers is 0"},
               [&] { model.enable_gradient_checkpointing({.every_n_layers = 0}); });
  expect_error({"every_n_layers is -1"}, [&] { model.activation_checkpointing_enable(-1); });
  model.set_remat(policy::dots);
  model.enable_gradient_checkpointing();
  expect_error({"m/decoder: set_remat: gradient checkpointing is enabled"}, [&] { model.set_remat(policy::nothing); });
  model.disable_gradient_checkpointing();
  model.set_remat(policy::nothing);
}

}  // namespace
