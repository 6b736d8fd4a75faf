// Matrices that stay as they are stored, and adapters beside them: what they compute is what the formula says, whatever
// the policy, and nothing is kept or made for what is not trained.
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <remat/autodiff/report.hpp>
#include <remat/models/decoder.hpp>
#include <remat/nn/embedding.hpp>
#include <remat/nn/lora.hpp>
#include <remat/ops/arithmetic.hpp>
#include <remat/ops/matmul.hpp>
#include <remat/ops/reduce.hpp>
#include <remat/optim/adamw.hpp>
#include <remat/optim/gradient_watch.hpp>
#include <remat/policy/parse.hpp>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "core/expect_error.hpp"
#include "nn/random_tensor.hpp"

namespace {

using namespace remat;
using remat_test::expect_error;
using remat_test::random_tensor;

/// Floats in an array of their own, as a quantized file would give them.
class Stored : public FrozenMatrix {
 public:
  Stored(Index rows, Index columns, std::vector<float> values)
      : FrozenMatrix(rows, columns), values_(std::move(values)) {}
  void read(Index first, Index count, float* to) const override {
    std::copy_n(values_.data() + first * columns(), count * columns(), to);
  }
  std::string format() const override { return "floats"; }
  std::size_t bytes() const override { return values_.size() * sizeof(float); }
  std::size_t mapped_bytes() const override { return 0; }

