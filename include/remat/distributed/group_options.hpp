// How a group transfers, by the program and by the environment.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <remat/core/error.hpp>
#include <string_view>

namespace remat { inline namespace REMAT_ABI { namespace distributed {

/// How a `Group` transfers.
struct GroupOptions {
  std::size_t piece_bytes = std::size_t{1} << 30;  // of one message at most; longer ones go in several
  bool check = false;   // compare number, name, bytes and result of every collective call between all ranks; also by
                        // REMAT_CHECK_COLLECTIVES=1 in the environment
  double patience = 0;  // seconds that a transfer may take, waiting for its rank included, before all ranks are
                        // stopped; 0: without end; also by REMAT_RANK_PATIENCE in the environment
};

namespace detail {

/// With what the environment says.
template <class = void>
GroupOptions checked(GroupOptions options) {
  require(options.piece_bytes > 0 && options.piece_bytes <= (std::size_t{1} << 30), "group: piece_bytes is ",
          options.piece_bytes, ", must be from 1 to 2^30");
  const char* const check = std::getenv("REMAT_CHECK_COLLECTIVES");
  if (check != nullptr && std::string_view(check) == "1") options.check = true;
  if (const char* const seconds = std::getenv("REMAT_RANK_PATIENCE"); seconds != nullptr && *seconds != '\0') {
    char* end = nullptr;
    options.patience = std::strtod(seconds, &end);
    require(*end == '\0', "group: REMAT_RANK_PATIENCE is \"", seconds, "\", must be seconds");
  }
  require(options.patience >= 0 && options.patience <= 1e6, "group: patience is ", options.patience,
          ", must be from 0 to 1e6 seconds");
  return options;
}

}  // namespace detail

}}}  // namespace remat::distributed
