// The one tree in which what micro-batches gave is added, whoever computed which.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <remat/core/shape.hpp>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace distributed {

/// Neighbouring micro-batches [begin, end) of a step.
struct Range {
  Index begin = 0, end = 0;  // counted over the whole step
  /// How many they are.
  Index size() const { return end - begin; }
  friend bool operator==(const Range&, const Range&) = default;
};

/// The run of one of `ranks` processes: all are as long as each other, or one longer; where there are fewer
/// micro-batches than processes, some have none.
inline Range range_of(Index count, int rank, int ranks) { return {count * rank / ranks, count * (rank + 1) / ranks}; }

namespace detail {

/// The tree over [0, count): each of its nodes is cut at the greatest power of two below its length. Are these two, of
/// which the right begins where the left ends, the halves of one node?
inline bool are_halves(Range left, Range right, Index count) {
  Range node{0, count};
  while (node.size() > 1) {
    const Index cut = node.begin + static_cast<Index>(std::bit_floor(static_cast<std::uint64_t>(node.size() - 1)));
    if (left.begin == node.begin && left.end == cut && right.end == node.end) return true;
    if (right.end <= cut)
      node.end = cut;
    else if (left.begin >= cut)
      node.begin = cut;
    else
      return false;
  }
  return false;
}

/// Puts a node on the stack of those before it, and joins the last two, by `join()`, as long as they are halves of one:
/// what is left are the greatest nodes that there are, at most log2 of `count` and one.
template <class Join>
void push_node(std::vector<Range>& stack, Range next, Index count, Join&& join) {
  stack.push_back(next);
  while (stack.size() >= 2 && are_halves(stack[stack.size() - 2], stack.back(), count)) {
    join();
    stack[stack.size() - 2].end = stack.back().end;
    stack.pop_back();
  }
}

/// The nodes that are left of a run.
inline std::vector<Range> nodes_of(Range run, Index count) {
  std::vector<Range> nodes;
  for (Index i = run.begin; i < run.end; ++i) push_node(nodes, {i, i + 1}, count, [] {});
  return nodes;
}

/// The joins, (left, right) by place in `nodes`, that make the whole of nodes which cover [0, count) in order.
struct Join {
  std::size_t left, right;
};
inline std::vector<Join> joins_of(const std::vector<Range>& nodes, Index count) {
  std::vector<Join> joins;
  std::vector<Range> stack;
  std::vector<std::size_t> places;
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    places.push_back(i);
    push_node(stack, nodes[i], count, [&] {
      joins.push_back({places[places.size() - 2], places.back()});
      places.pop_back();
    });
  }
  return joins;
}

}  // namespace detail

/// How many sums of gradients wait on any of `ranks` processes, at most, while the gradients of another micro-batch are
/// computed: log2 of their number where one process has them all.
inline Index waiting_gradients(Index micro_batches, int ranks = 1) {
  std::size_t most = 0;
  for (int r = 0; r < ranks; ++r) {
    const Range run = range_of(micro_batches, r, ranks);
    std::vector<Range> stack;
    for (Index i = run.begin; i < run.end; ++i) {
      most = std::max(most, stack.size());
      detail::push_node(stack, {i, i + 1}, micro_batches, [] {});
    }
  }
  return static_cast<Index>(most);
}

}}}  // namespace remat::distributed
