// One step, and the loss on what is held out.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <optional>
#include <remat/data.hpp>
#include <remat/remat.hpp>
#include <vector>

#include "finetune/model.hpp"
#include "ranks.hpp"

namespace finetune {

/// A part's share of the loss of a batch with so many targets: parts add up to the mean over the whole, however it is
/// cut.
inline remat::Var<float> share_of_loss(const Model& model, remat::Tape& tape, const Batch& part, remat::Index targets) {
  return model.loss(tape, part) * (static_cast<double>(part.target_count()) / static_cast<double>(targets));
}

/// Adds the gradients of a batch to the parameters, in `parts` parts by all ranks, or gives them to `instead`, as
/// `RankTraining::gradients` says; its loss is the mean over the target tokens of the whole batch.
inline programs::RankStep forward_backward(programs::RankTraining& training, const Model& model, const Batch& batch,
                                           int step, remat::Index parts, std::uint64_t seed,
                                           const remat::GradientHook& instead = {}) {
  const remat::Index targets = batch.target_count();
  auto result = training.gradients(
      batch.inputs.shape()[0], parts, {.seed = seed, .step = step},
      [&](remat::Tape& tape, remat::Index begin, remat::Index end) -> std::optional<remat::Var<float>> {
        const Batch part = batch.rows(begin, end);
        if (part.target_count() == 0) return {};
        return share_of_loss(model, tape, part, targets);
      },
      instead);
  remat::require(std::isfinite(result.loss), "step ", step + 1, ": the loss is not finite; lower --lr");
  return result;
}

/// The mean over the target tokens of the first `most` batches, whose rows are looked at one by one, by all ranks.
inline double held_out_loss(const Model& model, const remat::data::SequentialInstructionBatches& batches,
                            remat::Index most, const remat::distributed::Group& group) {
  std::vector<Batch> rows;
  for (remat::Index i = 0; i < std::min(most, batches.size()); ++i) {
    const Batch batch = batches.at(i);
    for (remat::Index row = 0; row < batch.inputs.shape()[0]; ++row)
      if (const Batch part = batch.rows(row, row + 1); part.target_count() > 0) rows.push_back(part);
  }
  const auto sums = programs::summed_by_ranks(group, static_cast<remat::Index>(rows.size()), 2, [&](remat::Index i) {
    const Batch& part = rows[static_cast<std::size_t>(i)];
    const auto count = static_cast<double>(part.target_count());
    remat::Tape tape({.mode = remat::Mode::evaluate});
    return std::array{static_cast<double>(model.loss(tape, part).item()) * count, count};
  });
  return sums[0] / sums[1];
}

}  // namespace finetune
