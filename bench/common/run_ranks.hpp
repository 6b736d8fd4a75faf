// `main` of programs that several processes run together. Its definition is compiled by itself, with MPI and without,
// so that the program is compiled once for both.
#pragma once

#include <functional>
#include <remat/distributed/group.hpp>

namespace programs {

/// Begins MPI where the program has it, and returns what `body(group)` returns; see `remat::distributed::run`. Rank 0
/// alone prints.
int run_ranks(int argc, char** argv, const std::function<int(const remat::distributed::Group&)>& body);

}  // namespace programs
