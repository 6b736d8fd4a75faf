// One step, and the loss on what is held out.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <remat/data.hpp>
#include <remat/remat.hpp>

#include "finetune/model.hpp"

namespace finetune {

struct StepResult {
  double loss = 0;             // the mean over the target tokens of the whole batch
  std::size_t peak_bytes = 0;  // of activations, their gradients and scratch, as planned
  remat::Index targets = 0;
};

/// A part's share of the loss of a batch with so many targets: parts add up to the mean over the whole, however it is
/// cut.
inline remat::Var<float> share_of_loss(const Model& model, remat::Tape& tape, const Batch& part, remat::Index targets) {
  return model.loss(tape, part) * (static_cast<double>(part.target_count()) / static_cast<double>(targets));
}

/// Adds the gradients of a batch to the parameters, in `parts` parts one after another. With the last of them
/// `when_complete` gets each.
inline StepResult forward_backward(const Model& model, const Batch& batch, int step, remat::Index parts,
                                   std::uint64_t seed, const remat::GradientHook& when_complete = {}) {
  StepResult result;
  result.targets = batch.target_count();
  const remat::Index rows = batch.inputs.shape()[0] / parts;
  for (remat::Index i = 0; i < parts; ++i) {
    const Batch part = batch.rows(i * rows, (i + 1) * rows);
    if (part.target_count() == 0) continue;
    remat::Tape tape({.seed = seed, .step = step, .first_row = i * rows, .rows = rows});
    const auto share = share_of_loss(model, tape, part, result.targets);
    result.loss += static_cast<double>(share.item());
    remat::require(std::isfinite(result.loss), "step ", step + 1, ": the loss is not finite; lower --lr");
    tape.backward(share, i + 1 == parts ? when_complete : remat::GradientHook());
    result.peak_bytes = std::max(result.peak_bytes, tape.stats().peak_bytes);
  }
  return result;
}

/// The mean over the target tokens of the first `most` batches, whose rows are looked at one by one.
inline double held_out_loss(const Model& model, const remat::data::SequentialInstructionBatches& batches,
                            remat::Index most) {
  double total = 0, targets = 0;
  for (remat::Index i = 0; i < std::min(most, batches.size()); ++i) {
    const Batch batch = batches.at(i);
    for (remat::Index row = 0; row < batch.inputs.shape()[0]; ++row) {
      const Batch part = batch.rows(row, row + 1);
      const auto count = static_cast<double>(part.target_count());
      if (count == 0) continue;
      remat::Tape tape({.mode = remat::Mode::evaluate});
      total += static_cast<double>(model.loss(tape, part).item()) * count;
      targets += count;
    }
  }
  return total / targets;
}

}  // namespace finetune
