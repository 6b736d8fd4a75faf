#include "run_ranks.hpp"

#include <cstdio>
#include <iostream>
#include <remat/core/process_memory.hpp>
#include <remat/distributed/mpi.hpp>

int programs::run_ranks(int argc, char** argv, const std::function<int(const remat::distributed::Group&)>& body) {
  remat::machine::share_malloc_arena();  // for what --memory promises
  return remat::distributed::run(argc, argv, [&](const remat::distributed::Group& group) {
    if (!group.is_first()) {
      std::cerr.rdbuf(nullptr);
      static_cast<void>(!std::freopen("/dev/null", "w", stdout));
    }
    return body(group);
  });
}
