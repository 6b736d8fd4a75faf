// Adapters of parts of a fused projection and of rows of a table: what they compute, and the gradients, are what the
// formula says, whatever the policy.
#include <gtest/gtest.h>

#include <algorithm>
#include <remat/models/decoder.hpp>
#include <remat/nn/embedding.hpp>
#include <remat/nn/lora.hpp>
#include <remat/ops/arithmetic.hpp>
#include <remat/ops/reduce.hpp>
#include <remat/policy/parse.hpp>
#include <string>
#include <tuple>
#include <vector>

#include "core/expect_error.hpp"
#include "nn/adapted_llama.hpp"
#include "nn/random_tensor.hpp"

namespace {

using namespace remat;
using remat_test::a_batch;
using remat_test::expect_error;
using remat_test::expect_near;
using remat_test::expect_policies_and_merging_to_agree;
using remat_test::fill;
using remat_test::LinearStep;
using remat_test::random_tensor;
using remat_test::small_llama;
using remat_test::store;
using remat_test::store_all_matrices;
using remat_test::trained_gradients;

TEST(LoraOnParts, ComputesItsFormulaAndTheGradients) {
  using T = double;
  for (const bool is_stored : {false, true}) {
    ParameterRegistry parameters(1);
    const nn::Linear<T> layer(parameters / "a" / "qkv", {.input_dims = 6, .output_dims = 9});
    layer.w.entry()->parts = {{"query", 0, 4}, {"key", 4, 6}, {"value", 6, 9}};
    if (is_stored) store(layer.w, true);
    const nn::Lora<T> lora(parameters, parameters / "lora", {.targets = {"a/value", "a/query"}, .rank = 2, .alpha = 6});
    ASSERT_EQ(lora.parts().size(), 1U);
    const auto& part = lora.parts()[0];
    EXPECT_EQ(part.pieces, (std::vector<MatrixPart>{{"query", 0, 4}, {"value", 6, 9}}));
    EXPECT_EQ(part.down.shape(), Shape({6, 4}));
    EXPECT_EQ(part.up.shape(), Shape({2, 7}));  // no zeros between the blocks, so none in an optimizer's state
    fill(lora);
    const LinearStep step(layer, 5);
    // By hand, in loops: W' = W + 3 A_q B_q on columns [0, 4) and + 3 A_v B_v on [6, 9).
    const Tensor<T> w = layer.w.value(), b = layer.b.value(), down = part.down.value(), up = part.up.value();
    std::vector<double> whole(w.data(), w.data() + 54), by_x(30, 0), by_down(24, 0), by_up(14, 0);
    for (const auto& [first, at, begin, end] : {std::tuple{0, 0, 0, 4}, {2, 4, 6, 9}})
      for (int j = begin; j < end; ++j)
        for (int i = 0; i < 6; ++i)
          for (int r = 0; r < 2; ++r) {
            const double a = down.data()[i * 4 + first + r], c = up.data()[r * 7 + at + j - begin];
            whole[static_cast<std::size_t>(i * 9 + j)] += 3 * a * c;
            double sum = 0;  // of x^T dy
            for (int t = 0; t < 5; ++t) sum += step.x.data()[t * 6 + i] * step.weight.data()[t * 9 + j];
            by_down[static_cast<std::size_t>(i * 4 + first + r)] += 3 * sum * c;
            by_up[static_cast<std::size_t>(r * 7 + at + j - begin)] += 3 * sum * a;
          }
    for (int t = 0; t < 5; ++t)
      for (int j = 0; j < 9; ++j) {
        double sum = b.data()[j];
        for (int i = 0; i < 6; ++i) {
          sum += step.x.data()[t * 6 + i] * whole[static_cast<std::size_t>(i * 9 + j)];
          by_x[static_cast<std::size_t>(t * 6 + i)] +=
              step.weight.data()[t * 9 + j] * whole[static_cast<std::size_t>(i * 9 + j)];
        }
        EXPECT_NEAR(step.y.data()[t * 9 + j], sum, 1e-12);
      }
    expect_near(step.by_x, by_x, 1e-12);
    expect_near(part.down.grad(), by_down, 1e-12);
    expect_near(part.up.grad(), by_up, 1e-12);
  }
}

// As a model of projections apart with adapters of the same names.
TEST(LoraOnParts, ComputesWhatProjectionsApartDo) {
  ParameterRegistry fused(3), apart(3);
  const models::Decoder<float> one(fused / "m", small_llama(true)), three(apart / "m", small_llama());
  const auto at = [](const ParameterRegistry& of, const std::string& path) { return of.at<float>(path); };
  for (const auto& entry : apart.entries())
    if (entry->path.find("/attention/") == std::string::npos || entry->path.find("/out/") != std::string::npos)
      at(fused, entry->path).set_value(at(apart, entry->path).value());
  const nn::LoraConfig config{.targets = {"*/attention/query", "*/attention/key", "*/attention/value"}, .rank = 2};
  const nn::Lora<float> of_one(fused, fused / "l", config), of_three(apart, apart / "l", config);
  fill(of_three);
  EXPECT_EQ(of_one.parts().size(), 2U);
  EXPECT_EQ(of_three.parts().size(), 6U);
  EXPECT_EQ(fused.trainable_count(), apart.trainable_count());
  // Columns [begin, end) of `whole`.
  const auto columns = [](const Tensor<float>& whole, Index begin, Index end) {
    std::vector<float> some;
    const Index width = whole.shape().back();
    for (Index i = 0; i < whole.size() / width; ++i)
      some.insert(some.end(), whole.data() + i * width + begin, whole.data() + i * width + end);
    Shape shape = whole.shape();
    shape[shape.rank() - 1] = end - begin;
    return Tensor<float>(shape, std::span<const float>(some));
  };
  const auto put = [](const Parameter<float>& to, const Tensor<float>& from, Index begin) {
    Tensor<float> whole = to.value();
    const Index width = whole.shape().back(), part = from.shape().back();
    for (Index i = 0; i < from.size() / part; ++i)
      std::copy_n(from.data() + i * part, part, whole.write().data() + i * width + begin);
    to.set_value(whole);
  };
  const std::vector<std::tuple<std::string, Index, Index>> parts{{"query", 0, 16}, {"key", 16, 24}, {"value", 24, 32}};
  for (const std::string layer : {"m/decoder/layer_0/attention/", "m/decoder/layer_1/attention/"})
    for (std::size_t p = 0; p < parts.size(); ++p) {
      const auto& [name, begin, end] = parts[p];
      for (const char* what : {"/w", "/b"})
        put(at(fused, layer + "qkv" + what), at(apart, layer + name + what).value(), begin);
      put(at(fused, "l/" + layer + "qkv/down"), at(apart, "l/" + layer + name + "/down").value(),
          static_cast<Index>(2 * p));
      put(at(fused, "l/" + layer + "qkv/up"), at(apart, "l/" + layer + name + "/up").value(), begin);
    }
  Tape first({.step = 1}), second({.step = 1});
  const Var<float> a = one.loss(first, a_batch()), b = three.loss(second, a_batch());
  EXPECT_NEAR(a.item(), b.item(), 1e-5);
  first.backward(a), second.backward(b);
  for (const std::string layer : {"m/decoder/layer_0/attention/", "m/decoder/layer_1/attention/"})
    for (std::size_t p = 0; p < parts.size(); ++p) {
      const auto& [name, begin, end] = parts[p];
      expect_near(columns(at(fused, "l/" + layer + "qkv/down").grad(), static_cast<Index>(2 * p),
                          static_cast<Index>(2 * p + 2)),
                  at(apart, "l/" + layer + name + "/down").grad(), 1e-4);
      expect_near(columns(at(fused, "l/" + layer + "qkv/up").grad(), begin, end),
                  at(apart, "l/" + layer + name + "/up").grad(), 1e-4);
    }
}

TEST(LoraOnParts, NoPolicyChangesABitAndMergedTheModelComputesAsBefore) {
  expect_policies_and_merging_to_agree(
      {.targets = {"*/query", "*/attention/value", "*/ffn/*"}, .rank = 3, .dropout = 0.25}, 16);
}

TEST(LoraOnEmbeddings, ComputesItsFormulaAndTheGradients) {
  using T = double;
  ParameterRegistry parameters(1);
  const nn::Embedding<T> layer(parameters / "e", {.vocabulary = 7, .model_dims = 5});
  const nn::Lora<T> lora(parameters, parameters / "l", {.targets = {}, .rank = 2, .alpha = 6, .embeddings = {"e"}});
  const auto& part = lora.parts().at(0);
  const Tensor<std::int32_t> ids({2, 3}, {3, 1, 3, 0, 6, 1});
  Tape first({.step = 1});
  const Tensor<T> before = layer(first.input(ids)).value(), table = layer.table.value();
  for (Index i = 0; i < 6; ++i)
    for (Index j = 0; j < 5; ++j) EXPECT_EQ(before.data()[i * 5 + j], table.data()[ids.data()[i] * 5 + j]);
  part.down.set_value(random_tensor<T>({7, 2}, 2));
  const Tensor<T> down = part.down.value(), up = part.up.value(), weight = random_tensor<T>({2, 3, 5}, 3);
  Tape tape({.step = 1});
  const Var<T> y = layer(tape.input(ids));
  const Tensor<T> value = y.value();
  tape.backward(sum(y * tape.input(weight)));
  std::vector<double> by_down(14, 0), by_up(10, 0);
  for (Index i = 0; i < 6; ++i)
    for (Index j = 0; j < 5; ++j) {
      const Index id = ids.data()[i];
      double should = table.data()[id * 5 + j];
      for (Index r = 0; r < 2; ++r) {
        should += 3 * down.data()[id * 2 + r] * up.data()[r * 5 + j];
        by_down[static_cast<std::size_t>(id * 2 + r)] += 3 * weight.data()[i * 5 + j] * up.data()[r * 5 + j];
        by_up[static_cast<std::size_t>(r * 5 + j)] += 3 * weight.data()[i * 5 + j] * down.data()[id * 2 + r];
      }
      EXPECT_NEAR(value.data()[i * 5 + j], should, 1e-12);
    }
  for (Index i = 0; i < 14; ++i) EXPECT_NEAR(part.down.grad().data()[i], by_down[static_cast<std::size_t>(i)], 1e-12);
  for (Index i = 0; i < 10; ++i) EXPECT_NEAR(part.up.grad().data()[i], by_up[static_cast<std::size_t>(i)], 1e-12);
  EXPECT_FALSE(layer.table.has_grad());
}

TEST(LoraOnEmbeddings, NoPolicyChangesABitAndATiedHeadStays) {
  std::vector<Tensor<float>> first;
  for (const bool is_stored : {false, true})
    for (const char* policy : {"everything", "save_nothing"}) {
      ParameterRegistry parameters(3);
      auto config = small_llama();
      config.remat = policy::parse(policy);
      const models::Decoder<float> model(parameters / "m", config);
      if (is_stored) store_all_matrices(parameters);
      const nn::Lora<float> lora(parameters, parameters / "lora", {.embeddings = {"*/embedding"}});
      EXPECT_EQ(lora.parts().size(), 15U);
      for (const auto& part : lora.parts())
        if (part.is_of_rows) part.down.set_value(random_tensor<float>(part.down.shape(), 4));
      Tape tape({.step = 5});
      tape.backward(model.loss(tape, a_batch()));
      const std::vector<Tensor<float>> grads = trained_gradients(parameters);
      EXPECT_EQ(grads.size(), 30U);
      if (first.empty()) first = grads;
      for (std::size_t i = 0; i < grads.size(); ++i) expect_near(grads[i], first[i], is_stored ? 1e-3 : 0);
      expect_error({"m/embedding has an adapter of rows", "tied"}, [&] { (void)lora.merge(); });
      EXPECT_TRUE(parameters.at<float>("m/decoder/layer_0/ffn/ffn1/w").entry()->adapter);
      // The head reads the table alone: the adapter changes what enters the first layer and nothing else.
      lora.deactivate();
      const nn::Lora<float> rows(parameters, parameters / "rows", {.targets = {}, .embeddings = {"m/embedding"}});
      const auto& part = rows.parts()[0];
      part.down.set_value(random_tensor<float>(part.down.shape(), 4));
      Tape look({.mode = Mode::evaluate});
      const Var<float> h = look.input(random_tensor<float>({1, 2, 16}, 5));
      const Tensor<float> with = linear<float>(h, model.embedding.table, {}, {.transposed = true}).value();
      rows.deactivate();
      expect_near(with, linear<float>(h, model.embedding.table, {}, {.transposed = true}).value(), 0);
    }
  ParameterRegistry parameters;
  const models::Decoder<float> model(parameters / "m", small_llama());
  const auto make = [&](const nn::LoraConfig& config) { (void)nn::Lora<float>(parameters, parameters / "l", config); };
  expect_error({"dora is of linear layers"}, [&] { make({.dora = true, .embeddings = {"*/embedding"}}); });
  expect_error({"\"*/embed\" fits no embedding", "m/embedding"}, [&] { make({.embeddings = {"*/embed"}}); });
}

}  // namespace
