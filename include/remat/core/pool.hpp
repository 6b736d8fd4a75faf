// The tracked pool: every byte of every tensor comes from here, aligned, reused and counted.
#pragma once

#include <malloc.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <new>
#include <remat/core/block_memory.hpp>
#include <remat/core/error.hpp>
#include <remat/core/memory_log.hpp>
#include <utility>

#if defined(REMAT_ASAN)
#include <sanitizer/asan_interface.h>
#endif

namespace remat { inline namespace REMAT_ABI {

/// @cond inside
constexpr std::size_t round_up(std::size_t bytes) { return (bytes + alignment - 1) / alignment * alignment; }

/// A number of bytes that one thread may read while another changes it.
class ByteCount {
 public:
  ByteCount() = default;
  ByteCount(const ByteCount& other) : bytes_(other) {}
  ByteCount& operator=(const ByteCount&) = delete;
  operator std::size_t() const { return bytes_.load(std::memory_order_relaxed); }
  void set(std::size_t bytes) { bytes_.store(bytes, std::memory_order_relaxed); }

 private:
  std::atomic<std::size_t> bytes_{0};
};

/// What one owner holds: bytes now and at most, each block rounded up to 64. Any thread may give back a
/// block, whose tensor it was handed.
struct Account {
  ByteCount live_bytes, peak_bytes;
  std::atomic<int> references{0};
  MemoryTag tag{};  // of the blocks that the owner charges next
  MemoryLog log{};  // to be read by `with_log` where other threads may hold tensors

  /// Returns the number of the block among those of this account. What throws has charged nothing.
  std::uint32_t charge(std::size_t bytes) {
    const std::lock_guard lock(mutex_);
    log.add_birth({blocks_, bytes, tag});
    live_bytes.set(live_bytes + bytes);
    if (live_bytes > peak_bytes) {
      peak_bytes.set(live_bytes);
      log.mark_peak();
    }
    return blocks_++;
  }
  void refund(std::uint32_t number, std::size_t bytes) noexcept {
    const std::lock_guard lock(mutex_);
    live_bytes.set(live_bytes - bytes);
    log.add_death({number, bytes, {}});
  }
  /// What `use(log)` gives, while nobody else writes to the log.
  template <class Use>
  auto with_log(Use&& use) {
    const std::lock_guard lock(mutex_);
    return use(log);
  }

 private:
  std::mutex mutex_;
  std::uint32_t blocks_ = 0;
};

/// Counts a `T` with a member `references`; `T` is destroyed by `destroy(T*)`, found by argument lookup.
template <class T>
class Counted {
 public:
  Counted() = default;
  explicit Counted(T* object) : object_(object) {
    if (object_) object_->references.fetch_add(1, std::memory_order_relaxed);
  }
  Counted(const Counted& other) : Counted(other.object_) {}
  Counted(Counted&& other) noexcept : object_(std::exchange(other.object_, nullptr)) {}
  Counted& operator=(const Counted& other) noexcept { return *this = Counted(other); }
  /// What was held goes here, not with an argument by value: clang 14 does not destroy one that is made of `{}` inside
  /// a member template.
  Counted& operator=(Counted&& other) noexcept {
    Counted taken(std::move(other));
    std::swap(object_, taken.object_);
    return *this;
  }
  ~Counted() {
    if (object_ && object_->references.fetch_sub(1, std::memory_order_acq_rel) == 1) destroy(object_);
  }
  T* get() const { return object_; }
  T* operator->() const { return object_; }
  T& operator*() const { return *object_; }
  explicit operator bool() const { return object_ != nullptr; }
  /// 1: nobody else reads the object any more, on whatever thread that was.
  int use_count() const { return object_ ? object_->references.load(std::memory_order_acquire) : 0; }

 private:
  T* object_ = nullptr;
};

inline void destroy(Account* account) { delete account; }

/// One block of the pool: this header, then the bytes at the next multiple of 64.
struct alignas(alignment) Block {
  std::atomic<int> references{0};
  int size_class = -1;            // -1: counts bytes but has none of its own (plan mode)
  std::size_t bytes = 0;          // as charged: rounded up to 64
  std::uint32_t number = 0;       // among the blocks of its account
  bool is_written = false;        // a user has a span to write to it, see Tensor::write
  std::byte* borrowed = nullptr;  // of another owner, see Pool::borrow
  Block* next = nullptr;          // unused: another one of its size, so that giving back takes no memory
  Counted<Account> account;

