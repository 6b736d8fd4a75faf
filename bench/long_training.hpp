// Steps of one variant at one context, timed.
#pragma once

#include <algorithm>
#include <chrono>
#include <memory>
#include <vector>

#include "gpt_training.hpp"
#include "long_variants.hpp"

namespace bench {

/// What was planned for a variant at a context, and what its steps took.
struct LongPoint {
  long_context::Variant variant{};
  int context = 0;
  remat::PlannedPolicy planned{};
  std::vector<double> seconds{};  // forward, backward and AdamW, of each round
  std::size_t peak_bytes = 0, offloaded_bytes = 0;
  double first_loss = 0;
  bool alone = false;  // at its context

  bool is_as_planned() const {
    return peak_bytes == planned.stats.peak_bytes && offloaded_bytes == planned.stats.offloaded_bytes;
  }
};

/// Steps of all points, which share a context, in turn: A B C, C B A, A B C, ..., so that a drift of the machine
/// favours nobody. The first round warms up; it counts where the time, in seconds, is used up by it.
inline std::vector<LongPoint> measured(const long_context::Shape& shape, const std::vector<LongPoint>& points,
                                       double time, std::uint64_t seed) {
  const auto count = static_cast<std::size_t>(std::max(1 << 16, 2 * shape.context));
  const std::vector<std::int32_t> tokens = learnable_tokens(count, 256, seed);
  const remat::data::RandomBatches batches(tokens, 1, shape.context, seed);
  std::vector<LongPoint> done = points;
  std::vector<std::unique_ptr<GptTraining<float>>> trainings;
  for (const LongPoint& point : points)
    trainings.push_back(std::make_unique<GptTraining<float>>(long_context::config_of(shape, point.variant), seed));
  constexpr int most_rounds = 9;
  double round = 0, used = 0;  // seconds
  for (int step = 0; step <= most_rounds && used + round <= time; ++step) {
    const auto start = std::chrono::steady_clock::now();
    const remat::data::Batch batch = batches.at(step);
    for (std::size_t turn = 0; turn < done.size(); ++turn) {
      const std::size_t i = step % 2 == 0 ? turn : done.size() - 1 - turn;
      LongPoint& point = done[i];
      const Step result = trainings[i]->step(batch, {}, [&](const remat::Tape& tape, const Step& so_far) {
        if (step == 0) point.first_loss = so_far.loss;
        point.peak_bytes = std::max(point.peak_bytes, tape.stats().peak_bytes);
        point.offloaded_bytes = std::max(point.offloaded_bytes, tape.stats().offloaded_bytes);
      });
      point.seconds.push_back(result.seconds);
    }
    round = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    used += round;
  }
  for (LongPoint& point : done)
    if (point.seconds.size() > 1) point.seconds.erase(point.seconds.begin());
  return done;
}

}  // namespace bench
