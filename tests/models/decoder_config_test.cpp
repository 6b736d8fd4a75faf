// A decoder is told by its config: what its norms, multipliers and caps do, and what does not hold together.
#include <gtest/gtest.h>

#include <cmath>
#include <remat/models/decoder.hpp>
#include <utility>
#include <variant>
#include <vector>

#include "core/expect_error.hpp"
#include "models/small_decoder.hpp"

namespace {

using namespace remat;
using namespace remat_test::decoder;
using remat_test::expect_error;

// Each is one sentence that names the model or the layer.
TEST(DecoderConfig, SettingsThatDoNotHoldTogetherAreRefused) {
  const auto build = [](auto&& change) {
    models::DecoderConfig config = llama(2);
    change(config);
    ParameterRegistry parameters;
    const models::Decoder<float> model(parameters / "m", config);
  };
  expect_error({"m: learned_positions need a table of context rows; set context"},
               [&] { build([](auto& c) { c.learned_positions = true; }); });
  expect_error({"m/decoder/layer_1: model_dims 12 is not the model's 16"},
               [&] { build([](auto& c) { c.layers[1].model_dims = 12; }); });
  expect_error({"m: embedding_multiplier must be > 0"}, [&] { build([](auto& c) { c.embedding_multiplier = 0; }); });
  expect_error({"m: logit_multiplier must be > 0 and finite, got -1"},
               [&] { build([](auto& c) { c.logit_multiplier = -1; }); });
  expect_error({"m: logit_soft_cap must be >= 0 and finite, got inf"},
               [&] { build([](auto& c) { c.logit_soft_cap = HUGE_VAL; }); });
  expect_error({"m/decoder/layer_1: residual_multiplier must be > 0 and finite, got 0"},
               [&] { build([](auto& c) { c.layers[1].residual_multiplier = 0; }); });
  expect_error({"m: norm_scale one_plus_weight is of RMS norms"}, [&] {
    build([](auto& c) { c.norm = nn::NormKind::layer_norm, c.norm_scale = nn::NormScale::one_plus_weight; });
  });
  expect_error({"m: vocabulary 0"}, [&] { build([](auto& c) { c.vocabulary = 0; }); });
  expect_error({"m/decoder/layer_0/attention: scale"},
               [&] { build([](auto& c) { c.layers[0].attention.scale = -1; }); });
  expect_error({"epsilon"}, [&] { build([](auto& c) { c.layers[0].norm_epsilon = -1; }); });
}

// A decoder whose layers have experts trains with their losses, by their weights, and is judged without.
TEST(DecoderLoss, OfExpertsHoldsTheirLossesInTraining) {
  models::DecoderConfig config = llama(2);
  const auto loss_of = [&](double balance, double z, Mode mode) {
    for (auto& layer : config.layers) {
      layer.routed = nn::RoutedFeedForwardConfig{.num_experts = 4, .top_k = 2, .balance_weight = balance};
      layer.routed->z_loss_weight = z;
    }
    ParameterRegistry parameters(1);
    const models::Decoder<double> model(parameters / "m", config);
    Tape tape({.mode = mode});
    return model.loss(tape, ids_of(2, 0, 5), ids_of(2, 1, 5)).item();
  };
  const double plain = loss_of(0, 0, Mode::train);
  EXPECT_EQ(plain, loss_of(1, 1, Mode::evaluate));
  const double balance = loss_of(1, 0, Mode::train) - plain, z = loss_of(0, 1, Mode::train) - plain;
  EXPECT_GT(balance, 1.5);  // about 1 of each layer
  EXPECT_GT(z, 0.1);
  EXPECT_NEAR(loss_of(0.5, 0.25, Mode::train), plain + 0.5 * balance + 0.25 * z, 1e-12);
}

// The multiplier is of token embeddings alone: a table 3 times as great does the same.
TEST(DecoderConfig, EmbeddingMultiplierIsOfWhatIsLookedUp) {
  ParameterRegistry greater, multiplied;
  models::DecoderConfig config = llama(1);
  config.tied_head = false;
  const models::Decoder<double> plain(greater / "m", config);
  config.embedding_multiplier = 3;
  const models::Decoder<double> times(multiplied / "m", config);
  Tensor<double> table = plain.embedding.table.value();
  for (Index i = 0; i < table.size(); ++i) table.write()[i] *= 3;
  plain.embedding.table.set_value(table);
  Tape tape({.mode = Mode::evaluate});
  const auto a = plain.logits(tape, ids_of(2, 0, 5)).value(), b = times.logits(tape, ids_of(2, 0, 5)).value();
  EXPECT_TRUE(same_bits(a, b));
}

/// Loss of two rows, in which every seventh target does not count, and the gradients of all parameters.
std::vector<Tensor<double>> trained(models::DecoderConfig config, std::uint64_t seed = 2) {
  ParameterRegistry parameters(seed);
  const models::Decoder<double> model(parameters / "m", config);
  Tensor<std::int32_t> targets = ids_of(2, 1, 9);
  for (std::size_t i = 0; i < 18; i += 7) targets.write()[i] = -1;
  Tape tape;
  const Var<double> loss = model.loss(tape, ids_of(2, 0, 9), targets);
  std::vector<Tensor<double>> all{loss.value()};
  tape.backward(loss);
  for (const auto& entry : parameters.entries()) all.push_back(Parameter<double>(entry).grad());
  return all;
}

// Logits are those of the plain model, multiplied and then capped; so are those of the next token, and the loss is
// theirs.
TEST(DecoderConfig, LogitsAreMultipliedAndCapped) {
  ParameterRegistry parameters(2);
  models::DecoderConfig config = llama(2);
  const models::Decoder<double> plain(parameters / "m", config);
  const auto ids = ids_of(2, 0, 9), targets = ids_of(2, 1, 9);
  for (const auto& [factor, cap] : {std::pair{0.25, 0.0}, {1.0, 1.5}, {3.0, 1.5}}) {
    config.logit_multiplier = factor, config.logit_soft_cap = cap;
    ParameterRegistry same(2);
    const models::Decoder<double> model(same / "m", config);
    Tape tape({.mode = Mode::evaluate});
    const Tensor<double> before = plain.logits(tape, ids).value(), after = model.logits(tape, ids).value();
    nn::KeyValueCache<double> cache(9);
    const Tensor<double> next = model.next_logits(tape, ids, cache).value();
    const auto expected = [&, factor = factor, cap = cap](Index b, Index t, Index v) {
      const double x = factor * before(b, t, v);
      return cap > 0 ? cap * std::tanh(x / cap) : x;
    };
    double loss = 0;
    for (Index b = 0; b < 2; ++b)
      for (Index t = 0; t < 9; ++t) {
        double sum = 0;
        for (Index v = 0; v < vocabulary; ++v) {
          EXPECT_NEAR(after(b, t, v), expected(b, t, v), 1e-12);
          if (t == 8) {
            EXPECT_NEAR(next(b, v), expected(b, t, v), 1e-12);
          }
          sum += std::exp(expected(b, t, v));
        }
        loss += (std::log(sum) - expected(b, t, targets(b, t))) / 18;
      }
    EXPECT_NEAR(model.loss(tape, ids, targets).item(), loss, 1e-12);
  }
}

// In chunks, with gradients that are kept or made anew, with layers that are recomputed: one loss, one gradient.
TEST(DecoderConfig, LogitMultiplierAndSoftCapTrainAlikeHoweverTheHeadIsComputed) {
  models::DecoderConfig config = llama(2);
  config.logit_multiplier = 0.5, config.logit_soft_cap = 2;
  for (auto& layer : config.layers) layer.residual_multiplier = 0.3;
  const auto expected = trained(config);
  config.remat = policy::nothing;
  const auto remat = trained(config);
  for (std::size_t i = 0; i < expected.size(); ++i) EXPECT_TRUE(same_bits(remat[i], expected[i])) << i;
  config.head_chunk = 5;
  for (const bool keeps : {false, true}) {
    config.keep_head_gradients = keeps;
    const auto chunked = trained(config);
    for (std::size_t i = 0; i < expected.size(); ++i)
      for (Index k = 0; k < expected[i].size(); ++k) EXPECT_NEAR(chunked[i][k], expected[i][k], 1e-12) << i;
  }
}

// What a branch gives is multiplied wherever its norms are: a layer whose last matrices are as much smaller does the
// same where no norm stands behind them.
TEST(DecoderConfig, ResidualMultiplierIsOfEachBranch) {
  for (const bool is_parallel : {false, true}) {
    models::DecoderConfig config = llama(2);
    for (auto& layer : config.layers) layer.parallel = is_parallel;
    ParameterRegistry smaller(2), multiplied(2);
    const models::Decoder<double> plain(smaller / "m", config);
    for (auto& layer : config.layers) layer.residual_multiplier = 0.25;
    const models::Decoder<double> times(multiplied / "m", config);
    for (const auto& layer : plain.decoder.layers)
      for (const nn::Linear<double>* last : {&*layer.attention.out, &*layer.ffn.ffn2}) {
        Tensor<double> w = last->w.value();
        for (double& value : w.write()) value *= 0.25;
        last->w.set_value(w);
      }
    Tape tape({.mode = Mode::evaluate});
    const auto a = plain.logits(tape, ids_of(2, 0, 5)).value(), b = times.logits(tape, ids_of(2, 0, 5)).value();
    for (Index i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], b[i], 1e-12);
  }
}

