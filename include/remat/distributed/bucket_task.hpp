// One bucket of gradients, from what this rank has added up of it to its sums over all ranks.
#pragma once

#include <cstddef>
#include <memory>
#include <remat/distributed/bucket_sum.hpp>
#include <remat/distributed/node_stack.hpp>
#include <remat/distributed/shards.hpp>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace distributed { namespace detail {

/// What all buckets of a step have in common.
struct SumStep {
  Group group{};
  std::shared_ptr<const Shards> shards{};
  std::size_t window = 1;       // blocks of what is sent to one rank at one time
  bool own_shard_only = false;  // sums of the rank's own shard alone are kept
  Index count = 0;              // micro-batches
  HeldNodes nodes{};            // of all ranks, when each has added up its own
};

/// One bucket of a step. It holds all that it works on, so that another thread may run it; of parameters it looks at
/// type and shape alone.
class BucketTask {
 public:
  /// Takes its gradients out of `from`, where they are joined.
  BucketTask(std::shared_ptr<const SumStep> step, std::size_t bucket, NodeStack& from)
      : step_(std::move(step)), bucket_(bucket), of_(step_->shards->buckets()[bucket]) {
    const auto& first = step_->nodes.first;
    const auto rank = static_cast<std::size_t>(step_->group.rank());
    grads_.resize(first[rank + 1] - first[rank]);
    for (std::size_t n = 0; n < grads_.size(); ++n)
      for (std::size_t e = of_.begin; e < of_.end; ++e) {
        grads_[n].push_back(from.taken(n, e));
        if (grads_[n].back().storage) bytes_ += grads_[n].back().bytes();
      }
  }
  /// Parameters, by their places in `Shards::entries()`.
  const Shards::Bucket& entries() const { return of_; }
  /// Of the gradients that it was made of.
  std::size_t bytes() const { return bytes_; }
  /// Sums them over all ranks. Collective.
  template <class = void>
  void run();
  /// The sum of a parameter, or this rank's shard of it, once it has run; without storage where no rank has any.
  AnyTensor taken(std::size_t e) { return std::exchange(sums_[e - of_.begin], {}); }

 private:
  bool has(std::size_t node, std::size_t e) const { return grads_[node][e - of_.begin].storage.get() != nullptr; }

  std::shared_ptr<const SumStep> step_;
  std::size_t bucket_;
  Shards::Bucket of_;
  std::vector<std::vector<AnyTensor>> grads_{};  // by node of this rank and parameter
  std::vector<AnyTensor> sums_{};
  std::size_t bytes_ = 0;
};

/// @cond inside
template <class>
void BucketTask::run() {
  const Group& group = step_->group;
  const Shards& shards = *step_->shards;
  const BucketSum sum(group, shards, step_->nodes, step_->count, bucket_,
                      [&](std::size_t node, std::size_t e) { return has(node, e); });
  sums_.resize(of_.size());
  std::vector<std::byte*> places(shards.entries().size());
  const bool is_whole = group.size() == 1 || !step_->own_shard_only;
  for (std::size_t e = of_.begin; e < of_.end; ++e) {
    if (!sum.has_any(e)) continue;
    AnyTensor& to = sums_[e - of_.begin];
    const AnyTensor& value = shards.entries()[e]->value;
    const auto [begin, end] = shards.range(group.rank(), e);
    // What this rank holds first is written over: its blocks are sent before their sums come.
    if (is_whole && !grads_.empty()) to = std::exchange(grads_.front()[e - of_.begin], {});
    to.dtype = value.dtype, to.shape = step_->own_shard_only ? Shape{end - begin} : value.shape;
    if (!to.storage) to.storage = pool().allocate(to.bytes());
    places[e] = to.mutable_data();
  }
  if (group.size() > 1) {
    const auto held = [&](std::size_t node, std::size_t e) -> const std::byte* {
      return node == 0 && is_whole ? places[e] : std::as_const(grads_[node][e - of_.begin]).data();
    };
    const auto place = [&](const Shards::Block& block) {
      const Index before = step_->own_shard_only ? shards.range(group.rank(), block.entry).first : 0;
      return places[block.entry] +
             static_cast<std::size_t>(block.begin - before) * size_of(sums_[block.entry - of_.begin].dtype);
    };
    sum.run(step_->window, held, place);
    if (!step_->own_shard_only) {
      spread(group, shards, bucket_, places, step_->window);
      for (const AnyTensor& of : sums_)
        if (of.storage) group.agree("gradients", {of.data(), of.bytes()});
    }
  }
  grads_.clear();
}
/// @endcond

}}}}  // namespace remat::distributed::detail
