// Gradients of a step's micro-batches, added in one order whoever computed which.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <remat/distributed/bucket_queue.hpp>
#include <remat/distributed/bucket_task.hpp>
#include <remat/distributed/gradient_sum_options.hpp>
#include <remat/distributed/node_stack.hpp>
#include <remat/distributed/shard_norm.hpp>
#include <remat/distributed/shards.hpp>
#include <remat/distributed/tree.hpp>
#include <remat/optim/clip.hpp>
#include <remat/params/registry.hpp>
#include <span>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace distributed {

/// The sum of the gradients of a step's micro-batches, of which each rank computes a contiguous run. They are added by
/// one binary tree over their numbers, cut at the greatest power of two below its length, and in nothing else: the same
/// batch in the same micro-batches gives the same bits on any number of ranks, one among them. Beside the gradient
/// that a backward writes, at most log2 of the number of micro-batches wait (see `waiting_bytes`).
///
///     GradientSum gradients(parameters, group);
///     const Range mine = gradients.begin(micro_batches);
///     for (Index i = mine.begin; i < mine.end; ++i) {
///       Tape tape({.seed = 1, .step = step, .first_row = i * rows, .rows = rows});
///       const auto share = model.loss(tape, batch.rows(i * rows, (i + 1) * rows)) * (1.0 / micro_batches);
///       tape.backward(share, gradients.in_backward());
///       gradients.add(share.item());
///     }
///     const double loss = gradients.finish();  // every rank has the gradients now, and steps its optimizer
///
/// With `in_backward`, ranks sum a bucket of parameters as soon as the backward of their last micro-batch has no use of
/// these left, replays among them; without it, in `finish`. Buckets come in one order on all ranks: in the first step
/// from the last parameter to the first, then as they were complete in it on the first rank that had a micro-batch.
/// From that backward on to `finish` the group is not used for anything else. With `overlap` no other is, either, nor a
/// ring: it is an `Error` where two threads of one process transfer at one time.
class GradientSum {
 public:
  /// Of the parameters that are not frozen now.
  explicit GradientSum(const ParameterRegistry& parameters, Group group = {}, const GradientSumOptions& options = {})
      : parameters_(parameters.handle()),
        group_(std::move(group)),
        shards_(std::make_shared<const Shards>(parameters, group_.size(), options.bucket_bytes)),
        window_(detail::window_blocks(options.window_bytes)),
        own_shard_only_(options.own_shard_only),
        queue_(options.overlap && group_.size() > 1) {
    for (std::size_t b = 0; b < shards_->buckets().size(); ++b) order_.push_back(b);
  }

  GradientSum(const GradientSum&) = delete;
  GradientSum& operator=(const GradientSum&) = delete;

  /// Begins a step of so many micro-batches, all ranks together; returns those of this rank. An `Error` where a
  /// parameter has a gradient already, which would be counted once a rank. With an update, that of a `Sharded` made of
  /// this sum, each parameter is updated and its gradient freed as soon as it is summed: gradients never exist all at
  /// once where a rank has one micro-batch.
  template <class = void>
  Range begin(Index micro_batches, ShardUpdate update = {});
  /// For `tape.backward(share, gradients.in_backward())` of each micro-batch. Collective in the last one.
  GradientHook in_backward() {
    return [this](ParameterEntry& entry) { complete(entry); };
  }
  /// After the backward of this rank's next micro-batch: takes its gradients out of the registry, for the next. `loss`
  /// is summed in the same tree.
  template <class = void>
  void add(double loss = 0);
  /// Sums over all ranks. Every rank then has all gradients in its registry; with `own_shard_only` none, and
  /// `Sharded::step(gradients, ...)` has its shard of them from here. Returns the sum of the losses. Collective.
  template <class = void>
  double finish();
  /// The norm of all gradients together: the bits of `optim::global_norm` of one process, and its `Error`. Collective.
  double norm() const {
    return own_shard_only_ ? detail::norm_of_shards(group_, *shards_, own_) : optim::global_norm(*parameters_);
  }
  /// Seconds of the last step in which this rank waited for the thread of `overlap`, and did nothing else.
  double waited_seconds() const { return queue_.waited_seconds(); }

