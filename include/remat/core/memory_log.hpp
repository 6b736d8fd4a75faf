// What lived when: births and deaths of the blocks of one account, so that one can ask who was alive at the peak.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <remat/core/config.hpp>
#include <span>
#include <vector>

namespace remat { inline namespace REMAT_ABI {

/// What a block is for.
enum class MemoryUse : std::uint8_t {
  value,     // of a forward pass
  replayed,  // computed again for backward, or brought back for it
  gradient,  // of a value
  scratch    // of one piece of work
};

/// What a block is for, and whose it is, by a number of the owner's.
struct MemoryTag {
  MemoryUse use = MemoryUse::scratch;
  std::int32_t id = -1;
};

struct MemoryBlock {
  std::uint32_t number = 0;  // blocks of an account, counted
  std::size_t bytes = 0;
  MemoryTag tag{};
};

struct MemoryEvent {
  MemoryBlock block{};
  bool is_birth = false;
  double seconds = 0;  // since the log began; only when all events are kept
};

/// Keeps events until they are many, then only who was alive at the peak and who is alive now: its size is that of the
/// live blocks, its cost a few nanoseconds an event. A birth makes room for the death, which therefore needs no memory:
/// destructors note it.
class MemoryLog {
 public:
  /// From now on every event is kept, with its time.
  void keep_all() { keeps_all_ = true; }
  /// From now on nothing is noted.
  void keep_nothing() { keeps_nothing_ = true; }
  /// What throws has noted nothing.
  void add_birth(const MemoryBlock& block) {
    if (keeps_nothing_) return;
    if (events_.size() >= limit_ && !keeps_all_) compact();
    const std::size_t needed = events_.size() + alive_ + 2;
    if (events_.capacity() < needed) events_.reserve(std::max(needed, 2 * events_.capacity()));
    events_.push_back({block, true, keeps_all_ ? seconds() : 0});
    ++alive_;
  }
  void add_death(const MemoryBlock& block) noexcept {
    if (keeps_nothing_) return;
    events_.push_back({block, false, keeps_all_ ? seconds() : 0});
    --alive_;
  }
  /// The blocks that are alive now are more than ever before.
  void mark_peak() { peak_end_ = events_.size(); }

  template <class = void>
  std::vector<MemoryBlock> at_peak() const;
  /// All of them, if `keep_all` was called before the first.
  std::span<const MemoryEvent> events() const { return events_; }

 private:
  double seconds() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - begun_).count(); }

  // Numbers grow, so births are sorted.
  template <class = void>
  static std::vector<MemoryBlock> alive_after(std::span<const MemoryEvent> events);
  template <class = void>
  void compact();

  std::vector<MemoryEvent> events_;  // since the log was last made smaller
  std::vector<MemoryBlock> peak_;    // alive at the peak, when that was before
  std::size_t peak_end_ = 0;         // as many events lead to the peak; 0: it is `peak_`
  std::size_t limit_ = 4096, alive_ = 0;
  bool keeps_all_ = false, keeps_nothing_ = false;
  std::chrono::steady_clock::time_point begun_ = std::chrono::steady_clock::now();
};

template <class>
std::vector<MemoryBlock> MemoryLog::at_peak() const {
  return peak_end_ > 0 ? alive_after({events_.data(), peak_end_}) : peak_;
}

template <class>
std::vector<MemoryBlock> MemoryLog::alive_after(std::span<const MemoryEvent> events) {
  std::vector<MemoryBlock> born;
  std::vector<std::uint32_t> dead;
  for (const MemoryEvent& event : events)
    event.is_birth ? born.push_back(event.block) : dead.push_back(event.block.number);
  std::sort(dead.begin(), dead.end());
  std::erase_if(born, [&](const MemoryBlock& b) { return std::binary_search(dead.begin(), dead.end(), b.number); });
  return born;
}

template <class>
void MemoryLog::compact() {
  if (peak_end_ > 0) peak_ = at_peak();
  peak_end_ = 0;
  const std::vector<MemoryBlock> alive = alive_after(events_);
  events_.clear();
  for (const MemoryBlock& block : alive) events_.push_back({block, true, 0});
  limit_ = std::max<std::size_t>(4096, 4 * alive.size());
}

}}  // namespace remat
