// Loops over fixed blocks: threads decide who runs a block, never where a block begins.
#pragma once

#include <omp.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <memory>
#include <remat/core/cascade_sum.hpp>
#include <remat/core/shape.hpp>
#include <type_traits>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI {

namespace detail {

/// Blocks dealt out in equal runs, so that the same thread meets the same rows in op after op, while they are in its
/// cache. A thread that is done takes from the others' runs: on a shared machine they may be far behind.
class BlockShares {
 public:
  BlockShares(Index blocks, int threads) : count_(std::min(threads, most)) {
    for (int i = 0; i < count_; ++i) shares_[i].next = blocks * i / count_, shares_[i].end = blocks * (i + 1) / count_;
  }
  template <class F>
  void run(int thread, F&& body) {
    for (int i = 0; i < count_; ++i) {
      Share& share = shares_[(thread + i) % count_];
      for (Index b = share.next.fetch_add(1, std::memory_order_relaxed); b < share.end;
           b = share.next.fetch_add(1, std::memory_order_relaxed))
        body(b);
    }
  }

 private:
  static constexpr int most = 64;  // more threads begin with another's share
  struct alignas(64) Share {       // a cache line each
    std::atomic<Index> next;
    Index end;
  };
  Share shares_[most];
  int count_;
};

/// `parallel_for` of `call(body, begin, end)`: loops are many, and all that is not their own is compiled once.
template <class = void>
void run_blocks(Index count, Index grain, void (*call)(void*, Index, Index), void* body) {
  require(grain > 0, "parallel_for: grain ", grain, " is not positive");
  const Index blocks = count <= 0 ? 0 : (count - 1) / grain + 1;
  const auto run = [&](Index block) { call(body, block * grain, std::min(count, (block + 1) * grain)); };
  if (blocks <= 1 || omp_get_max_threads() == 1 || omp_in_parallel()) {
    for (Index block = 0; block < blocks; ++block) run(block);
    return;
  }
  std::atomic<bool> failed = false;
  std::exception_ptr error;
  BlockShares shares(blocks, omp_get_max_threads());
#pragma omp parallel
  shares.run(omp_get_thread_num(), [&](Index block) {
    if (failed.load(std::memory_order_relaxed)) return;
    try {
      run(block);
    } catch (...) {
      if (!failed.exchange(true)) error = std::current_exception();
    }
  });
  if (error) std::rethrow_exception(error);
}

}  // namespace detail

/// Calls `body(begin, end)` for the blocks [0, grain), [grain, 2 grain), ... of [0, count), in parallel unless there is
/// one block or the caller is in a parallel region already. Block boundaries do not depend on the number of threads.
/// The first exception of a body is rethrown when all threads are done; blocks not yet begun are then skipped.
template <class F>
void parallel_for(Index count, Index grain, F&& body) {
  using Body = std::remove_reference_t<F>;
  detail::run_blocks(
      count, grain, [](void* f, Index begin, Index end) { (*static_cast<Body*>(f))(begin, end); },
      const_cast<void*>(static_cast<const void*>(std::addressof(body))));
}

/// The sum of `block_sum(begin, end)` over the blocks of `parallel_for`, added in the order of a `CascadeSum`: the same
/// bits for any number of threads. `partial` has room for the sum of each block.
template <class T, class F>
T parallel_sum(Index count, Index grain, T* partial, F&& block_sum) {
  parallel_for(count, grain, [&](Index begin, Index end) { partial[begin / grain] = block_sum(begin, end); });
  CascadeSum<T> sum;
  for (Index begin = 0; begin < count; begin += grain) sum.add(partial + begin / grain);
  return *sum.total();
}
/// The same with room of its own.
template <class T, class F>
T parallel_sum(Index count, Index grain, F&& block_sum) {
  require(grain > 0, "parallel_sum: grain ", grain, " is not positive");
  std::vector<T> partial(count <= 0 ? 0 : static_cast<std::size_t>((count - 1) / grain + 1));
  return parallel_sum(count, grain, partial.data(), block_sum);
}

/// Rows to a block of about 16k elements of work, for rows of `row_work` elements.
constexpr Index row_grain(Index row_work) { return std::max<Index>(1, 16384 / std::max<Index>(1, row_work)); }

}}  // namespace remat
