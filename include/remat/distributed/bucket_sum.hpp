// The sum of one bucket of gradients over all ranks, each element by the rank that owns it.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <remat/distributed/shards.hpp>
#include <remat/distributed/tree.hpp>
#include <span>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace distributed { namespace detail {

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

/// The sums that ranks hold when each has added up its own run of micro-batches: nodes of the tree, in order, and how
/// they are joined.
struct HeldNodes {
  std::vector<std::size_t> first{};  // of each rank, and the number of all
  std::vector<Join> joins{};
};
inline HeldNodes held_nodes(Index count, int ranks) {
  HeldNodes held;
  std::vector<Range> nodes;
  for (int r = 0; r < ranks; ++r) {
    held.first.push_back(nodes.size());
    for (const Range& node : nodes_of(range_of(count, r, ranks), count)) nodes.push_back(node);
  }
  held.first.push_back(nodes.size());
  held.joins = joins_of(nodes, count);
  return held;
}

/// The order in which buckets are complete, where parameters were in the order `completed` on the first rank that has
/// any: a bucket is as late as the last of its parameters, and what nobody completes comes last. Collective.
template <class = void>
std::vector<std::size_t> learned_order(const Group& group, const Shards& shards,
                                       const std::vector<std::int64_t>& completed, std::vector<std::size_t> order) {
  std::vector<std::size_t> place(shards.entries().size(), shards.entries().size());
  for (const auto& theirs : group.gather(std::span<const std::int64_t>(completed))) {
    for (std::size_t i = 0; i < theirs.size(); ++i) place[static_cast<std::size_t>(theirs[i])] = i;
    if (!theirs.empty()) break;
  }
  const auto last_of = [&](std::size_t bucket) {
    const Shards::Bucket of = shards.buckets()[bucket];
    return *std::max_element(place.begin() + static_cast<std::ptrdiff_t>(of.begin),
                             place.begin() + static_cast<std::ptrdiff_t>(of.end));
  };
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return last_of(a) < last_of(b); });
  return order;
}

/// One bucket on its way: what this rank holds of it, and where its own sums go.
class BucketSum {
 public:
  using Block = Shards::Block;

  /// `has(node, entry)`: has this rank's node a gradient of that parameter, by its place in `entries()`? Tells all of
  /// it. Collective.
  template <class Has>
  BucketSum(const Group& group, const Shards& shards, const HeldNodes& nodes, Index count, std::size_t bucket,
            Has&& has)
      : group_(group), shards_(shards), nodes_(nodes), bucket_(bucket), me_(static_cast<std::size_t>(group.rank())) {
    group.enter("gradients", 0);
    const Shards::Bucket of = shards.buckets()[bucket];
    // What must be the same on all ranks goes along, so that other calls are told rather than mixed up.
    const std::array<std::int64_t, 3> call{count, static_cast<std::int64_t>(of.begin),
                                           static_cast<std::int64_t>(of.end)};
    std::vector<std::byte> mine(sizeof call);
    std::memcpy(mine.data(), call.data(), sizeof call);
    for (std::size_t n = nodes.first[me_]; n < nodes.first[me_ + 1]; ++n)
      for (std::size_t e = of.begin; e < of.end; ++e) mine.push_back(std::byte{has(n - nodes.first[me_], e)});
    const auto all = group.gather(std::span<const std::byte>(mine));
    for (std::size_t r = 0; r < all.size(); ++r) {
      std::array<std::int64_t, 3> theirs{};
      std::memcpy(theirs.data(), all[r].data(), sizeof theirs);
      require(theirs == call, "gradient sum: rank ", r, " sums ", theirs[0], " micro-batches, parameters [", theirs[1],
              ", ", theirs[2], "); rank ", me_, " ", call[0], " of [", call[1], ", ", call[2],
              "); all ranks build one model and cut one batch");
      has_.insert(has_.end(), all[r].begin() + sizeof call, all[r].end());
    }
  }

