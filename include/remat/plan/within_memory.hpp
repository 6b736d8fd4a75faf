// A training step that keeps the whole process within a memory that was promised.
#pragma once

#include <algorithm>
#include <optional>
#include <remat/core/pool.hpp>
#include <remat/core/process_memory.hpp>
#include <remat/params/registry.hpp>
#include <remat/plan/plan.hpp>
#include <utility>

namespace remat { inline namespace REMAT_ABI {

/// What `plan_within_memory` chose.
struct StepWithinMemory {
  Index parts = 1;           // into which the rows of a batch are cut, one after another
  PlannedPolicy policy{};    // of each
  std::size_t budget = 0;    // what activations, their gradients and scratch of a part may take
  std::size_t standing = 0;  // what is there beside them: weights, gradients of weights, optimizer, all else
  std::size_t promised = 0;  // both together: the memory that was given
};

/// The fastest way to make the steps of a batch of `rows` rows while the process holds at most `bytes` without files:
/// into how many equal parts the batch is cut, and which policy each has. `plan_of(n)` is the `Plan` of a part of n
/// rows. `state_bytes` is what the optimizer and the gradients take for each value that is trained: 12 with `AdamW` on
/// floats. From now on the pool holds no more than what is then left. Call it when all else is there: weights read,
/// data loaded. An `Error` names the least possible.
template <class PlanOf>
StepWithinMemory plan_within_memory(std::size_t bytes, const ParameterRegistry& parameters, Index rows,
                                    PlanOf&& plan_of, std::size_t state_bytes = 12) {
  constexpr std::size_t slack = std::size_t{20} << 20;  // stacks and buffers of threads, the small blocks of malloc
  std::optional<StepWithinMemory> best;
  std::size_t least = SIZE_MAX;
  for (Index parts = 1; parts <= rows; ++parts) {
    if (rows % parts != 0) continue;
    const Plan plan = plan_of(rows / parts);
    pool().trim();
    const std::size_t trained = static_cast<std::size_t>(parameters.trainable_count()) * state_bytes;
    const std::size_t standing = machine::process_memory().anonymous + trained + slack;
    // The pool rounds blocks up; those of a model's sizes by little.
    const std::size_t budget = bytes > standing ? (bytes - standing) / 100 * 95 : 0;
    least = std::min(least, standing + plan.frontier().front().stats.peak_bytes / 95 * 100);
    for (const PlannedPolicy& point : plan.frontier()) {
      if (point.stats.peak_bytes > budget) break;
      StepWithinMemory found{parts, point, budget, standing, bytes};
      found.policy.seconds *= static_cast<double>(parts);
      if (!best || found.policy.seconds < best->policy.seconds) best = std::move(found);
    }
  }
  const auto mib = [](std::size_t n) { return (n >> 20) + 1; };
  require(best.has_value(), "no policy and no cut of the batch keeps this process within ", mib(bytes) - 1,
          " MiB; the least possible is ", mib(least), " MiB: give more memory, or shorter or fewer sequences");
  const std::size_t anonymous = machine::process_memory().anonymous;
  const std::size_t outside = anonymous - std::min(anonymous, pool().held_bytes());
  pool().set_held_limit(bytes - std::min(bytes, outside + slack));
  return *std::move(best);
}

}}  // namespace remat
