// A batch of samples of which some tokens are to be learned.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <remat/core/tensor.hpp>
#include <remat/core/token_samples.hpp>
#include <remat/data/batch_parts.hpp>
#include <remat/data/packing.hpp>
#include <span>
#include <string>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace data {

/// Rows of samples side by side. Attention masked by `segments` keeps samples apart; positions need not be given where
/// only their differences count, as with rotary ones.
struct InstructionBatch {
  Tensor<std::int32_t> inputs;    // [B, T]: of each sample the tokens before its last target, then padding
  Tensor<std::int32_t> targets;   // [B, T]: the sample's next token where it is to be learned, else -1
  Tensor<std::int32_t> segments;  // [B, T]: which sample of the row, from 0 on; padding has the number behind the last

  /// Rows [begin, end): a micro-batch. Its tape is told `.first_row = begin, .rows = end - begin`.
  InstructionBatch rows(Index begin, Index end) const {
    const auto part = [&](const Tensor<std::int32_t>& all) { return detail::rows_of(all, begin, end); };
    return {part(inputs), part(targets), part(segments)};
  }
  /// How many tokens are to be learned: what a mean over the whole batch divides by, whatever micro-batches it is cut
  /// into.
  Index target_count() const {
    return std::count_if(targets.data(), targets.data() + targets.size(), [](std::int32_t id) { return id >= 0; });
  }
};

/// How samples become batches.
struct InstructionBatchesConfig {
  Index batch = 8;               // rows
  Index length = 1024;           // positions a row
  std::uint64_t seed = 0;        // of the order
  bool is_packed = true;         // several samples to a row, as many as fit
  std::int32_t padding = 0;      // the token where no sample is; nobody sees it, but it must be a token
  std::string name = "samples";  // stands for them in errors: a file perhaps
};

namespace detail {

inline void check(const InstructionBatchesConfig& config, const TokenSamples& samples, std::span<const Index> which) {
  samples.check(config.name);
  require(config.batch > 0 && config.length > 0, config.name, ": batch ", config.batch, " and length ", config.length,
          " must be at least 1");
  require(config.padding >= 0, config.name, ": the padding ", config.padding, " is no token");
  require(!which.empty(), config.name, ": there is no sample to make batches of");
}

inline std::vector<Index> all_of(const TokenSamples& samples) {
  std::vector<Index> all(static_cast<std::size_t>(samples.size()));
  std::iota(all.begin(), all.end(), Index{0});
  return all;
}

/// The rows that `row_of(0)`, ..., `row_of(count - 1)` number.
template <class RowOf>
InstructionBatch batch_of(const TokenSamples& samples, const PackedRows& packed, Index count,
                          const InstructionBatchesConfig& config, RowOf&& row_of) {
  const auto size = static_cast<std::size_t>(checked_mul(count, config.length, "batch"));
  std::vector<std::int32_t> inputs(size, config.padding), targets(size, -1), segments(size);
  for (Index row = 0; row < count; ++row) {
    auto at = static_cast<std::size_t>(row * config.length);
    const auto end = at + static_cast<std::size_t>(config.length);
    std::int32_t segment = 0;
    for (const Index i : packed[row_of(row)]) {
      const TokenSample sample = samples[i];
      const auto positions = static_cast<std::size_t>(sample.positions());
      for (std::size_t t = 0; t < positions; ++t, ++at) {
        inputs[at] = sample.tokens[t];
        if (sample.is_target[t + 1] != 0) targets[at] = sample.tokens[t + 1];
        segments[at] = segment;
      }
      ++segment;
    }
    std::fill(segments.begin() + static_cast<std::ptrdiff_t>(at), segments.begin() + static_cast<std::ptrdiff_t>(end),
              segment);
  }
  const Shape shape{count, config.length};
  return {Tensor<std::int32_t>(shape, inputs), Tensor<std::int32_t>(shape, targets),
          Tensor<std::int32_t>(shape, segments)};
}

}  // namespace detail

}}}  // namespace remat::data
