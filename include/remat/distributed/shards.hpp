// Which rank looks after which part of every parameter.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <remat/distributed/group.hpp>
#include <remat/params/registry.hpp>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace distributed {

/// All trained parameters in buckets of neighbours, each bucket a row of blocks, of which each rank owns a run; the
/// runs of a bucket differ by one block at most. Buckets are numbered from the last parameter to the first, as backward
/// comes by them. Blocks are those of the loops of optimizers, so that an update by parts is cut as the whole one is.
/// What is frozen when it is made belongs to no rank.
class Shards {
 public:
  static constexpr Index block_size = 2048;  // elements, the last block of a parameter may have fewer

  /// Elements [begin, end) of one parameter.
  struct Block {
    std::size_t entry = 0;     // its place in `entries()`
    Index begin = 0, end = 0;  // elements, end excluded
    /// How many they are.
    Index size() const { return end - begin; }
  };
  /// Parameters [begin, end) of `entries()`.
  struct Bucket {
    std::size_t begin = 0, end = 0;  // end excluded
    /// How many they are.
    std::size_t size() const { return end - begin; }
    friend bool operator==(const Bucket&, const Bucket&) = default;
  };

  /// Of the parameters that are not frozen now; a bucket ends where it has `bucket_bytes`. An `Error` for a parameter
  /// that is neither float32 nor float64.
  Shards(const ParameterRegistry& parameters, int ranks, std::size_t bucket_bytes = std::size_t{25} << 20);

  /// How many ranks there are.
  int ranks() const { return ranks_; }
  /// The parameters, in order of path.
  const std::vector<std::shared_ptr<ParameterEntry>>& entries() const { return entries_; }
  /// The buckets, from the last parameter to the first.
  const std::vector<Bucket>& buckets() const { return buckets_; }
  /// The blocks of one rank in a bucket.
  std::span<const Block> of(int rank, std::size_t bucket) const {
    const std::size_t begin = first_of(rank, bucket);
    return std::span(blocks_).subspan(begin, first_of(rank + 1, bucket) - begin);
  }
  /// The place of a parameter in `entries()`. An `Error` where it belongs to no rank.
  template <class = void>
  std::size_t index_of(const ParameterEntry& entry) const;
  /// The elements of a parameter that one rank owns, perhaps none; by its place in `entries()`.
  std::pair<Index, Index> range(int rank, std::size_t index) const {
    const std::size_t begin = std::max(first_[index], first_of(rank, bucket_of_[index]));
    const std::size_t end = std::min(first_[index + 1], first_of(rank + 1, bucket_of_[index]));
    if (begin >= end) return {0, 0};
    return {blocks_[begin].begin, blocks_[end - 1].end};
  }
  /// The same of a parameter. An `Error` where it belongs to no rank.
  std::pair<Index, Index> range(int rank, const ParameterEntry& entry) const { return range(rank, index_of(entry)); }
  /// The `number`th window of one rank's blocks in a bucket, `size` blocks or less.
  std::span<const Block> window(int rank, std::size_t bucket, std::size_t number, std::size_t size) const {
    const auto own = of(rank, bucket);
    const std::size_t begin = std::min(number * size, own.size());
    return own.subspan(begin, std::min(size, own.size() - begin));
  }
  /// How many windows the longest run of a bucket has.
  std::size_t windows(std::size_t bucket, std::size_t size) const {
    const auto ranks = static_cast<std::size_t>(ranks_);
    const std::size_t longest = (blocks_in(bucket) + ranks - 1) / ranks;
    return (longest + size - 1) / size;
  }
  /// Do both deal out the same parameters alike?
  bool same_as(const Shards& other) const {
    return ranks_ == other.ranks_ && entries_ == other.entries_ && buckets_ == other.buckets_;
  }

 private:
  std::size_t blocks_in(std::size_t bucket) const {
    return first_[buckets_[bucket].end] - first_[buckets_[bucket].begin];
  }
  std::size_t first_of(int rank, std::size_t bucket) const {
    return first_[buckets_[bucket].begin] +
           blocks_in(bucket) * static_cast<std::size_t>(rank) / static_cast<std::size_t>(ranks_);
  }

  int ranks_;
  std::vector<std::shared_ptr<ParameterEntry>> entries_{};
  std::vector<std::size_t> first_{};      // block of each of them, and the number of all blocks
  std::vector<std::size_t> bucket_of_{};  // of each of them
  std::vector<Bucket> buckets_{};
  std::vector<Block> blocks_{};
};

