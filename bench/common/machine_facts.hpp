// What every program says of the machine that it runs on.
#pragma once

#include <remat/core/machine.hpp>
#include <remat/kernels/gemm.hpp>
#include <string>
#include <utility>
#include <vector>

#include "text_of.hpp"

namespace programs {

/// Names and values; the peak of fused multiply-adds in float32 on all threads is the caller's measurement.
inline std::vector<std::pair<std::string, std::string>> machine_facts(double peak_gflops) {
  namespace machine = remat::machine;
  return {{"threads",
           text_of("%d of ", machine::threads()) + machine::affinity() + ", OMP_WAIT_POLICY " + machine::wait_policy()},
          {"instructions", machine::isa() + ", compiled for " + machine::compiled_isa()},
          {"FMA peak", text_of("%.0f GFLOP/s float32", peak_gflops)},
          {"GEMM", remat::kernels::gemm_backend()}};
}

}  // namespace programs
