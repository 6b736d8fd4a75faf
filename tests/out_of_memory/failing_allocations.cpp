// The C++ library takes all of its memory from operator new, and the pool its blocks from aligned_alloc: both are
// replaced for the whole program. Not part of a joined source, for they belong to no namespace.
#include <malloc.h>

#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <limits>
#include <new>
#include <out_of_memory/failing_allocations.hpp>

namespace {

std::atomic<long> count{0}, fails_at{0}, fails_to{0};

bool fails() {
  const long number = count.fetch_add(1) + 1;
  return number >= fails_at.load() && number <= fails_to.load();
}
void* allocated(std::size_t bytes, std::size_t alignment) {
  void* const memory = fails() ? nullptr : memalign(alignment, bytes);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

}  // namespace

namespace remat_test {

void fail_allocation(long n, bool stays_out) {
  fails_at = fails_to = 0;
  count = 0;
  fails_at = n;
  fails_to = stays_out && n > 0 ? std::numeric_limits<long>::max() : n;
}
long count_allocations() { return count; }
bool has_failed() { return fails_at > 0 && count >= fails_at; }

}  // namespace remat_test

extern "C" void* aligned_alloc(std::size_t alignment, std::size_t bytes) noexcept {
  return fails() ? nullptr : memalign(alignment, bytes);
}
void* operator new(std::size_t bytes) { return allocated(bytes, alignof(std::max_align_t)); }
void* operator new[](std::size_t bytes) { return allocated(bytes, alignof(std::max_align_t)); }
void* operator new(std::size_t bytes, std::align_val_t alignment) {
  return allocated(bytes, static_cast<std::size_t>(alignment));
}
void* operator new[](std::size_t bytes, std::align_val_t alignment) {
  return allocated(bytes, static_cast<std::size_t>(alignment));
}
void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept {
  return fails() ? nullptr : memalign(alignof(std::max_align_t), bytes);
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }
