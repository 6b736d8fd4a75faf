// How many threads each of several ranks on one machine has.
#pragma once

#include <omp.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <remat/distributed/group.hpp>
#include <span>
#include <string>

namespace remat { inline namespace REMAT_ABI { namespace distributed {

/// What `share_cores` has found.
struct CoreShare {
  int cores = 1;          // that this rank may run on
  int ranks = 1;          // of its machine that may run on some of them
  int threads = 1;        // that it has now
  std::string warning{};  // why this may be fewer than was meant; empty: nothing to say
};

/// Sets the OpenMP threads of each rank to the cores that it may run on over the ranks of its machine that share them,
/// one at least; OMP_NUM_THREADS in the environment stands above that. Collective.
template <class = void>
CoreShare share_cores(const Group& group) {
  const Group here = group.on_one_machine();
  cpu_set_t mine;
  CPU_ZERO(&mine);
  const bool is_known = sched_getaffinity(0, sizeof mine, &mine) == 0;
  CoreShare share;
  share.cores = is_known ? CPU_COUNT(&mine) : static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
  share.ranks = 0;
  for (const auto& theirs : here.gather(std::span<const cpu_set_t>(&mine, 1))) {
    cpu_set_t both;
    CPU_AND(&both, &mine, &theirs.front());
    share.ranks += !is_known || CPU_COUNT(&both) > 0 ? 1 : 0;
  }
  const char* const asked = std::getenv("OMP_NUM_THREADS");
  if (asked == nullptr || *asked == '\0') omp_set_num_threads(std::max(1, share.cores / share.ranks));
  share.threads = omp_get_max_threads();
  if (share.cores == 1 && sysconf(_SC_NPROCESSORS_ONLN) > here.size())
    share.warning = "rank " + std::to_string(group.rank()) + " may run on one core only, of " +
                    std::to_string(sysconf(_SC_NPROCESSORS_ONLN)) + "; mpirun --bind-to none gives it more";
  return share;
}

}}}  // namespace remat::distributed