inline Shards::Shards(const ParameterRegistry& parameters, int ranks, std::size_t bucket_bytes) : ranks_(ranks) {
  for (const auto& entry : parameters.entries()) {
    if (entry->is_frozen) continue;
    require(entry->value.dtype == DType::float32 || entry->value.dtype == DType::float64, "shards: ", entry->path,
            " holds ", name_of(entry->value.dtype), "; trained parameters are float32 or float64");
    first_.push_back(blocks_.size());
    for (Index begin = 0; begin < entry->value.size(); begin += block_size)
      blocks_.push_back({entries_.size(), begin, std::min(begin + block_size, entry->value.size())});
    entries_.push_back(entry);
  }
  first_.push_back(blocks_.size());
  bucket_of_.resize(entries_.size());
  for (std::size_t end = entries_.size(); end > 0;) {
    Bucket bucket{end, end};
    // One that fills a bucket has it alone: a table that is complete last makes no other parameter wait.
    for (std::size_t bytes = 0; bucket.begin > 0;) {
      const std::size_t more = entries_[bucket.begin - 1]->value.bytes();
      if (bucket.size() > 0 && (bytes >= bucket_bytes || more >= bucket_bytes)) break;
      bytes += more;
      bucket_of_[--bucket.begin] = buckets_.size();
    }
    buckets_.push_back(bucket);
    end = bucket.begin;
  }
}

/// @cond inside
template <class>
std::size_t Shards::index_of(const ParameterEntry& entry) const {
  const auto found = std::lower_bound(entries_.begin(), entries_.end(), entry.path,
                                      [](const auto& each, const std::string& path) { return each->path < path; });
  require(found != entries_.end() && found->get() == &entry, "shards: ", entry.path,
          " was frozen, or not there, when parameters were dealt out to ranks; freeze and unfreeze before that");
  return static_cast<std::size_t>(found - entries_.begin());
}
/// @endcond

namespace detail {

/// Blocks that a window of `bytes` holds.
inline std::size_t window_blocks(std::size_t bytes) {
  return std::max<std::size_t>(1, bytes / (static_cast<std::size_t>(Shards::block_size) * sizeof(double)));
}

/// Bytes for transfers, from the pool: what a step has freed is used again.
class TransferBuffer {
 public:
  std::span<std::byte> of(std::size_t bytes) {
    if (bytes > capacity_) storage_ = {}, storage_ = pool().allocate(bytes), capacity_ = bytes;
    return bytes == 0 ? std::span<std::byte>() : std::span(storage_->data(), bytes);
  }

 private:
  Storage storage_{};
  std::size_t capacity_ = 0;
};

/// Gives all ranks what each has in its own blocks of a bucket's `data`, one array a parameter of `entries()`; null: of
/// none, on all ranks alike.
template <class = void>
void spread(const Group& group, const Shards& shards, std::size_t bucket, const std::vector<std::byte*>& data,
            std::size_t window) {
  if (group.size() == 1) return;
  const auto each = [&](const Shards::Block& block) { return size_of(shards.entries()[block.entry]->value.dtype); };
  const auto bytes_of = [&](const Shards::Block& block) {
    return static_cast<std::size_t>(block.size()) * each(block);
  };
  const auto place_of = [&](const Shards::Block& block) {
    return data[block.entry] + static_cast<std::size_t>(block.begin) * each(block);
  };
  const auto total = [&](std::span<const Shards::Block> blocks) {
    std::size_t bytes = 0;
    for (const Shards::Block& block : blocks) bytes += data[block.entry] ? bytes_of(block) : 0;
    return bytes;
  };
  TransferBuffer out_room, in_room;
  for (std::size_t w = 0; w < shards.windows(bucket, window); ++w) {
    const auto own = shards.window(group.rank(), bucket, w, window);
    const auto out = out_room.of(total(own));
    std::byte* to_place = out.data();
    for (const Shards::Block& block : own)
      if (data[block.entry]) to_place = std::copy_n(place_of(block), bytes_of(block), to_place);
    group.each_other([&](int to, int from) {
      const auto theirs = shards.window(from, bucket, w, window);
      const auto in = in_room.of(total(theirs));
      group.exchange(out, to, in, from);
      const std::byte* from_place = in.data();
      for (const Shards::Block& block : theirs) {
        if (!data[block.entry]) continue;
        std::copy_n(from_place, bytes_of(block), place_of(block));
        from_place += bytes_of(block);
      }
    });
  }
}

/// Gives all ranks the values that each has in its own blocks, of the parameters that are chosen, on all ranks alike.
/// Collective.
template <class = void>
void spread_values(const Group& group, const Shards& shards, const std::vector<std::uint8_t>& is_chosen) {
  if (group.size() == 1) return;
  std::vector<ParameterUseGuard> uses;
  std::vector<std::byte*> values(shards.entries().size());
  for (std::size_t e = 0; e < values.size(); ++e) {
    if (is_chosen[e] == 0) continue;
    uses.push_back(shards.entries()[e]->used(ParameterUse::write));
    values[e] = shards.entries()[e]->writable();
  }
  group.enter("values", 0);
  for (std::size_t b = 0; b < shards.buckets().size(); ++b)
    spread(group, shards, b, values, window_blocks(std::size_t{8} << 20));
  for (std::size_t e = 0; e < values.size(); ++e)
    if (values[e]) group.agree("values", {values[e], shards.entries()[e]->value.bytes()});
}

}  // namespace detail

}}}  // namespace remat::distributed
