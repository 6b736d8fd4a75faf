// One GPT in training under one policy: what each of its steps took, held and computed again.
#pragma once

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "gpt_training.hpp"

namespace bench {

/// A policy of the comparison, and what its plan says of a step.
struct Variant {
  std::string name{};
  remat::PlannedPolicy planned{};
  std::optional<std::size_t> budget{};  // bytes, when `planned` keeps to one
};

/// What a step holds beside its tape, from before it to after it.
struct Lasting {
  std::size_t parameters = 0, gradients = 0, optimizer = 0;
};

/// The largest sample of each of `bins` equal parts of a step, so that no peak is lost, at the time its part begins.
inline std::vector<remat::MemorySample> thinned(const std::vector<remat::MemorySample>& samples, double seconds,
                                                std::size_t bins) {
  std::vector<remat::MemorySample> points;
  const double width = seconds / static_cast<double>(bins);
  remat::MemorySample last;
  for (const remat::MemorySample& sample : samples) {
    const auto bin = std::min(bins - 1, static_cast<std::size_t>(sample.seconds / width));
    while (points.size() <= bin) {
      points.push_back(last);
      points.back().seconds = width * static_cast<double>(points.size() - 1);
    }
    if (sample.total() >= points.back().total()) {
      const double begin = points.back().seconds;
      points.back() = sample;
      points.back().seconds = begin;
    }
    last = sample;
  }
  points.push_back(last);
  points.back().seconds = seconds;
  return points;
}

/// What the steps of one policy came to.
struct Outcome {
  std::vector<double> ms{};                     // forward and backward, warm-up apart
  std::vector<float> losses{};                  // of every step
  remat::TapeStats stats{};                     // of the last step
  std::size_t peak_bytes = 0;                   // of all steps
  std::vector<remat::MemorySample> timeline{};  // of the fastest step
  Lasting lasting{};
};

/// One step of a model whose config holds the policy.
inline void train(GptTraining<float>& training, const remat::data::Batch& batch, bool is_warm_up, Outcome& outcome) {
  training.step(batch, {.timeline = true}, [&](const remat::Tape& tape, const Step& step) {
    outcome.losses.push_back(static_cast<float>(step.loss));
    outcome.stats = tape.stats();
    outcome.peak_bytes = std::max(outcome.peak_bytes, outcome.stats.peak_bytes);
    if (is_warm_up) return;
    outcome.ms.push_back(1e3 * step.seconds);
    if (outcome.ms.back() <= *std::min_element(outcome.ms.begin(), outcome.ms.end()))
      outcome.timeline = thinned(tape.memory_timeline(), step.seconds, 120);
  });
  const std::size_t bytes = training.parameters().bytes(), gradients = training.parameters().grad_bytes();
  outcome.lasting = {bytes - gradients, gradients, training.adamw().state_bytes()};
}

}  // namespace bench
