// Gradients of a step's micro-batches, added in one order whoever computed which.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <remat/core/parallel.hpp>
#include <remat/distributed/shards.hpp>
#include <remat/distributed/tree.hpp>
#include <remat/params/registry.hpp>
#include <span>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace distributed {

/// How a `GradientSum` transfers.
struct GradientSumOptions {
  std::size_t window_bytes = std::size_t{8} << 20;  // of what is sent to one rank at one time; changes no bit
};

namespace detail {

/// to += from, elementwise.
template <class T>
void add_elements(T* to, const T* from, Index count) {
  for (Index i = 0; i < count; ++i) to[i] += from[i];
}
inline void add_elements(std::byte* to, const std::byte* from, Index count, DType dtype) {
  if (dtype == DType::float32) add_elements(reinterpret_cast<float*>(to), reinterpret_cast<const float*>(from), count);
  if (dtype == DType::float64)
    add_elements(reinterpret_cast<double*>(to), reinterpret_cast<const double*>(from), count);
}

}  // namespace detail

/// The sum of the gradients of a step's micro-batches, of which each rank computes a contiguous run. They are added by
/// one binary tree over their numbers, cut at the greatest power of two below its length, and in nothing else: the same
/// batch in the same micro-batches gives the same bits on any number of ranks, one among them. Beside the gradient
/// that a backward writes, at most log2 of the number of micro-batches are held (twice as many on ranks that begin or
/// end within a node).
///
///     GradientSum gradients(parameters, group);
///     const Range mine = gradients.begin(micro_batches);
///     for (Index i = mine.begin; i < mine.end; ++i) {
///       Tape tape({.seed = 1, .step = step, .first_row = i * rows, .rows = rows});
///       const auto share = model.loss(tape, batch.rows(i * rows, (i + 1) * rows)) * (1.0 / micro_batches);
///       tape.backward(share);
///       gradients.add(share.item());
///     }
///     const double loss = gradients.finish();  // every rank has the gradients now, and steps its optimizer
class GradientSum {
 public:
  /// Of the parameters that are not frozen now.
  explicit GradientSum(const ParameterRegistry& parameters, Group group = {}, const GradientSumOptions& options = {})
      : parameters_(parameters.handle()),
        group_(std::move(group)),
        shards_(parameters, group_.size()),
        window_(detail::window_blocks(options.window_bytes)) {}

  /// Begins a step of so many micro-batches, all ranks together; returns those of this rank. An `Error` where a
  /// parameter has a gradient already, which would be counted once a rank.
  template <class = void>
  Range begin(Index micro_batches);
  /// After the backward of this rank's next micro-batch: takes its gradients out of the registry, for the next. `loss`
  /// is summed in the same tree.
  template <class = void>
  void add(double loss = 0);
  /// Sums over all ranks. Every rank then has all gradients in its registry; returns the sum of the losses. Collective.
  template <class = void>
  double finish();
  /// Bytes of gradients that are held between micro-batches, at this moment.
  std::size_t held_bytes() const {
    std::size_t bytes = 0;
    for (const Node& node : nodes_)
      for (const AnyTensor& grad : node.grads) bytes += grad.storage ? grad.bytes() : 0;
    return bytes;
  }

 private:
  struct Node {
    std::vector<AnyTensor> grads;  // one an entry; without storage where no backward has added to it
    double loss;
  };
  const std::vector<std::shared_ptr<ParameterEntry>>& entries() const { return shards_.entries(); }
  /// What all ranks hold, in the order of micro-batches.
  struct Partials {
    std::vector<detail::Join> joins{};
    std::vector<std::size_t> first{};              // of each rank, and the number of all
    std::vector<std::vector<std::uint8_t>> has{};  // by partial and entry
    std::vector<double> losses{};
  };
  void join_last();
  Partials gather_partials() const;
  void reduce(const Partials& all, const std::vector<std::byte*>& sums);

  std::shared_ptr<const ParameterRegistry> parameters_;
  Group group_;
  Shards shards_;
  std::size_t window_;
  Index count_ = 0, next_ = 0;  // micro-batches of the step; the next of this rank
  Range mine_{};
  std::vector<Range> stack_{};
  std::vector<Node> nodes_{};  // of the stack
};

/// @cond inside
template <class>
Range GradientSum::begin(Index micro_batches) {
  require(micro_batches > 0, "gradient sum: ", micro_batches, " micro-batches; a step needs at least one");
  for (const auto& entry : parameters_->entries())
    require(!entry->has_grad && !entry->consumed, "gradient sum: ", entry->path,
            " has a gradient before the step begins; call zero_grad, or step the optimizer, first");
  count_ = micro_batches;
  mine_ = range_of(micro_batches, group_.rank(), group_.size());
  next_ = mine_.begin;
  stack_.clear(), nodes_.clear();
  return mine_;
}