  std::byte* data() { return size_class < 0 ? borrowed : reinterpret_cast<std::byte*>(this + 1); }
};

/// @endcond

/// Shared ownership of one block.
using Storage = Counted<Block>;

/// The process-wide pool. Freed blocks are kept for reuse, one list for each size class.
class Pool {
 public:
  /// `bytes` uninitialized bytes, charged to `account` when there is one. Throws `Error` when memory is out.
  template <class = void>
  Storage allocate(std::size_t bytes, const Counted<Account>& account = {});

  /// A block without bytes that is charged all the same: what plan mode computes with.
  template <class = void>
  Storage allocate_virtual(std::size_t bytes, const Counted<Account>& account);

  /// A block over bytes of another owner, who keeps them until the last tensor over them is gone; never written to.
  template <class = void>
  Storage borrow(const std::byte* bytes);

  /// From now on an allocation that would bring all living blocks over `bytes` is an `Error`, which leaves everything
  /// as it was; what lies unused for reuse does not count. Without a number there is no limit, as at first.
  void set_limit(std::size_t bytes = SIZE_MAX) {
    const std::lock_guard lock(mutex_);
    limit_ = bytes;
  }

  /// From now on blocks that lie unused go back to the system before a new one would bring all that is held over
  /// `bytes`, and at once while more is held: slower where they are soon asked for again. What is in use has its own
  /// limit. Without a number there is none, as at first.
  void set_held_limit(std::size_t bytes = SIZE_MAX) {
    const std::lock_guard lock(mutex_);
    held_limit_ = bytes;
  }
  /// Bytes that were taken from the system and not given back: of blocks in use, with what rounds them up, and of those
  /// that wait.
  std::size_t held_bytes() const { return held_bytes_; }

  /// Bytes of the blocks that are in use, each rounded up to 64.
  std::size_t live_bytes() const { return live_bytes_; }
  /// The most there were since `reset_peak`.
  std::size_t peak_bytes() const { return peak_bytes_; }
  /// Bytes of freed blocks that wait to be used again.
  std::size_t cached_bytes() const { return cached_bytes_; }
  /// How many blocks were taken from the system so far; constant once a training step repeats.
  std::size_t system_allocations() const { return system_allocations_; }
  /// From now on the peak is what is in use now, and what comes.
  void reset_peak() { peak_bytes_ = live_bytes_.load(); }

  /// Gives all unused blocks back to the system.
  void trim() {
    const std::lock_guard lock(mutex_);
    free_unused(0);
  }

 private:
  friend void destroy(Block* block);

  // Classes: multiples of 64 up to 512, then 8 steps to each doubling, so at most 1/8 is wasted.
  static int class_of(std::size_t bytes) {
    const std::size_t units = std::max<std::size_t>(1, bytes / alignment);
    if (units <= 8) return static_cast<int>(units) - 1;
    const int shift = static_cast<int>(std::bit_width(units - 1)) - 4;
    return 8 * shift + static_cast<int>((units - 1) >> shift);
  }
  static std::size_t class_bytes(int size_class) {
    if (size_class < 8) return alignment * static_cast<std::size_t>(size_class + 1);
    const int shift = size_class / 8 - 1;
    return alignment * ((static_cast<std::size_t>(size_class % 8 + 8) + 1) << shift);
  }

  /// Gives back unused blocks, large ones first, until at most `most` bytes of them are left.
  template <class = void>
  void free_unused(std::size_t most);

  template <class = void>
  static Storage charged(Storage block, const Counted<Account>& account);

  template <class = void>
  Block* from_system(std::size_t bytes, int size_class);

  template <class = void>
  void release(Block* block);

