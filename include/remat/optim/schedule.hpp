// Learning rates as functions of the step.
#pragma once

#include <algorithm>
#include <cmath>
#include <numbers>
#include <remat/core/shape.hpp>

namespace remat { inline namespace REMAT_ABI { namespace optim {

namespace detail {

/// What a schedule of this name may not be.
inline void check_schedule(const char* name, double peak, double minimum, Index warmup, Index steps, Index step) {
  require(std::isfinite(peak) && minimum >= 0 && minimum <= peak, name, ": the peak ", peak,
          " must be finite and at least the minimum ", minimum, ", and that at least 0");
  require(warmup >= 0 && warmup <= steps, name, ": ", warmup, " warmup steps do not fit into ", steps,
          " steps; warm up for fewer");
  require(step >= 0, name, ": step ", step, " is negative; the first is 0");
}
/// Of the steps before `warmup`: step 0 already learns, and step `warmup` is the first at the peak.
inline double warming_up(double peak, Index warmup, Index step) {
  return peak * static_cast<double>(step + 1) / static_cast<double>(warmup + 1);
}
/// How much of [begin, end) is over at `step`, from 0 to 1.
inline double progress(Index begin, Index end, Index step) {
  return static_cast<double>(step - begin) / static_cast<double>(end - begin);
}
inline double half_cosine(double peak, double minimum, double progress) {
  return minimum + 0.5 * (1 + std::cos(std::numbers::pi * progress)) * (peak - minimum);
}

}  // namespace detail

/// Linear warmup to `peak`, which holds from there on; without warmup, a constant.
struct WarmupConstant {
  double peak = 1e-3;  // from step `warmup` on
  Index warmup = 0;    // steps of warmup

  /// The learning rate of `step`, counted from 0. An `Error` when the fields make no schedule.
  double operator()(Index step) const {
    detail::check_schedule("warmup_constant", peak, 0, warmup, std::max<Index>(0, warmup), step);
    return step < warmup ? detail::warming_up(peak, warmup, step) : peak;
  }
};

/// Linear warmup to `peak`, then a line down to `minimum` at step `steps`, which holds from there on.
struct WarmupLinear {
  double peak = 1e-3;  // at step `warmup`
  double minimum = 0;  // from step `steps` on
  Index warmup = 100;  // steps of warmup, among `steps`
  Index steps = 2000;  // of the whole schedule

  /// The learning rate of `step`, counted from 0. An `Error` when the fields make no schedule.
  double operator()(Index step) const {
    detail::check_schedule("warmup_linear", peak, minimum, warmup, steps, step);
    if (step < warmup) return detail::warming_up(peak, warmup, step);
    if (step >= steps) return minimum;
    return peak + (minimum - peak) * detail::progress(warmup, steps, step);
  }
};

/// Linear warmup to `peak`, then half a cosine down to `minimum` at step `steps`, which holds from there on (Loshchilov
/// and Hutter 2017; the warmup is nanoGPT's: step 0 already learns).
struct WarmupCosine {
  double peak = 1e-3;     // at step `warmup`
  double minimum = 1e-4;  // from step `steps` on
  Index warmup = 100;     // steps of warmup, among `steps`
  Index steps = 2000;     // of the whole schedule

  /// The learning rate of `step`, counted from 0. An `Error` when the fields make no schedule.
  double operator()(Index step) const {
    detail::check_schedule("warmup_cosine", peak, minimum, warmup, steps, step);
    if (step < warmup) return detail::warming_up(peak, warmup, step);
    if (step >= steps) return minimum;
    return detail::half_cosine(peak, minimum, detail::progress(warmup, steps, step));
  }
};

/// How `WarmupStableDecay` goes down. Of the part p of its decay that is over:
enum class DecayShape {
  linear,          // 1 - p
  cosine,          // half a cosine
  one_minus_sqrt,  // 1 - sqrt(p), which Hagele et al. 2024 found best
};

/// Linear warmup to `peak`, which holds until the last `decay` steps go down to `minimum` (Hu et al. 2024): a run can
/// be made longer from any step of the plateau.
struct WarmupStableDecay {
  double peak = 1e-3;                     // from step `warmup` to step `steps - decay`
  double minimum = 0;                     // from step `steps` on
  Index warmup = 100;                     // steps of warmup, among `steps`
  Index decay = 400;                      // steps of decay, the last of `steps`
  Index steps = 2000;                     // of the whole schedule
  DecayShape shape = DecayShape::linear;  // of the decay

  /// The learning rate of `step`, counted from 0. An `Error` when the fields make no schedule.
  double operator()(Index step) const {
    detail::check_schedule("warmup_stable_decay", peak, minimum, warmup, steps, step);
    require(decay >= 0 && warmup + decay <= steps, "warmup_stable_decay: ", warmup, " steps of warmup and ", decay,
            " of decay do not fit into ", steps, " steps; decay for fewer");
    if (step < warmup) return detail::warming_up(peak, warmup, step);
    if (step >= steps) return minimum;
    if (step <= steps - decay) return peak;
    const double over = detail::progress(steps - decay, steps, step);
    if (shape == DecayShape::cosine) return detail::half_cosine(peak, minimum, over);
    return peak + (minimum - peak) * (shape == DecayShape::linear ? over : std::sqrt(over));
  }
};

}}}  // namespace remat::optim