template <class>
void GradientSum::add(double loss) {
  require(next_ < mine_.end, "gradient sum: rank ", group_.rank(), " adds more than its micro-batches [", mine_.begin,
          ", ", mine_.end, ")");
  for (const auto& entry : parameters_->entries()) {
    require(!entry->consumed, "gradient sum: the gradient of ", entry->path,
            " was used up by its update in backward; sum first, then call the optimizer's step");
    if (entry->has_grad) static_cast<void>(shards_.range(group_.rank(), *entry));  // an Error where it is unknown
  }
  Node node{std::vector<AnyTensor>(entries().size()), loss};
  for (std::size_t e = 0; e < entries().size(); ++e) {
    ParameterEntry& entry = *entries()[e];
    const auto use = entry.used(ParameterUse::train);
    if (!entry.has_grad) continue;
    node.grads[e] = std::exchange(entry.grad, {});
    entry.zero_grad();
  }
  nodes_.push_back(std::move(node));
  detail::push_node(stack_, {next_, next_ + 1}, count_, [&] { join_last(); });
  ++next_;
}

inline void GradientSum::join_last() {
  const Node right = std::move(nodes_.back());
  nodes_.pop_back();
  Node& left = nodes_.back();
  left.loss += right.loss;
  for (std::size_t e = 0; e < right.grads.size(); ++e) {
    const AnyTensor& from = right.grads[e];
    if (!from.storage) continue;
    AnyTensor& to = left.grads[e];
    if (!to.storage) {
      to = from;
      continue;
    }
    std::byte* const bytes = to.mutable_data();
    const std::size_t each = size_of(to.dtype);
    parallel_for(to.size(), 16384, [&](Index begin, Index end) {
      const auto at = static_cast<std::size_t>(begin) * each;
      detail::add_elements(bytes + at, from.data() + at, end - begin, to.dtype);
    });
  }
}

template <class>
double GradientSum::finish() {
  require(count_ > 0 && next_ == mine_.end, "gradient sum: rank ", group_.rank(), " has added micro-batches [",
          mine_.begin, ", ", next_, ") of [", mine_.begin, ", ", mine_.end, ")");
  const Partials all = gather_partials();
  // What this rank holds first is written over: its blocks are sent before their sums come.
  std::vector<AnyTensor> sums = nodes_.empty() ? std::vector<AnyTensor>(entries().size()) : nodes_.front().grads;
  if (group_.size() > 1) {
    if (!nodes_.empty()) nodes_.front().grads.clear();  // one owner, or writing would copy
    std::vector<std::byte*> places(entries().size());
    for (std::size_t e = 0; e < entries().size(); ++e) {
      const AnyTensor& value = entries()[e]->value;
      if (std::none_of(all.has.begin(), all.has.end(), [&](const auto& has) { return has[e] != 0; })) continue;
      if (!sums[e].storage) sums[e] = {value.dtype, value.shape, pool().allocate(value.bytes()), 0};
      places[e] = sums[e].mutable_data();
    }
    reduce(all, places);
    group_.enter("gradients", 0);
    detail::spread(group_, shards_, places, window_);
    for (const AnyTensor& sum : sums)
      if (sum.storage) group_.agree("gradients", {sum.data(), sum.bytes()});
  }
  stack_.clear(), nodes_.clear();
  count_ = 0;
  for (std::size_t e = 0; e < entries().size(); ++e) {
    if (!sums[e].storage) continue;
    const auto use = entries()[e]->used(ParameterUse::train);
    entries()[e]->grad = std::move(sums[e]);
    entries()[e]->has_grad = true;
  }
  std::vector<double> losses = all.losses;
  for (const detail::Join& join : all.joins) losses[join.left] += losses[join.right];
  return losses.front();
}

