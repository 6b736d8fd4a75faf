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
  double delay = 0;     // seconds that each transfer waits before it begins, as over a slow network: to look for what
                        // depends on who is first; also by REMAT_RANK_DELAY in the environment
};

namespace detail {

/// With what the environment says.
template <class = void>
GroupOptions checked(GroupOptions options) {
  require(options.piece_bytes > 0 && options.piece_bytes <= (std::size_t{1} << 30), "group: piece_bytes is ",
          options.piece_bytes, ", must be from 1 to 2^30");
  const char* const check = std::getenv("REMAT_CHECK_COLLECTIVES");
  if (check != nullptr && std::string_view(check) == "1") options.check = true;
  const auto read_seconds = [](const char* name, double& number) {
    const char* const seconds = std::getenv(name);
    if (seconds == nullptr || *seconds == '\0') return;
    char* end = nullptr;
    number = std::strtod(seconds, &end);
    require(*end == '\0', "group: ", name, " is \"", seconds, "\", must be seconds");
  };
  read_seconds("REMAT_RANK_PATIENCE", options.patience);
  read_seconds("REMAT_RANK_DELAY", options.delay);
  require(options.delay >= 0 && options.delay <= 60, "group: delay is ", options.delay,
          ", must be from 0 to 60 seconds");
  require(options.patience >= 0 && options.patience <= 1e6, "group: patience is ", options.patience,
          ", must be from 0 to 1e6 seconds");
  return options;
}

}  // namespace detail

}}}  // namespace remat::distributed
