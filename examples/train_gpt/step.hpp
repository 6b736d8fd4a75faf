// One step: the gradients of a batch, part after part and by all ranks, and their norm.
#pragma once

#include <algorithm>
#include <cmath>
#include <remat/data.hpp>
#include <remat/distributed.hpp>
#include <remat/remat.hpp>
#include <vector>

#include "train_gpt/model.hpp"
#include "train_gpt/settings.hpp"

namespace train_gpt {

struct StepResult {
  double loss = 0;
  double flops = 0;  // that a step needs without remat, so that recomputing does not count as progress
  std::size_t peak_bytes = 0;
  std::vector<remat::TraceSlice> trace{};
};

/// The batch of `step` is a function of (seed, step), so that any step can be run at any time.
class Stepper {
 public:
  Stepper(const Settings& s, const Model& gpt, const remat::ParameterRegistry& parameters,
          const remat::data::RandomBatches& batches, const remat::distributed::Group& group)
      : s_(s), gpt_(gpt), batches_(batches), group_(group), sum_(parameters, group), norm_(parameters) {}

  /// Adds the gradients of the batch of `step` into the parameters, on all ranks.
  StepResult operator()(int step, bool trace) {
    const auto batch = batches_.at(step);
    const remat::Index rows = s_.batch / s_.micro_batches;
    const bool is_whole = s_.micro_batches == 1;  // nothing is added to its gradients: their squares are those of all
    StepResult result;
    const auto mine = sum_.begin(s_.micro_batches);
    for (remat::Index i = mine.begin; i < mine.end; ++i) {
      // Gradients add up to those of the whole batch: each part draws the masks that its rows have there.
      const auto part = batch.rows(i * rows, (i + 1) * rows);
      remat::Tape tape({.seed = s_.seed, .step = step, .first_row = i * rows, .rows = rows, .trace = trace});
      const auto share = gpt_.loss(tape, part) * (1.0 / s_.micro_batches);
      tape.backward(share, is_whole ? norm_.in_backward() : remat::GradientHook());
      sum_.add(static_cast<double>(share.item()));
      const remat::TapeStats stats = tape.stats();
      result.peak_bytes = std::max(result.peak_bytes, stats.peak_bytes);
      result.flops += stats.forward_flops + stats.backward_flops - stats.replay_flops;
      result.trace = tape.trace();
    }
    result.loss = sum_.finish();
    result.flops = group_.sum(result.flops);
    return result;
  }
  /// The norm of the gradients of the last step. An `Error` when they, or its loss, are not finite.
  double norm(const StepResult& result) const {
    const double value = norm_.value();
    remat::require(std::isfinite(result.loss), "the loss is not finite; lower --lr");
    return value;
  }

 private:
  const Settings& s_;
  const Model& gpt_;
  const remat::data::RandomBatches& batches_;
  remat::distributed::Group group_;
  remat::distributed::GradientSum sum_;
  remat::optim::GlobalNorm norm_;
};

}  // namespace train_gpt