  /// Has any rank a gradient of the parameter?
  bool has_any(std::size_t entry) const {
    for (std::size_t n = 0; n < nodes_.first.back(); ++n)
      if (has(n, entry)) return true;
    return false;
  }

  /// Each rank gets what the others hold of its own blocks, window by window, joins all in the order of the tree and
  /// writes the sums to `place(block)`. `held(node, entry)` are the bytes of this rank's node, which may lie where the
  /// sums go: they are read before. Collective.
  template <class Held, class Place>
  void run(std::size_t window, Held&& held, Place&& place) const {
    std::vector<TransferBuffer> rooms(nodes_.first.size());  // one a rank, and for what is sent
    std::vector<std::span<std::byte>> received(nodes_.first.size() - 1);
    const auto pack = [&](std::span<const Block> blocks, TransferBuffer& room) {
      const auto out = room.of(bytes_from(me_, blocks));
      std::byte* to = out.data();
      for (const Block& block : blocks)
        for (std::size_t n = nodes_.first[me_]; n < nodes_.first[me_ + 1]; ++n)
          if (has(n, block.entry)) {
            std::copy_n(held(n - nodes_.first[me_], block.entry) + static_cast<std::size_t>(block.begin) * each(block),
                        bytes_of(block), to);
            to += packed(block);
          }
      return out;
    };
    for (std::size_t w = 0; w < shards_.windows(bucket_, window); ++w) {
      const auto own = shards_.window(group_.rank(), bucket_, w, window);
      received[me_] = pack(own, rooms[me_]);
      group_.each_other([&](int to, int from) {
        const auto out = pack(shards_.window(to, bucket_, w, window), rooms.back());
        const auto theirs = static_cast<std::size_t>(from);
        received[theirs] = rooms[theirs].of(bytes_from(theirs, own));
        group_.exchange(out, to, received[theirs], from);
      });
      join(own, received, place);
    }
  }

 private:
  bool has(std::size_t node, std::size_t entry) const {
    const Shards::Bucket of = shards_.buckets()[bucket_];
    return has_[node * of.size() + entry - of.begin] != std::byte{};
  }
  std::size_t each(const Block& block) const { return size_of(shards_.entries()[block.entry]->value.dtype); }
  std::size_t bytes_of(const Block& block) const { return static_cast<std::size_t>(block.size()) * each(block); }
  std::size_t packed(const Block& block) const { return (bytes_of(block) + 7) / 8 * 8; }  // doubles after few floats
  std::size_t bytes_from(std::size_t rank, std::span<const Block> blocks) const {
    std::size_t bytes = 0;
    for (const Block& block : blocks)
      for (std::size_t n = nodes_.first[rank]; n < nodes_.first[rank + 1]; ++n)
        bytes += has(n, block.entry) ? packed(block) : 0;
    return bytes;
  }
  template <class Place>
  void join(std::span<const Block> own, const std::vector<std::span<std::byte>>& received, Place&& place) const {
    std::vector<std::size_t> at(received.size(), 0);
    std::vector<std::byte*> parts(nodes_.first.back());
    for (const Block& block : own) {
      for (std::size_t r = 0; r < received.size(); ++r)
        for (std::size_t n = nodes_.first[r]; n < nodes_.first[r + 1]; ++n) {
          parts[n] = has(n, block.entry) ? received[r].data() + at[r] : nullptr;
          at[r] += parts[n] ? packed(block) : 0;
        }
      for (const auto& [left, right] : nodes_.joins) {
        if (parts[left] && parts[right])
          add_elements(parts[left], parts[right], block.size(), shards_.entries()[block.entry]->value.dtype);
        else if (!parts[left])
          parts[left] = parts[right];
      }
      if (parts[0]) std::copy_n(parts[0], bytes_of(block), place(block));
    }
  }

  const Group& group_;
  const Shards& shards_;
  const HeldNodes& nodes_;
  std::size_t bucket_, me_;
  std::vector<std::byte> has_{};  // by node of all and parameter of the bucket
};

}}}}  // namespace remat::distributed::detail
