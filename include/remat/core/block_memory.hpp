// Where the pool's blocks come from: the system's memory, and two builds that find what sanitizers do not see, the code
// that oneDNN makes while it runs among it.
//
// REMAT_POOL_FILL: bytes that a block is given with are NaN, as float, double and bfloat16, so that reading what nobody
// wrote is seen in results.
// REMAT_POOL_GUARD: a block ends where a page begins that may not be touched, and goes back to the system when it is
// freed, so that reading or writing behind it, or after it has gone, ends the program at that instruction.
#pragma once

#include <malloc.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <remat/core/config.hpp>

namespace remat { inline namespace REMAT_ABI {

/// Alignment of every tensor, in bytes; byte counts are rounded up to it.
inline constexpr std::size_t alignment = 64;

/// @cond inside
namespace detail {

#if defined(REMAT_POOL_GUARD)
inline constexpr bool blocks_are_used_again = false;
#else
inline constexpr bool blocks_are_used_again = true;
#endif

/// Blocks of so many bytes are mapped, each apart: freed ones leave no holes in malloc's heap, which a process that
/// trained within a memory held up to 100 MiB of. AddressSanitizer sees what malloc gives.
#if defined(REMAT_ASAN)
inline constexpr std::size_t least_mapped = SIZE_MAX;
#else
inline constexpr std::size_t least_mapped = std::size_t{128} << 10;
#endif

inline std::size_t whole_pages(std::size_t bytes) {
  static const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  return (bytes + page - 1) / page * page;
}

/// `bytes`, whole pages, at a multiple of `unit`; null where memory is out.
template <class = void>
std::byte* map_memory(std::size_t bytes, std::size_t unit) {
  const std::size_t more = unit - std::min(unit, whole_pages(1)), all = bytes + more;
  void* const mapped = mmap(nullptr, all, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) return nullptr;
  auto* const begin = static_cast<std::byte*>(mapped);
  const std::size_t before = (unit - reinterpret_cast<std::uintptr_t>(begin) % unit) % unit;
  if (before > 0) munmap(begin, before);
  if (before < more) munmap(begin + before + bytes, more - before);
  return begin + before;
}

/// `bytes` that nobody has written to yet, of a block that may be used for up to `most`; both are multiples of 64. Null
/// where memory is out.
template <class = void>
void* take_memory([[maybe_unused]] std::size_t bytes, [[maybe_unused]] std::size_t most) {
#if defined(REMAT_POOL_GUARD)
  const std::size_t page = whole_pages(1);
  if (bytes > SIZE_MAX - 2 * page) return nullptr;
  const std::size_t used = whole_pages(bytes);
  std::byte* const begin = map_memory(used + page, page);
  if (begin == nullptr) return nullptr;
  if (mprotect(begin + used, page, PROT_NONE) != 0) {
    munmap(begin, used + page);
    return nullptr;
  }
  return begin + (used - bytes);
#else
  if (most < least_mapped) return std::aligned_alloc(alignment, most);
  constexpr std::size_t huge = std::size_t{2} << 20;
  const bool is_huge = most >= 2 * huge;
  void* const memory = map_memory(whole_pages(most), is_huge ? huge : alignment);
  if (memory != nullptr && is_huge) madvise(memory, most, MADV_HUGEPAGE);  // a hint: failure costs speed only
  return memory;
#endif
}

/// Gives back what `take_memory` gave for as many bytes.
template <class = void>
void give_memory(void* memory, [[maybe_unused]] std::size_t bytes, [[maybe_unused]] std::size_t most) {
#if defined(REMAT_POOL_GUARD)
  const std::size_t page = whole_pages(1), used = whole_pages(bytes);
  munmap(static_cast<std::byte*>(memory) - (used - bytes), used + page);
#else
  if (most < least_mapped)
    std::free(memory);
  else
    munmap(memory, whole_pages(most));
#endif
}

/// Before a block is given out, new or used again.
inline void mark_unwritten([[maybe_unused]] std::byte* data, [[maybe_unused]] std::size_t bytes) {
#if defined(REMAT_POOL_FILL)
  std::uint16_t unwritten[alignment / sizeof(std::uint16_t)];
  std::fill_n(unwritten, std::size(unwritten), std::uint16_t{0x7FF7});
  for (std::size_t at = 0; at < bytes; at += alignment) std::memcpy(data + at, unwritten, alignment);
#endif
}

}  // namespace detail
/// @endcond

}}  // namespace remat
