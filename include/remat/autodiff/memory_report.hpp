// Who lives in a tape's memory: at the peak, and over time by class.
#pragma once

#include <algorithm>
#include <iomanip>
#include <ostream>
#include <remat/autodiff/program.hpp>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

namespace remat { inline namespace REMAT_ABI {

/// Live bytes of a tape after one allocation or release.
struct MemorySample {
  double seconds = 0;      // since the tape was made
  std::size_t bytes[4]{};  // by class
  /// Bytes of one class.
  std::size_t operator[](MemoryClass c) const { return bytes[static_cast<int>(c)]; }
  /// Bytes of all classes.
  std::size_t total() const { return bytes[0] + bytes[1] + bytes[2] + bytes[3]; }
};

namespace detail {

/// Tells classes of blocks, once backward has begun; before, results count as saved.
class MemoryClasses {
 public:
  explicit MemoryClasses(const Program& program) : is_known_(program.finished) {
    for (const Need& need : program.saved) saved_.insert(need.slot);
  }
  MemoryClass of(const MemoryTag& tag) const {
    switch (tag.use) {
      case MemoryUse::value: return !is_known_ || saved_.count(tag.id) ? MemoryClass::saved : MemoryClass::workspace;
      case MemoryUse::replayed: return MemoryClass::replayed;
      case MemoryUse::gradient: return MemoryClass::gradient;
      case MemoryUse::scratch: break;
    }
    return MemoryClass::workspace;
  }

 private:
  bool is_known_;
  std::unordered_set<SlotId> saved_;
};

/// The blocks that were alive at the peak, largest first.
template <class = void>
std::vector<LiveBlock> peak_blocks(const Program& program) {
  const MemoryClasses classes(program);
  std::vector<LiveBlock> live_blocks;
  for (const MemoryBlock& block : program.account->with_log([](MemoryLog& log) { return log.at_peak(); })) {
    if (block.bytes == 0) continue;
    LiveBlock who{block.bytes, classes.of(block.tag)};
    std::int32_t node = block.tag.id;
    if (block.tag.use != MemoryUse::scratch) {
      who.slot = block.tag.id;
      node =
          who.slot >= 0 && who.slot < static_cast<Index>(program.slots.size()) ? program.slot(block.tag.id).node : -1;
      who.op = "input";
    }
    if (node >= 0 && node < program.node_count()) {
      who.op = program.node(node).op->name();
      who.layer_path = program.paths[static_cast<std::size_t>(program.node(node).path)];
    }
    live_blocks.push_back(std::move(who));
  }
  std::stable_sort(live_blocks.begin(), live_blocks.end(),
                   [](const LiveBlock& a, const LiveBlock& b) { return a.bytes > b.bytes; });
  return live_blocks;
}

}  // namespace detail

/// Live bytes by class after every allocation and release, in order; of a tape made with `.timeline = true`, after
/// backward. The largest `total()` is `stats().peak_bytes`.
template <class = void>
std::vector<MemorySample> memory_timeline(const Program& program) {
  const detail::MemoryClasses classes(program);
  std::unordered_map<std::uint32_t, MemoryClass> living;
  std::vector<MemorySample> samples;
  MemorySample now;
  const std::vector<MemoryEvent> events =
      program.account->with_log([](MemoryLog& log) { return std::vector(log.events().begin(), log.events().end()); });
  for (const MemoryEvent& event : events) {
    const MemoryBlock& block = event.block;
    const auto known = living.try_emplace(block.number, classes.of(block.tag)).first;
    std::size_t& bytes = now.bytes[static_cast<int>(known->second)];
    event.is_birth ? bytes += block.bytes : bytes -= block.bytes;
    if (!event.is_birth) living.erase(known);
    now.seconds = event.seconds;
    samples.push_back(now);
  }
  return samples;
}

/// One line for each block; blocks of one class, op and size share a line.
template <class = void>
std::ostream& operator<<(std::ostream& out, const std::vector<LiveBlock>& live_blocks) {
  std::vector<std::pair<LiveBlock, std::size_t>> lines;
  std::size_t total = 0;
  for (const LiveBlock& who : live_blocks) {
    total += who.bytes;
    const auto same = std::find_if(lines.begin(), lines.end(), [&](const auto& line) {
      return line.first.kind == who.kind && line.first.op == who.op && line.first.bytes == who.bytes;
    });
    same == lines.end() ? lines.emplace_back(who, 1) : (++same->second, *same);
  }
  for (const auto& [who, count] : lines)
    out << std::right << std::setw(12) << who.bytes << " B x " << std::left << std::setw(6) << count << std::setw(11)
        << to_string(who.kind) << std::setw(20) << who.op << (count == 1 ? who.layer_path : "") << std::right << '\n';
  return out << live_blocks.size() << " blocks, " << total << " B\n";
}

}}  // namespace remat