  /// Bytes of gradients that wait for others, or are this rank's shard, at this moment.
  std::size_t held_bytes() const {
    std::size_t bytes = nodes_.bytes() + queue_.bytes();
    for (const AnyTensor& grad : own_) bytes += grad.storage ? grad.bytes() : 0;
    return bytes;
  }
  /// What waits, at most, beside the gradients that a backward of one of so many micro-batches writes: on the rank
  /// where it is most. What a plan of the activations leaves out.
  std::size_t waiting_bytes(Index micro_batches) const {
    std::size_t bytes = 0;
    for (const auto& entry : entries()) bytes += entry->value.bytes();
    return bytes * static_cast<std::size_t>(waiting_gradients(micro_batches, group_.size()));
  }
  /// What has waited, at most, while a backward of the last step ran.
  std::size_t waited_bytes() const { return waited_; }

  /// As they are dealt out.
  const std::shared_ptr<const Shards>& shards() const { return shards_; }
  /// Of which it sums the gradients.
  const ParameterRegistry& parameters() const { return *parameters_; }
  /// Of all ranks that sum.
  const Group& group() const { return group_; }

  /// @cond inside
  /// Calls `update` for each parameter that has a sum, which is this rank's shard of it; returns which they are.
  template <class = void>
  std::vector<std::uint8_t> update_shard(const GradientHook& update);
  bool own_shard_only() const { return own_shard_only_; }
  /// @endcond

 private:
  const std::vector<std::shared_ptr<ParameterEntry>>& entries() const { return shards_->entries(); }
  void take(std::size_t e);
  template <class = void>
  void complete(ParameterEntry& entry);
  template <class = void>
  void sum_next_bucket();
  template <class = void>
  void take_sums();
  void update_one(std::size_t e, const GradientHook& update);

  std::shared_ptr<const ParameterRegistry> parameters_;
  Group group_;
  std::shared_ptr<const Shards> shards_;
  std::size_t window_;
  bool own_shard_only_;
  ShardUpdate update_{};
  std::shared_ptr<const detail::SumStep> step_ = std::make_shared<const detail::SumStep>();
  Range mine_{};
  detail::NodeStack nodes_{};
  std::vector<std::uint8_t> is_complete_{}, has_sum_{};  // by entry: in the last backward; over all ranks
  std::vector<std::int64_t> completed_{};                // entries, in the order of that backward
  std::vector<std::size_t> order_{};                     // of buckets
  bool is_order_learned_ = false;
  std::size_t next_bucket_ = 0;   // by place in the order
  std::vector<AnyTensor> own_{};  // sums of this rank's shard, by entry
  std::size_t waited_ = 0;
  detail::BucketQueue queue_;
};

/// @cond inside
template <class>
Range GradientSum::begin(Index micro_batches, ShardUpdate update) {
  require(micro_batches > 0, "gradient sum: ", micro_batches, " micro-batches; a step needs at least one");
  require(!update.update || (own_shard_only_ && update.shards == shards_),
          "gradient sum: an update in backward is that of a Sharded which was made of this sum, with own_shard_only");
  for (const auto& entry : parameters_->entries()) {
    if (update_.update && entry->consumed) entry->zero_grad();  // by the update of the step before
    require(!entry->has_grad && !entry->consumed, "gradient sum: ", entry->path,
            " has a gradient before the step begins; call zero_grad, or step the optimizer, first");
  }
  update_ = std::move(update);
  mine_ = range_of(micro_batches, group_.rank(), group_.size());
  step_ = std::make_shared<const detail::SumStep>(detail::SumStep{
      group_, shards_, window_, own_shard_only_, micro_batches, detail::held_nodes(micro_batches, group_.size())});
  next_bucket_ = 0, waited_ = 0;
  queue_.begin();
  completed_.clear();
  nodes_.begin(entries().size(), micro_batches, mine_.begin);
  is_complete_.assign(entries().size(), 0), has_sum_.assign(entries().size(), 0);
  own_.assign(own_shard_only_ ? entries().size() : 0, {});
  return mine_;
}

inline void GradientSum::take(std::size_t e) {
  ParameterEntry& entry = *entries()[e];
  const auto use = entry.used(ParameterUse::train);
  require(!entry.consumed, "gradient sum: the gradient of ", entry.path,
          " was used up by its update in backward; sum first, then call the optimizer's step");
  if (!entry.has_grad) return;
  nodes_.put(e, std::exchange(entry.grad, {}));
  entry.zero_grad();
}

