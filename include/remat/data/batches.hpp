// Batches of a token sequence: random windows to train on, every window once to evaluate.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <remat/core/random.hpp>
#include <remat/core/tensor.hpp>
#include <span>
#include <string>

namespace remat::inline REMAT_ABI::data {

/// Tokens [B, T], and as targets the tokens one position later, [B, T].
struct Batch {
  Tensor<std::int32_t> inputs, targets;
};

/// Windows of `length` tokens that begin anywhere, drawn with replacement. A batch is a pure function of (seed, step):
/// a run that resumes at step n needs nothing but n. The tokens must outlive this object.
class RandomBatches {
 public:
  /// `name` stands for the tokens in errors: a file perhaps.
  RandomBatches(std::span<const std::int32_t> tokens, Index batch, Index length, std::uint64_t seed,
                const std::string& name = "tokens")
      : tokens_(tokens), batch_(batch), length_(length), seed_(seed) {
    require(batch > 0 && length > 0, name, ": batch ", batch, " and length ", length, " must be at least 1");
    require(static_cast<Index>(tokens.size()) > length, name, ": has ", tokens.size(), " tokens, but windows of ",
            length, " need at least ", length, " + 1; use a shorter length or a longer text");
  }

  Batch next() { return at(step_++); }
  /// The batch of `step`, in [0, 2^32).
  Batch at(Index step) const {
    require(step >= 0 && step <= std::numeric_limits<std::uint32_t>::max(), "batches: step ", step,
            " is not in [0, 2^32)");
    const RandomStream stream{seed_, static_cast<std::uint32_t>(step), site};
    const std::uint64_t starts = tokens_.size() - static_cast<std::size_t>(length_);
    Batch batch{Tensor<std::int32_t>({batch_, length_}), Tensor<std::int32_t>({batch_, length_})};
    std::int32_t *inputs = batch.inputs.data(), *targets = batch.targets.data();
    for (Index row = 0; row < batch_; ++row, inputs += length_, targets += length_) {
      const auto words = stream.block(static_cast<std::uint64_t>(row));
      const std::uint64_t start = ((std::uint64_t{words[1]} << 32) | words[0]) % starts;
      std::copy_n(tokens_.data() + start, length_, inputs);
      std::copy_n(tokens_.data() + start + 1, length_, targets);
    }
    return batch;
  }

 private:
  // Ops count their sites up from 0: this one stays apart from all dropout of the same seed and step.
  static constexpr std::uint32_t site = 0xFFFFFFFF;

  std::span<const std::int32_t> tokens_;
  Index batch_, length_;
  std::uint64_t seed_;
  Index step_ = 0;
};

/// Windows side by side that predict every token but the first exactly once, in order: `for (Batch b : batches)`. The
/// last full windows may be a smaller batch, and a last shorter window is a batch of its own. To average a loss over
/// the whole, weight each batch by `targets.size()`. The tokens must outlive this object.
class SequentialBatches {
 public:
  SequentialBatches(std::span<const std::int32_t> tokens, Index batch, Index length, const std::string& name = "tokens")
      : tokens_(tokens), batch_(batch), length_(length) {
    require(batch > 0 && length > 0, name, ": batch ", batch, " and length ", length, " must be at least 1");
    require(tokens.size() >= 2, name, ": has ", tokens.size(),
            " tokens, but a prediction needs at least 2; use a longer text");
  }

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

  struct Iterator {
    const SequentialBatches* batches;
    Index i;
    Batch operator*() const { return batches->at(i); }
    Iterator& operator++() { return ++i, *this; }
    bool operator==(const Iterator& other) const { return i == other.i; }
  };
  Iterator begin() const { return {this, 0}; }
  Iterator end() const { return {this, size()}; }

 private:
  Index windows() const { return predictions() / length_; }
  Index tail() const { return predictions() % length_; }

  std::span<const std::int32_t> tokens_;
  Index batch_, length_;
};

}  // namespace remat::inline REMAT_ABI::data
