// Who ran when, for pictures in time.
#pragma once

#include <cstddef>
#include <remat/core/config.hpp>
#include <string>

namespace remat { inline namespace REMAT_ABI {

/// One piece of work.
struct TraceSlice {
  std::string name{};          // of what ran
  std::string category{};      // "forward", "replay" or "backward"
  std::string layer_path{};    // of whoever asked for it
  double start = 0, end = 0;   // seconds since the recording began
  std::size_t live_bytes = 0;  // of activations, gradients and scratch, while it ran
};

}}  // namespace remat