 private:
  std::vector<float> values_;
};

/// The parameter is from now on read from elsewhere, with the values that it has; `transposed`: as its transpose.
void store(const std::shared_ptr<ParameterEntry>& entry, bool transposed) {
  const Tensor<float> value(entry->numbers());
  const Index rows = value.shape()[0], columns = value.shape()[1];
  std::vector<float> stored;
  for (Index i = 0; i < (transposed ? columns : rows); ++i)
    for (Index j = 0; j < (transposed ? rows : columns); ++j)
      stored.push_back(transposed ? value.data()[j * columns + i] : value.data()[i * columns + j]);
  entry->keep_as(
      transposed ? std::make_shared<Stored>(columns, rows, stored) : std::make_shared<Stored>(rows, columns, stored),
      transposed);
}

models::DecoderConfig small_llama(bool tied = true) {
  nn::TransformerLayerConfig layer{.hidden_dims = 24, .num_heads = 4, .norm = nn::NormKind::rms_norm};
  layer.attention = {.num_kv_heads = 2, .bias = true, .out_bias = false, .rotary_base = 100};
  layer.ffn = {.activation = Activation::silu, .gated = true, .bias = false};
  models::DecoderConfig config{.vocabulary = 23, .model_dims = 16, .tied_head = tied};
  config.layers.assign(2, layer);
  config.init_deviation = 0.5;
  return config;
}
struct Batch {
  Tensor<std::int32_t> inputs, targets;
};
Batch a_batch() {
  std::vector<std::int32_t> ids, next;
  for (int t = 0; t < 14; ++t) ids.push_back((7 * t * t + t) % 23), next.push_back((5 * t + 2) % 23);
  return {{{2, 7}, std::span<const std::int32_t>(ids)}, {{2, 7}, std::span<const std::int32_t>(next)}};
}
void store_all_matrices(const ParameterRegistry& parameters) {
  bool transposed = true;
  for (const auto& entry : parameters.entries())
    if (entry->value.shape.rank() == 2 && entry->path.find("lora") == std::string::npos) {
      store(entry, transposed && !entry->path.ends_with("table"));
      transposed = !transposed;
    }
}
/// Sets every `up`, which begins as zeros, to something.
template <class T>
void fill(const nn::Lora<T>& lora) {
  std::uint64_t seed = 1;
  for (const auto& part : lora.parts()) part.up.set_value(random_tensor<Accum<T>>(part.up.shape(), ++seed));
}
std::vector<Tensor<float>> trained_gradients(const ParameterRegistry& parameters) {
  std::vector<Tensor<float>> all;
  for (const auto& entry : parameters.entries())
    if (!entry->is_frozen) all.push_back(Parameter<float>(entry).grad());
  return all;
}
void expect_close(const Tensor<float>& a, const Tensor<float>& b, double tolerance) {
  ASSERT_EQ(a.shape(), b.shape());
  for (Index i = 0; i < a.size(); ++i)
    ASSERT_NEAR(a.data()[i], b.data()[i], tolerance * std::max(1.0F, std::abs(b.data()[i]))) << "at " << i;
}

TEST(StoredMatrices, ComputeWhatNumbersDo) {
  for (const bool tied : {true, false}) {
    ParameterRegistry parameters(3), stored(3);
    const models::Decoder<float> model(parameters / "m", small_llama(tied)),
        from_store(stored / "m", small_llama(tied));
    store_all_matrices(stored);
    const Batch batch = a_batch();
    const auto run = [&](const ParameterRegistry& of, const models::Decoder<float>& decoder) {
      Tape tape({.step = 1});
      const Var<float> loss = decoder.loss(tape, batch);
      const float value = loss.item();
      tape.backward(loss);
      return std::pair(value, Parameter<float>(of.at<float>("m/decoder/layer_0/attention_norm/scale")).grad());
    };
    parameters.freeze("*/w"), parameters.freeze("*/table");
    const auto [loss, grad] = run(parameters, model);
    const auto [stored_loss, stored_grad] = run(stored, from_store);
    EXPECT_NEAR(stored_loss, loss, 1e-5);
    expect_close(stored_grad, grad, 1e-4);
    Tape tape({.mode = Mode::evaluate}), other({.mode = Mode::evaluate});
    expect_close(from_store.logits(tape, batch.inputs).value(), model.logits(other, batch.inputs).value(), 1e-4);
    EXPECT_EQ(from_store.generate({1, 2, 3}, {.length = 9, .temperature = 0}),
              model.generate({1, 2, 3}, {.length = 9, .temperature = 0}));
  }
}

TEST(StoredMatrices, SaveNothingForTheirProducts) {
  ParameterRegistry parameters;
  const auto w = (parameters / "a").parameter<float>("w", {8, 4}, init::normal(1));
  store(w.entry(), true);
  Tape tape({.step = 1});
  const Var<float> x = tape.input(random_tensor<float>({6, 8}, 1), {.wants_gradient = true});
  const Var<float> loss = sum(linear(x, w));
  EXPECT_EQ(tape.stats().saved_bytes, 0U);
  tape.backward(loss);
  EXPECT_EQ(tape.grad(x).shape(), Shape({6, 8}));
}

TEST(StoredMatrices, AreReadAsNumbersAndNeverWritten) {
  ParameterRegistry parameters;
  const auto w = (parameters / "a").parameter<float>("w", {3, 4}, init::normal(1));
  const Tensor<float> before = w.value();
  store(w.entry(), true);
  expect_close(w.value(), before, 0);
  EXPECT_TRUE(w.is_frozen());
  EXPECT_EQ(parameters.count(), 12);
  expect_error({"a/w", "cannot be set"}, [&] { w.set_value(before); });
  expect_error({"a/w", "cannot be trained"}, [&] { parameters.unfreeze("*"); });
  Tape tape;
  expect_error({"a/w", "floats", "load it as numbers"}, [&] { (void)sum(tape.parameter(w)); });
  const ParameterRegistry copy(parameters);
  expect_close(copy.at<float>("a/w").value(), before, 0);
}

TEST(WithoutValues, ParametersAreMadeButNotUsed) {
  ParameterRegistry parameters;
  const nn::Linear<float> layer((parameters / "a").without_values(), {.input_dims = 3, .output_dims = 4});
  EXPECT_EQ(parameters.count(), 16);
  EXPECT_EQ(parameters.bytes(), 0U);
  Tape tape;
  expect_error({"a/w", "no value yet"}, [&] { (void)layer(tape.input(Tensor<float>({2, 3}, 1.0F))); });
  expect_error({"a/w", "no value yet"}, [&] { (void)layer.w.value(); });
  layer.w.set_value(Tensor<float>({3, 4}, 1.0F));
  layer.b.set_value(Tensor<float>({4}, 1.0F));
  EXPECT_EQ(layer(tape.input(Tensor<float>({2, 3}, 1.0F))).value().data()[0], 4.0F);
}

TEST(Lora, ComputesItsFormulaAndTheGradients) {
  using T = double;
  for (const bool is_stored : {false, true}) {
    ParameterRegistry parameters(1);
    const nn::Linear<T> layer(parameters / "a", {.input_dims = 6, .output_dims = 5});
    if (is_stored) {  // as floats, so that both hold one matrix
      std::vector<float> values;
      for (Index j = 0; j < 5; ++j)
        for (Index i = 0; i < 6; ++i) values.push_back(static_cast<float>(layer.w.value().data()[i * 5 + j]));
      layer.w.entry()->keep_as(std::make_shared<Stored>(5, 6, values), true);
    }
    const nn::Lora<T> lora(parameters, parameters / "lora", {.targets = {"a"}, .rank = 3, .alpha = 6});
    fill(lora);
    EXPECT_EQ(lora.scale(), 2);
    const Tensor<T> input = random_tensor<T>({7, 6}, 9), weight = random_tensor<T>({7, 5}, 10);
    Tape tape({.step = 1}), by_hand({.step = 1});
    const Var<T> x = tape.input(input, {.wants_gradient = true});
    tape.backward(sum(layer(x) * tape.input(weight)));
    const auto& part = lora.parts().at(0);
    const Var<T> z = by_hand.input(input, {.wants_gradient = true}),
                 down = by_hand.input(part.down.value(), {.wants_gradient = true}),
                 up = by_hand.input(part.up.value(), {.wants_gradient = true});
    const Var<T> y = linear<T>(z, layer.w.value(), layer.b.value()) + matmul(matmul(z, down), up) * 2.0;
    by_hand.backward(sum(y * by_hand.input(weight)));
    const auto same = [](const Tensor<T>& a, const Tensor<T>& b) {
      ASSERT_EQ(a.shape(), b.shape());
      for (Index i = 0; i < a.size(); ++i) ASSERT_NEAR(a.data()[i], b.data()[i], 1e-12);
    };
    same(tape.grad(x), by_hand.grad(z));
    same(part.down.grad(), by_hand.grad(down));
    same(part.up.grad(), by_hand.grad(up));
    EXPECT_FALSE(layer.w.has_grad() || layer.b.has_grad());
  }
}

TEST(Lora, BeginsAsTheModelIsAndThenEveryAdapterIsTrained) {
  ParameterRegistry parameters(3);
  const models::Decoder<float> model(parameters / "m", small_llama());
  const Batch batch = a_batch();
  const auto loss_now = [&] {
    Tape tape({.mode = Mode::evaluate});
    return model.loss(tape, batch).item();
  };
  const float before = loss_now();
  const nn::Lora<float> lora(parameters, parameters / "lora", {});
  EXPECT_EQ(lora.parts().size(), 14U);
  EXPECT_EQ(loss_now(), before);
  store_all_matrices(parameters);
  optim::AdamW adamw(parameters);
  optim::GradientWatch watch(parameters, 2);
  for (int step = 0; step < 4; ++step) {
    Tape tape({.step = step});
    tape.backward(model.loss(tape, batch));
    watch.check();
    adamw.step(1e-2);
  }
  EXPECT_LT(loss_now(), before);
  for (const auto& part : lora.parts()) {
    EXPECT_FALSE(part.weight.has_grad());
    double moved = 0;
    const Tensor<float> up = part.up.value();
    for (const float v : up.span()) moved += std::abs(v);
    EXPECT_GT(moved, 0) << part.layer;
  }
}

TEST(Lora, NoPolicyChangesABit) {
  for (const bool is_stored : {false, true}) {
    std::vector<Tensor<float>> first;
    for (const char* policy : {"everything", "save_nothing", "dots", "names(query_proj,ffn2)"}) {
      ParameterRegistry parameters(3);
      auto config = small_llama();
      config.remat = policy::parse(policy);
      const models::Decoder<float> model(parameters / "m", config);
      if (is_stored) store_all_matrices(parameters);
      const nn::Lora<float> lora(parameters, parameters / "lora", {.dropout = 0.25});
      fill(lora);
      Tape tape({.step = 5});
      tape.backward(model.loss(tape, a_batch()));
      const std::vector<Tensor<float>> grads = trained_gradients(parameters);
      EXPECT_EQ(grads.size(), 28U);
      if (first.empty()) first = grads;
      for (std::size_t i = 0; i < grads.size(); ++i) expect_close(grads[i], first[i], 0);
    }
  }
}

TEST(Lora, MergedTheModelComputesAsBefore) {
  ParameterRegistry parameters(3);
  const models::Decoder<float> model(parameters / "m", small_llama());
  store_all_matrices(parameters);
  const nn::Lora<float> lora(parameters, parameters / "lora", {.rank = 2});
  fill(lora);
  const auto logits = [&] {
    Tape tape({.mode = Mode::evaluate});
    return model.logits(tape, a_batch().inputs).value();
  };
  const Tensor<float> before = logits();
  lora.deactivate();
  const Tensor<float> base = logits();
  lora.activate();
  expect_close(logits(), before, 0);
  const double deviation = lora.merge();
  EXPECT_GT(deviation, 0);
  EXPECT_LT(deviation, 1e-5);
  expect_close(logits(), before, 1e-3);
  double changed = 0;
  for (Index i = 0; i < base.size(); ++i)
    changed = std::max<double>(changed, std::abs(base.data()[i] - before.data()[i]));
  EXPECT_GT(changed, 0.1);
  EXPECT_FALSE(parameters.at<float>("m/decoder/layer_0/ffn/ffn1/w").entry()->matrix);
}

// A tape goes on with the matrix that it began with.
TEST(Lora, MergingBetweenForwardAndBackwardChangesNoGradient) {
  std::vector<Tensor<float>> first;
  for (const bool merges : {false, true}) {
    ParameterRegistry parameters(3);
    const nn::Linear<float> layer(parameters / "a", {.input_dims = 6, .output_dims = 5});
    store_all_matrices(parameters);
    const nn::Lora<float> lora(parameters, parameters / "lora", {.targets = {"a"}, .rank = 2});
    fill(lora);
    Tape tape({.step = 1});
    const Var<float> x = tape.input(random_tensor<float>({3, 6}, 1), {.wants_gradient = true});
    const Var<float> loss = sum(layer(x));
    if (merges) lora.merge();
    tape.backward(loss);
    if (!merges) first = {tape.grad(x)};
    if (merges) expect_close(tape.grad(x), first[0], 0);
  }
}

TEST(Lora, ACopiedRegistryHasAdaptersOfItsOwn) {
  ParameterRegistry parameters(3);
  const nn::Linear<float> layer(parameters / "a", {.input_dims = 6, .output_dims = 5});
  const nn::Lora<float> lora(parameters, parameters / "lora", {.targets = {"a"}, .rank = 2});
  const ParameterRegistry copy(parameters);
  const auto& adapter = copy.at<float>("a/w").entry()->adapter;
  ASSERT_TRUE(adapter);
  EXPECT_EQ(adapter->up, copy.at<float>("lora/a/up").entry());
  EXPECT_NE(adapter->up, lora.parts().at(0).up.entry());
}

TEST(Lora, ComputesInBfloat16) {
  ParameterRegistry parameters(3);
  const models::Decoder<bfloat16> model(parameters / "m", small_llama());
  store_all_matrices(parameters);
  const nn::Lora<bfloat16> lora(parameters, parameters / "lora", {.dropout = 0.1});
  fill(lora);
  Tape tape({.step = 1});
  const Var<float> loss = model.loss(tape, a_batch());
  tape.backward(loss);
  EXPECT_TRUE(std::isfinite(loss.item()));
  for (const Tensor<float>& grad : trained_gradients(parameters)) {
    double sum = 0;
    for (const float v : grad.span()) sum += std::abs(v);
    EXPECT_TRUE(sum > 0 && std::isfinite(sum));
  }
}

TEST(Lora, RefusesWhatItCannotDo) {
  ParameterRegistry parameters;
  const models::Decoder<float> model(parameters / "m", small_llama(false));
  const auto make = [&](const nn::LoraConfig& config) { (void)nn::Lora<float>(parameters, parameters / "l", config); };
  expect_error({"rank 0"}, [&] { make({.rank = 0}); });
  expect_error({"rank 17", "layer_0/attention/key", "[16, 8]"}, [&] { make({.rank = 17}); });
  expect_error({"alpha"}, [&] { make({.alpha = 0}); });
  expect_error({"dropout"}, [&] { make({.dropout = 1}); });
  expect_error({"targets are empty"}, [&] { make({.targets = {}}); });
  expect_error({"\"*/q_proj\" fits no linear layer", "m/decoder/layer_"}, [&] { make({.targets = {"*/q_proj"}}); });
  for (const auto& entry : parameters.entries()) EXPECT_FALSE(entry->is_frozen || entry->path.starts_with("l/"));
  // The head is read transposed.
  ParameterRegistry others;
  const models::Decoder<float> second(others / "m", small_llama(false));
  const nn::Lora<float> head(others, others / "l", {.targets = {"m/head"}});
  Tape tape({.step = 1});
  expect_error({"m/head/w", "adapter"}, [&] { (void)second.loss(tape, a_batch()); });
  expect_error({"m/head/w", "adapter"}, [&] { (void)second.logits(tape, a_batch().inputs); });
}

/// The same with one projection for query, key and value.
models::DecoderConfig fused_llama() {
  models::DecoderConfig config = small_llama();
  for (auto& layer : config.layers) layer.attention.combined_qkv = true;
  return config;
}

TEST(LoraOnParts, ComputesItsFormulaAndTheGradients) {
  using T = double;
  for (const bool is_stored : {false, true}) {
    ParameterRegistry parameters(1);
    const nn::Linear<T> layer(parameters / "a" / "qkv", {.input_dims = 6, .output_dims = 9});
    layer.w.entry()->parts = {{"query", 0, 4}, {"key", 4, 6}, {"value", 6, 9}};
    if (is_stored) {  // as floats, so that both hold one matrix
      std::vector<float> values;
      for (Index j = 0; j < 9; ++j)
        for (Index i = 0; i < 6; ++i) values.push_back(static_cast<float>(layer.w.value().data()[i * 9 + j]));
      layer.w.entry()->keep_as(std::make_shared<Stored>(9, 6, values), true);
    }
    const nn::Lora<T> lora(parameters, parameters / "lora", {.targets = {"a/value", "a/query"}, .rank = 2, .alpha = 6});
    ASSERT_EQ(lora.parts().size(), 1U);
    const auto& part = lora.parts()[0];
    EXPECT_EQ(part.pieces, (std::vector<MatrixPart>{{"query", 0, 4}, {"value", 6, 9}}));
    EXPECT_EQ(part.down.shape(), Shape({6, 4}));
    EXPECT_EQ(part.up.shape(), Shape({2, 7}));  // no zeros between the blocks, so none in an optimizer's state
    fill(lora);
    const Tensor<T> input = random_tensor<T>({5, 6}, 9), weight = random_tensor<T>({5, 9}, 10);
    Tape tape({.step = 1});
    const Var<T> x = tape.input(input, {.wants_gradient = true});
    const Var<T> y = layer(x);
    const Tensor<T> value = y.value();
    tape.backward(sum(y * tape.input(weight)));
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
            for (int t = 0; t < 5; ++t) sum += input.data()[t * 6 + i] * weight.data()[t * 9 + j];
            by_down[static_cast<std::size_t>(i * 4 + first + r)] += 3 * sum * c;
            by_up[static_cast<std::size_t>(r * 7 + at + j - begin)] += 3 * sum * a;
          }
    for (int t = 0; t < 5; ++t)
      for (int j = 0; j < 9; ++j) {
        double sum = b.data()[j];
        for (int i = 0; i < 6; ++i) {
          sum += input.data()[t * 6 + i] * whole[static_cast<std::size_t>(i * 9 + j)];
          by_x[static_cast<std::size_t>(t * 6 + i)] +=
              weight.data()[t * 9 + j] * whole[static_cast<std::size_t>(i * 9 + j)];
        }
        EXPECT_NEAR(value.data()[t * 9 + j], sum, 1e-12);
      }
    const auto same = [](const Tensor<T>& is, const std::vector<double>& should) {
      ASSERT_EQ(is.size(), static_cast<Index>(should.size()));
      for (std::size_t i = 0; i < should.size(); ++i) ASSERT_NEAR(is.data()[i], should[i], 1e-12) << i;
    };
    same(tape.grad(x), by_x);
    same(part.down.grad(), by_down);
    same(part.up.grad(), by_up);
  }
}

