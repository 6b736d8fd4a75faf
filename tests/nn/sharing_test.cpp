// Sharing by id at every level: which parameters exist, and that gradients sum over uses.
#include <gtest/gtest.h>

#include <remat/remat.hpp>

#include "core/expect_error.hpp"

namespace {

using namespace remat;
using remat_test::expect_error;

std::vector<std::string> paths(const ParameterRegistry& parameters) {
  std::vector<std::string> all;
  for (const auto& entry : parameters.entries()) all.push_back(entry->path);
  return all;
}

nn::FeedForwardConfig ffn() { return {.model_dims = 8, .hidden_dims = 12}; }

TEST(Sharing, AWholeFeedForwardUsedByTwoLayers) {
  ParameterRegistry parameters;
  nn::FeedForwardConfig config = ffn();
  config.shared_weight_id = "ffn";
  const nn::FeedForward<double> a(parameters / "a", config), b(parameters / "b", config);
  EXPECT_EQ(paths(parameters), (std::vector<std::string>{"shared/ffn/ffn1/b", "shared/ffn/ffn1/w", "shared/ffn/ffn2/b",
                                                         "shared/ffn/ffn2/w"}));
  EXPECT_EQ(parameters.count(), 8 * 12 * 2 + 12 + 8);
}

TEST(Sharing, OnlyTheLinearInsideKeepsTwoPrivateBiases) {
  ParameterRegistry parameters;
  nn::FeedForwardConfig config = ffn();
  config.ffn1_shared_weight_id = "first";
  const nn::FeedForward<double> a(parameters / "a", config), b(parameters / "b", config);
  EXPECT_EQ(paths(parameters), (std::vector<std::string>{"a/ffn1/b", "a/ffn2/b", "a/ffn2/w", "b/ffn1/b", "b/ffn2/b",
                                                         "b/ffn2/w", "shared/first/w"}));
  Tape tape;
  const auto x = tape.input(Tensor<double>({3, 8}, 0.5));
  tape.backward(sum(square(a(x))) + sum(square(b(x))));
  EXPECT_TRUE(parameters.at<double>("shared/first/w").has_grad());
}

TEST(Sharing, ASharedPartInsideASharedWhole) {
  ParameterRegistry parameters;
  nn::FeedForwardConfig config = ffn();
  config.hidden_dims = 8;
  config.shared_weight_id = "whole";
  config.ffn1_shared_weight_id = config.ffn2_shared_weight_id = "linear";
  const nn::FeedForward<double> a(parameters / "a", config), b(parameters / "b", config);
  EXPECT_EQ(paths(parameters),
            (std::vector<std::string>{"shared/linear/w", "shared/whole/ffn1/b", "shared/whole/ffn2/b"}));
  EXPECT_EQ(parameters.at<double>("shared/linear/w").entry()->users.size(), 4U);
}

TEST(Sharing, OneIdAskedForDifferentlyNamesBothPaths) {
  const auto ask = [](nn::LinearConfig first, nn::LinearConfig second) {
    ParameterRegistry parameters;
    first.shared_weight_id = second.shared_weight_id = "id";
    const nn::Linear<double> a(parameters / "first", first), b(parameters / "second", second);
  };
  const nn::LinearConfig config{.input_dims = 4, .output_dims = 6};
  EXPECT_NO_THROW(ask(config, config));
  nn::LinearConfig other = config;
  other.output_dims = 7;
  expect_error({"first/w", "second/w", "[4, 6]", "[4, 7]"}, [&] { ask(config, other); });
  other = config;
  other.init = init::normal(1);
  expect_error({"first/w", "second/w", "normal(1)"}, [&] { ask(config, other); });
  const auto two_types = [&] {
    ParameterRegistry parameters;
    nn::LinearConfig shared = config;
    shared.shared_weight_id = "id";
    const nn::Linear<double> a(parameters / "first", shared);
    const nn::Linear<float> b(parameters / "second", shared);
  };
  expect_error({"first/w", "second/w", "float64", "float32"}, two_types);
}

TEST(Sharing, AnIdInsideItselfIsRefused) {
  ParameterRegistry parameters;
  nn::FeedForwardConfig config = ffn();
  config.shared_weight_id = config.ffn1_shared_weight_id = "loop";
  expect_error({"loop", "inside itself"}, [&] { const nn::FeedForward<double> a(parameters / "a", config); });
}

TEST(Sharing, AnIdWithOneUserIsReported) {
  ParameterRegistry parameters;
  nn::FeedForwardConfig config = ffn();
  config.shared_weight_id = "lonely";
  const nn::FeedForward<double> a(parameters / "a", config);
  EXPECT_EQ(parameters.single_user_ids(), std::vector<std::string>{"lonely"});
  std::ostringstream listing;
  listing << parameters;
  EXPECT_NE(listing.str().find("\"lonely\" has one user: a"), std::string::npos) << listing.str();
}

TEST(Sharing, TwoRegistriesWithEqualIdsDoNotMeet) {
  ParameterRegistry one, two;
  nn::FeedForwardConfig config = ffn();
  config.shared_weight_id = "ffn";
  const nn::FeedForward<double> a(one / "a", config), b(two / "b", config);
  EXPECT_NE(a.ffn1->w.entry(), b.ffn1->w.entry());
  config.hidden_dims = 13;
  ParameterRegistry three;
  EXPECT_NO_THROW(nn::FeedForward<double>(three / "c", config));
}

TEST(Sharing, UsersBuiltInReverseOrderGetTheSamePathsAndValues) {
  ParameterRegistry forward(3), backward(3);
  nn::FeedForwardConfig config = ffn();
  config.ffn1_shared_weight_id = "first";
  for (const char* name : {"a", "b", "c"}) nn::FeedForward<double>(forward / name, config);
  for (const char* name : {"c", "b", "a"}) nn::FeedForward<double>(backward / name, config);
  ASSERT_EQ(paths(forward), paths(backward));
  for (const auto& path : paths(forward))
    EXPECT_TRUE(same_bits(forward.at<double>(path).value(), backward.at<double>(path).value())) << path;
}

// What is no weight may differ from use to use, and belongs to the use.
TEST(Sharing, DropoutMayDifferPerUse) {
  ParameterRegistry parameters;
  nn::FeedForwardConfig config = ffn();
  config.shared_weight_id = "ffn";
  const nn::FeedForward<double> a(parameters / "a", config);
  config.dropout = 0.5;
  const nn::FeedForward<double> b(parameters / "b", config);
  Tape tape({.seed = 1, .step = 0});
  const auto x = tape.input(Tensor<double>({3, 8}, 0.5));
  EXPECT_FALSE(same_bits(a(x).value(), b(x).value()));
  EXPECT_FALSE(same_bits(b(x).value(), b(x).value()));  // masks are of the use
}

// A whole layer twice: one gradient that is the sum of both uses.
TEST(Sharing, AWholeTransformerLayer) {
  ParameterRegistry parameters;
  nn::TransformerLayerConfig config{.model_dims = 8, .hidden_dims = 12, .num_heads = 2, .shared_weight_id = "layer"};
  const nn::StackedTransformer<double> stack(parameters / "stack", {.layers = {config, config}});
  EXPECT_EQ(parameters.entries().size(), 16U);
  for (const auto& entry : parameters.entries()) EXPECT_EQ(entry->users.size(), 2U) << entry->path;
  EXPECT_EQ(stack.layers[1].attention.path, "stack/layer_1/attention");  // the path of the use
}

TEST(Sharing, TiedEmbeddingAndHeadHaveOneGradient) {
  ParameterRegistry parameters;
  const nn::Embedding<double> embedding(parameters / "embedding", {.vocabulary = 5, .model_dims = 4});
  const Tensor<std::int32_t> ids({3}, {1, 4, 1});
  const auto gradient = [&](bool lookup, bool head) {
    parameters.zero_grad();
    Tape tape;
    const auto x = lookup ? embedding(tape.input(ids)) : tape.input(Tensor<double>({3, 4}, 0.25));
    const auto h = head ? linear<double>(x, embedding.table, {}, {.transposed = true}) : x;
    tape.backward(sum(sin(h)));
    return embedding.table.grad().copy();
  };
  const auto both = gradient(true, true);
  // Once more with a constant copy in one of the two places, by hand.
  parameters.zero_grad();
  const Tensor<double> constant = embedding.table.value().copy();
  {
    Tape tape;
    tape.backward(sum(sin(linear<double>(embedding(tape.input(ids)), constant, {}, {.transposed = true}))));
  }
  {
    Tape tape;
    Tensor<double> looked_up({3, 4});
    for (Index i = 0; i < 3; ++i)
      for (Index d = 0; d < 4; ++d) looked_up.write()[4 * i + d] = constant[4 * ids[i] + d];
    tape.backward(sum(sin(linear<double>(tape.input(looked_up), embedding.table, {}, {.transposed = true}))));
  }
  const auto sum_of_uses = embedding.table.grad();
  for (Index i = 0; i < both.size(); ++i) EXPECT_NEAR(both[i], sum_of_uses[i], 1e-15);
}

}  // namespace
