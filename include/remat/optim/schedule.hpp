// Learning rates as functions of the step.
#pragma once

#include <cmath>
#include <numbers>
#include <remat/core/shape.hpp>

namespace remat { inline namespace REMAT_ABI { namespace optim {

/// Linear warmup to `peak`, then half a cosine down to `minimum` at step `steps`, which holds from there on (Loshchilov
/// and Hutter 2017; the warmup is nanoGPT's: step 0 already learns).
struct WarmupCosine {
  double peak = 1e-3;     // at step `warmup`
  double minimum = 1e-4;  // from step `steps` on
  Index warmup = 100;     // steps of warmup, among `steps`
  Index steps = 2000;     // of the whole schedule

  /// The learning rate of `step`, counted from 0. An `Error` when the fields make no schedule.
  double operator()(Index step) const {
    require(std::isfinite(peak) && minimum >= 0 && minimum <= peak, "warmup_cosine: the peak ", peak,
            " must be finite and at least the minimum ", minimum, ", and that at least 0");
    require(warmup >= 0 && warmup <= steps, "warmup_cosine: ", warmup, " warmup steps do not fit into ", steps,
            " steps; warm up for fewer");
    require(step >= 0, "warmup_cosine: step ", step, " is negative; the first is 0");
    if (step < warmup) return peak * static_cast<double>(step + 1) / static_cast<double>(warmup + 1);
    if (step >= steps) return minimum;
    const double progress = static_cast<double>(step - warmup) / static_cast<double>(steps - warmup);
    return minimum + 0.5 * (1 + std::cos(std::numbers::pi * progress)) * (peak - minimum);
  }
};

}}}  // namespace remat::optim
