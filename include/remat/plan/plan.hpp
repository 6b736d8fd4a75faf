// Plans: a step is recorded once without computing, then run through the engine under any policy with a pool that only
// counts. What it predicts is what the step does.
#pragma once

#include <algorithm>
#include <cmath>
#include <iomanip>
#include <limits>
#include <memory>
#include <optional>
#include <ostream>
#include <remat/plan/calibration.hpp>
#include <remat/plan/candidates.hpp>
#include <remat/policy/phrase_book.hpp>
#include <string>
#include <type_traits>
#include <vector>

namespace remat { inline namespace REMAT_ABI {

/// One policy of a plan and what a step under it would do.
struct PlannedPolicy {
  std::string name{};  // as the phrase book has it, or what the plan chose
  Policy policy{};     // of every outermost region
  TapeStats stats{};   // of the step
  double seconds = 0;  // by the plan's cost model
};

/// The outcome of `plan(step)`: a table of policies, and policies that keep to a budget. Prints as a table.
class Plan {
 public:
  /// Takes over a tape in plan mode on which a step was recorded, and its loss.
  Plan(std::shared_ptr<Tape> recorded, SlotId loss, const CostModel& model)
      : tape_(std::move(recorded)), loss_(loss), model_(model) {
    make_rows();
  }

  /// The step as its regions are written, then every policy of the phrase book in their place. Regions under an older
  /// plan's policy, which knows other shapes only, are written here as if they kept everything; the first row is then
  /// called "(without its plan)".
  const std::vector<PlannedPolicy>& rows() const& { return rows_; }
  std::vector<PlannedPolicy> rows() && { return std::move(rows_); }
  /// What the step would do with `policy` for every outermost region.
  PlannedPolicy under(const Policy& policy) const { return planned(policy::to_string(policy), policy, policy); }

  /// The fastest known policy whose peak is at most `bytes` (as `TapeStats::peak_bytes` counts). It belongs to this
  /// very program: under another one it is an `Error`. It prints as `plan(kept:12/40, peak:1263616, ...)`, and
  /// `policy::parse` reads that back, so a plan can be stored. A smaller budget never gives a higher peak. An `Error`
  /// names the least possible peak when `bytes` is below it.
  template <class Bytes>
  requires std::is_arithmetic_v<Bytes> Policy within(Bytes budget)
  const {
    // Negated, so that NaN is refused too; a cast of what no size_t can hold would be undefined.
    require(budget > 0 && static_cast<double>(budget) < 0x1p63, "plan: a budget of ", +budget,
            " bytes; it must be a number above 0");
    const auto bytes = static_cast<std::size_t>(budget);
    const PlannedPolicy* best = nullptr;
    for (const PlannedPolicy& point : frontier())
      if (point.stats.peak_bytes <= bytes) best = &point;
    require(best != nullptr, "plan: no policy keeps this step within ", bytes, " bytes; the least possible is ",
            frontier().front().stats.peak_bytes);
    return best->policy;
  }

  /// The most that gradients of parameters take at one time where each is freed as soon as it is complete, as by
  /// updates in backward. Without these they take as much as what is trained.
  template <class = void>
  std::size_t gradient_bytes_at_once() const;

  ///@{
  /// Policies none of which is both slower and larger than another, by growing peak.
  template <class = void>
  std::vector<PlannedPolicy> frontier() && {
    return std::as_const(*this).frontier();
  }
  template <class = void>
  const std::vector<PlannedPolicy>& frontier() const& {
    if (frontier_.empty()) make_frontier();
    return frontier_;
  }
  ///@}

 private:
  template <class = void>
  PlannedPolicy planned(std::string name, const Policy& policy, const std::optional<Policy>& replacement) const;

  // Templates of nothing: who makes no plan compiles none.
  template <class = void>
  void make_rows();
  template <class = void>
  void make_frontier() const;

