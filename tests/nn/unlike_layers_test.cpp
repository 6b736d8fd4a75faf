// One id on unlike layers is refused when the second is built, in either order, and leaves nothing behind.
#include <gtest/gtest.h>

#include <functional>
#include <remat/nn/embedding.hpp>
#include <remat/nn/routed_feed_forward.hpp>
#include <remat/nn/stacked_transformer.hpp>
#include <string>
#include <vector>

#include "core/expect_error.hpp"

namespace {

using namespace remat;
using remat_test::error_of;
using remat_test::expect_error;

std::vector<std::string> users(const ParameterRegistry& parameters) {
  std::vector<std::string> all;
  for (const auto& entry : parameters.entries())
    for (const auto& user : entry->users) all.push_back(entry->path + " of " + user);
  for (const auto& [id, layers] : parameters.shared_ids())
    for (const auto& layer : layers) all.push_back(id + " of " + layer);
  return all;
}

struct Kind {
  std::string name;
  std::function<void(const Scope&, const std::string& id)> build;
};

nn::TransformerLayerConfig layer(const std::string& id) {
  return {.model_dims = 8, .hidden_dims = 12, .num_heads = 2, .shared_weight_id = id};
}

std::vector<Kind> kinds() {
  const auto attention = [](bool combined, bool bias) {
    return [=](const Scope& scope, const std::string& id) {
      nn::MultiHeadAttention<float>(
          scope, {.model_dims = 8, .num_heads = 2, .combined_qkv = combined, .bias = bias, .shared_weight_id = id});
    };
  };
  const auto ffn = [](bool gated, bool bias, const std::string& first = "") {
    return [=](const Scope& scope, const std::string& id) {
      nn::FeedForward<float>(scope, {.model_dims = 8,
                                     .hidden_dims = 12,
                                     .gated = gated,
                                     .bias = bias,
                                     .shared_weight_id = id,
                                     .ffn1_shared_weight_id = first});
    };
  };
  const auto transformer = [](const auto& change) {
    return [=](const Scope& scope, const std::string& id) {
      nn::TransformerLayerConfig config = layer(id);
      change(config);
      nn::TransformerLayer<float>(scope, config);
    };
  };
  return {
      {"attention", attention(false, true)},
      {"attention, combined", attention(true, true)},
      {"attention, no bias", attention(false, false)},
      {"attention, combined, no bias", attention(true, false)},
      {"linear",
       [](const Scope& scope, const std::string& id) {
         nn::Linear<float>(scope, {.input_dims = 8, .output_dims = 12, .shared_weight_id = id});
       }},
      {"feed-forward", ffn(false, true)},
      {"feed-forward, gated", ffn(true, true)},
      {"feed-forward, no bias", ffn(false, false)},
      {"feed-forward, its first matrix from elsewhere", ffn(false, true, "first")},
      {"embedding",
       [](const Scope& scope, const std::string& id) {
         nn::Embedding<float>(scope, {.vocabulary = 9, .model_dims = 8, .shared_weight_id = id});
       }},
      {"layer norm",
       [](const Scope& scope, const std::string& id) {
         nn::LayerNorm<float>(scope, {.model_dims = 8, .shared_weight_id = id});
       }},
      {"RMS norm", [](const Scope& scope,
                      const std::string& id) { nn::RmsNorm<float>(scope, {.model_dims = 8, .shared_weight_id = id}); }},
      {"routed feed-forward",
       [](const Scope& scope, const std::string& id) {
         nn::RoutedFeedForward<float>(scope,
                                      {.model_dims = 8, .hidden_dims = 12, .num_experts = 2, .shared_weight_id = id});
       }},
      {"layer", transformer([](auto&) {})},
      {"layer, RMS norm", transformer([](auto& c) { c.norm = nn::NormKind::rms_norm; })},
      {"layer, cross attention", transformer([](auto& c) { c.cross_attention.emplace(); })},
      {"layer, gated", transformer([](auto& c) { c.ffn.gated = true; })},
      {"layer, attention from elsewhere", transformer([](auto& c) { c.attention.shared_weight_id = "second"; })},
      {"stack of one",
       [](const Scope& scope, const std::string& id) {
         nn::StackedTransformer<float>(scope, {.layers = {layer("")}, .shared_weight_id = id});
       }},
      {"stack of two",
       [](const Scope& scope, const std::string& id) {
         nn::StackedTransformer<float>(scope, {.layers = {layer(""), layer("")}, .shared_weight_id = id});
       }},
  };
}

// Protects the complaint this project began with: weights that are thought to be shared, and are not.
TEST(UnlikeLayers, WithOneIdAreRefusedInEitherOrder) {
  for (const Kind& a : kinds())
    for (const Kind& b : kinds()) {
      const auto build = [&](const Kind& kind, const ParameterRegistry& parameters) {
        kind.build(parameters / "model" / (&kind == &a ? "a" : "b"), "id");
      };
      ParameterRegistry one, two;
      build(a, one), build(b, two);
      if (a.name == b.name) {
        EXPECT_NO_THROW(build(b, one)) << a.name;
        EXPECT_NO_THROW(one.entries());
        continue;
      }
      const auto before = users(one), before_two = users(two);
      const std::string message = error_of([&] { build(b, one); });
      for (const char* part : {"model/a", "model/b"})
        EXPECT_NE(message.find(part), std::string::npos) << message << "\n" << a.name << "; " << b.name;
      const std::string reverse = error_of([&] { build(a, two); });
      // A parameter that both have, but not alike, is found at once, in the words of who asks and who made it.
      if (message.find(" asks for ") == std::string::npos) {
        EXPECT_NE(message.find("share shared_weight_id \"id\" but are unlike layers; only model/"), std::string::npos)
            << message;
        EXPECT_EQ(message, reverse);
      }
      EXPECT_EQ(users(one), before) << a.name << "; " << b.name;
      EXPECT_EQ(users(two), before_two) << a.name << "; " << b.name;
    }
}

TEST(UnlikeLayers, AreNamedWithWhatDiffers) {
  ParameterRegistry parameters;
  const nn::AttentionConfig config{.model_dims = 8, .num_heads = 2, .bias = false, .shared_weight_id = "id"};
  nn::AttentionConfig combined = config;
  combined.combined_qkv = true;
  const nn::MultiHeadAttention<float> a(parameters / "a", config), c(parameters / "c", config);
  EXPECT_EQ(error_of([&] { nn::MultiHeadAttention<float>(parameters / "b", combined); }),
            "a and b share shared_weight_id \"id\" but are unlike layers; only a has key/w, query/w, value/w; only b "
            "has qkv/w; give one of them another id");
  const nn::MultiHeadAttention<float> b(parameters / "b", config);  // what failed is forgotten
  EXPECT_EQ(parameters.at<float>("shared/id/query/w").entry()->users.size(), 3U);
}

// A linear's id is of its matrix only.
TEST(UnlikeLayers, LinearsMayDifferInTheirBias) {
  ParameterRegistry parameters;
  nn::LinearConfig config{.input_dims = 8, .output_dims = 8, .shared_weight_id = "id"};
  const nn::Linear<float> a(parameters / "a", config);
  config.bias = false;
  const nn::Linear<float> b(parameters / "b", config);
  EXPECT_EQ(parameters.entries().size(), 2U);
}

// A layer of the user's own has nothing but scopes.
struct Own {
  Own(const Scope& where, bool bias, bool gated = false) {
    const Scope scope = where.shared_as("own");
    (scope / "in").parameter<float>("w", {4, 4}, init::zeros());
    if (bias) scope.parameter<float>("b", {4}, init::zeros());
    if (gated) where.shared_as("own").parameter<float>("gate", {4}, init::zeros());
  }
};

TEST(UnlikeLayers, OfUsersAreFoundWhenTheRegistryIsRead) {
  for (const bool is_first : {true, false}) {
    ParameterRegistry parameters;
    Own(parameters / "a", is_first), Own(parameters / "b", !is_first);
    const std::string who = is_first ? "a" : "b";
    expect_error({"a and b share shared_weight_id \"own\"", "only " + who + " has b;"}, [&] { parameters.entries(); });
    expect_error({"a and b"}, [&] { parameters.zero_grad(); });
    expect_error({"a and b"}, [&] { parameters.count(); });
    expect_error({"a and b"}, [&] { parameters.at<float>("shared/own/in/w"); });
  }
  ParameterRegistry parameters;
  Own(parameters / "a", true, true), Own(parameters / "b", true, true), Own(parameters / "c", true, true);
  EXPECT_EQ(parameters.entries().size(), 3U);
  const nn::Linear<float> linear(parameters / "d", {.input_dims = 4, .output_dims = 4, .shared_weight_id = "own"});
  expect_error({"a and d share"}, [&] { parameters.entries(); });
}

// Parameters may be asked for one layer after another or one name after another.
TEST(UnlikeLayers, AreNotThoseThatAreHalfBuilt) {
  ParameterRegistry parameters;
  for (const char* name : {"w", "b"})
    for (const char* layer : {"a", "b", "c"})
      (parameters / layer).shared_as("id").parameter<float>(name, {4}, init::zeros());
  EXPECT_EQ(parameters.entries().size(), 2U);
}

// What a constructor made before it threw is forgotten; what others made is not.
TEST(LayerScope, ForgetsALayerThatCouldNotBeBuilt) {
  ParameterRegistry parameters;
  const nn::Linear<float> taken(parameters / "layer" / "ffn" / "ffn2", {.input_dims = 3, .output_dims = 3});
  const auto before = users(parameters);
  expect_error({"layer/ffn/ffn2/w: the scope layer/ffn/ffn2 is taken already"}, [&] {
    nn::TransformerLayerConfig config = layer("");
    config.attention.shared_weight_id = "attention";
    nn::TransformerLayer<float>(parameters / "layer", config);
  });
  EXPECT_EQ(users(parameters), before);
}

// "shared" is also a name that a scope may have.
TEST(LayerScope, AnIdDoesNotMeetAPlainScopeOfItsPath) {
  ParameterRegistry parameters;
  const nn::Linear<float> plain(parameters / "shared" / "id", {.input_dims = 3, .output_dims = 3});
  const nn::LinearConfig config{.input_dims = 3, .output_dims = 3, .shared_weight_id = "id"};
  expect_error({"shared/id/w: the scope shared/id is taken already"},
               [&] { nn::Linear<float>(parameters / "a", config); });
}

}  // namespace
