// A training step that keeps the whole process within a memory that was promised.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <remat/core/pool.hpp>
#include <remat/core/process_memory.hpp>
#include <remat/params/registry.hpp>
#include <remat/plan/plan.hpp>
#include <type_traits>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI {

/// How much of a batch is worked on at one time.
struct StepCut {
  Index rows = 1;        // of a part of the batch; parts come one after another
  Index head_chunk = 0;  // tokens whose logits exist at one time; 0: as the model says
  Index ffn_chunk = 0;   // tokens of which a feed-forward layer is computed at one time; 0: as the model says
};

/// What `plan_within_memory` may choose among.
struct MemorySearch {
  /// Of the gradient and the optimizer, for each value that is trained: of `AdamW` on floats. 14 where layers compute
  /// in bfloat16 and hold a cast.
  std::size_t state_bytes = 12;
  /// The same of updates that are made in backward, without the gradient: 8 of `AdamW` on floats. They are chosen, with
  /// the batch in one part, only where nothing else fits, since gradients cannot be clipped then. Empty: never.
  std::optional<std::size_t> in_backward_bytes{};
  bool may_offload = true;    // values that are kept, and what enters layers, may wait on disk
  bool may_be_lossy = false;  // values that are kept may be rounded to 16 or 8 bits: gradients are then near, not equal
  Index parts = 0;            // into which the batch is cut; 0: as many as are fastest
  /// For each value that is trained, of gradients that wait for others where the batch is cut into so many parts, as
  /// those of `distributed::GradientSum` do (4 times `waiting_gradients` of floats). Empty: none.
  std::function<std::size_t(Index parts)> waiting_bytes{};
  std::size_t more_bytes = 0;  // beside what this process holds: where it plans for one of several that holds more
  std::vector<Index> head_chunks{}, ffn_chunks{};  // sizes that are tried where nothing fits by those of the model
};

/// What `plan_within_memory` chose.
struct StepWithinMemory {
  Index parts = 1;           // into which the rows of a batch are cut, one after another
  PlannedPolicy policy{};    // of each
  std::size_t budget = 0;    // what activations, their gradients and scratch of a part may take
  std::size_t standing = 0;  // what is there beside them: weights, gradients of weights, optimizer, all else
  std::size_t promised = 0;  // both together: the memory that was given
  StepCut cut{};             // of a part
  bool in_backward = false;  // each parameter is updated in backward
  bool is_lossy() const { return policy::is_lossy(policy.policy); }  // see `MemorySearch::may_be_lossy`
};

namespace detail {

/// The search of `plan_within_memory`: it is shown the plans of all cuts and remembers the fastest step that fits.
class StepSearch {
 public:
  /// For a batch of `rows` rows.
  StepSearch(std::size_t bytes, const ParameterRegistry& parameters, Index rows, const MemorySearch& how)
      : bytes_(bytes), parameters_(parameters), rows_(rows), how_(how) {}

  /// What may be given up for memory, one after the other where nothing fits before: chunks cost time that cost models
  /// do not know.
  enum class Resort { none, chunks, in_backward };

  /// In the order in which they are to be shown.
  std::vector<StepCut> cuts(Resort resort) const {
    std::vector<StepCut> all;
    std::vector<Index> heads{0}, ffns{0};
    heads.insert(heads.end(), how_.head_chunks.begin(), how_.head_chunks.end());
    ffns.insert(ffns.end(), how_.ffn_chunks.begin(), how_.ffn_chunks.end());
    for (Index parts = 1; parts <= (resort == Resort::in_backward ? 1 : rows_); ++parts)
      for (const Index ffn : ffns)
        for (const Index head : heads) {
          const bool is_cut = ffn > 0 || head > 0;
          if (rows_ % parts == 0 && (how_.parts == 0 || how_.parts == parts) &&
              (resort == Resort::in_backward || is_cut == (resort == Resort::chunks)))
            all.push_back({rows_ / parts, head, ffn});
        }
    return all;
  }
  /// Could no further cut be faster? So it is when the fastest way of a larger one fits.
  bool is_done() const { return is_done_; }

  /// Of a part that is cut so.
  template <class = void>
  void consider(const StepCut& cut, const Plan& plan, bool in_backward);

  const std::optional<StepWithinMemory>& best() const { return best_; }
  std::size_t least() const { return least_; }

  /// What comes later and is not the pool's: malloc's small blocks and what libraries compute in; of each thread its
  /// stack, and what its products keep.
  static std::size_t slack() {
    return (std::size_t{32} << 20) + (static_cast<std::size_t>(omp_get_max_threads()) << 21);
  }

