// Steps of one variant at one context, timed.
#pragma once

#include <algorithm>
#include <chrono>
#include <remat/data/batches.hpp>
#include <string>
#include <utility>
#include <vector>

#include "../examples/long_variants.hpp"

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

/// A model with weights and an optimizer of its own, made from the seed alone.
class LongTraining {
 public:
  LongTraining(const long_context::Shape& shape, LongPoint point, std::uint64_t seed)
      : point_(std::move(point)),
        seed_(seed),
        parameters_(seed),
        gpt_(parameters_ / "gpt", long_context::config_of(shape, point_.variant)),
        adamw_(parameters_) {}

  void step(int step, const remat::data::Batch& batch) {
    const auto start = std::chrono::steady_clock::now();
    {
      remat::Tape tape({.seed = seed_, .step = step});
      const remat::Var<float> loss = gpt_.loss(tape, batch);
      tape.backward(loss);
      if (step == 0) point_.first_loss = static_cast<double>(loss.item());
      point_.peak_bytes = std::max(point_.peak_bytes, tape.stats().peak_bytes);
      point_.offloaded_bytes = std::max(point_.offloaded_bytes, tape.stats().offloaded_bytes);
    }
    adamw_.step(1e-3, remat::optim::clip_scale(remat::optim::global_norm(parameters_), 1.0));
    point_.seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  LongPoint& point() { return point_; }

 private:
  LongPoint point_;
  std::uint64_t seed_;
  remat::ParameterRegistry parameters_;
  remat::models::Gpt<float> gpt_;
  remat::optim::AdamW adamw_;
};

/// Steps of all points, which share a context, in turn: A B C, C B A, A B C, ..., so that a drift of the machine
/// favours nobody. The first round warms up; it counts where the time, in seconds, is used up by it.
inline std::vector<LongPoint> measured(const long_context::Shape& shape, const std::vector<LongPoint>& points,
                                       double time, std::uint64_t seed) {
  std::vector<std::int32_t> bytes(static_cast<std::size_t>(std::max(1 << 16, 2 * shape.context)));
  const remat::RandomStream random{seed, 0, 0};
  for (std::size_t i = 1; i < bytes.size(); ++i)  // two bits of each are unknowable
    bytes[i] = static_cast<std::int32_t>((5 * static_cast<std::uint32_t>(bytes[i - 1]) + 1 + random.word(i) % 4) % 256);
  const remat::data::RandomBatches batches(bytes, 1, shape.context, seed);

  std::vector<std::unique_ptr<LongTraining>> trainings;
  for (const LongPoint& point : points) trainings.push_back(std::make_unique<LongTraining>(shape, point, seed));
  constexpr int most_rounds = 9;
  double round = 0, used = 0;  // seconds
  for (int step = 0; step <= most_rounds && used + round <= time; ++step) {
    const auto start = std::chrono::steady_clock::now();
    const remat::data::Batch batch = batches.at(step);
    for (auto& training : trainings) training->step(step, batch);
    std::reverse(trainings.begin(), trainings.end());
    round = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    used += round;
  }
  std::vector<LongPoint> done;
  for (auto& training : trainings) {
    LongPoint& point = training->point();
    if (point.seconds.size() > 1) point.seconds.erase(point.seconds.begin());
    done.push_back(std::move(point));
  }
  if (done.front().variant.name != points.front().variant.name) std::reverse(done.begin(), done.end());
  return done;
}

}  // namespace bench
