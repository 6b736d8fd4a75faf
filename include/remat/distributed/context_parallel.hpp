// Context parallel: ranks that share each long sequence, and what a trainer needs for it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <remat/core/sequence_ring.hpp>
#include <remat/core/tensor.hpp>
#include <remat/distributed/agree.hpp>
#include <remat/distributed/group.hpp>
#include <span>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace distributed {

namespace detail {

/// The ranks of a group, in order.
class GroupRing final : public SequenceRing {
 public:
  explicit GroupRing(Group group) : group_(std::move(group)) {}
  int rank() const override { return group_.rank(); }
  int size() const override { return group_.size(); }
  void pass(std::span<const std::byte> out, std::span<std::byte> in) override {
    group_.enter("ring attention", out.size());
    group_.exchange(out, (rank() + 1) % size(), in, (rank() + size() - 1) % size());
  }

 private:
  Group group_;
};

}  // namespace detail

/// Long sequences, of which each rank of a group has a part: piece r and piece 2 R - 1 - r of 2 R, so that causal
/// attention is as much work for each. A part has its tokens in order. Sequences are multiples of 2 R tokens. All ranks
/// record the same steps, and call backward, together.
///
///     const distributed::ContextParallel context(group);
///     distributed::GradientSum gradients(parameters, group);
///     const auto mine = context.part(batches.at(step));    // [B, T / R]
///     gradients.begin(group.size());                       // one part a rank
///     Tape tape({.seed = 1, .step = step, .ring = context.ring()});
///     const auto loss = gpt.loss(tape, mine) * context.token_share(mine.targets);
///     tape.backward(loss);
///     gradients.add(loss.item());
///     const double mean = gradients.finish();              // over the tokens of all ranks
class ContextParallel {
 public:
  /// Of the ranks of `group`: all, or those of `group.sub(color)`, where other ranks have other sequences. They talk by
  /// themselves from then on, so that nothing meets what `group` sends otherwise. Collective.
  explicit ContextParallel(const Group& group = {}) : group_(group.sub(0)) {
    if (group_.size() > 1) ring_ = std::make_shared<detail::GroupRing>(group_);
  }

  /// For `TapeOptions::ring`; null in a group of one.
  const std::shared_ptr<SequenceRing>& ring() const { return ring_; }
  /// The ranks.
  const Group& group() const { return group_; }

  /// This rank's part of `whole` along `axis`, whose length is a multiple of 2 R.
  template <class T>
  Tensor<T> part(const Tensor<T>& whole, int axis = 1) const;
  /// Of a batch with inputs and targets [B, T], and with segments or without.
  template <class Batch>
  requires requires(const Batch& b) { b.inputs.shape(), b.targets.shape(); }
  Batch part(const Batch& batch) const {
    Batch own = batch;
    own.inputs = part(batch.inputs), own.targets = part(batch.targets);
    if constexpr (requires { own.segments; }) own.segments = part(batch.segments);
    return own;
  }
  /// Where the tokens of this rank's part lie in the whole, [rows, tokens]: what attention, `rotary` and
  /// `add_positions` count by on a tape with the ring, for those who look positions up themselves.
  Tensor<std::int32_t> positions(Index rows, Index tokens) const {
    const SequencePieces pieces = pieces_of(tokens);
    std::vector<std::int32_t> places;
    for (Index i = 0; i < rows * tokens; ++i) places.push_back(static_cast<std::int32_t>(pieces[i % tokens]));
    return {{rows, tokens}, std::span<const std::int32_t>(places)};
  }
  /// The parts of all ranks, put together as they lie in the whole. Collective.
  template <class T>
  Tensor<T> whole(const Tensor<T>& part, int axis = 1) const;

  /// What a mean over this rank's targets counts in the mean over the targets of all ranks; those of `ignored` do not
  /// count. An `Error` where there are none at all. Collective.
  double token_share(const Tensor<std::int32_t>& targets, std::int32_t ignored = -1) const {
    const auto own = static_cast<double>(targets.size() - std::count(targets.begin(), targets.end(), ignored));
    return token_shares(group_, std::span(&own, 1)).front();
  }

 private:
  SequencePieces pieces_of(Index tokens) const {
    return ring_ == nullptr ? SequencePieces{tokens, 0, 0, 1} : ring_->pieces(tokens);
  }
  /// Calls `copy(i, begin in the whole, begin in the part, elements)` for each run of elements that lie together.
  template <class Copy>
  static void each_run(const SequencePieces& pieces, Index outer, Index inner, Copy&& copy) {
    const Index run = pieces.length * inner, halves = pieces.count == 1 ? 1 : 2;
    for (Index o = 0; o < outer; ++o)
      for (Index half = 0; half < halves; ++half)
        copy((o * pieces.count + (half == 0 ? pieces.first : pieces.second)) * run, (o * halves + half) * run, run);
  }
  static std::pair<Index, Index> around(const Shape& shape, int axis) {
    Index outer = 1, inner = 1;
    for (int i = 0; i < shape.rank(); ++i) (i < axis ? outer : inner) *= i == axis ? 1 : shape[i];
    return {outer, inner};
  }

  Group group_;
  std::shared_ptr<SequenceRing> ring_{};
};

/// @cond inside
template <class T>
Tensor<T> ContextParallel::part(const Tensor<T>& whole, int axis) const {
  Shape shape = whole.shape();
  axis = shape.axis(axis, "context parallel: axis");
  require(shape[axis] % (2 * group_.size()) == 0 || group_.size() == 1, "context parallel: a sequence of ", shape[axis],
          " tokens does not fall into 2 pieces a rank; it must be a multiple of ", 2 * group_.size());
  const auto [outer, inner] = around(shape, axis);
  shape[axis] /= group_.size();
  std::vector<T> elements(static_cast<std::size_t>(shape.size()));
  each_run(pieces_of(shape[axis]), outer, inner,
           [&](Index from, Index to, Index count) { std::copy_n(whole.data() + from, count, elements.data() + to); });
  return Tensor<T>(shape, std::span<const T>(elements));
}

template <class T>
Tensor<T> ContextParallel::whole(const Tensor<T>& part, int axis) const {
  Shape shape = part.shape();
  axis = shape.axis(axis, "context parallel: axis");
  const auto [outer, inner] = around(shape, axis);
  const Index tokens = shape[axis];
  const auto all = group_.gather(part.span());
  shape[axis] *= group_.size();
  std::vector<T> elements(static_cast<std::size_t>(shape.size()));
  for (std::size_t r = 0; r < all.size(); ++r) {
    require(static_cast<Index>(all[r].size()) == part.size(), "context parallel: rank ", r, " has a part of ",
            all[r].size(), " elements, rank ", group_.rank(), " one of ", part.size());
    SequencePieces pieces = pieces_of(tokens);
    pieces.first = static_cast<Index>(r), pieces.second = pieces.count - 1 - static_cast<Index>(r);
    each_run(pieces, outer, inner, [&](Index to, Index from, Index count) {
      std::copy_n(all[r].data() + from, count, elements.data() + to);
    });
  }
  return Tensor<T>(shape, std::span<const T>(elements));
}
/// @endcond

}}}  // namespace remat::distributed
