// Programs that several processes run together: which of them speaks, and what each gets of its machine.
#pragma once

#include <algorithm>
#include <cstdio>
#include <exception>
#include <iostream>
#include <remat/distributed.hpp>
#include <string>

#include "text_of.hpp"

namespace programs {

/// `main` of such a program: `body(group)` returns what the program does. Rank 0 alone prints.
template <class Body>
int run_ranks(int argc, char** argv, Body&& body) {
  return remat::distributed::run(argc, argv, [&](const remat::distributed::Group& group) {
    if (!group.is_first()) std::cout.rdbuf(nullptr), std::cerr.rdbuf(nullptr);
    return body(group);
  });
}

/// Calls `body()`; where it throws on one of several ranks, all end, and that rank is named.
template <class Body>
int or_stop_all(const remat::distributed::Group& group, Body&& body) {
  try {
    return body();
  } catch (const std::exception& error) {
    if (group.size() == 1) throw;
    remat::distributed::stop_all(group, error.what());
  }
}

/// Gives each rank its threads, unless `asked` says how many, and all ranks the products of the first. Says "2, 1
/// thread each" of several.
inline std::string begin_ranks(const remat::distributed::Group& group, int asked) {
  if (asked > 0) omp_set_num_threads(asked);
  if (group.size() == 1) return "1";
  const auto share = remat::distributed::share_cores(group);
  if (asked > 0) omp_set_num_threads(asked);
  if (!share.warning.empty() && asked != 1) std::fprintf(stderr, "warning: %s\n", share.warning.c_str());
  remat::distributed::agree_on_products(group);
  const auto threads = group.gather(omp_get_max_threads());
  const auto [least, most] = std::minmax_element(threads.begin(), threads.end());
  const std::string each = *least == *most ? std::to_string(*least) : text_of("%d to %d", *least, *most);
  return std::to_string(group.size()) + ", " + each + (each == "1" ? " thread each" : " threads each");
}

}  // namespace programs
