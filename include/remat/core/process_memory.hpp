// What this process takes of the machine's memory, as the kernel counts it.
#pragma once

#include <malloc.h>

#include <cstddef>
#include <fstream>
#include <limits>
#include <remat/core/config.hpp>
#include <set>
#include <string>
#include <utility>

namespace remat { inline namespace REMAT_ABI { namespace machine {

/// Bytes in memory. Pages of mapped files belong to all who map the file, and the system may drop them at any time:
/// they count as resident, but are nothing that the process holds.
struct ProcessMemory {
  std::size_t resident = 0;       // all pages (VmRSS)
  std::size_t peak_resident = 0;  // the most there were (VmHWM)
  std::size_t anonymous = 0;      // of these without a file (RssAnon)
  std::size_t mapped_files = 0;   // what pages of files may add at most: the parts of files that are mapped
};

/// Of now. All 0 where the system has no /proc.
template <class = void>
ProcessMemory process_memory() {
  ProcessMemory memory;
  std::ifstream status("/proc/self/status");
  for (std::string name; status >> name; status.ignore(std::numeric_limits<std::streamsize>::max(), '\n')) {
    std::size_t* const field = name == "VmRSS:"     ? &memory.resident
                               : name == "VmHWM:"   ? &memory.peak_resident
                               : name == "RssAnon:" ? &memory.anonymous
                                                    : nullptr;
    std::size_t kib = 0;
    if (field != nullptr && status >> kib) *field = kib * 1024;
  }
  std::ifstream maps("/proc/self/maps");
  std::set<std::pair<std::string, std::size_t>> parts;  // a file's part that is mapped twice is there once
  std::string range, access, offset, device, inode;
  while (maps >> range >> access >> offset >> device >> inode) {
    maps.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
    const std::size_t dash = range.find('-');
    if (inode == "0" || dash == std::string::npos) continue;
    if (!parts.emplace(device + ' ' + inode, std::stoull(offset, nullptr, 16)).second) continue;
    memory.mapped_files +=
        std::stoull(range.substr(dash + 1), nullptr, 16) - std::stoull(range.substr(0, dash), nullptr, 16);
  }
  return memory;
}

/// Lets all threads take memory from one place: with places of their own, what one gives back does not serve another,
/// and a process that trains held up to 60 MiB more than it used. Large pieces are mapped, and the end of the heap goes
/// back to the system: glibc keeps up to 64 MiB of it as soon as a large piece was freed. For programs that promise
/// what they hold, before they have threads. Nothing where the C library is not glibc.
inline void share_malloc_arena() {
#if defined(M_ARENA_MAX)
  mallopt(M_ARENA_MAX, 1);
  mallopt(M_MMAP_THRESHOLD, 512 << 10);  // one that is set does not grow, nor does that of the heap's end
#endif
}

}}}  // namespace remat::machine
