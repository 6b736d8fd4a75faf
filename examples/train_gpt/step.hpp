// One step: the gradients of a batch, part after part and by all ranks, and their norm.
#pragma once

#include <cmath>
#include <remat/data.hpp>
#include <remat/distributed.hpp>
#include <remat/remat.hpp>

#include "ranks.hpp"
#include "train_gpt/model.hpp"
#include "train_gpt/settings.hpp"

namespace train_gpt {

using programs::RankStep;

/// The batch of `step` is a function of (seed, step), so that any step can be run at any time.
class Stepper {
 public:
  Stepper(const Settings& s, const Model& gpt, const remat::data::RandomBatches& batches,
          programs::RankTraining& training)
      : s_(s), gpt_(gpt), batches_(batches), training_(training) {}

  /// Adds the gradients of the batch of `step` into the parameters, on all ranks.
  RankStep operator()(int step, bool trace) {
    const auto batch = batches_.at(step);
    return training_.gradients(s_.batch, s_.micro_batches, {.seed = s_.seed, .step = step, .trace = trace},
                               [&](remat::Tape& tape, remat::Index begin, remat::Index end) {
                                 return gpt_.loss(tape, batch.rows(begin, end)) * (1.0 / s_.micro_batches);
                               });
  }
  /// The norm of the gradients of the last step. An `Error` when they, or its loss, are not finite.
  double norm(const RankStep& result) const {
    const double value = training_.norm();
    remat::require(std::isfinite(result.loss), "the loss is not finite; lower --lr");
    return value;
  }
  void update(double learning_rate, double scale) { training_.step(learning_rate, scale); }

 private:
  const Settings& s_;
  const Model& gpt_;
  const remat::data::RandomBatches& batches_;
  programs::RankTraining& training_;
};

}  // namespace train_gpt
