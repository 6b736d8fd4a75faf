// The planner's two walks over a recorded program: run it again under another policy, and find out which values are
// worth keeping, best first.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <remat/autodiff/tape.hpp>
#include <remat/plan/cost_model.hpp>
#include <remat/policy/planned.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace detail {

/// Records the recorded step again, into `tape`, with `policy` for each outermost region and plannable region. This is
/// the engine itself: the same records, deaths of Vars and closes, with blocks that have no bytes.
template <class = void>
void record_again(const Program& recorded, const std::optional<Policy>& policy, Tape& tape) {
  Program& p = tape.program();
  p.paths = recorded.paths;
  p.parameters = recorded.parameters;
  const auto add_leaves = [&](std::size_t end) {
    while (p.slots.size() < end) {
      const Slot& leaf = recorded.slots[p.slots.size()];
      Slot& s = p.slot(p.add_slots(1));
      s.spec = leaf.spec;
      s.value = pool().allocate_virtual(0, {});
      s.parameter = leaf.parameter;
      s.wants_gradient = leaf.wants_gradient;
    }
  };
  for (const Event& event : recorded.events) {
    switch (event.kind) {
      case Event::Kind::record: {
        const Node& n = recorded.node(event.id);
        add_leaves(static_cast<std::size_t>(n.first_output));
        Checked checked{n.op, {}, n.cost, n.residuals};
        for (const Operand& operand : recorded.operands_of(n))
          checked.wants = checked.wants || recorded.wants_gradient(operand);
        for (int i = 0; i < n.output_count; ++i) checked.outputs.push_back(recorded.slot(n.first_output + i).spec);
        p.path = n.path;
        run_and_write(p, checked, recorded.operands_of(n));
        break;
      }
      case Event::Kind::drop:
        add_leaves(static_cast<std::size_t>(event.id) + 1);
        if (!recorded.slot(event.id).is_leaf())
          p.drop_var({.slot = event.id, .stops_gradient = p.slot(event.id).constants > 0});
        break;
      case Event::Kind::only_constants:
        add_leaves(static_cast<std::size_t>(event.id) + 1);
        p.slot(event.id).constants = p.slot(event.id).vars;
        if (!recorded.slot(event.id).is_leaf()) p.forget(p.slot(event.id).node);
        break;
      case Event::Kind::keep:
        add_leaves(static_cast<std::size_t>(event.id) + 1);
        p.slot(event.id).keep = true;
        break;
      case Event::Kind::label: {
        add_leaves(static_cast<std::size_t>(event.id) + 1);
        const auto& all = recorded.labels[static_cast<std::size_t>(recorded.slot(event.id).labels)];
        const std::int32_t own = p.slot(event.id).labels;
        p.add_label(event.id, all[own < 0 ? 0 : p.labels[static_cast<std::size_t>(own)].size()]);
        p.label_late(event.id);
        break;
      }
      case Event::Kind::open_plannable:
        if (!policy) break;
        add_leaves(static_cast<std::size_t>(recorded.plannable_regions[static_cast<std::size_t>(event.id)].slot_begin));
        open_region(p, *policy);
        break;
      case Event::Kind::close_plannable: {
        if (!policy) break;
        const PlannableRegion& region = recorded.plannable_regions[static_cast<std::size_t>(event.id)];
        add_leaves(static_cast<std::size_t>(region.slot_end));
        close_region(p, region.returned);
        break;
      }
      case Event::Kind::open: {
        const Region& r = recorded.region(event.id);
        add_leaves(static_cast<std::size_t>(r.slot_begin));
        open_region(p, policy && r.parent < 0 ? *policy : r.policy);
        break;
      }
      case Event::Kind::close: {
        const Region& r = recorded.region(event.id);
        add_leaves(static_cast<std::size_t>(r.slot_end));
        close_region(p, r.returned);
        break;
      }
    }
  }
}

/// What the recorded step would do under `policy`.
template <class = void>
TapeStats simulate(const Program& recorded, SlotId loss, const std::optional<Policy>& policy) {
  Tape tape({.mode = Mode::plan});
  tape.program().account->with_log([](MemoryLog& log) { log.keep_nothing(); });  // only the sum is asked for
  record_again(recorded, policy, tape);
  run_backward(tape.program(), loss);
  TapeStats stats = tape.program().stats;
  stats.peak_bytes = tape.program().account->peak_bytes;
  return stats;
}

/// The slots of the recorded program, none of them kept: what a plan's policy knows it by.
template <class = void>
policy::PlannedSlots slots_of(const Program& program) {
  policy::PlannedSlots slots;
  slots.kept.resize(program.slots.size());
  std::map<std::pair<std::string_view, std::size_t>, std::uint32_t> known;
  for (std::size_t i = 0; i < program.slots.size(); ++i) {
    const SlotInfo info = program.describe(static_cast<SlotId>(i));
    const auto [found, is_new] =
        known.try_emplace({info.op, info.bytes}, static_cast<std::uint32_t>(slots.kinds.size()));
    if (is_new) slots.kinds.push_back({std::string(info.op), info.bytes});
    slots.kind.push_back(found->second);
  }
  return slots;
}

