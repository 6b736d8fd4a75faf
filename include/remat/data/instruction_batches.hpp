// Batches of samples of which some tokens are to be learned, several samples to a row.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <remat/core/random.hpp>
#include <remat/core/token_samples.hpp>
#include <remat/data/batch_parts.hpp>
#include <remat/data/instruction_batch.hpp>
#include <remat/data/packing.hpp>
#include <remat/data/shuffled.hpp>
#include <span>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace data {

/// Batches to train on. Samples are packed into rows once, in an order that the seed names; each epoch takes all rows,
/// shuffled anew, so that it sees every sample exactly once. Where the rows of an epoch do not divide into batches, one
/// batch has the last of it and the first of the next. A batch is a pure function of (seed, step): a run that resumes
/// at step n needs nothing but n. What the samples point to must outlive this object.
class InstructionBatches {
 public:
  /// Of the samples `which`; an `Error` where one needs more positions than a row has.
  InstructionBatches(const TokenSamples& samples, std::span<const Index> which, const InstructionBatchesConfig& config)
      : samples_(samples), config_(config) {
    detail::check(config, samples, which);
    const RandomStream stream{config.seed, 0, site - 1};
    const auto count = static_cast<Index>(which.size());
    std::vector<Index> order;
    for (Index i = 0; i < count; ++i)
      order.push_back(which[static_cast<std::size_t>(detail::shuffled(i, count, stream))]);
    rows_ = detail::pack(samples, order, config.length,
                         config.is_packed ? detail::Fill::best_fit : detail::Fill::one_a_row, config.name);
  }
  /// Of all samples.
  InstructionBatches(const TokenSamples& samples, const InstructionBatchesConfig& config)
      : InstructionBatches(samples, detail::all_of(samples), config) {}

  /// Rows of an epoch.
  Index rows_per_epoch() const { return rows_.size(); }
  /// Steps that see every sample at least once: the rows of an epoch by those of a batch, rounded up.
  Index steps_per_epoch() const { return (rows_.size() + config_.batch - 1) / config_.batch; }
  /// The part of all positions that samples fill, in (0, 1]; the rest is padding.
  double fill() const {
    return static_cast<double>(rows_.positions) /
           (static_cast<double>(rows_.size()) * static_cast<double>(config_.length));
  }

  /// The batches of step 0, 1 and so on, one with each call.
  InstructionBatch next() { return at(step_++); }
  /// The batch of `step`, in [0, 2^32).
  InstructionBatch at(Index step) const {
    require(step >= 0 && step <= std::numeric_limits<std::uint32_t>::max(), "batches: step ", step,
            " is not in [0, 2^32)");
    const Index first = checked_mul(step, config_.batch, "batches");
    return detail::batch_of(samples_, rows_, config_.batch, config_, [&](Index row) {
      const Index n = first + row;
      const RandomStream stream{config_.seed, static_cast<std::uint32_t>(n / rows_.size()), site};
      return detail::shuffled(n % rows_.size(), rows_.size(), stream);
    });
  }

 private:
  static constexpr std::uint32_t site = 0xFFFFFFFF;

  TokenSamples samples_;
  InstructionBatchesConfig config_;
  detail::PackedRows rows_{};
  Index step_ = 0;
};

/// Every sample once, in order, to evaluate: `for (InstructionBatch b : batches)`. The last batch may have fewer rows.
/// To average a loss over all, weight each batch by its `target_count()`. What the samples point to must outlive this
/// object.
class SequentialInstructionBatches {
 public:
  /// Of the samples `which`, in this order; the seed says nothing. An `Error` where one needs more positions than a row
  /// has.
  SequentialInstructionBatches(const TokenSamples& samples, std::span<const Index> which,
                               const InstructionBatchesConfig& config)
      : samples_(samples), config_(config) {
    detail::check(config, samples, which);
    rows_ = detail::pack(samples, which, config.length,
                         config.is_packed ? detail::Fill::in_order : detail::Fill::one_a_row, config.name);
  }
  /// Of all samples.
  SequentialInstructionBatches(const TokenSamples& samples, const InstructionBatchesConfig& config)
      : SequentialInstructionBatches(samples, detail::all_of(samples), config) {}

  /// Number of batches.
  Index size() const { return (rows_.size() + config_.batch - 1) / config_.batch; }
  /// Batch i, i in [0, size()).
  InstructionBatch at(Index i) const {
    require(i >= 0 && i < size(), "batches: asked for batch ", i, " of ", size());
    const Index first = i * config_.batch;
    return detail::batch_of(samples_, rows_, std::min(config_.batch, rows_.size() - first), config_,
                            [&](Index row) { return first + row; });
  }

  using Iterator = BatchIterator<SequentialInstructionBatches>;  // good as long as these batches
  ///@{
  /// The first batch, and the end behind the last.
  Iterator begin() const& { return {this, 0}; }
  Iterator end() const& { return {this, size()}; }
  ///@}
  void begin() const&& = delete;  // an iterator points to its batches
  void end() const&& = delete;

 private:
  TokenSamples samples_;
  InstructionBatchesConfig config_;
  detail::PackedRows rows_{};
};

}}}  // namespace remat::data