// A norm behind a branch would undo a smaller matrix, so there the multiplier is one of the norm's weights.
TEST(DecoderConfig, ResidualMultiplierStandsBehindTheNormsOfASandwich) {
  models::DecoderConfig config = llama(1);
  config.layers[0].norm_placement = nn::NormPlacement::sandwich;
  ParameterRegistry smaller(2), multiplied(2);
  const models::Decoder<double> plain(smaller / "m", config);
  config.layers[0].residual_multiplier = 0.25;
  const models::Decoder<double> times(multiplied / "m", config);
  for (const auto& norm : {plain.decoder.layers[0].attention_out_norm, plain.decoder.layers[0].ffn_out_norm})
    std::get<nn::RmsNorm<double>>(norm->layer).scale.set_value(Tensor<double>({16}, 0.25));
  Tape tape({.mode = Mode::evaluate});
  const auto a = plain.logits(tape, ids_of(2, 0, 5)).value(), b = times.logits(tape, ids_of(2, 0, 5)).value();
  for (Index i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], b[i], 1e-12);
}

// The epsilon of every norm is that of the config: with a huge one, norms divide by its root.
TEST(DecoderConfig, EpsilonReachesEveryNorm) {
  ParameterRegistry parameters;
  models::DecoderConfig config = llama(1);
  config.norm_epsilon = config.layers[0].norm_epsilon = 1e-3;
  const models::Decoder<float> model(parameters / "m", config);
  const auto epsilon = [](const nn::Norm<float>& norm) {
    return std::visit([](const auto& n) { return n.epsilon; }, norm.layer);
  };
  EXPECT_EQ(epsilon(model.final_norm), 1e-3);
  EXPECT_EQ(epsilon(model.decoder.layers[0].attention_norm), 1e-3);
  EXPECT_EQ(epsilon(model.decoder.layers[0].ffn_norm), 1e-3);
}

}  // namespace
