// Plans of a step whose shapes change from batch to batch, each made once.
#pragma once

#include <algorithm>
#include <cstddef>
#include <list>
#include <remat/plan/plan.hpp>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI {

/// Keeps one plan for each list of shapes that a step depends on (those of its batch, mostly), at most `capacity` of
/// them: the one that was not asked for the longest goes.
///
///     PlanCache plans;
///     const auto loss = [&](Tape& tape) { return model.loss(tape, batch); };
///     model.decoder.remat = plans({batch.inputs.shape()}, loss).within(budget);
class PlanCache {
 public:
  /// For at most `capacity` plans; an `Error` for 0.
  explicit PlanCache(std::size_t capacity = 64) : capacity_(capacity) {
    require(capacity > 0, "plan cache: a capacity of 0 keeps no plan");
  }
  /// The plan for these shapes; `step` runs, in plan mode, only when they are new. What else a step depends on (its
  /// model, say, and which parameters are frozen) is not looked at. The reference is good until `capacity` other lists
  /// of shapes have been asked for.
  template <class Step>
  const Plan& operator()(const std::vector<Shape>& shapes, Step&& step) {
    const auto found =
        std::find_if(plans_.begin(), plans_.end(), [&](const auto& known) { return known.first == shapes; });
    if (found != plans_.end()) {
      plans_.splice(plans_.begin(), plans_, found);
      return plans_.front().second;
    }
    plans_.emplace_front(shapes, plan(std::forward<Step>(step)));
    if (plans_.size() > capacity_) plans_.pop_back();
    return plans_.front().second;
  }
  /// How many plans it holds.
  std::size_t size() const { return plans_.size(); }

 private:
  std::size_t capacity_;
  std::list<std::pair<std::vector<Shape>, Plan>> plans_;  // latest first
};

}}  // namespace remat
