// A GPT in training, as benchmarks step it: forward, backward, clipping by global norm and AdamW.
#pragma once

#include <chrono>
#include <remat/data/batches.hpp>
#include <remat/models.hpp>
#include <remat/remat.hpp>
#include <vector>

namespace bench {

/// What a step needs, in flops: 2mnk for each product, nothing computed twice, of attention what is visible.
inline double model_flops(const remat::models::GptConfig& c, double tokens, double length) {
  const double dims = c.model_dims, layers = c.num_layers;
  return 6 * tokens * (12 * layers * dims * dims + c.vocabulary * dims + layers * dims * (length + 1));
}

/// Tokens that a model can learn to predict, but for two bits each.
inline std::vector<std::int32_t> learnable_tokens(std::size_t count, int vocabulary, std::uint64_t seed = 1) {
  const remat::RandomStream random{seed, 0, 0};
  std::vector<std::int32_t> tokens(count);
  std::int64_t token = 0;
  for (std::size_t i = 0; i < count; ++i) {
    token = (5 * token + 1 + static_cast<std::int64_t>(random.word(i) % 4)) % vocabulary;
    tokens[i] = static_cast<std::int32_t>(token);
  }
  return tokens;
}

/// What one step took and came to.
struct Step {
  double loss = 0;
  double seconds = 0, update_seconds = 0;  // of all of it; of clipping and AdamW alone
};

/// A model with its own weights and optimizer, made from `seed` alone.
template <class T>
class GptTraining {
 public:
  explicit GptTraining(const remat::models::GptConfig& config, std::uint64_t seed = 1)
      : seed_(seed),
        parameters_(seed),
        gpt_(parameters_ / "gpt", config),
        adamw_(parameters_, {.beta2 = 0.99, .weight_decay = 0.1}),
        norm_(parameters_) {}

  const remat::ParameterRegistry& parameters() const { return parameters_; }
  const remat::optim::AdamW& adamw() const { return adamw_; }

  /// On a tape with these options, seed and step apart. `inspect(tape, step)` is called after backward, outside what is
  /// timed.
  template <class Inspect>
  Step step(const remat::data::Batch& batch, remat::TapeOptions options, Inspect&& inspect) {
    using Clock = std::chrono::steady_clock;
    const auto since = [](Clock::time_point start) {
      return std::chrono::duration<double>(Clock::now() - start).count();
    };
    Step step;
    {
      const auto start = Clock::now();
      options.seed = seed_, options.step = done_++;
      remat::Tape tape(options);
      const auto loss = gpt_.loss(tape, batch);
      tape.backward(loss, norm_.in_backward());
      step.loss = static_cast<double>(loss.item());
      step.seconds = since(start);
      inspect(tape, step);
    }
    const auto start = Clock::now();
    adamw_.step(1e-3, remat::optim::clip_scale(norm_.value(), 1.0));
    step.update_seconds = since(start);
    step.seconds += step.update_seconds;
    return step;
  }
  Step step(const remat::data::Batch& batch) {
    return step(batch, {}, [](const remat::Tape&, const Step&) {});
  }

 private:
  std::uint64_t seed_;
  remat::ParameterRegistry parameters_;
  remat::models::Gpt<T> gpt_;
  remat::optim::AdamW adamw_;
  remat::optim::GlobalNorm norm_;
  remat::Index done_ = 0;
};

}  // namespace bench