  std::mutex mutex_;
  std::size_t limit_ = SIZE_MAX, held_limit_ = SIZE_MAX;
  std::array<Block*, 8 * 64> free_{};  // of each size the first
  std::atomic<std::size_t> live_bytes_{0}, peak_bytes_{0}, cached_bytes_{0}, held_bytes_{0}, system_allocations_{0};
};

template <class>
Storage Pool::allocate(std::size_t bytes, const Counted<Account>& account) {
  require(bytes <= SIZE_MAX / 2, "pool: ", bytes, " bytes asked, which no memory has");  // no sum below overflows
  bytes = round_up(bytes);
  const int size_class = class_of(bytes);
  Block* block = nullptr;
  {
    const std::lock_guard lock(mutex_);
    require(bytes <= limit_ && live_bytes_ <= limit_ - bytes, "pool: ", bytes, " bytes asked beside ", live_bytes_,
            " in use, and the limit is ", limit_, "; raise it with pool().set_limit, or plan for less");
    Block*& free = free_[static_cast<std::size_t>(size_class)];
    if (free != nullptr) {
      block = std::exchange(free, free->next);
      cached_bytes_ -= class_bytes(size_class);
    } else {
      // Blocks of sizes that are asked for no more must not pile up: what lies unused makes room, up to 1/16 + 24 MB.
      const std::size_t most = std::max<std::size_t>(peak_bytes_, live_bytes_ + bytes);
      const std::size_t wanted = live_bytes_ + class_bytes(size_class), limit = most + most / 16 + 24'000'000;
      if (wanted + cached_bytes_ > limit) free_unused(limit > wanted ? limit - wanted : 0);
      const std::size_t held = held_bytes_ + class_bytes(size_class);
      if (held > held_limit_ && cached_bytes_ > 0)
        free_unused(cached_bytes_ - std::min<std::size_t>(cached_bytes_, held - held_limit_));
      block = from_system(bytes, size_class);
    }
    live_bytes_ += bytes;
    peak_bytes_ = std::max(peak_bytes_.load(), live_bytes_.load());
  }
#if defined(REMAT_ASAN)
  __asan_unpoison_memory_region(block + 1, bytes);
#endif
  detail::mark_unwritten(reinterpret_cast<std::byte*>(block + 1), bytes);
  new (block) Block;
  block->size_class = size_class, block->bytes = bytes;
  return charged(Storage(block), account);
}

template <class>
Storage Pool::allocate_virtual(std::size_t bytes, const Counted<Account>& account) {
  Storage block(new Block);
  block->bytes = round_up(bytes);
  return charged(std::move(block), account);
}

template <class>
Storage Pool::borrow(const std::byte* bytes) {
  Storage block(new Block);
  block->borrowed = const_cast<std::byte*>(bytes);
  return block;
}

template <class>
void Pool::release(Block* block) {
  if (block->account) block->account->refund(block->number, block->bytes);
  if (block->size_class < 0) {
    delete block;
    return;
  }
  const std::size_t bytes = block->bytes;
  const int size_class = block->size_class;
  block->account = {};
#if defined(REMAT_ASAN)
  __asan_poison_memory_region(block + 1, class_bytes(size_class));
#endif
  const std::lock_guard lock(mutex_);
  live_bytes_ -= bytes;
  if (held_bytes_ > held_limit_ || !detail::blocks_are_used_again) {
    held_bytes_ -= class_bytes(size_class);
    detail::give_memory(block, sizeof(Block) + bytes, sizeof(Block) + class_bytes(size_class));
    return;
  }
  cached_bytes_ += class_bytes(size_class);
  Block*& free = free_[static_cast<std::size_t>(size_class)];
  block->next = std::exchange(free, block);
}

template <class>
void Pool::free_unused(std::size_t most) {
  for (auto list = free_.rbegin(); list != free_.rend(); ++list)
    while (cached_bytes_ > most && *list != nullptr) {
      Block* const block = std::exchange(*list, (*list)->next);
      const std::size_t bytes = class_bytes(static_cast<int>(free_.rend() - list) - 1);
      detail::give_memory(block, sizeof(Block) + block->bytes, sizeof(Block) + bytes);
      cached_bytes_ -= bytes, held_bytes_ -= bytes;
    }
#if defined(__GLIBC__)
  malloc_trim(0);  // free() alone keeps small blocks
#endif
}

template <class>
Block* Pool::from_system(std::size_t bytes, int size_class) {
  const std::size_t most = sizeof(Block) + class_bytes(size_class);
  void* const memory = detail::take_memory(sizeof(Block) + bytes, most);
  if (memory == nullptr) fail("pool: out of memory: ", most, " bytes asked, ", live_bytes_, " in use");
  ++system_allocations_, held_bytes_ += class_bytes(size_class);
  return static_cast<Block*>(memory);
}

template <class>
Storage Pool::charged(Storage block, const Counted<Account>& account) {
  if (account) block->number = account->charge(block->bytes);
  block->account = account;
  return block;
}

/// The pool. Never destroyed, so tensors may outlive `main`.
inline Pool& pool() {
  static Pool* const instance = new Pool;
  return *instance;
}

/// @cond inside
inline void destroy(Block* block) { pool().release(block); }
/// @endcond

}}  // namespace remat