/// For one outermost region: which of its values to keep, best first by time saved for each byte.
class RegionChoices {
 public:
  struct Choice {
    std::vector<SlotId> slots;  // results of one op, all that a replay would be run for
    double seconds = 0, bytes = 1;
  };
  RegionChoices(Program& program, std::int32_t region, const CostModel& model)
      : p_(program), r_(program.region(region)), model_(model) {
    readers_.resize(static_cast<std::size_t>(r_.slot_end - r_.slot_begin));
    replayed_.resize(static_cast<std::size_t>(r_.node_end - r_.node_begin));
    // What backward reads here and in the regions inside, as if they were not: what is kept spares their replays too.
    for (std::int32_t i = r_.node_begin; i < r_.node_end; ++i)
      if (p_.node(i).live) for_each_residual(p_, p_.node(i), [this](SlotId slot) { count(slot, 1); });
    for (std::int32_t i = r_.node_end - 1; i >= r_.node_begin; --i) {
      if (!is_read(p_.node(i)) || p_.node(i).op->always_saved()) continue;
      replayed_[at(i)] = true;
      for (const Operand& operand : p_.operands_of(p_.node(i))) count(operand.slot, 1);
    }
  }

  /// Greedy: keep what saves most for its bytes, again and again, until nothing is left to replay.
  std::vector<Choice> order() {
    std::vector<Choice> chosen;
    for (;;) {
      Choice best;
      std::int32_t best_node = -1;
      for (std::int32_t i = r_.node_begin; i < r_.node_end; ++i) {
        if (!replayed_[at(i)]) continue;
        Choice choice{results(p_.node(i))};
        choice.bytes = 0;
        for (const SlotId slot : choice.slots)
          choice.bytes += static_cast<double>(round_up(p_.slot(slot).spec.bytes()));
        choice.seconds = spare(i);
        undo();
        if (choice.seconds * best.bytes <= best.seconds * choice.bytes) continue;
        best = std::move(choice);
        best_node = i;
      }
      if (best_node < 0) return chosen;
      spare(best_node);
      spared_.clear();
      chosen.push_back(std::move(best));
    }
  }

 private:
  std::size_t at(std::int32_t node) const { return static_cast<std::size_t>(node - r_.node_begin); }
  std::int32_t& readers(SlotId slot) { return readers_[static_cast<std::size_t>(slot - r_.slot_begin)]; }
  bool is_inside(SlotId slot) const { return slot >= 0 && r_.contains(slot) && !p_.slot(slot).is_leaf(); }
  void count(SlotId slot, int more) {
    if (is_inside(slot)) readers(slot) += more;
  }
  bool is_read(const Node& n) {
    for (int k = 0; k < n.output_count; ++k)
      if (readers(n.first_output + k) > 0) return true;
    return false;
  }
  /// The results of an op that a replay wants; all of them where they are coupled.
  std::vector<SlotId> results(const Node& n) {
    std::vector<SlotId> slots;
    for (SlotId slot = n.first_output; slot < n.first_output + n.output_count; ++slot)
      if (n.cost.coupled || readers(slot) > 0) slots.push_back(slot);
    return slots;
  }

  /// Replays a node no more, nor what was replayed for it alone. Returns the time saved.
  double spare(std::int32_t node) {
    double seconds = 0;
    std::size_t next = spared_.size();
    replayed_[at(node)] = false;
    spared_.push_back(node);
    for (; next < spared_.size(); ++next) {
      const Node& n = p_.node(spared_[next]);
      seconds += model_.seconds(n);
      for (const Operand& operand : p_.operands_of(n)) {
        if (!is_inside(operand.slot)) continue;
        --readers(operand.slot);
        const std::int32_t maker = p_.slot(operand.slot).node;
        if (!replayed_[at(maker)] || is_read(p_.node(maker))) continue;
        replayed_[at(maker)] = false;
        spared_.push_back(maker);
      }
    }
    return seconds;
  }
  void undo() {
    for (const std::int32_t node : spared_) {
      replayed_[at(node)] = true;
      for (const Operand& operand : p_.operands_of(p_.node(node))) count(operand.slot, 1);
    }
    spared_.clear();
  }

  Program& p_;
  const Region& r_;
  const CostModel& model_;
  std::vector<std::int32_t> readers_;  // of each slot: backwards and replays
  std::vector<bool> replayed_;         // by node
  std::vector<std::int32_t> spared_;   // nodes, in the order in which they ceased to be replayed
};

/// All slots worth keeping, best first over the whole program. The last region comes first: backward enters it at once,
/// so recomputing it would free nothing. Among equals later regions win, for their values are held for less long.
template <class = void>
std::vector<SlotId> saving_order(const Program& recorded, const CostModel& model) {
  Tape tape({.mode = Mode::plan});
  record_again(recorded, policy::nothing, tape);
  Program& program = tape.program();
  struct Ranked {
    double density;
    std::int32_t region;
    std::vector<SlotId> slots;
  };
  std::vector<Ranked> ranked;
  std::int32_t last = -1;
  for (std::int32_t id = 0; id < static_cast<std::int32_t>(program.regions.size()); ++id)
    if (program.region(id).parent < 0) last = id;
  for (std::int32_t id = 0; id < static_cast<std::int32_t>(program.regions.size()); ++id) {
    if (program.region(id).parent >= 0) continue;
    RegionChoices choices(program, id, model);
    double density = id == last ? std::numeric_limits<double>::infinity() : std::numeric_limits<double>::max();
    for (RegionChoices::Choice& choice : choices.order()) {
      density = std::min(density, id == last ? density : choice.seconds / choice.bytes);  // in-region order stands
      ranked.push_back({density, id, std::move(choice.slots)});
    }
  }
  std::stable_sort(ranked.begin(), ranked.end(), [](const Ranked& a, const Ranked& b) {
    return a.density != b.density ? a.density > b.density : a.region > b.region;
  });
  std::vector<SlotId> order;
  for (const Ranked& each : ranked) order.insert(order.end(), each.slots.begin(), each.slots.end());
  return order;
}

}}}  // namespace remat::detail
