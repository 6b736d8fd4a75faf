// Losses on text that is held out.
#pragma once

#include <algorithm>
#include <remat/data.hpp>
#include <remat/distributed.hpp>
#include <span>
#include <vector>

#include "train_gpt/model.hpp"

namespace train_gpt {

/// Mean loss over the first `most` batches, each weighted by its number of predicted tokens. Ranks share them out.
inline double validation_loss(const Model& gpt, const remat::data::SequentialBatches& batches, remat::Index most,
                              const remat::distributed::Group& group) {
  const auto mine = remat::distributed::range_of(std::min(most, batches.size()), group.rank(), group.size());
  std::vector<double> losses, tokens;
  for (remat::Index i = mine.begin; i < mine.end; ++i) {
    const remat::data::Batch batch = batches.at(i);
    remat::Tape tape({.mode = remat::Mode::evaluate});
    tokens.push_back(static_cast<double>(batch.targets.size()));
    losses.push_back(static_cast<double>(gpt.loss(tape, batch).item()) * tokens.back());
  }
  const auto in_order = [&](const std::vector<double>& own) {
    double sum = 0;
    for (const auto& theirs : group.gather(std::span<const double>(own)))
      for (const double each : theirs) sum += each;
    return sum;
  };
  return in_order(losses) / in_order(tokens);
}

}  // namespace train_gpt
