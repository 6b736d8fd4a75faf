// Losses on text that is held out.
#pragma once

#include <algorithm>
#include <array>
#include <remat/data.hpp>
#include <remat/distributed.hpp>

#include "ranks.hpp"
#include "train_gpt/model.hpp"

namespace train_gpt {

/// Mean loss over the first `most` batches, each weighted by its number of predicted tokens. Ranks share them out.
inline double validation_loss(const Model& gpt, const remat::data::SequentialBatches& batches, remat::Index most,
                              const remat::distributed::Group& group) {
  const auto sums = programs::summed_by_ranks(group, std::min(most, batches.size()), 2, [&](remat::Index i) {
    const remat::data::Batch batch = batches.at(i);
    remat::Tape tape({.mode = remat::Mode::evaluate});
    const auto tokens = static_cast<double>(batch.targets.size());
    return std::array{static_cast<double>(gpt.loss(tape, batch).item()) * tokens, tokens};
  });
  return sums[0] / sums[1];
}

}  // namespace train_gpt
