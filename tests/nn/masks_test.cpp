// The masks of attention reach every layer: padding and other sequences in a row change nothing, by chunks or whole,
// under every policy, forward and backward.
#include <gtest/gtest.h>

#include <cmath>
#include <remat/models/decoder.hpp>
#include <remat/nn/stacked_transformer.hpp>
#include <remat/ops/arithmetic.hpp>
#include <remat/ops/reduce.hpp>
#include <remat/ops/slice.hpp>
#include <string>
#include <vector>

#include "core/expect_error.hpp"
#include "nn/adapted_llama.hpp"
#include "nn/random_tensor.hpp"

namespace {

using namespace remat;
using remat_test::random_tensor;
using Ids = Tensor<std::int32_t>;
using Masks = AttentionMasks<double>;
using Values = std::vector<Tensor<double>>;

constexpr Index B = 2, T = 7, S = 5, D = 8;

nn::StackedTransformerConfig stack_config(bool has_memory, bool is_combined, Index query_chunk = 0) {
  nn::TransformerLayerConfig layer{.model_dims = D, .hidden_dims = 16, .num_heads = 2, .dropout = 0.25};
  layer.attention.causal = false;
  layer.attention.combined_qkv = is_combined;
  layer.attention.num_kv_heads = 1;
  layer.blockwise.query_chunk = query_chunk;
  if (has_memory) layer.cross_attention = nn::cross_attention_like(layer.attention);
  return {.layers = {layer, layer}};
}

/// The outputs, then the gradients of x, memory and every parameter, of a loss that weighs row `weight` of the outputs.
Values values_of(nn::StackedTransformerConfig config, const Policy& policy, const Tensor<double>& x,
                 const Tensor<double>& memory, const Tensor<double>& weight, const Masks& masks,
                 const Masks& memory_masks = {}, Index rows = B) {
  config.remat = policy;
  ParameterRegistry parameters(3);
  const nn::StackedTransformer<double> stack(parameters / "stack", config);
  Tape tape({.seed = 5, .step = 2, .rows = rows});
  const auto in = tape.input(x, {.wants_gradient = true});
  const auto seen = tape.input(memory, {.wants_gradient = true});
  const bool has_memory = config.layers[0].cross_attention.has_value();
  const auto y = has_memory ? stack(in, seen, masks, memory_masks) : stack(in, masks);
  Values values{y.value()};
  tape.backward(sum(y * weight));
  values.push_back(tape.grad(in));
  if (has_memory) values.push_back(tape.grad(seen));
  for (const auto& entry : parameters.entries()) values.push_back(Parameter<double>(entry).grad());
  return values;
}

void expect_equal(const Values& a, const Values& b) {
  ASSERT_EQ(a.size(), b.size());
  for (std::size_t k = 0; k < a.size(); ++k)
    for (Index i = 0; i < a[k].size(); ++i) ASSERT_EQ(a[k][i], b[k][i]) << "value " << k << ", element " << i;
}
void expect_near(const Values& a, const Values& b) {
  ASSERT_EQ(a.size(), b.size());
  for (std::size_t k = 0; k < a.size(); ++k)
    for (Index i = 0; i < a[k].size(); ++i) ASSERT_NEAR(a[k][i], b[k][i], 1e-12) << "value " << k << ", element " << i;
}

/// `x` with all tokens from `lengths[b]` on replaced by others.
Tensor<double> with_other_padding(const Tensor<double>& x, const Ids& lengths) {
  Tensor<double> other(x.shape(), x.span());
  const auto to = other.write();
  for (Index b = 0; b < x.shape()[0]; ++b)
    for (Index i = lengths[b] * D; i < x.shape()[1] * D; ++i)
      to[static_cast<std::size_t>(b * x.shape()[1] * D + i)] = 9;
  return other;
}
/// 1 where a token is none of the padding.
Tensor<double> words(const Ids& lengths) {
  Tensor<double> weight({B, T, 1}, 0);
  const auto to = weight.write();
  for (Index b = 0; b < B; ++b)
    for (Index t = 0; t < lengths[b]; ++t) to[static_cast<std::size_t>(b * T + t)] = 1 + 0.1 * static_cast<double>(t);
  return weight;
}

TEST(Masks, PaddingIsSeenByNobody) {
  const Ids lengths({B}, {4, 7}), memory_lengths({B}, {5, 2});
  const Tensor<double> x = random_tensor<double>({B, T, D}, 1), memory = random_tensor<double>({B, S, D}, 2);
  for (const bool has_memory : {false, true})
    for (const Index chunk : {0, 3}) {
      SCOPED_TRACE("memory " + std::to_string(has_memory) + ", chunk " + std::to_string(chunk));
      const auto config = stack_config(has_memory, chunk == 0, chunk);
      const auto run = [&](const Tensor<double>& in, const Tensor<double>& seen) {
        Values values = values_of(config, policy::everything, in, seen, words(lengths), {.key_lengths = lengths},
                                  {.key_lengths = memory_lengths});
        Tensor<double>& y = values[0];  // padded queries see words too: their rows differ
        const auto to = y.write();
        for (Index i = lengths[0] * D; i < T * D; ++i) to[static_cast<std::size_t>(i)] = 0;
        return values;
      };
      const Values values = run(x, memory);
      expect_equal(values, run(with_other_padding(x, lengths), with_other_padding(memory, memory_lengths)));
      // The test can fail: what is no padding matters.
      EXPECT_NE(values[0][0], run(with_other_padding(x, Ids({B}, {3, 7})), memory)[0][0]);
      EXPECT_EQ(has_memory, values[0][0] != run(x, with_other_padding(memory, Ids({B}, {4, 2})))[0][0]);
    }
}

// Praxis's merged mask: padding as segments that no key has, beside a causal mask, lengths 2 and 3 of 4.
TEST(Masks, PaddedQueriesAttendToNothingAndGiveZeros) {
  const Tensor<double> x = random_tensor<double>({B, 4, D}, 1);
  const Ids of_queries({B, 4}, {1, 1, 0, 0, 1, 1, 1, 0}), of_keys({B, 4}, {1, 1, 2, 2, 1, 1, 1, 2});
  ParameterRegistry parameters(3);
  const nn::MultiHeadAttention<double> layer(
      parameters / "a", {.model_dims = D, .num_heads = 2, .causal = true, .bias = false, .out_bias = false});
  Tape tape({.mode = Mode::evaluate});
  const Tensor<double> y = layer(tape.input(x), {.query_segments = of_queries, .key_segments = of_keys}).value();
  const Tensor<double> causal = layer(tape.input(x)).value();
  for (Index i = 0; i < y.size(); ++i)
    if (of_queries[i / D] == 0)
      EXPECT_EQ(y[i], 0) << i;
    else
      EXPECT_NEAR(y[i], causal[i], 1e-14) << i;
}

TEST(Masks, ByChunksUnderEveryPolicyAsWhole) {
  const Ids segments({B, T}, {0, 0, 0, 1, 1, 2, 2, 5, 5, 5, 5, 5, 5, 6}), prefix({B}, {2, 0});
  const Ids memory_segments({B, S}, {0, 0, 1, 2, 2, 5, 5, 5, 6, 6});
  const Tensor<double> x = random_tensor<double>({B, T, D}, 1), memory = random_tensor<double>({B, S, D}, 2);
  const Tensor<double> weight = random_tensor<double>({B, T, D}, 4), bias = random_tensor<double>({B, 2, T, T}, 5);
  const Masks masks{.query_segments = segments, .prefix_lengths = prefix, .bias = bias};
  const Masks memory_masks{.query_segments = segments, .key_segments = memory_segments};
  const auto run = [&](const Policy& policy, bool is_combined, Index chunk) {
    auto config = stack_config(true, is_combined, chunk);
    for (auto& layer : config.layers) layer.attention.causal = true;
    return values_of(config, policy, x, memory, weight, masks, memory_masks);
  };
  for (const Index chunk : {0, 1, 3, 7}) {
    const Values whole = run(policy::everything, false, chunk);
    for (const Policy& policy : {policy::nothing, policy::dots, policy::names("out_proj")})
      expect_equal(whole, run(policy, false, chunk));
    expect_near(whole, run(policy::everything, false, 0));
  }
}

TEST(Masks, PackedSequencesAreThoseAlone) {
  // Two sequences of 4 and 3 tokens in one row, and each in a row of its own.
  auto config = stack_config(false, true);
  for (auto& layer : config.layers) layer.dropout = 0;
  const Tensor<double> x = random_tensor<double>({1, T, D}, 1), weight = random_tensor<double>({1, T, D}, 4);
  const auto rows = [](const Tensor<double>& of, Index begin, Index end) {
    return of.reshape({T, -1}).slice(begin, end).reshape({1, end - begin, -1});
  };
  const Tensor<double> none({1, S, D}, 0);
  const Values packed = values_of(config, policy::nothing, x, none, weight,
                                  {.query_segments = Ids({1, T}, {3, 3, 3, 3, 8, 8, 8})}, {}, 1);
  const Values first = values_of(config, policy::nothing, rows(x, 0, 4), none, rows(weight, 0, 4), {}, {}, 1);
  const Values second = values_of(config, policy::nothing, rows(x, 4, 7), none, rows(weight, 4, 7), {}, {}, 1);
  for (std::size_t k = 0; k < packed.size(); ++k)
    for (Index i = 0; i < packed[k].size(); ++i) {
      const double alone = k > 1 ? first[k][i] + second[k][i] : i < 4 * D ? first[k][i] : second[k][i - 4 * D];
      ASSERT_NEAR(packed[k][i], alone, 1e-12) << "value " << k << ", element " << i;
    }
}

TEST(Masks, WhatCannotBeHonouredIsRefused) {
  auto config = stack_config(false, false);
  for (auto& layer : config.layers) layer.attention.fused = false, layer.attention.num_kv_heads = 0;
  ParameterRegistry parameters(3);
  const nn::StackedTransformer<double> plain(parameters / "plain", config);
  const nn::StackedTransformer<double> chunks(parameters / "chunks", stack_config(false, false, 3));
  Tape tape({.seed = 5, .step = 2});
  const auto x = tape.input(random_tensor<double>({B, T, D}, 1));
  remat_test::expect_error({"plain/layer_0/attention", "fused = false", "masks"}, [&] {
    plain(x, {.key_lengths = Ids({B}, {4, 7})});
  });
  // Of 3 queries, as the first chunk is.
  remat_test::expect_error({"query_segments", "[2, 3]", "[B, 7]", "chunks/layer_0"}, [&] {
    chunks(x, {.query_segments = Ids({B, 3}, 0)});
  });
  remat_test::expect_error({"bias", "[1, 1, 3, 7]", "chunks/layer_0"}, [&] {
    chunks(x, {.bias = Tensor<double>({1, 1, 3, T}, 0)});
  });
  remat_test::expect_error({"positions", "[2, 3]", "[B, 7]", "chunks/layer_0"}, [&] {
    chunks(x, {.positions = Ids({B, 3}, 0)});
  });
  remat_test::expect_error({"query_offsets are of decoding", "chunks/layer_0"},
                           [&] { chunks(x, {.query_offsets = Ids({B}, 0)}); });
  Var<double> weights;
  remat_test::expect_error({"attention weights exist whole", "chunks/layer_0"},
                           [&] { chunks.layers[0](x, {.weights = &weights}); });
  const nn::StackedTransformer<double> decoder(parameters / "decoder", stack_config(true, false, 3));
  const auto memory = tape.input(random_tensor<double>({B, 3, D}, 2));
  remat_test::expect_error({"key_segments", "decoder/layer_0"}, [&] {
    decoder(x, memory, {}, {.query_segments = Ids({B, T}, 0)});
  });
  remat_test::expect_error({"key length 8", "chunks/layer_0"}, [&] { chunks(x, {.key_lengths = Ids({B}, {4, 8})}); });
}

// Of whole models, too.
TEST(PackedSequences, GiveTheLossesOfTheSequencesAlone) {
  ParameterRegistry parameters(3);
  const models::Decoder<float> model(parameters / "m", remat_test::small_llama());
  const std::vector<std::int32_t> ids{3, 1, 4, 1, 5, 9, 2, 6}, next{1, 4, -1, 5, 9, 2, 6, -1},
      of{0, 0, 0, 1, 1, 1, 1, 1};
  const auto part = [](const std::vector<std::int32_t>& all, Index begin, Index end) {
    return Tensor<std::int32_t>({1, end - begin}, std::span(all).subspan(static_cast<std::size_t>(begin),
                                                                         static_cast<std::size_t>(end - begin)));
  };
  Tape tape({.mode = Mode::evaluate});
  const float packed = model.loss(tape, part(ids, 0, 8), part(next, 0, 8), part(of, 0, 8)).item();
  const float first = model.loss(tape, part(ids, 0, 3), part(next, 0, 3)).item();
  const float second = model.loss(tape, part(ids, 3, 8), part(next, 3, 8)).item();
  EXPECT_NEAR(packed, (2 * first + 4 * second) / 6, 1e-5);
  EXPECT_GT(std::abs(packed - model.loss(tape, part(ids, 0, 8), part(next, 0, 8)).item()), 1e-3);
}

}  // namespace