// As a model of projections apart with adapters of the same names.
TEST(LoraOnParts, ComputesWhatProjectionsApartDo) {
  ParameterRegistry fused(3), apart(3);
  const models::Decoder<float> one(fused / "m", fused_llama()), three(apart / "m", small_llama());
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
      expect_close(columns(at(fused, "l/" + layer + "qkv/down").grad(), static_cast<Index>(2 * p),
                           static_cast<Index>(2 * p + 2)),
                   at(apart, "l/" + layer + name + "/down").grad(), 1e-4);
      expect_close(columns(at(fused, "l/" + layer + "qkv/up").grad(), begin, end),
                   at(apart, "l/" + layer + name + "/up").grad(), 1e-4);
    }
}

TEST(LoraOnParts, NoPolicyChangesABitAndMergedTheModelComputesAsBefore) {
  for (const bool is_stored : {false, true}) {
    std::vector<Tensor<float>> first;
    for (const char* policy : {"everything", "save_nothing", "dots", "names(combined_qkv_proj,ffn2)"}) {
      ParameterRegistry parameters(3);
      auto config = fused_llama();
      config.remat = policy::parse(policy);
      const models::Decoder<float> model(parameters / "m", config);
      if (is_stored) store_all_matrices(parameters);
      const nn::Lora<float> lora(parameters, parameters / "lora",
                                 {.targets = {"*/query", "*/attention/value", "*/ffn/*"}, .rank = 3, .dropout = 0.25});
      fill(lora);
      Tape tape({.step = 5});
      tape.backward(model.loss(tape, a_batch()));
      const std::vector<Tensor<float>> grads = trained_gradients(parameters);
      EXPECT_EQ(grads.size(), 16U);
      if (first.empty()) first = grads;
      for (std::size_t i = 0; i < grads.size(); ++i) expect_close(grads[i], first[i], 0);
      const auto logits = [&] {
        Tape look({.mode = Mode::evaluate});
        return model.logits(look, a_batch().inputs).value();
      };
      const Tensor<float> before = logits();
      const double deviation = lora.merge();
      EXPECT_GT(deviation, 0);
      EXPECT_LT(deviation, 1e-5);
      expect_close(logits(), before, 1e-3);
    }
  }
}

