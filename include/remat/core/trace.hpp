// When each op of a step ran, for pictures in time.
#pragma once

#include <cstddef>
#include <remat/core/config.hpp>
#include <string>

namespace remat { inline namespace REMAT_ABI {

/// One run of one op.
struct TraceSlice {
  std::string name{};          // of the op
  std::string category{};      // "forward", "replay" or "backward"
  std::string layer_path{};    // of the use
  double start = 0, end = 0;   // seconds since the tape was made
  std::size_t live_bytes = 0;  // of activations, gradients and scratch, while it ran
};

}}  // namespace remat
