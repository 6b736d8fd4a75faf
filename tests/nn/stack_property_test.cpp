// Causal or not, packed or not, with cross attention or not, paddings that are not all zero, every dropout and
// stochastic depth on: forward and all gradients are the same bits under every policy, and packed sequences are the
// same sequences alone.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <remat/nn/stacked_transformer.hpp>
#include <remat/ops/drop_path.hpp>
#include <remat/ops/reduce.hpp>
#include <remat/policy/parse.hpp>
#include <remat/policy/phrase_book.hpp>
#include <string>
#include <vector>

#include "core/expect_error.hpp"
#include "nn/random_tensor.hpp"

namespace {

using namespace remat;
using remat_test::expect_error;
using remat_test::random_tensor;

constexpr Index B = 10, T = 6, S = 5, D = 16;

nn::StackedTransformerConfig stack_of(bool is_causal, bool has_cross, bool drops = true) {
  nn::TransformerLayerConfig layer{.model_dims = D, .hidden_dims = 64, .num_heads = 8};
  layer.attention.causal = is_causal;
  if (drops) layer.dropout = 0.1, layer.attention.dropout = 0.2, layer.ffn.dropout = 0.15;
  if (has_cross) layer.cross_attention = cross_attention_like(layer.attention);
  nn::StackedTransformerConfig stack{.layers = {4, layer}};
  if (drops) stack.stochastic_depth = 0.5, stack.input_dropout = 0.1;
  return stack;
}

struct Masks {
  AttentionMasks<float> self, memory;
};
/// Rows of all lengths, 0 among them; packed: up to three sequences to a row, and padding behind them.
Masks masks_of(bool is_packed, bool has_cross) {
  Masks masks;
  std::vector<std::int32_t> lengths, of_memory, segments, memory_segments;
  for (std::int32_t b = 0; b < B; ++b) {
    lengths.push_back(b % (static_cast<std::int32_t>(T) + 1));
    of_memory.push_back((b + 2) % (static_cast<std::int32_t>(S) + 1));
    for (std::int32_t t = 0; t < T; ++t) segments.push_back(t < b % 3 + 1 ? 0 : t < 4 ? 1 : 2);
    for (std::int32_t s = 0; s < S; ++s) memory_segments.push_back(s < 2 ? 0 : s < 4 ? 1 : 3);
  }
  const auto tensor = [](const std::vector<std::int32_t>& of, const Shape& shape) {
    return Tensor<std::int32_t>(shape, std::span<const std::int32_t>(of));
  };
  masks.self.key_lengths = tensor(lengths, {B});
  if (is_packed) masks.self.query_segments = tensor(segments, {B, T});
  if (!has_cross) return masks;
  masks.memory.key_lengths = tensor(of_memory, {B});
  if (is_packed) {
    masks.memory.query_segments = tensor(segments, {B, T});
    masks.memory.key_segments = tensor(memory_segments, {B, S});
  }
  return masks;
}

/// Output, then the gradients of x, of the memory and of every parameter.
std::vector<Tensor<float>> step(bool is_causal, bool is_packed, bool has_cross, const Policy& policy, Index every) {
  nn::StackedTransformerConfig config = stack_of(is_causal, has_cross);
  config.remat = policy, config.remat_every = every;
  ParameterRegistry parameters(3);
  const nn::StackedTransformer<float> stack(parameters / "net", config);
  Tape tape({.seed = 5, .step = 2});
  const auto x = tape.input(random_tensor<float>({B, T, D}, 1), {.wants_gradient = true});
  const auto memory = tape.input(random_tensor<float>({B, S, D}, 2), {.wants_gradient = true});
  const Masks masks = masks_of(is_packed, has_cross);
  const auto y = has_cross ? stack(x * 1.0F, memory, masks.self, masks.memory) : stack(x * 1.0F, masks.self);
  std::vector<Tensor<float>> all{y.value()};
  tape.backward(sum(y * tape.input(random_tensor<float>({B, T, D}, 4))));
  all.push_back(tape.grad(x));
  if (has_cross) all.push_back(tape.grad(memory));
  for (const auto& entry : parameters.entries()) all.push_back(Parameter<float>(entry).grad().copy());
  return all;
}

class Stack : public testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(All, Stack, testing::Range(0, 8), [](const auto& info) {
  return std::string((info.param & 1) != 0 ? "Causal" : "Bidirectional") +
         ((info.param & 2) != 0 ? "Packed" : "Padded") + ((info.param & 4) != 0 ? "WithMemory" : "");
});

TEST_P(Stack, GivesTheSameBitsUnderEveryPolicy) {
  const bool is_causal = (GetParam() & 1) != 0, is_packed = (GetParam() & 2) != 0, has_cross = (GetParam() & 4) != 0;
  const auto plain = step(is_causal, is_packed, has_cross, policy::everything, 1);
  std::vector<Policy> policies{policy::parse("dots"), policy::parse("names(*)"), policy::parse("!names(*)"),
                               Policy([](const SlotInfo& slot) { return slot.index % 2 == 1; }),
                               Policy([](const SlotInfo& slot) { return slot.index % 3 == 1; })};
  for (const policy::Phrase& phrase : policy::phrase_book()) policies.push_back(phrase.policy);
  for (std::size_t p = 0; p < policies.size(); ++p) {
    const auto other = step(is_causal, is_packed, has_cross, policies[p], 1 + static_cast<Index>(p % 3));
    ASSERT_EQ(other.size(), plain.size());
    for (std::size_t i = 0; i < plain.size(); ++i)
      EXPECT_TRUE(same_bits(plain[i], other[i])) << "tensor " << i << ", policy " << p;
  }
}

// In double and without dropout: values, and gradients summed by hand over the sequences alone.
TEST_P(Stack, PackedSequencesAreTheSameSequencesAlone) {
  const bool is_causal = (GetParam() & 1) != 0, has_rotary = (GetParam() & 2) != 0, has_cross = (GetParam() & 4) != 0;
  nn::StackedTransformerConfig config = stack_of(is_causal, has_cross, false);
  for (auto& layer : config.layers) layer.attention.rotary_base = has_rotary ? 100 : 0;
  ParameterRegistry parameters(3);
  const nn::StackedTransformer<double> stack(parameters / "net", config);
  const std::vector<Index> lengths{2, 3, 1}, of_memory{1, 2, 2};
  const Tensor<double> x = random_tensor<double>({1, T, D}, 1), memory = random_tensor<double>({1, S, D}, 2),
                       weights = random_tensor<double>({1, T, D}, 4);
  const Tensor<std::int32_t> segments({1, T}, {0, 0, 1, 1, 1, 2}), memory_segments({1, S}, {0, 1, 1, 2, 2});
  const auto gradients = [&] {
    std::vector<Tensor<double>> all;
    for (const auto& entry : parameters.entries()) all.push_back(Parameter<double>(entry).grad().copy());
    return all;
  };
  const auto part = [](const Tensor<double>& whole, Index begin, Index count) {
    return Tensor<double>(
        {1, count, D}, whole.span().subspan(static_cast<std::size_t>(begin * D), static_cast<std::size_t>(count * D)));
  };
  const auto run = [&](Tape& tape, const Tensor<double>& from, const Tensor<double>& seen,
                       const AttentionMasks<double>& masks, const AttentionMasks<double>& memory_masks) {
    const auto in = tape.input(from);
    return has_cross ? stack(in, tape.input(seen), masks, memory_masks) : stack(in, masks);
  };
  Tape packed;
  const auto y = run(packed, x, memory, {.query_segments = segments},
                     {.query_segments = segments, .key_segments = memory_segments});
  const Tensor<double> value = y.value();
  packed.backward(sum(y * packed.input(weights)));
  const std::vector<Tensor<double>> whole = gradients();
  parameters.zero_grad();
  Index begin = 0, memory_begin = 0;
  for (std::size_t i = 0; i < lengths.size(); ++i) {
    Tape tape;
    const auto alone = run(tape, part(x, begin, lengths[i]), part(memory, memory_begin, of_memory[i]), {}, {});
    const Tensor<double> own = alone.value();
    for (Index k = 0; k < own.size(); ++k) EXPECT_NEAR(own[k], value[begin * D + k], 1e-11) << "sequence " << i;
    tape.backward(sum(alone * tape.input(part(weights, begin, lengths[i]))));
    begin += lengths[i], memory_begin += of_memory[i];
  }
  const std::vector<Tensor<double>> summed = gradients();
  for (std::size_t i = 0; i < whole.size(); ++i)
    for (Index k = 0; k < whole[i].size(); ++k)
      EXPECT_NEAR(whole[i][k], summed[i][k], 1e-9 * (1 + std::abs(summed[i][k]))) << parameters.entries()[i]->path;
}

// What is in the padding changes neither a token nor a gradient.
TEST_P(Stack, PaddingChangesNothing) {
  const bool is_causal = (GetParam() & 1) != 0, has_cross = (GetParam() & 4) != 0;
  ParameterRegistry parameters(3);
  const nn::StackedTransformer<double> stack(parameters / "net", stack_of(is_causal, has_cross, false));
  const auto run = [&](double filling) {
    Tensor<double> x = random_tensor<double>({2, T, D}, 1), weights = random_tensor<double>({2, T, D}, 4);
    for (Index i = 4 * D; i < T * D; ++i) x.write()[static_cast<std::size_t>(i)] = filling, weights.write()[i] = 0;
    Tape tape;
    parameters.zero_grad();
    const AttentionMasks<double> masks{.key_lengths = Tensor<std::int32_t>({2}, {4, 6})};
    const auto memory = tape.input(random_tensor<double>({2, S, D}, 2));
    const auto y = has_cross ? stack(tape.input(x), memory, masks) : stack(tape.input(x), masks);
    const auto loss = sum(y * tape.input(weights));
    std::vector<Tensor<double>> all{loss.value()};
    tape.backward(loss);
    for (const auto& entry : parameters.entries()) all.push_back(Parameter<double>(entry).grad().copy());
    return all;
  };
  const auto some = run(0.3), other = run(-7);
  for (std::size_t i = 0; i < some.size(); ++i)
    for (Index k = 0; k < some[i].size(); ++k) EXPECT_NEAR(some[i][k], other[i][k], 1e-10) << "tensor " << i;
}

TEST(StochasticDepth, GrowsByALineAndDropsWholeSequences) {
  ParameterRegistry parameters;
  const nn::StackedTransformer<float> stack(parameters / "net", stack_of(true, false));
  for (std::size_t i = 0; i < 4; ++i)
    EXPECT_DOUBLE_EQ(stack.layers[i].config.drop_path, 0.5 * static_cast<double>(i) / 4);
  Tape tape({.seed = 1, .step = 0});
  const Tensor<float> y = drop_path(tape.input(Tensor<float>({4000, 2, 3}, 1.0F)), 0.4).value();
  int dropped = 0;
  for (Index b = 0; b < 4000; ++b) {
    dropped += y[b * 6] == 0;
    for (Index i = 0; i < 6; ++i) {
      EXPECT_EQ(y[b * 6 + i], y[b * 6]);
    }
    if (y[b * 6] != 0) {
      EXPECT_FLOAT_EQ(y[b * 6], 1 / 0.6F);
    }
  }
  EXPECT_NEAR(dropped, 1600, 150);
  Tape evaluate({.mode = Mode::evaluate});
  EXPECT_TRUE(same_bits(drop_path(evaluate.input(y), 0.4).value(), y));
}

// The parts of a batch draw what the whole draws, and chunks of queries what all draw.
TEST(StochasticDepth, IsThatOfTheWholeBatchInItsPartsAndChunks) {
  const Tensor<float> x = random_tensor<float>({6, 4, 3}, 1);
  Tape tape({.seed = 1, .step = 0});
  const Tensor<float> whole = drop_path(tape.input(x), 0.5).value();
  for (const Index first : {0, 2, 4}) {
    Tape part({.seed = 1, .step = 0, .first_row = first, .rows = 2});
    const Tensor<float> y = drop_path(part.input(x.slice(first, first + 2)), 0.5).value();
    EXPECT_TRUE(same_bits(y, whole.slice(first, first + 2).copy())) << first;
  }
  Tape chunked({.seed = 1, .step = 0});
  const Tensor<float> y = blockwise(chunked.input(x), 1, 3, policy::nothing, [](const Var<float>& part, Index) {
                            return drop_path(part, 0.5);
                          }).value();
  EXPECT_TRUE(same_bits(y, whole));
}

// A branch that is dropped leaves the stream as it was, at every placement of norms before it.
TEST(StochasticDepth, LeavesTheStreamOfADroppedSequence) {
  for (const auto placement : {nn::NormPlacement::pre, nn::NormPlacement::sandwich, nn::NormPlacement::branch_output}) {
    nn::TransformerLayerConfig config{.model_dims = D, .hidden_dims = 8, .num_heads = 2, .norm_placement = placement};
    config.drop_path = 0.999;
    ParameterRegistry parameters(3);
    const nn::TransformerLayer<double> layer(parameters / "net", config);
    Tape tape({.seed = 1, .step = 0});
    const Tensor<double> x = random_tensor<double>({3, 4, D}, 1);
    EXPECT_TRUE(same_bits(layer(tape.input(x)).value(), x));
  }
}

TEST(StochasticDepth, RatesOutOfRangeAreRefused) {
  const auto refuse = [](std::initializer_list<std::string_view> parts, auto&& change) {
    nn::StackedTransformerConfig c = stack_of(true, false);
    change(c);
    ParameterRegistry parameters;
    expect_error(parts, [&] { nn::StackedTransformer<float>(parameters / "net", c); });
    EXPECT_EQ(parameters.entries().size(), 0U);
  };
  refuse({"net: stochastic_depth must be in [0, 1), got 1"}, [](auto& c) { c.stochastic_depth = 1; });
  refuse({"net: input_dropout must be in [0, 1), got -0.1"}, [](auto& c) { c.input_dropout = -0.1; });
  refuse({"net: layer_2 has drop_path 0.1", "stochastic_depth"}, [](auto& c) { c.layers[2].drop_path = 0.1; });
  refuse({"net/layer_1: drop_path must be in [0, 1), got 1.5"},
         [](auto& c) { c.stochastic_depth = 0, c.layers[1].drop_path = 1.5; });
}

// Unlike Praxis, where a rate of 0 falls back to another: each rate is its own.
TEST(StochasticDepth, ARateOfZeroStaysZero) {
  nn::TransformerLayerConfig layer{.model_dims = D, .num_heads = 2, .dropout = 0.5};
  ParameterRegistry parameters;
  const nn::TransformerLayer<float> built(parameters / "net", layer);
  EXPECT_EQ(built.attention.config.dropout, 0);
  EXPECT_EQ(built.ffn.config.dropout, 0);
  EXPECT_EQ(built.config.drop_path, 0);
}

}  // namespace
