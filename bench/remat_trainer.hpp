// One GPT in training under one policy: what each of its steps took, held and computed again.
#pragma once

#include <algorithm>
#include <chrono>
#include <limits>
#include <optional>
#include <remat/data/batches.hpp>
#include <remat/models.hpp>
#include <remat/remat.hpp>
#include <string>
#include <utility>
#include <vector>

namespace bench {

/// A policy of the comparison, and what its plan says of a step.
struct Variant {
  std::string name{};
  remat::PlannedPolicy planned{};
  std::optional<std::size_t> budget{};  // bytes, when `planned` keeps to one
};

/// Bytes that one tape held over one step. Its account notes every change; the pool's hook tells the time of those that
/// are allocations. What is freed in between is freed when the op is done, so it gets the time of the next one.
class Timeline {
 public:
  struct Point {
    double ms;
    std::size_t bytes;
    bool is_backward;
  };

  explicit Timeline(remat::Tape& tape) : account_(tape.program().account) {
    account_->timeline = &bytes_;
    remat::pool().set_allocation_hook([this](std::size_t) { marks_.push_back({bytes_.size(), elapsed()}); });
  }
  Timeline(const Timeline&) = delete;
  Timeline& operator=(const Timeline&) = delete;
  ~Timeline() { stop(); }

  void backward_begins() { backward_ = bytes_.size(); }
  void stop() {
    if (!account_) return;
    marks_.push_back({bytes_.size(), elapsed()});
    remat::pool().set_allocation_hook({});
    account_->timeline = nullptr;
    account_ = {};
  }
  double total_ms() const { return marks_.back().ms; }

  /// The largest of each of `bins` equal parts of the step, so that no peak is lost.
  std::vector<Point> thinned(std::size_t bins) const {
    const double width = total_ms() / static_cast<double>(bins);
    std::vector<Point> points;
    for (std::size_t event = 0, mark = 0, last = 0; event < bytes_.size(); ++event) {
      while (mark + 1 < marks_.size() && marks_[mark].event < event) ++mark;
      const auto bin = std::min(bins - 1, static_cast<std::size_t>(marks_[mark].ms / width));
      while (points.size() <= bin)
        points.push_back({width * static_cast<double>(points.size()), last, event >= backward_});
      points.back().bytes = std::max(points.back().bytes, last = bytes_[event]);
    }
    points.push_back({total_ms(), bytes_.empty() ? 0 : bytes_.back(), true});
    return points;
  }

 private:
  struct Mark {
    std::size_t event;  // the first one after it
    double ms;
  };
  using Clock = std::chrono::steady_clock;
  double elapsed() const { return std::chrono::duration<double, std::milli>(Clock::now() - start_).count(); }

  remat::Counted<remat::Account> account_;
  Clock::time_point start_ = Clock::now();
  std::vector<std::size_t> bytes_;
  std::vector<Mark> marks_;
  std::size_t backward_ = std::numeric_limits<std::size_t>::max();
};

/// What the steps of one policy came to.
struct Outcome {
  std::vector<double> ms{};                 // forward and backward, warm-up apart
  std::vector<float> losses{};              // of every step
  remat::TapeStats stats{};                 // of the last step
  std::size_t peak_bytes = 0;               // of all steps
  std::vector<Timeline::Point> timeline{};  // of the fastest step
};

/// A model with its own weights and optimizer, made from `seed` alone: whatever differs comes from the policy.
class Trainer {
 public:
  Trainer(remat::models::GptConfig config, const remat::Policy& policy, std::uint64_t seed)
      : seed_(seed),
        parameters_(seed),
        gpt_(parameters_ / "gpt", with(std::move(config), policy)),
        adamw_(parameters_) {}

  void step(int step, const remat::data::Batch& batch, bool is_warm_up, Outcome& outcome) {
    {
      remat::Tape tape({.seed = seed_, .step = step});
      Timeline timeline(tape);
      const remat::Var<float> loss = gpt_.loss(tape, batch);
      timeline.backward_begins();
      tape.backward(loss);
      timeline.stop();

      outcome.losses.push_back(loss.item());
      outcome.stats = tape.stats();
      outcome.peak_bytes = std::max(outcome.peak_bytes, outcome.stats.peak_bytes);
      if (!is_warm_up) {
        outcome.ms.push_back(timeline.total_ms());
        if (timeline.total_ms() <= *std::min_element(outcome.ms.begin(), outcome.ms.end()))
          outcome.timeline = timeline.thinned(120);
      }
    }
    adamw_.step(1e-3, remat::optim::clip_scale(remat::optim::global_norm(parameters_), 1.0));
  }

 private:
  static remat::models::GptConfig with(remat::models::GptConfig config, const remat::Policy& policy) {
    config.remat = policy;
    return config;
  }

  std::uint64_t seed_;
  remat::ParameterRegistry parameters_;
  remat::models::Gpt<float> gpt_;
  remat::optim::AdamW adamw_;
};

}  // namespace bench
