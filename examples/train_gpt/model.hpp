// A GPT that computes in float or in bfloat16: what the trainer asks of either. Both have float parameters.
#pragma once

#include <memory>
#include <remat/data.hpp>
#include <remat/models.hpp>
#include <utility>
#include <vector>

namespace train_gpt {

struct Model {
  virtual ~Model() = default;
  virtual remat::Var<float> loss(remat::Tape& tape, const remat::data::Batch& batch) const = 0;
  virtual std::vector<std::int32_t> generate(std::vector<std::int32_t> prompt, remat::Index length, double temperature,
                                             std::uint64_t seed) const = 0;
  virtual void set_remat(const remat::Policy& policy) = 0;
};

template <class T>
struct ModelOf : Model {
  using Gpt = remat::models::Gpt<T>;
  Gpt gpt;

  ModelOf(const remat::Scope& scope, const remat::models::GptConfig& config) : gpt(scope, config) {}
  remat::Var<float> loss(remat::Tape& tape, const remat::data::Batch& batch) const override {
    return gpt.loss(tape, batch);
  }
  std::vector<std::int32_t> generate(std::vector<std::int32_t> prompt, remat::Index length, double temperature,
                                     std::uint64_t seed) const override {
    return gpt.generate(std::move(prompt), {.length = length, .temperature = temperature, .seed = seed});
  }
  void set_remat(const remat::Policy& policy) override { gpt.decoder.remat = policy; }
};

/// Compiled apart, to halve the time one waits for.
std::unique_ptr<Model> bfloat16_model(const remat::Scope& scope, const remat::models::GptConfig& config);

}  // namespace train_gpt