TEST(LoraOnParts, AreOfThePartOrOfTheWhole) {
  const auto make = [](std::vector<std::string> targets, Index rank = 2) {
    ParameterRegistry parameters;
    const models::Decoder<float> model(parameters / "m", fused_llama());
    const nn::Lora<float> lora(parameters, parameters / "l", {.targets = std::move(targets), .rank = rank});
    return std::pair(lora.parts().size(), lora.parts().front().pieces.size());
  };
  EXPECT_EQ(make({"*/attention/*"}), std::pair(4UL, 0UL));
  EXPECT_EQ(make({"*/attention/qkv"}), std::pair(2UL, 0UL));
  EXPECT_EQ(make({"*/attention/value"}), std::pair(2UL, 1UL));
  EXPECT_EQ(make({"*/attention/?????", "*_0/attention/key"}), std::pair(2UL, 3UL));
  expect_error(
      {"\"*/attention/query\" is of a part of m/decoder/layer_0/attention/qkv", "\"*/attention/*\" adapts whole"}, [&] {
        make({"*/attention/*", "*/attention/query"});
      });
  expect_error({"rank 9", "key of m/decoder/layer_0/attention/qkv", "[16, 8]"}, [&] {
    make({"*/attention/query", "*/attention/key"}, 9);
  });
  expect_error({"\"*/attention/keys\" fits no linear layer", "attention/key\""}, [&] { make({"*/attention/keys"}); });
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
      for (std::size_t i = 0; i < grads.size(); ++i) expect_close(grads[i], first[i], is_stored ? 1e-3 : 0);
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
      expect_close(with, linear<float>(h, model.embedding.table, {}, {.transposed = true}).value(), 0);
    }
  ParameterRegistry parameters;
  const models::Decoder<float> model(parameters / "m", small_llama());
  const auto make = [&](const nn::LoraConfig& config) { (void)nn::Lora<float>(parameters, parameters / "l", config); };
  expect_error({"dora is of linear layers"}, [&] { make({.dora = true, .embeddings = {"*/embedding"}}); });
  expect_error({"\"*/embed\" fits no embedding", "m/embedding"}, [&] { make({.embeddings = {"*/embed"}}); });
}

TEST(GradientWatch, NamesWhatIsNotTrained) {
  ParameterRegistry parameters;
  const nn::Linear<float> used(parameters / "used", {.input_dims = 2, .output_dims = 2}),
      unused(parameters / "unused", {.input_dims = 2, .output_dims = 2});
  optim::GradientWatch watch(parameters, 2);
  const auto step = [&] {
    Tape tape({.step = 1});
    tape.backward(sum(used(tape.input(Tensor<float>({3, 2}, 1.0F)))));
    watch.check();
  };
  step();
  expect_error({"after 2 steps 2 of", "unused/b, unused/w"}, step);
  parameters.freeze("*");
  expect_error({"all 12 parameters are frozen"}, [&] { optim::GradientWatch none(parameters); });
}

TEST(PackedSequences, GiveTheLossesOfTheSequencesAlone) {
  ParameterRegistry parameters(3);
  const models::Decoder<float> model(parameters / "m", small_llama());
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
