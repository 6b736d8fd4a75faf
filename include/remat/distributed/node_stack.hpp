// Sums of the gradients of one rank's micro-batches, by parameter: the nodes of the tree that are not joined yet.
#pragma once

#include <cstddef>
#include <remat/core/parallel.hpp>
#include <remat/core/tensor.hpp>
#include <remat/distributed/bucket_sum.hpp>
#include <remat/distributed/tree.hpp>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace distributed { namespace detail {

/// Nodes in order, and above them one that is open for the next micro-batch. Its gradients are joined with those before
/// parameter by parameter, as they are complete, or all together when it closes.
class NodeStack {
 public:
  /// Nothing of a step of `count` micro-batches yet; the next is `first`.
  void begin(std::size_t entries, Index count, Index first) {
    entries_ = entries, count_ = count, next_ = first;
    ranges_.clear(), nodes_.clear();
  }
  /// The micro-batch whose gradients come next.
  Index next() const { return next_; }
  /// Takes a parameter's gradient out of a node. Nodes are numbered as they are once the open one is closed.
  AnyTensor taken(std::size_t node, std::size_t e) { return std::exchange(nodes_[node].grads[e], {}); }
  /// Gives the open node a gradient.
  void put(std::size_t e, AnyTensor grad) {
    open();
    nodes_.back().grads[e] = std::move(grad);
  }
  /// Joins one parameter's gradient in the open node with those before, as `close` will.
  void join(std::size_t e) {
    open();
    for (std::size_t j = 0; j < joins_; ++j) join(nodes_[nodes_.size() - j - 2], nodes_[nodes_.size() - j - 1], e);
  }
  /// Closes the open node, with the loss of its micro-batch.
  void close(double loss) {
    open();
    nodes_.back().loss = loss;
    push_node(ranges_, {next_, next_ + 1}, count_, [&] {
      Node& right = nodes_.back();
      Node& left = nodes_[nodes_.size() - 2];
      left.loss += right.loss;
      for (std::size_t e = 0; e < entries_; ++e) join(left, right, e);
      nodes_.pop_back();
    });
    ++next_;
  }
  std::vector<double> losses() const {
    std::vector<double> all;
    for (const Node& node : nodes_) all.push_back(node.loss);
    return all;
  }
  std::size_t bytes() const {
    std::size_t bytes = 0;
    for (const Node& node : nodes_)
      for (const AnyTensor& grad : node.grads) bytes += grad.storage ? grad.bytes() : 0;
    return bytes;
  }

 private:
  struct Node {
    std::vector<AnyTensor> grads;  // without storage where no backward has added to it
    double loss = 0;
  };
  void open() {
    if (nodes_.size() > ranges_.size()) return;
    nodes_.push_back({std::vector<AnyTensor>(entries_)});
    joins_ = 0;
    std::vector<Range> after = ranges_;
    push_node(after, {next_, next_ + 1}, count_, [&] { ++joins_; });
  }
  static void join(Node& left, Node& right, std::size_t e) {
    const AnyTensor from = std::exchange(right.grads[e], {});
    AnyTensor& to = left.grads[e];
    if (!from.storage) return;
    if (!to.storage) {
      to = from;
      return;
    }
    std::byte* const bytes = to.mutable_data();
    const std::size_t each = size_of(to.dtype);
    parallel_for(to.size(), 16384, [&](Index begin, Index end) {
      const auto at = static_cast<std::size_t>(begin) * each;
      add_elements(bytes + at, from.data() + at, end - begin, to.dtype);
    });
  }

  std::size_t entries_ = 0, joins_ = 0;  // joins that closing the open node brings about
  Index count_ = 0, next_ = 0;
  std::vector<Range> ranges_{};  // of the nodes that are closed
  std::vector<Node> nodes_{};
};

}}}}  // namespace remat::distributed::detail