inline GradientSum::Partials GradientSum::gather_partials() const {
  Partials all;
  std::vector<double> mine{static_cast<double>(count_), static_cast<double>(entries().size())};
  std::vector<std::uint8_t> has;
  for (const Node& node : nodes_) {
    mine.push_back(node.loss);
    for (const AnyTensor& grad : node.grads) has.push_back(grad.storage ? 1 : 0);
  }
  const auto numbers = group_.gather(std::span<const double>(mine));
  const auto flags = group_.gather(std::span<const std::uint8_t>(has));
  std::vector<Range> nodes;
  for (int r = 0; r < group_.size(); ++r) {
    const auto& theirs = numbers[static_cast<std::size_t>(r)];
    require(theirs[0] == mine[0] && theirs[1] == mine[1], "gradient sum: rank ", r, " sums ", theirs[0],
            " micro-batches of ", theirs[1], " parameters, rank ", group_.rank(), " ", mine[0], " of ", mine[1],
            "; all ranks build one model and cut one batch");
    all.first.push_back(nodes.size());
    for (const Range& node : detail::nodes_of(range_of(count_, r, group_.size()), count_)) nodes.push_back(node);
    all.losses.insert(all.losses.end(), theirs.begin() + 2, theirs.end());
    const auto& bits = flags[static_cast<std::size_t>(r)];
    for (std::size_t n = all.first.back(); n < nodes.size(); ++n) {
      const auto row = bits.begin() + static_cast<std::ptrdiff_t>((n - all.first.back()) * entries().size());
      all.has.emplace_back(row, row + static_cast<std::ptrdiff_t>(entries().size()));
    }
  }
  all.first.push_back(nodes.size());
  all.joins = detail::joins_of(nodes, count_);
  return all;
}

/// Each rank gets what the others hold of its own blocks, window by window, joins all in the order of the tree, and
/// writes the sums to its blocks of `sums`; where `sums` is this rank's first partial, that is read before.
inline void GradientSum::reduce(const Partials& all, const std::vector<std::byte*>& sums) {
  const auto me = static_cast<std::size_t>(group_.rank());
  const auto element = [&](const Shards::Block& block) { return size_of(entries()[block.entry]->value.dtype); };
  const auto bytes_of = [&](const Shards::Block& b) { return static_cast<std::size_t>(b.end - b.begin) * element(b); };
  const auto packed = [&](const Shards::Block& b) { return (bytes_of(b) + 7) / 8 * 8; };  // doubles after few floats
  const auto held = [&](std::size_t node, std::size_t e) -> const std::byte* {
    return node == 0 ? sums[e] : nodes_[node].grads[e].data();
  };
  const auto bytes_from = [&](std::size_t rank, std::span<const Shards::Block> blocks) {
    std::size_t bytes = 0;
    for (const Shards::Block& block : blocks)
      for (std::size_t p = all.first[rank]; p < all.first[rank + 1]; ++p)
        bytes += all.has[p][block.entry] ? packed(block) : 0;
    return bytes;
  };
  const auto pack = [&](std::span<const Shards::Block> blocks, std::vector<std::byte>& out) {
    out.resize(bytes_from(me, blocks));
    std::byte* to = out.data();
    for (const Shards::Block& block : blocks)
      for (std::size_t p = all.first[me]; p < all.first[me + 1]; ++p)
        if (all.has[p][block.entry]) {
          std::copy_n(held(p - all.first[me], block.entry) + static_cast<std::size_t>(block.begin) * element(block),
                      bytes_of(block), to);
          to += packed(block);
        }
  };
  std::vector<std::vector<std::byte>> received(static_cast<std::size_t>(group_.size()));
  std::vector<std::byte> out;
  for (std::size_t w = 0; w < shards_.windows(window_); ++w) {
    const auto own = shards_.window(group_.rank(), w, window_);
    pack(own, received[me]);
    group_.each_other([&](int to, int from) {
      pack(shards_.window(to, w, window_), out);
      auto& in = received[static_cast<std::size_t>(from)];
      in.resize(bytes_from(static_cast<std::size_t>(from), own));
      group_.exchange(out, to, in, from);
    });
    std::vector<std::size_t> at(received.size(), 0);
    std::vector<std::byte*> parts(all.first.back());
    for (const Shards::Block& block : own) {
      for (std::size_t r = 0; r < received.size(); ++r)
        for (std::size_t p = all.first[r]; p < all.first[r + 1]; ++p) {
          parts[p] = all.has[p][block.entry] ? received[r].data() + at[r] : nullptr;
          at[r] += parts[p] ? packed(block) : 0;
        }
      for (const auto& [left, right] : all.joins) {
        if (parts[left] && parts[right])
          detail::add_elements(parts[left], parts[right], block.end - block.begin, entries()[block.entry]->value.dtype);
        else if (!parts[left])
          parts[left] = parts[right];
      }
      if (parts[0])
        std::copy_n(parts[0], bytes_of(block),
                    sums[block.entry] + static_cast<std::size_t>(block.begin) * element(block));
    }
  }
}
/// @endcond

}}}  // namespace remat::distributed
