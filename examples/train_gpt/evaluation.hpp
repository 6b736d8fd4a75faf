// Losses on text that is held out.
#pragma once

#include <algorithm>
#include <remat/data.hpp>

#include "train_gpt/model.hpp"

namespace train_gpt {

/// Mean loss over the first `most` batches, each weighted by its number of predicted tokens.
inline double validation_loss(const Model& gpt, const remat::data::SequentialBatches& batches, remat::Index most) {
  double total = 0, tokens = 0;
  for (remat::Index i = 0; i < std::min(most, batches.size()); ++i) {
    const remat::data::Batch batch = batches.at(i);
    remat::Tape tape({.mode = remat::Mode::evaluate});
    total += static_cast<double>(gpt.loss(tape, batch).item()) * static_cast<double>(batch.targets.size());
    tokens += static_cast<double>(batch.targets.size());
  }
  return total / tokens;
}

}  // namespace train_gpt
