// What tests of adapters share: a small model, matrices that are stored elsewhere, adapters that are not at their
// beginning, one step of a layer, and how numbers are compared.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <remat/models/decoder.hpp>
#include <remat/nn/linear.hpp>
#include <remat/nn/lora.hpp>
#include <remat/ops/arithmetic.hpp>
#include <remat/ops/reduce.hpp>
#include <remat/policy/parse.hpp>
#include <string>
#include <utility>
#include <vector>

#include "nn/random_tensor.hpp"

namespace remat_test {

using remat::Accum;
using remat::Index;
using remat::Parameter;
using remat::ParameterRegistry;
using remat::Tensor;

/// Floats in an array of their own, as a quantized file would give them.
class Stored : public remat::FrozenMatrix {
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

/// The parameter is from now on read from elsewhere, rounded to floats; `transposed`: as its transpose.
template <class A>
void store(const Parameter<A>& parameter, bool transposed) {
  const Tensor<A> value = parameter.value();
  const Index rows = value.shape()[0], columns = value.shape()[1];
  std::vector<float> stored;
  for (Index i = 0; i < (transposed ? columns : rows); ++i)
    for (Index j = 0; j < (transposed ? rows : columns); ++j)
      stored.push_back(static_cast<float>(value.data()[transposed ? j * columns + i : i * columns + j]));
  parameter.entry()->keep_as(transposed ? std::make_shared<Stored>(columns, rows, std::move(stored))
                                        : std::make_shared<Stored>(rows, columns, std::move(stored)),
                             transposed);
}
/// All but those of adapters, every second one transposed; tables never.
inline void store_all_matrices(const ParameterRegistry& parameters) {
  bool transposed = true;
  for (const auto& entry : parameters.entries())
    if (entry->value.shape.rank() == 2 && entry->path.find("lora") == std::string::npos) {
      store(Parameter<float>(entry), transposed && !entry->path.ends_with("table"));
      transposed = !transposed;
    }
}

/// Two layers; `fused`: with one projection for query, key and value.
inline remat::models::DecoderConfig small_llama(bool fused = false) {
  remat::nn::TransformerLayerConfig layer{.hidden_dims = 24, .num_heads = 4, .norm = remat::nn::NormKind::rms_norm};
  layer.attention = {.num_kv_heads = 2, .combined_qkv = fused, .bias = true, .out_bias = false, .rotary_base = 100};
  layer.ffn = {.activation = remat::Activation::silu, .gated = true, .bias = false};
  remat::models::DecoderConfig config{.vocabulary = 23, .model_dims = 16};
  config.layers.assign(2, layer);
  config.init_deviation = 0.5;
  return config;
}
struct Batch {
  Tensor<std::int32_t> inputs, targets;
};
inline Batch a_batch() {
  std::vector<std::int32_t> ids, next;
  for (int t = 0; t < 14; ++t) ids.push_back((7 * t * t + t) % 23), next.push_back((5 * t + 2) % 23);
  return {{{2, 7}, std::span<const std::int32_t>(ids)}, {{2, 7}, std::span<const std::int32_t>(next)}};
}

/// Sets every `up`, which begins as zeros, and every magnitude to something.
template <class T>
void fill(const remat::nn::Lora<T>& lora) {
  std::uint64_t seed = 1;
  for (const auto& part : lora.parts()) {
    part.up.set_value(random_tensor<Accum<T>>(part.up.shape(), ++seed));
    if (!lora.config().dora) continue;
    Tensor<Accum<T>> magnitude = part.magnitude.value();
    const Tensor<Accum<T>> noise = random_tensor<Accum<T>>(magnitude.shape(), ++seed);
    for (Index i = 0; i < magnitude.size(); ++i)
      magnitude.write()[static_cast<std::size_t>(i)] *= Accum<T>{1} + noise.data()[i] / 4;
    part.magnitude.set_value(magnitude);
  }
}
inline std::vector<Tensor<float>> trained_gradients(const ParameterRegistry& parameters) {
  std::vector<Tensor<float>> all;
  for (const auto& entry : parameters.entries())
    if (!entry->is_frozen) all.push_back(Parameter<float>(entry).grad());
  return all;
}

/// Each element by `tolerance` of its size, or of 1 if it is less.
template <class A>
void expect_near(const Tensor<A>& is, const Tensor<A>& should, double tolerance) {
  ASSERT_EQ(is.shape(), should.shape());
  for (Index i = 0; i < is.size(); ++i)
    ASSERT_NEAR(is.data()[i], should.data()[i], tolerance * std::max<double>(1, std::abs(should.data()[i])))
        << "at " << i;
}
inline void expect_near(const Tensor<double>& is, const std::vector<double>& should, double tolerance) {
  ASSERT_EQ(is.size(), static_cast<Index>(should.size()));
  for (std::size_t i = 0; i < should.size(); ++i) ASSERT_NEAR(is.data()[i], should[i], tolerance) << "at " << i;
}

/// y = layer(x) of a random x [rows, D], and the gradients of sum(weight y), for a random weight of the shape of y.
struct LinearStep {
  Tensor<double> x, weight, y, by_x;

  LinearStep(const remat::nn::Linear<double>& layer, Index rows, std::uint64_t seed = 0)
      : x(random_tensor<double>({rows, layer.w.shape()[0]}, 9)),
        weight(random_tensor<double>({rows, layer.w.shape()[1]}, 10)) {
    remat::Tape tape({.seed = seed, .step = 1});
    const remat::Var<double> input = tape.input(x, {.wants_gradient = true}), result = layer(input);
    y = result.value();
    tape.backward(sum(result * tape.input(weight)));
    by_x = tape.grad(input);
  }
};

/// Of a fused model with these adapters, which have `trained` parameters: no policy changes a bit of a gradient, and
/// when they are merged the model computes as before; beside numbers and beside matrices that are stored.
inline void expect_policies_and_merging_to_agree(const remat::nn::LoraConfig& adapters, std::size_t trained) {
  for (const bool is_stored : {false, true}) {
    std::vector<Tensor<float>> first;
    for (const char* policy : {"everything", "save_nothing", "dots", "names(combined_qkv_proj,ffn2)"}) {
      ParameterRegistry parameters(3);
      auto config = small_llama(true);
      config.remat = remat::policy::parse(policy);
      const remat::models::Decoder<float> model(parameters / "m", config);
      if (is_stored) store_all_matrices(parameters);
      const remat::nn::Lora<float> lora(parameters, parameters / "lora", adapters);
      fill(lora);
      remat::Tape tape({.step = 5});
      tape.backward(model.loss(tape, a_batch()));
      const std::vector<Tensor<float>> grads = trained_gradients(parameters);
      EXPECT_EQ(grads.size(), trained);
      if (first.empty()) first = grads;
      for (std::size_t i = 0; i < grads.size(); ++i) expect_near(grads[i], first[i], 0);
      const auto logits = [&] {
        remat::Tape look({.mode = remat::Mode::evaluate});
        return model.logits(look, a_batch().inputs).value();
      };
      const Tensor<float> before = logits();
      const double deviation = lora.merge();
      EXPECT_GT(deviation, 0);
      EXPECT_LT(deviation, 1e-5);
      expect_near(logits(), before, 1e-3);
    }
  }
}

}  // namespace remat_test