  std::shared_ptr<Tape> tape_;
  SlotId loss_;
  CostModel model_;
  std::vector<PlannedPolicy> rows_;
  std::vector<std::vector<bool>> kept_;  // what each row keeps, by slot; nothing for the first
  mutable std::vector<PlannedPolicy> frontier_;
};

template <class>
void Plan::make_rows() {
  tape_->program().finished = true;  // Vars that die from now on belong to no step
  rows_.push_back(planned(tape_->program().had_plan ? "(without its plan)" : "(as written)", {}, std::nullopt));
  kept_.emplace_back();
  for (const policy::Phrase& phrase : policy::phrase_book()) {
    // JAX and Praxis have names of their own for one policy.
    const auto twin = std::find_if(rows_.begin() + 1, rows_.end(), [&](const PlannedPolicy& row) {
      return row.policy.node().left == phrase.policy.node().left;
    });
    if (twin == rows_.end()) {
      std::vector<bool> kept(tape_->program().slots.size());
      const Policy noted = [&](const SlotInfo& slot) {
        const Verdict verdict = phrase.policy(slot);
        kept[static_cast<std::size_t>(slot.index)] = verdict != Verdict::recompute;
        return verdict;
      };
      rows_.push_back(planned({}, {}, noted));
      kept_.push_back(std::move(kept));
    } else {
      kept_.push_back(kept_[static_cast<std::size_t>(twin - rows_.begin())]);
      rows_.push_back(PlannedPolicy(*twin));
    }
    rows_.back().name = phrase.name;
    rows_.back().policy = phrase.policy;
  }
}

template <class>
std::size_t Plan::gradient_bytes_at_once() const {
  const Program& program = tape_->program();
  struct Life {
    std::int32_t first = -1, last = -1;  // nodes that read it; backward meets the last one first
  };
  std::vector<Life> lives(program.parameters.size());
  for (std::int32_t i = 0; i < program.node_count(); ++i)
    for (const Operand& operand : program.operands_of(program.node(i))) {
      if (operand.slot < 0 || program.slot(operand.slot).parameter < 0) continue;
      Life& life = lives[static_cast<std::size_t>(program.slot(operand.slot).parameter)];
      if (life.first < 0) life.first = i;
      if (program.wants_gradient(operand)) life.last = i;
    }
  std::vector<std::size_t> begin(static_cast<std::size_t>(program.node_count())), end = begin;
  for (std::size_t i = 0; i < lives.size(); ++i) {
    if (lives[i].last < 0) continue;
    const std::size_t bytes = round_up(program.parameters[i]->value.bytes());
    begin[static_cast<std::size_t>(lives[i].last)] += bytes;
    end[static_cast<std::size_t>(lives[i].first)] += bytes;
  }
  std::size_t now = 0, most = 0;
  for (std::size_t i = begin.size(); i-- > 0;) {
    most = std::max(most, now += begin[i]);
    now -= end[i];
  }
  return most;
}

template <class>
void Plan::make_frontier() const {
  Program& program = tape_->program();
  const auto order = detail::saving_order(program, model_);
  struct Point {
    PlannedPolicy row;
    std::vector<bool> kept;  // by slot
  };
  std::vector<Point> points;
  // Long orders are sampled: neighbours differ by little, and each point costs a walk over the program.
  const std::size_t steps = std::min<std::size_t>(order.size(), 64);
  for (std::size_t i = 0; i <= steps; ++i) {
    const std::size_t count = steps == 0 ? 0 : order.size() * i / steps;
    std::vector<bool> kept(program.slots.size());
    for (std::size_t k = 0; k < count; ++k) kept[static_cast<std::size_t>(order[k])] = true;
    const Policy policy = [&kept](const SlotInfo& slot) { return bool(kept[static_cast<std::size_t>(slot.index)]); };
    points.push_back({planned("keeps " + std::to_string(count) + " values", {}, policy), std::move(kept)});
  }
  // What names say cuts nested regions better than one value after the other does.
  for (std::size_t i = 1; i < rows_.size(); ++i)
    if (rows_[i].stats.offloaded_bytes == 0) points.push_back({rows_[i], kept_[i]});
  std::stable_sort(points.begin(), points.end(), [](const Point& a, const Point& b) {
    return std::pair(a.row.stats.peak_bytes, a.row.seconds) < std::pair(b.row.stats.peak_bytes, b.row.seconds);
  });
  policy::PlannedSlots slots = detail::slots_of(program);
  double fastest = std::numeric_limits<double>::infinity();
  for (Point& point : points) {
    if (point.row.seconds >= fastest) continue;
    fastest = point.row.seconds;
    slots.kept = std::move(point.kept);
    slots.peak_bytes = point.row.stats.peak_bytes;
    point.row.policy = policy::planned(slots);
    frontier_.push_back(std::move(point.row));
  }
}

template <class>
PlannedPolicy Plan::planned(std::string name, const Policy& policy, const std::optional<Policy>& replacement) const {
  PlannedPolicy row{std::move(name), policy, detail::simulate(tape_->program(), loss_, replacement)};
  row.seconds = model_.seconds(row.stats);
  return row;
}

/// Records `step(tape)`, which returns the loss, without computing anything, and predicts it under every policy. The
/// step runs once. It may carry the policy of an older plan: its regions are planned anew. An `Error` when it reads a
/// value, for what depends on data cannot be planned, or returns what is no loss: not one number, or of no op.
template <class Step>
Plan plan(Step&& step, const CostModel& model = CostModel::of_this_machine()) {
  auto tape = std::make_shared<Tape>(TapeOptions{.mode = Mode::plan});
  tape->program().plans_anew = true;
  const auto loss = std::forward<Step>(step)(*tape);
  require(loss.shape().size() == 1, "plan: the step must return its loss, one number; it returned shape ",
          loss.shape());
  require(&loss.program() == &tape->program(), "plan: the step returned a loss that lies on another tape");
  const Slot& slot = tape->program().slot(loss.where().slot);
  require(!slot.is_leaf(), "plan: the step returned an input or a parameter; a loss is what an op gave");
  require(slot.spec.shape.size() == 1, "plan: the loss is a slice; sum it first");
  return Plan(tape, loss.where().slot, model);
}

/// The step as it is written, and nothing else: one row of its plan. Under a plan's policy that is what the plan said.
template <class Step>
PlannedPolicy planned_step(Step&& step, const CostModel& model = CostModel::of_this_machine()) {
  Tape tape({.mode = Mode::plan});
  tape.backward(std::forward<Step>(step)(tape));
  PlannedPolicy row{"(as written)", {}, tape.stats()};
  row.seconds = model.seconds(row.stats);
  return row;
}

/// The rows as a table: peak and bytes held for backward, ops replayed, flops of replays, predicted time.
template <class = void>
std::ostream& operator<<(std::ostream& out, const Plan& plan) {
  const auto line = [&out](std::string_view name, const auto& peak, const auto& held, const auto& replays,
                           const auto& gflop, const auto& ms) {
    out << std::left << std::setw(36) << name << std::right << std::setw(14) << peak << std::setw(14) << held
        << std::setw(10) << replays << std::setw(12) << gflop << std::setw(11) << ms << '\n';
  };
  line("policy", "peak KiB", "held KiB", "replays", "GFLOP again", "ms");
  for (const PlannedPolicy& row : plan.rows())
    line(row.name, row.stats.peak_bytes / 1024, row.stats.saved_bytes / 1024, row.stats.ops_replayed,
         std::round(row.stats.replay_flops / 1e7) / 100, std::round(row.seconds * 1e5) / 100);
  return out;
}

}}  // namespace remat
