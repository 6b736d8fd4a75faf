// A weight that several layers share gets the sum of the gradients that the layers would give to copies of their own,
// under every policy the same bits: parts of layers, whole ones, parts inside wholes, layers that repeat, the seed of
// this project, and one id in two stacks.
#include <gtest/gtest.h>

#include <functional>
#include <remat/nn/stacked_transformer.hpp>
#include <remat/ops/reduce.hpp>
#include <remat/policy/phrase_book.hpp>
#include <string>
#include <vector>

#include "nn/random_tensor.hpp"

namespace {

using namespace remat;
using remat_test::random_tensor;

constexpr Index B = 2, T = 3, S = 4, D = 8;

using Layers = std::vector<nn::TransformerLayerConfig>;
nn::TransformerLayerConfig layer_of(const std::function<void(nn::TransformerLayerConfig&)>& change = {}) {
  nn::TransformerLayerConfig layer{.model_dims = D, .hidden_dims = D, .num_heads = 2};
  if (change) change(layer);
  return layer;
}

/// A stack, and a second one behind it where `other` holds layers: with ids they share, without they do not.
struct Structure {
  const char* name;
  Layers layers;
  Layers other{};
  std::size_t tensors;  // that exist with ids
};

Layers many(std::size_t count, const std::function<void(std::size_t, nn::TransformerLayerConfig&)>& change) {
  Layers layers;
  for (std::size_t i = 0; i < count; ++i) layers.push_back(layer_of([&](auto& layer) { change(i, layer); }));
  return layers;
}

// A layer has 16 tensors: two norms of two, attention and feed-forward with two matrices each and their biases, of
// which query, key and value are three.
const std::vector<Structure> structures{
    {"a whole feed-forward", many(2, [](auto, auto& layer) { layer.ffn.shared_weight_id = "ffn"; }), {}, 2 * 16 - 4},
    {"the linear inside",
     many(2, [](auto, auto& layer) { layer.ffn.ffn1_shared_weight_id = "first"; }),
     {},
     2 * 16 - 1},
    {"a part inside a whole",
     many(2,
          [](auto, auto& layer) {
            layer.ffn.shared_weight_id = "ffn";
            layer.ffn.ffn1_shared_weight_id = layer.ffn.ffn2_shared_weight_id = "linear";
          }),
     {},
     2 * 16 - 4 - 1},
    {"whole layers", many(3, [](auto, auto& layer) { layer.shared_weight_id = "layer"; }), {}, 16},
    {"24 layers, 6 attentions",
     many(24,
          [](std::size_t i, auto& layer) { layer.attention.shared_weight_id = "attention_" + std::to_string(i % 6); }),
     {},
     24 * 8 + 6 * 8},
    {"24 layers, 6 attentions, and a memory",
     many(24,
          [](std::size_t i, auto& layer) {
            layer.attention.shared_weight_id = "attention_" + std::to_string(i % 6);
            layer.cross_attention = cross_attention_like(layer.attention);
          }),
     {},
     24 * 8 + 6 * 8 + 24 * 10},
    {"a block of 6 unlike layers, 4 times",
     nn::repeated(many(6, [](std::size_t i, auto& layer) { layer.ffn.hidden_dims = 4 + static_cast<Index>(i); }), 4,
                  "block"),
     {},
     6 * 16},
    {"one id in two stacks", many(2, [](auto, auto& layer) { layer.attention.shared_weight_id = "both"; }),
     many(3, [](auto, auto& layer) { layer.attention.shared_weight_id = "both"; }), 5 * 8 + 8},
};

/// The same layers without an id.
Layers unshared(Layers layers) {
  for (nn::TransformerLayerConfig& layer : layers) {
    layer.shared_weight_id.clear(), layer.attention.shared_weight_id.clear(), layer.ffn.shared_weight_id.clear();
    layer.ffn.ffn1_shared_weight_id.clear(), layer.ffn.ffn2_shared_weight_id.clear();
  }
  return layers;
}

class SharedGradients : public testing::TestWithParam<Structure> {
 protected:
  /// The loss; gradients are then in `parameters`, whose values `before` may set.
  static double step(
      ParameterRegistry& parameters, const Layers& layers, const Layers& other, const Policy& policy,
      const std::function<void()>& before = [] {}) {
    const nn::StackedTransformer<double> first(parameters / "first", {.layers = layers, .remat = policy});
    std::optional<nn::StackedTransformer<double>> second;
    if (!other.empty())
      second.emplace(parameters / "second", nn::StackedTransformerConfig{.layers = other, .remat = policy});
    before();
    Tape tape({.seed = 2, .step = 1});
    const auto x = tape.input(random_tensor<double>({B, T, D}, 1));
    const auto memory = tape.input(random_tensor<double>({B, S, D}, 2));
    auto y = layers.front().cross_attention ? first(x, memory) : first(x);
    if (second) y = (*second)(y);
    const auto loss = mean(square(y - tape.input(random_tensor<double>({B, T, D}, 3))));
    tape.backward(loss);
    return loss.item();
  }
};

TEST_P(SharedGradients, AreTheSumOfThoseOfCopies) {
  const auto& [name, layers, other, tensors] = GetParam();
  ParameterRegistry shared(5), copies(6);
  const double loss = step(shared, layers, other, policy::everything);
  EXPECT_EQ(shared.entries().size(), tensors);
  const double loss_of_copies = step(copies, unshared(layers), unshared(other), policy::everything, [&] {
    for (const auto& entry : shared.entries())
      for (const std::string& user : entry->users)
        copies.at<double>(user).set_value(shared.at<double>(entry->path).value());
  });
  EXPECT_NEAR(loss_of_copies, loss, 1e-13 * loss);
  std::size_t users = 0;
  for (const auto& entry : shared.entries()) {
    const Tensor<double> gradient = shared.at<double>(entry->path).grad();
    Tensor<double> sum(gradient.shape(), 0);
    double largest = 0;
    for (const std::string& user : entry->users) {
      const Tensor<double> of_copy = copies.at<double>(user).grad();
      for (Index i = 0; i < sum.size(); ++i) sum.write()[i] += of_copy[i];
      ++users;
    }
    for (const double g : sum) largest = std::max(largest, std::abs(g));
    for (Index i = 0; i < sum.size(); ++i) ASSERT_NEAR(gradient[i], sum[i], 1e-12 * (largest + 1e-3)) << entry->path;
  }
  EXPECT_EQ(users, copies.entries().size());
}

TEST_P(SharedGradients, AreTheSameBitsUnderEveryPolicy) {
  ParameterRegistry kept(5);
  const double loss = step(kept, GetParam().layers, GetParam().other, policy::everything);
  for (const policy::Phrase& phrase : policy::phrase_book()) {
    SCOPED_TRACE(phrase.name);
    ParameterRegistry parameters(5);
    EXPECT_EQ(step(parameters, GetParam().layers, GetParam().other, phrase.policy), loss);
    ASSERT_EQ(parameters.entries().size(), kept.entries().size());
    for (const auto& entry : kept.entries())
      EXPECT_TRUE(same_bits(parameters.at<double>(entry->path).grad(), kept.at<double>(entry->path).grad()))
          << entry->path;
  }
}

INSTANTIATE_TEST_SUITE_P(Structures, SharedGradients, testing::ValuesIn(structures), [](const auto& each) {
  std::string name = each.param.name;
  for (char& c : name)
    if (c == ' ' || c == ',' || c == '-') c = '_';
  return name;
});

}  // namespace
