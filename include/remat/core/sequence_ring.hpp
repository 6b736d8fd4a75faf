// One long sequence of which each of several ranks holds a part (context parallel).
#pragma once

#include <cstddef>
#include <remat/core/error.hpp>
#include <remat/core/shape.hpp>
#include <span>

namespace remat { inline namespace REMAT_ABI {

/// Where a rank's tokens lie in the whole sequence: in two pieces of `length` tokens, number `first` and number
/// `second` of `count`.
struct SequencePieces {
  Index length = 0;             // tokens of a piece
  Index first = 0, second = 0;  // numbers of the rank's two pieces
  Index count = 0;              // pieces of the whole

  /// Tokens of the whole sequence.
  Index whole() const { return length * count; }
  /// How much further apart the two pieces lie in the whole than here, in tokens.
  Index gap() const { return (second - first - 1) * length; }
  /// The position of the rank's token t.
  Index operator[](Index t) const { return first * length + t + (t < length ? 0 : gap()); }
  /// The rank's token at `position`, or -1.
  Index token_at(Index position) const {
    if (length == 0) return -1;
    const Index piece = position / length;
    if (piece != first && piece != second) return -1;
    return position % length + (piece == first ? 0 : length);
  }
};

/// Ranks that hold one sequence together and stand in a ring. Of R ranks rank r holds pieces r and 2 R - 1 - r of 2 R,
/// so that causal attention is as much work for each. A tape with a ring (`TapeOptions::ring`) takes axis 1 of what it
/// works on, [B, T, ...], for this rank's part.
class SequenceRing {
 public:
  virtual ~SequenceRing() = default;
  virtual int rank() const = 0;  // of this process
  virtual int size() const = 0;  // how many there are
  /// Sends `out` to the next rank and receives as much from the one before. All ranks call it together.
  virtual void pass(std::span<const std::byte> out, std::span<std::byte> in) = 0;

  /// Of a part of `tokens` tokens. An `Error` where they do not fall into two pieces.
  SequencePieces pieces(Index tokens) const {
    require(tokens % 2 == 0, "sequence ring: a rank's part has ", tokens, " tokens, which are not two equal pieces; ",
            "the whole sequence must be a multiple of ", 2 * size(), " tokens");
    return {tokens / 2, rank(), 2 * Index{size()} - 1 - rank(), 2 * Index{size()}};
  }
};

}}  // namespace remat