 private:
  std::size_t bytes_;
  const ParameterRegistry& parameters_;
  Index rows_;
  const MemorySearch& how_;
  std::optional<StepWithinMemory> best_{};
  std::size_t least_ = SIZE_MAX;
  bool is_done_ = false;
};

template <class>
void StepSearch::consider(const StepCut& cut, const Plan& plan, bool in_backward) {
  pool().trim();
  const Index parts = rows_ / cut.rows;
  const std::size_t each =
      (in_backward ? *how_.in_backward_bytes : how_.state_bytes) + (how_.waiting_bytes ? how_.waiting_bytes(parts) : 0);
  const std::size_t standing = machine::process_memory().anonymous + how_.more_bytes + slack() +
                               static_cast<std::size_t>(parameters_.trainable_count()) * each +
                               (in_backward ? plan.gradient_bytes_at_once() : 0);
  // The pool rounds blocks up; those of a model's sizes by little.
  const std::size_t budget = bytes_ > standing ? (bytes_ - standing) / 100 * 95 : 0;
  const auto fits = [&](const PlannedPolicy& point) {
    least_ = std::min(least_, standing + point.stats.peak_bytes / 95 * 100);
    if (point.stats.peak_bytes > budget) return false;
    StepWithinMemory found{parts, point, budget, standing, bytes_, cut, in_backward};
    found.policy.seconds *= static_cast<double>(parts);
    if (!best_ || found.policy.seconds < best_->policy.seconds) best_ = std::move(found);
    return true;
  };
  const Policy entering = policy::names("iteration_input", "transformer_layer_out");
  bool all_fit = true;
  for (const PlannedPolicy& point : plan.frontier()) {
    if (fits(point)) continue;
    all_fit = false;
    // What takes less memory takes more time.
    if (best_ && point.seconds * static_cast<double>(parts) >= best_->policy.seconds) continue;
    if (how_.may_offload && !fits(plan.under(point.policy | offload(entering))))
      fits(plan.under(offload(point.policy | entering)));
    if (how_.may_be_lossy && !fits(plan.under(policy::lossy::bfloat16(point.policy | entering))))
      fits(plan.under(policy::lossy::int8(point.policy | entering)));
  }
  is_done_ = is_done_ || all_fit;
}

}  // namespace detail

/// From now on the pool holds no more than what is left of `bytes` beside all else of this process: part of
/// `plan_within_memory`, for those that take a plan which another process has made.
inline void hold_within(std::size_t bytes) {
  const std::size_t anonymous = machine::process_memory().anonymous;
  const std::size_t outside = anonymous - std::min(anonymous, pool().held_bytes());
  pool().set_held_limit(bytes - std::min(bytes, outside + detail::StepSearch::slack()));
}

/// The fastest way to make the steps of a batch of `rows` rows while the process holds at most `bytes` without files:
/// into how many equal parts the batch is cut, which policy each has, and what else `how` leaves open. `plan_of(cut)`
/// is the `Plan` of a part that is cut so, or `plan_of(n)` that of a part of n rows. From now on the pool holds no more
/// than what is then left. Call it when all else is there: weights read, data loaded; and `machine::share_malloc_arena`
/// at the program's start. An `Error` names the least possible.
template <class PlanOf>
StepWithinMemory plan_within_memory(std::size_t bytes, const ParameterRegistry& parameters, Index rows,
                                    PlanOf&& plan_of, const MemorySearch& how = {}) {
  require(rows > 0, "plan_within_memory: a batch of ", rows, " rows; it must have one at least");
  require(how.parts >= 0 && (how.parts == 0 || rows % how.parts == 0), "plan_within_memory: ", how.parts,
          " parts do not divide a batch of ", rows, " rows");
  detail::StepSearch search(bytes, parameters, rows, how);
  using Resort = detail::StepSearch::Resort;
  for (const Resort resort : {Resort::none, Resort::chunks, Resort::in_backward}) {
    const bool in_backward = resort == Resort::in_backward;
    if (search.best() || (in_backward && !how.in_backward_bytes)) break;
    for (const StepCut& cut : search.cuts(resort)) {
      if (search.is_done()) break;
      if constexpr (std::is_invocable_v<PlanOf&, const StepCut&>)
        search.consider(cut, plan_of(cut), in_backward);
      else
        search.consider(cut, plan_of(cut.rows), in_backward);
    }
  }
  const auto mib = [](std::size_t n) { return (n >> 20) + 1; };
  require(search.best().has_value(), "no policy and no cut of the batch keeps this process within ", mib(bytes) - 1,
          " MiB; the least possible is ", mib(search.least()), " MiB: give more memory, or shorter or fewer sequences");
  hold_within(bytes);
  return *search.best();
}

}}  // namespace remat
