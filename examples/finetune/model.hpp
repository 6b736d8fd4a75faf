// The model that is adapted: with floats, or, where all weights are trained, computing in bfloat16 beside float
// weights.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <remat/data.hpp>
#include <remat/models.hpp>
#include <remat/pretrained.hpp>
#include <remat/remat.hpp>
#include <string>
#include <utility>
#include <vector>

namespace finetune {

using Batch = remat::data::InstructionBatch;

struct Model {
  virtual ~Model() = default;
  virtual remat::Var<float> loss(remat::Tape& tape, const Batch& batch) const = 0;
  /// The likeliest tokens behind a prompt, until `more` is false.
  virtual void generate(std::vector<std::int32_t> prompt, remat::Index length,
                        const std::function<bool(std::int32_t)>& more) const = 0;
  virtual void set_remat(const remat::Policy& policy) = 0;
  virtual void set_chunks(remat::Index of_head, remat::Index of_ffn) = 0;
  virtual remat::Index context() const = 0;
  virtual const remat::text::Tokenizer& tokenizer() const = 0;
  virtual const std::string& chat_template() const = 0;
  /// As what it was loaded from: a GGUF file or a folder.
  virtual void save(const std::string& path) const = 0;
};

template <class T>
struct ModelOf : Model {
  remat::models::Pretrained<T> loaded;

  ModelOf(const remat::Scope& where, const std::string& path, remat::io::Matrices matrices)
      : loaded(remat::models::load<T>(where, path, {.matrices = matrices})) {}
  remat::Var<float> loss(remat::Tape& tape, const Batch& batch) const override {
    return loaded.model.loss(tape, batch);
  }
  void generate(std::vector<std::int32_t> prompt, remat::Index length,
                const std::function<bool(std::int32_t)>& more) const override {
    loaded.model.generate(std::move(prompt), {.length = length, .temperature = 0}, more);
  }
  void set_remat(const remat::Policy& policy) override { loaded.model.set_remat(policy); }
  void set_chunks(remat::Index of_head, remat::Index of_ffn) override { loaded.model.set_chunks(of_head, of_ffn); }
  remat::Index context() const override { return loaded.model.config.context; }
  const remat::text::Tokenizer& tokenizer() const override { return loaded.tokenizer; }
  const std::string& chat_template() const override { return loaded.chat_template; }
  void save(const std::string& path) const override { remat::models::save(loaded, path); }
};

/// What was loaded of a model whose adapters are trained: these are beside floats.
inline const remat::models::Pretrained<float>& of_floats(const Model& model) {
  return dynamic_cast<const ModelOf<float>&>(model).loaded;
}
/// Compiled apart, to halve the time one waits for.
std::unique_ptr<Model> bfloat16_model(const remat::Scope& where, const std::string& path);

}  // namespace finetune
