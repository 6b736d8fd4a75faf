// Which rank looks after which part of every parameter.
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <remat/distributed/group.hpp>
#include <remat/params/registry.hpp>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace distributed {

/// All trained parameters as one row of blocks, of which each rank owns a run; runs differ by one block at most. Blocks
/// are those of the loops of optimizers, so that an update by parts is cut as the whole one is. What is frozen when it
/// is made belongs to no rank.
class Shards {
 public:
  static constexpr Index block_size = 2048;  // elements, the last block of a parameter may have fewer

  /// Elements [begin, end) of one parameter.
  struct Block {
    std::size_t entry = 0;     // its place in `entries()`
    Index begin = 0, end = 0;  // elements, end excluded
  };

  /// Of the parameters that are not frozen now. An `Error` for one that is neither float32 nor float64.
  Shards(const ParameterRegistry& parameters, int ranks) : ranks_(ranks) {
    for (const auto& entry : parameters.entries()) {
      if (entry->is_frozen) continue;
      require(entry->value.dtype == DType::float32 || entry->value.dtype == DType::float64, "shards: ", entry->path,
              " holds ", name_of(entry->value.dtype), "; trained parameters are float32 or float64");
      first_.push_back(blocks_.size());
      for (Index begin = 0; begin < entry->value.size(); begin += block_size)
        blocks_.push_back({entries_.size(), begin, std::min(begin + block_size, entry->value.size())});
      entries_.push_back(entry);
    }
  }

  /// The parameters, in order of path.
  const std::vector<std::shared_ptr<ParameterEntry>>& entries() const { return entries_; }
  /// The blocks of one rank.
  std::span<const Block> of(int rank) const {
    return std::span(blocks_).subspan(first_of(rank), first_of(rank + 1) - first_of(rank));
  }
  /// The elements of one parameter that one rank owns, perhaps none. An `Error` where it belongs to no rank.
  template <class = void>
  std::pair<Index, Index> range(int rank, const ParameterEntry& entry) const;
  /// The `number`th window of one rank's blocks, `size` long or less.
  std::span<const Block> window(int rank, std::size_t number, std::size_t size) const {
    const auto own = of(rank);
    const std::size_t begin = std::min(number * size, own.size());
    return own.subspan(begin, std::min(size, own.size() - begin));
  }
  /// How many windows the longest run has.
  std::size_t windows(std::size_t size) const {
    const std::size_t longest =
        (blocks_.size() + static_cast<std::size_t>(ranks_) - 1) / static_cast<std::size_t>(ranks_);
    return (longest + size - 1) / size;
  }

 private:
  std::size_t first_of(int rank) const {
    return blocks_.size() * static_cast<std::size_t>(rank) / static_cast<std::size_t>(ranks_);
  }

  int ranks_;
  std::vector<std::shared_ptr<ParameterEntry>> entries_{};
  std::vector<std::size_t> first_{};  // block of each of them
  std::vector<Block> blocks_{};
};

/// @cond inside
template <class>
std::pair<Index, Index> Shards::range(int rank, const ParameterEntry& entry) const {
  const auto found = std::lower_bound(entries_.begin(), entries_.end(), entry.path,
                                      [](const auto& each, const std::string& path) { return each->path < path; });
  require(found != entries_.end() && found->get() == &entry, "shards: ", entry.path,
          " was frozen, or not there, when parameters were dealt out to ranks; freeze and unfreeze before that");
  const auto index = static_cast<std::size_t>(found - entries_.begin());
  const std::size_t begin = std::max(first_[index], first_of(rank));
  const std::size_t end = std::min(index + 1 < first_.size() ? first_[index + 1] : blocks_.size(), first_of(rank + 1));
  if (begin >= end) return {0, 0};
  return {blocks_[begin].begin, blocks_[end - 1].end};
}
/// @endcond

namespace detail {

/// Blocks that a window of `bytes` holds.
inline std::size_t window_blocks(std::size_t bytes) {
  return std::max<std::size_t>(1, bytes / (static_cast<std::size_t>(Shards::block_size) * sizeof(double)));
}

/// Gives all ranks what each has in its own blocks of `data`, one array an entry; null: of none, on all ranks alike.
template <class = void>
void spread(const Group& group, const Shards& shards, const std::vector<std::byte*>& data, std::size_t window) {
  const auto bytes_of = [&](const Shards::Block& block) {
    return static_cast<std::size_t>(block.end - block.begin) * size_of(shards.entries()[block.entry]->value.dtype);
  };
  const auto place_of = [&](const Shards::Block& block) {
    return data[block.entry] +
           static_cast<std::size_t>(block.begin) * size_of(shards.entries()[block.entry]->value.dtype);
  };
  const auto total = [&](std::span<const Shards::Block> blocks) {
    std::size_t bytes = 0;
    for (const Shards::Block& block : blocks) bytes += data[block.entry] ? bytes_of(block) : 0;
    return bytes;
  };
  std::vector<std::byte> out, in;
  for (std::size_t w = 0; w < shards.windows(window); ++w) {
    const auto own = shards.window(group.rank(), w, window);
    out.resize(total(own));
    std::byte* to_place = out.data();
    for (const Shards::Block& block : own)
      if (data[block.entry]) to_place = std::copy_n(place_of(block), bytes_of(block), to_place);
    group.each_other([&](int to, int from) {
      const auto theirs = shards.window(from, w, window);
      in.resize(total(theirs));
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

}  // namespace detail

}}}  // namespace remat::distributed
