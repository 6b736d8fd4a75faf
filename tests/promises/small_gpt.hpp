// A GPT small enough to be run hundreds of times, and one training step of it.
#pragma once

#include <core/threads.hpp>
#include <remat/models.hpp>
#include <remat/remat.hpp>
#include <string>
#include <vector>

namespace remat_test {

struct Tokens {
  remat::Tensor<std::int32_t> inputs, targets;
};

/// Fixed pseudo-random tokens [B, T].
inline Tokens tokens(remat::Index batch, remat::Index length, int vocabulary, std::uint64_t seed = 7) {
  Tokens made{remat::Tensor<std::int32_t>({batch, length}), remat::Tensor<std::int32_t>({batch, length})};
  const remat::RandomStream random{seed, 0, 0};
  for (remat::Index i = 0; i < batch * length; ++i) {
    const auto at = static_cast<std::uint64_t>(2 * i);
    made.inputs.write()[i] = static_cast<std::int32_t>(random.word(at) % static_cast<unsigned>(vocabulary));
    made.targets.write()[i] = static_cast<std::int32_t>(random.word(at + 1) % static_cast<unsigned>(vocabulary));
  }
  return {made.inputs.copy(), made.targets.copy()};  // tapes share what nobody writes to
}

/// Odd sizes on purpose: no axis is a multiple of a vector.
inline remat::models::GptConfig small_gpt() {
  return {.vocabulary = 29,
          .context = 13,
          .num_layers = 3,
          .model_dims = 36,
          .num_heads = 4,
          .num_kv_heads = 2,
          .hidden_dims = 52};
}

template <class T>
struct StepResult {
  T loss;
  std::vector<remat::Tensor<T>> grads;  // in order of path
  std::vector<std::string> paths;
  remat::TapeStats stats;
};

/// One step of a fresh model: loss and the gradient of every parameter.
template <class T>
StepResult<T> gpt_step(const remat::models::GptConfig& config, remat::Index step = 3) {
  remat::ParameterRegistry parameters(5);
  const remat::models::Gpt<T> gpt(parameters / "gpt", config);
  remat::Tape tape({.seed = 11, .step = step});
  const auto loss = gpt.loss(tape, tokens(2, config.context, config.vocabulary));
  tape.backward(loss);
  StepResult<T> result{loss.item(), {}, {}, tape.stats()};
  for (const auto& entry : parameters.entries()) {
    result.paths.push_back(entry->path);
    result.grads.push_back(remat::Parameter<T>(entry).grad().copy());
  }
  return result;
}

/// The paths whose gradients differ in any bit, and "loss" if it does.
template <class T>
std::vector<std::string> differing(const StepResult<T>& a, const StepResult<T>& b) {
  std::vector<std::string> paths;
  if (std::memcmp(&a.loss, &b.loss, sizeof(T)) != 0) paths.push_back("loss");
  if (a.paths != b.paths) return {"the parameter trees"};
  for (std::size_t i = 0; i < a.grads.size(); ++i)
    if (!same_bits(a.grads[i], b.grads[i])) paths.push_back(a.paths[i]);
  return paths;
}

}  // namespace remat_test
