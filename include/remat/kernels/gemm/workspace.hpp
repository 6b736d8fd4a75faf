// Memory of products of our own, beside their operands.
#pragma once

#include <omp.h>
#include <sys/mman.h>

#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <new>
#include <remat/core/pool.hpp>

namespace remat { inline namespace REMAT_ABI { namespace kernels::packed {

/// Memory that the products of one thread use one after the other. It is kept until the thread ends, and is not of the
/// pool, whose peak plans predict: like the buffers that libraries keep, it does not depend on the program.
class Workspace {
 public:
  Workspace() = default;
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  ~Workspace() { std::free(data_); }

  /// At least `bytes`, at a multiple of 64; what was there before is lost.
  void* get(std::size_t bytes) {
    if (bytes <= size_) return data_;
    std::free(data_);
    size_ = 0;
    constexpr std::size_t huge = std::size_t{2} << 20;
    const std::size_t unit = bytes >= 2 * huge ? huge : alignment;
    const std::size_t rounded = (bytes + unit - 1) / unit * unit;
    data_ = std::aligned_alloc(unit, rounded);
    if (data_ == nullptr) throw std::bad_alloc();
    if (unit == huge) madvise(data_, rounded, MADV_HUGEPAGE);  // a hint: failure costs speed only
    size_ = rounded;
    return data_;
  }
  /// The calling thread's, for panels of a tile or, another one, for those that threads share.
  static Workspace& of_tiles() {
    static thread_local Workspace space;
    return space;
  }
  static Workspace& of_shared() {
    static thread_local Workspace space;
    return space;
  }
  /// For floats of a part of a stored matrix, beside either.
  static Workspace& of_decoded() {
    static thread_local Workspace space;
    return space;
  }

 private:
  void* data_ = nullptr;
  std::size_t size_ = 0;
};

/// Of both workspaces of a thread.
struct WorkspaceBytes {
  std::size_t tiles = 0, shared = 0;
};
/// Products of the calling thread that need no more, whoever shares in them, find it from now on: they do not throw for
/// want of memory. Throws `std::bad_alloc` itself.
inline void reserve(const WorkspaceBytes& bytes) {
  Workspace::of_shared().get(bytes.shared);
  std::atomic<bool> failed = false;
  const auto take = [&] {
    try {
      Workspace::of_tiles().get(bytes.tiles);
    } catch (const std::bad_alloc&) {
      failed = true;
    }
  };
  if (omp_in_parallel()) {
    take();
  } else {
#pragma omp parallel
    take();
  }
  if (failed) throw std::bad_alloc();
}

}}}  // namespace remat::kernels::packed
