// Batches of a token sequence: random windows to train on, every window once to evaluate.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <remat/core/random.hpp>
#include <remat/core/tensor.hpp>
#include <remat/data/batch_parts.hpp>
#include <remat/data/shuffled.hpp>
#include <span>
#include <string>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace data {

/// Tokens [B, T], and as targets the tokens one position later, [B, T].
struct Batch {
  Tensor<std::int32_t> inputs, targets;  // [B, T]

  /// Sequences [begin, end): a micro-batch. Its tape is told `.first_row = begin, .rows = end - begin`.
  Batch rows(Index begin, Index end) const {
    return {detail::rows_of(inputs, begin, end), detail::rows_of(targets, begin, end)};
  }
};

/// Windows of `length` tokens in shuffled order: each epoch cuts the text side by side from another random beginning,
/// so that it sees no token twice. What is left over at the two ends, fewer than 2 * length tokens together, is not
/// seen in that epoch but, cut otherwise, in others. A batch is a pure function of (seed, step): a run that resumes at
/// step n needs nothing but n. The tokens must outlive this object.
class RandomBatches {
 public:
  /// `name` stands for the tokens in errors: a file perhaps.
  RandomBatches(std::span<const std::int32_t> tokens, Index batch, Index length, std::uint64_t seed,
                const std::string& name = "tokens")
      : tokens_(tokens), batch_(batch), length_(length), seed_(seed) {
    require(batch > 0 && length > 0, name, ": batch ", batch, " and length ", length, " must be at least 1");
    require(static_cast<Index>(tokens.size()) > length, name, ": has ", tokens.size(), " tokens, but windows of ",
            length, " need at least ", length, " + 1; use a shorter length or a longer text");
    windows_ = (static_cast<Index>(tokens.size()) - 1) / length;
    beginnings_ = (static_cast<Index>(tokens.size()) - 1) % length + 1;
    // One window is given up where there are more, so that the others can begin anywhere.
    if (windows_ > 1) --windows_, beginnings_ += length;
  }

  RandomBatches(const std::vector<std::int32_t>&&, Index, Index, std::uint64_t, const std::string& = "") = delete;

  /// The batches of step 0, 1 and so on, one with each call.
  Batch next() { return at(step_++); }
  /// The batch of `step`, in [0, 2^32).
  Batch at(Index step) const {
    require(step >= 0 && step <= std::numeric_limits<std::uint32_t>::max(), "batches: step ", step,
            " is not in [0, 2^32)");
    std::vector<std::int32_t> inputs, targets;
    for (Index row = 0; row < batch_; ++row) {
      const std::int32_t* const window = tokens_.data() + beginning(checked_mul(step, batch_, "batches") + row);
      inputs.insert(inputs.end(), window, window + length_);
      targets.insert(targets.end(), window + 1, window + 1 + length_);
    }
    const Shape shape{batch_, length_};
    return {Tensor<std::int32_t>(shape, inputs), Tensor<std::int32_t>(shape, targets)};
  }

 private:
  static constexpr std::uint32_t site = 0xFFFFFFFF;

  /// Where window `n` of all epochs begins.
  Index beginning(Index n) const {
    const RandomStream stream{seed_, static_cast<std::uint32_t>(n / windows_), site};
    const Index offset = static_cast<Index>(stream.word(0)) % beginnings_;
    return offset + length_ * detail::shuffled(n % windows_, windows_, stream);
  }

  std::span<const std::int32_t> tokens_;
  Index batch_, length_;
  std::uint64_t seed_;
  Index windows_ = 0, beginnings_ = 1;
  Index step_ = 0;
};

/// Windows side by side that predict every token but the first exactly once, in order: `for (Batch b : batches)`. The
/// last full windows may be a smaller batch, and a last shorter window is a batch of its own. To average a loss over
/// the whole, weight each batch by `targets.size()`. The tokens must outlive this object.
class SequentialBatches {
 public:
  /// Windows of `length` tokens, `batch` to a batch; `name` stands for the tokens in errors. An `Error` for fewer than
  /// 2 tokens.
  SequentialBatches(std::span<const std::int32_t> tokens, Index batch, Index length, const std::string& name = "tokens")
      : tokens_(tokens), batch_(batch), length_(length) {
    require(batch > 0 && length > 0, name, ": batch ", batch, " and length ", length, " must be at least 1");
    require(tokens.size() >= 2, name, ": has ", tokens.size(),
            " tokens, but a prediction needs at least 2; use a longer text");
  }

  SequentialBatches(const std::vector<std::int32_t>&&, Index, Index, const std::string& = "") = delete;

  /// Number of batches.
  Index size() const { return (windows() + batch_ - 1) / batch_ + (tail() > 0); }
  /// Number of predicted tokens, all batches together.
  Index predictions() const { return static_cast<Index>(tokens_.size()) - 1; }
  /// Batch i, i in [0, size()).
  Batch at(Index i) const {
    require(i >= 0 && i < size(), "batches: asked for batch ", i, " of ", size());
    const Index first = std::min(checked_mul(i, batch_), windows()), rows = std::min(batch_, windows() - first);
    const Shape shape = rows > 0 ? Shape{rows, length_} : Shape{1, tail()};
    const auto from = [&](Index begin) {
      return Tensor<std::int32_t>(
          shape, tokens_.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(shape.size())));
    };
    return {from(first * length_), from(first * length_ + 1)};
  }

  using Iterator = BatchIterator<SequentialBatches>;  // good as long as these batches
  ///@{
  /// The first batch, and the end behind the last.
  Iterator begin() const& { return {this, 0}; }
  Iterator end() const& { return {this, size()}; }
  ///@}
  void begin() const&& = delete;  // an iterator points to its batches
  void end() const&& = delete;

 private:
  Index windows() const { return predictions() / length_; }
  Index tail() const { return predictions() % length_; }

  std::span<const std::int32_t> tokens_;
  Index batch_, length_;
};

}}}  // namespace remat::data
