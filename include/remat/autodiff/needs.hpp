// What must be at hand: for the backward of one level of the tape, and for the replay of one region.
//
// A level is the tape outside all regions, or one region without those inside it. Its backward reads the residuals of
// its own nodes, and what replays of its child regions start from. Walking those back to values that are kept or lie
// outside gives what the region itself must hold. Each policy is asked about all slots of its region, so the outermost
// one governs while the forward runs and an inner one when the level above is replayed (as in JAX).
#pragma once

#include <remat/autodiff/program.hpp>

namespace remat { inline namespace REMAT_ABI {

/// What the policies of a region and of those around it keep, by slot of the region.
struct KeptAround {
  SlotId begin = 0;
  std::vector<std::uint8_t> kept{};
  bool operator()(SlotId slot) const { return kept[static_cast<std::size_t>(slot - begin)] != 0; }
};

/// What backward of a level reads (-1: the tape): one entry for each reader. Sets `replay_inputs` and `targets` of the
/// regions inside. `around`: of the region around this one, if there is one.
template <class = void>
std::vector<Need> level_needs(Program& program, std::int32_t level, const KeptAround* around = nullptr);

/// What a replay of region `id` starts from. `at_hand(slot)`: is a slot of the region held from outside already?
template <class AtHand>
std::vector<Need> region_needs(Program& program, std::int32_t id, const KeptAround* around, AtHand&& at_hand) {
  Region& r = program.region(id);
  KeptAround kept{r.slot_begin, std::vector<std::uint8_t>(static_cast<std::size_t>(r.slot_end - r.slot_begin))};
  for (SlotId slot = r.slot_begin; slot < r.slot_end; ++slot)
    if (!program.slot(slot).is_leaf())
      kept.kept[static_cast<std::size_t>(slot - r.slot_begin)] =
          program.kept_by(id, slot) || (around != nullptr && (*around)(slot));
  r.targets = level_needs(program, id, &kept);
  std::vector<Need> needs;
  std::vector<std::uint8_t> seen(static_cast<std::size_t>(r.slot_end - r.slot_begin));
  std::vector<std::uint8_t> replayed(static_cast<std::size_t>(r.node_end - r.node_begin));
  std::vector<std::uint8_t> frontier(seen.size());
  for (const SlotId slot : r.frontier)
    if (r.contains(slot)) frontier[static_cast<std::size_t>(slot - r.slot_begin)] = 1;
  const auto visit = [&](SlotId slot, std::int32_t reader, bool is_replay) {
    if (program.slot(slot).is_leaf()) return;
    if (!r.contains(slot)) {
      needs.push_back({slot, reader, is_replay});
      return;
    }
    auto& is_seen = seen[static_cast<std::size_t>(slot - r.slot_begin)];
    if (is_seen) return;
    is_seen = 1;
    if (program.kept_by(id, slot) || program.slot(slot).keep || at_hand(slot) ||
        frontier[static_cast<std::size_t>(slot - r.slot_begin)])
      needs.push_back({slot, reader, is_replay});
    else
      replayed[static_cast<std::size_t>(program.slot(slot).node - r.node_begin)] = 1;
  };
  for (const Need& target : r.targets) visit(target.slot, target.reader, target.replay);
  for (std::int32_t i = r.node_end - 1; i >= r.node_begin; --i) {
    if (!replayed[static_cast<std::size_t>(i - r.node_begin)]) continue;
    for (const Operand& operand : program.operands_of(program.node(i)))
      if (operand.slot >= 0) visit(operand.slot, i, true);
  }
  return needs;
}

template <class>
std::vector<Need> level_needs(Program& program, std::int32_t level, const KeptAround* around) {
  const bool is_tape = level < 0;
  const SlotId slot_begin = is_tape ? 0 : program.region(level).slot_begin;
  const SlotId slot_end = is_tape ? static_cast<SlotId>(program.slots.size()) : program.region(level).slot_end;
  const std::int32_t node_begin = is_tape ? 0 : program.region(level).node_begin;
  const std::int32_t node_end = is_tape ? program.node_count() : program.region(level).node_end;
  std::vector<Need> needs;
  std::vector<std::uint8_t> at_hand(static_cast<std::size_t>(slot_end - slot_begin));
  const auto add = [&](const Need& need) {
    needs.push_back(need);
    if (need.slot >= slot_begin) at_hand[static_cast<std::size_t>(need.slot - slot_begin)] = 1;
  };
  std::vector<std::int32_t> children;
  for (std::int32_t i = node_begin; i < node_end; ++i) {
    const Node& n = program.node(i);
    if (n.region != level) {
      // Skip the child region that holds this node.
      std::int32_t child = n.region;
      while (program.region(child).parent != level) child = program.region(child).parent;
      children.push_back(child);
      i = program.region(child).node_end - 1;
    } else if (n.live) {
      for_each_residual(program, n, [&](SlotId slot) { add({slot, i, false}); });
    }
  }
  for (auto child = children.rbegin(); child != children.rend(); ++child) {
    // What the policies around the child keep is there before the child's own policy is asked.
    const auto found = region_needs(program, *child, around, [&](SlotId slot) {
      return at_hand[static_cast<std::size_t>(slot - slot_begin)] != 0 || (around != nullptr && (*around)(slot));
    });
    auto& inputs = program.region(*child).replay_inputs;
    inputs.clear();
    for (const Need& need : found) {
      inputs.push_back(need.slot);
      program.slot(need.slot).replay_region = *child;
      add(need);
    }
  }
  return needs;
}

template <class>
void Program::keep_replay_inputs(std::int32_t id) {
  const std::vector<Need> needs = region_needs(*this, id, nullptr, [](SlotId) { return false; });
  region(id).replay_inputs.clear();
  for (const Need& need : needs) {
    expect_read(need.slot);
    slot(need.slot).replay_region = id;
    region(id).replay_inputs.push_back(need.slot);
  }
  const std::vector<SlotId> before = std::exchange(region(id).kept_inputs, region(id).replay_inputs);
  for (auto each = static_cast<std::size_t>(id); each < regions.size(); ++each) {
    if (each > static_cast<std::size_t>(id) && regions[each].parent < id) break;  // no region inside this one
    regions[each].frontier = regions[each].replay_inputs;
  }
  for (const SlotId slot : before) finish_read(slot);
}

}}  // namespace remat
