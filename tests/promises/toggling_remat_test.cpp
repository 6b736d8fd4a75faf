// Promise: toggling remat changes no parameter; and the seed of this project: 24 layers that share 6 sets of attention
// weights, every layer a region (google/praxis#52, where remat silently made 24 sets).
#include <gtest/gtest.h>

#include <algorithm>

#include "promises/small_gpt.hpp"

namespace {

using namespace remat;

std::vector<nn::TransformerLayerConfig> seed_layers(double dropout) {
  nn::TransformerLayerConfig layer{.model_dims = 16, .hidden_dims = 24, .num_heads = 4, .dropout = dropout};
  layer.attention.dropout = dropout;
  layer.ffn.dropout = dropout;
  std::vector<nn::TransformerLayerConfig> layers(24, layer);
  for (std::size_t i = 0; i < layers.size(); ++i)
    layers[i].attention.shared_weight_id = "shared_attn_" + std::to_string(i % 6);
  return layers;
}

template <class T>
struct Stack {
  ParameterRegistry parameters{5};
  nn::StackedTransformer<T> decoder;
  explicit Stack(const std::vector<nn::TransformerLayerConfig>& layers, const Policy& remat = policy::everything)
      : decoder(parameters / "decoder", {.layers = layers, .remat = remat}) {}

  Tensor<T> input() const {
    Tensor<T> x({2, 7, 16});
    const RandomStream random{3, 0, 0};
    for (Index i = 0; i < x.size(); ++i) x.write()[i] = static_cast<T>(random.normal(static_cast<std::uint64_t>(i)));
    return x;
  }
  TapeStats step() const {
    Tape tape({.seed = 11, .step = 2});
    const auto x = tape.input(input());
    tape.backward(mean(square(decoder(x))));
    return tape.stats();
  }
};

std::vector<std::string> paths(const ParameterRegistry& parameters) {
  std::vector<std::string> all;
  for (const auto& entry : parameters.entries()) all.push_back(entry->path);
  return all;
}

TEST(TogglingRemat, TheSeedHasSixSetsOfAttentionWeights) {
  const Stack<float> stack(seed_layers(0.1), policy::save_nothing);
  int shared = 0, own = 0;
  for (const auto& entry : stack.parameters.entries()) {
    const bool is_shared = entry->path.rfind("shared/shared_attn_", 0) == 0;
    (is_shared ? shared : own) += 1;
    EXPECT_EQ(entry->users.size(), is_shared ? 4U : 1U) << entry->path;
    EXPECT_EQ(entry->path.find("attention/"), std::string::npos) << "a private copy of attention: " << entry->path;
  }
  EXPECT_EQ(shared, 6 * 8);  // query, key, value, out: w and b
  EXPECT_EQ(own, 24 * 8);    // two norms, two linears: two each
  EXPECT_EQ(stack.parameters.at<float>("shared/shared_attn_3/query/w").entry()->users[1],
            "decoder/layer_9/attention/query/w");
}

TEST(TogglingRemat, ChangesNoPathShapeOrFirstValue) {
  const Stack<float> plain(seed_layers(0.1));
  for (const policy::Phrase& phrase : policy::phrase_book()) {
    const Stack<float> remat(seed_layers(0.1), phrase.policy);
    ASSERT_EQ(paths(plain.parameters), paths(remat.parameters)) << phrase.name;
    for (const auto& path : paths(plain.parameters))
      EXPECT_TRUE(same_bits(plain.parameters.at<float>(path).value(), remat.parameters.at<float>(path).value()))
          << path;
  }
}

TEST(TogglingRemat, TheSeedsGradientsAreBitwiseEqual) {
  const Stack<float> plain(seed_layers(0.1)), remat(seed_layers(0.1), policy::save_nothing);
  plain.step();
  const TapeStats stats = remat.step();
  EXPECT_GE(stats.replayed_by_op.at("linear"), 24 * 5);  // six linears a layer; no one reads the last one's result
  for (const auto& path : paths(plain.parameters))
    EXPECT_TRUE(same_bits(plain.parameters.at<float>(path).grad(), remat.parameters.at<float>(path).grad())) << path;
}

// In double: the gradient of a shared weight is the sum over the private copies of an unshared stack.
TEST(TogglingRemat, TheSeedsGradientsSumOverUses) {
  const Stack<double> shared(seed_layers(0.1), policy::save_nothing);
  auto layers = seed_layers(0.1);
  for (auto& layer : layers) layer.attention.shared_weight_id.clear();
  const Stack<double> copies(layers);
  for (const auto& entry : copies.parameters.entries()) {
    const auto users_path = [&] {  // the shared path that this copy stands for
      const std::size_t at = entry->path.find("/attention/");
      if (at == std::string::npos) return entry->path;
      const int layer = std::stoi(entry->path.substr(std::string("decoder/layer_").size()));
      return "shared/shared_attn_" + std::to_string(layer % 6) + "/" + entry->path.substr(at + 11);
    }();
    Parameter<double>(entry).set_value(shared.parameters.at<double>(users_path).value());
  }
  shared.step();
  copies.step();
  for (const auto& path : paths(shared.parameters)) {
    const auto shared_parameter = shared.parameters.at<double>(path);
    Tensor<double> sum(shared_parameter.shape(), 0.0);
    double largest = 0;
    for (const auto& user : shared_parameter.entry()->users) {
      const auto grad = copies.parameters.at<double>(user).grad();
      for (Index i = 0; i < sum.size(); ++i) sum.write()[i] += grad[i];
    }
    const auto grad = shared_parameter.grad();
    for (const double v : sum.span()) largest = std::max(largest, std::abs(v));
    EXPECT_GT(largest, 0) << path;
    for (Index i = 0; i < sum.size(); ++i) ASSERT_NEAR(grad[i], sum[i], 1e-13 * std::max(1.0, largest)) << path;
  }
}

}  // namespace
