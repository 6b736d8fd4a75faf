// Samples to learn from, as tokens side by side. In core, since tokenizers make them, files hold them and batches are
// made of them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <remat/core/error.hpp>
#include <remat/core/shape.hpp>
#include <span>
#include <string>

namespace remat { inline namespace REMAT_ABI { namespace data {

/// One sequence of tokens, and which of them are to be predicted from those before.
struct TokenSample {
  std::span<const std::int32_t> tokens;     // the prompt and the answer
  std::span<const std::uint8_t> is_target;  // of each token: 1 where it is to be predicted; never of the first

  /// How many tokens are to be predicted.
  Index target_count() const {
    Index count = 0;
    for (const std::uint8_t flag : is_target) count += flag != 0;
    return count;
  }
  /// How many positions a model is given: the tokens before the last target. Those behind would predict nothing.
  Index positions() const {
    std::size_t last = is_target.size();
    while (last > 0 && is_target[last - 1] == 0) --last;
    return last == 0 ? 0 : static_cast<Index>(last) - 1;
  }
};

/// Samples side by side: spans into vectors or into a mapped file, which must outlive them.
struct TokenSamples {
  std::span<const std::int32_t> tokens{};     // of all samples
  std::span<const std::uint8_t> is_target{};  // of each token: 1 where it is to be predicted
  std::span<const std::int64_t> offsets{};    // sample i has the tokens [offsets[i], offsets[i + 1])

  /// Number of samples.
  Index size() const { return offsets.empty() ? 0 : static_cast<Index>(offsets.size()) - 1; }
  /// Sample i, i in [0, size()).
  TokenSample operator[](Index i) const {
    require(i >= 0 && i < size(), "samples: asked for sample ", i, " of ", size());
    const auto begin = static_cast<std::size_t>(offsets[static_cast<std::size_t>(i)]);
    const auto count = static_cast<std::size_t>(offsets[static_cast<std::size_t>(i) + 1]) - begin;
    return {tokens.subspan(begin, count), is_target.subspan(begin, count)};
  }
  /// An `Error` that begins with `name` unless every offset lies within the tokens and every sample has a target behind
  /// its first token. Spans from anywhere are checked once before they are read.
  void check(const std::string& name) const {
    require(is_target.size() == tokens.size(), name, ": has ", tokens.size(), " tokens, but ", is_target.size(),
            " flags of targets");
    const auto end = static_cast<std::int64_t>(tokens.size());
    require(!offsets.empty() && offsets.front() == 0 && offsets.back() == end, name,
            ": the offsets of its samples do not go from 0 to its ", end, " tokens");
    for (std::size_t i = 0; i + 1 < offsets.size(); ++i)
      require(offsets[i] < offsets[i + 1] && offsets[i + 1] <= end, name, ": sample ", i, " has the tokens [",
              offsets[i], ", ", offsets[i + 1], ") of ", end);
    for (Index i = 0; i < size(); ++i) {
      const TokenSample sample = (*this)[i];
      require(sample.positions() > 0 && sample.is_target.front() == 0, name, ": sample ", i,
              " has no target behind its first token, or that token as a target");
    }
  }
};

/// What became of the lines of a file.
struct TokenSampleCounts {
  std::int64_t samples = 0;  // that can be learned from
  std::int64_t tokens = 0;   // in them
  std::int64_t targets = 0;  // of these are to be predicted
  std::int64_t cut = 0;      // samples whose end the context cut off
  std::int64_t skipped = 0;  // lines whose prompt alone fills the context: they have no target
  std::int64_t bad = 0;      // lines that were passed over as malformed
};

}}}  // namespace remat::data