template <class>
void GradientSum::complete(ParameterEntry& entry) {
  if (nodes_.next() + 1 != mine_.end) return;  // more will be added
  const std::size_t e = shards_->index_of(entry);
  take(e);
  nodes_.join(e);
  is_complete_[e] = 1;
  completed_.push_back(static_cast<std::int64_t>(e));
  const auto& buckets = shards_->buckets();
  const auto is_ready = [&](const Shards::Bucket& bucket) {
    const auto begin = is_complete_.begin();
    return std::all_of(begin + static_cast<std::ptrdiff_t>(bucket.begin),
                       begin + static_cast<std::ptrdiff_t>(bucket.end), [](std::uint8_t is) { return is != 0; });
  };
  while (next_bucket_ < order_.size() && is_ready(buckets[order_[next_bucket_]])) sum_next_bucket();
}

template <class>
void GradientSum::add(double loss) {
  require(nodes_.next() < mine_.end, "gradient sum: rank ", group_.rank(), " adds more than its micro-batches [",
          mine_.begin, ", ", mine_.end, ")");
  for (const auto& entry : parameters_->entries())
    if (entry->has_grad) static_cast<void>(shards_->index_of(*entry));  // an Error where it is unknown
  for (std::size_t e = 0; e < entries().size(); ++e)
    if (is_complete_[e] == 0) take(e);
  nodes_.close(loss);
  if (nodes_.next() < mine_.end) waited_ = std::max(waited_, held_bytes());
}

template <class>
double GradientSum::finish() {
  require(step_->count > 0 && nodes_.next() == mine_.end, "gradient sum: rank ", group_.rank(),
          " has added micro-batches [", mine_.begin, ", ", nodes_.next(), ") of [", mine_.begin, ", ", mine_.end, ")");
  while (next_bucket_ < order_.size()) sum_next_bucket();
  queue_.wait();
  take_sums();
  if (!is_order_learned_) order_ = detail::learned_order(group_, *shards_, completed_, order_);
  is_order_learned_ = true;
  if (update_.update) detail::spread_values(group_, *shards_, has_sum_);
  const std::vector<double> mine = nodes_.losses();
  std::vector<double> losses;
  for (const auto& theirs : group_.gather(std::span<const double>(mine)))
    losses.insert(losses.end(), theirs.begin(), theirs.end());
  for (const detail::Join& join : step_->nodes.joins) losses[join.left] += losses[join.right];
  nodes_.begin(0, 0, 0);
  mine_ = {}, step_ = std::make_shared<const detail::SumStep>();
  return losses.front();
}

template <class>
void GradientSum::sum_next_bucket() {
  queue_.put(std::make_shared<detail::BucketTask>(step_, order_[next_bucket_++], nodes_));
  take_sums();
}

template <class>
void GradientSum::take_sums() {
  queue_.take([&](detail::BucketTask& bucket) {
    for (std::size_t e = bucket.entries().begin; e < bucket.entries().end; ++e) {
      AnyTensor sum = bucket.taken(e);
      if (!sum.storage) continue;
      has_sum_[e] = 1;
      ParameterEntry& entry = *entries()[e];
      const auto use = entry.used(ParameterUse::train);
      if (own_shard_only_) {
        own_[e] = std::move(sum);
        entry.consumed = true;  // so that nobody takes it for zero
        if (update_.update) update_one(e, update_.update);
      } else {
        entry.grad = std::move(sum);
        entry.has_grad = true;
      }
    }
  });
}

inline void GradientSum::update_one(std::size_t e, const GradientHook& update) {
  ParameterEntry& entry = *entries()[e];
  entry.grad = std::exchange(own_[e], {});
  entry.has_grad = true;
  update(entry);
}

template <class>
std::vector<std::uint8_t> GradientSum::update_shard(const GradientHook& update) {
  require(std::any_of(has_sum_.begin(), has_sum_.end(), [](std::uint8_t has) { return has != 0; }),
          "gradient sum: there is no gradient to update by; call finish first, and step once");
  for (std::size_t e = 0; e < entries().size(); ++e) {
    if (has_sum_[e] == 0) continue;
    update_one(e, update);
    entries()[e]->zero_grad();
  }
  return std::exchange(has_sum_, std::vector<std::uint8_t>(entries().size(), 0));
}
/// @endcond

}}}  // namespace remat::distributed
