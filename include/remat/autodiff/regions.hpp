// Regions open and close around recorded ops.
#pragma once

#include <algorithm>
#include <remat/autodiff/recording.hpp>
#include <remat/policy/name_check.hpp>
#include <remat/policy/planned.hpp>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace detail {

template <class = void>
std::int32_t open_region(Program& program, const Policy& policy) {
  require(!program.finished, "checkpoint: backward has ended the recording of this tape; make a new tape");
  const auto id = static_cast<std::int32_t>(program.regions.size());
  Region region;
  region.policy = policy;
  if (program.plans_anew && policy::is_planned(policy)) {  // it knows other shapes, and the new plan takes its place
    region.policy = policy::everything;
    program.had_plan = true;
  }
  region.keeps_everything = region.policy.keeps_everything();
  region.node_begin = program.node_count();
  region.slot_begin = static_cast<SlotId>(program.slots.size());
  if (!program.open_regions.empty()) region.parent = program.open_regions.back();
  make_room(program.open_regions, 1);
  program.regions.push_back(std::move(region));
  program.open_regions.push_back(id);
  program.note(Event::Kind::open, id);
  return id;
}

/// Every op that cannot run again must have its results kept, whoever reads them.
template <class = void>
void refuse_unreplayable(Program& program, std::int32_t id) {
  const Region& r = program.region(id);
  if (r.keeps_everything) return;
  for (std::int32_t i = r.node_begin; i < r.node_end; ++i) {
    const Node& n = program.node(i);
    if (n.op->replayable()) continue;
    for (SlotId slot = n.first_output; slot < n.first_output + n.output_count; ++slot) {
      const Verdict verdict = program.verdict(id, slot);
      require(verdict == Verdict::save || verdict == Verdict::offload, "checkpoint: ", n.op->name(),
              in_layer(program, n.path), " cannot be replayed; save its results, as with the policy ",
              policy::to_string(program.region(id).policy | policy::ops(n.op->name())));
    }
  }
}

/// A value that tape.keep is to keep and that the innermost region does not return could never be read.
template <class = void>
void refuse_kept(Program& program, std::span<const SlotId> returned) {
  const Region& r = program.region(program.open_regions.back());
  for (const SlotId slot : program.kept) {
    if (!program.slot(slot).keep || slot < r.slot_begin || program.slot(slot).sealed) continue;
    if (std::find(returned.begin(), returned.end(), slot) != returned.end()) continue;
    program.slot(slot).keep = false;
    const SlotInfo info = program.describe(slot);
    fail("checkpoint: tape.keep was asked to keep a result of ", info.op,
         " that the region's function does not return, ", "so that it could never be read; return it");
  }
}

/// Ends the innermost region. Of its values only those in `returned` may be used from now on; when it was the
/// outermost, what no backward or replay of it would read is dropped.
template <class = void>
void close_region(Program& program, std::span<const SlotId> returned) {
  const std::int32_t id = program.open_regions.back();
  program.open_regions.pop_back();
  program.note(Event::Kind::close, id);
  {
    Region& r = program.region(id);
    r.node_end = program.node_count();
    r.slot_end = static_cast<SlotId>(program.slots.size());
    if (program.mode == Mode::evaluate) {
      program.regions.pop_back();
      return;
    }
    for (const SlotId slot : returned)
      require(!program.slot(slot).sealed, "checkpoint: returns a Var that an inner region made and did not return");
    for (SlotId slot = r.slot_begin; slot < r.slot_end; ++slot)
      if (!program.slot(slot).is_leaf()) program.slot(slot).sealed = true;
    if (program.open_regions.empty()) refuse_unreplayable(program, id);
    for (const SlotId slot : returned) program.slot(slot).sealed = false;
    r.returned.assign(returned.begin(), returned.end());
  }
  program.rethrow();
  for (std::int32_t node = program.region(id).node_end - 1; node >= program.region(id).node_begin; --node)
    program.forget(node);
  if (!program.open_regions.empty()) return;
  if (program.region(id).keeps_everything) {
    // Its residuals wait one by one for their readers; only what was not returned goes now.
    for (SlotId slot = program.region(id).slot_begin; slot < program.region(id).slot_end; ++slot)
      if (Slot& s = program.slot(slot); !s.is_leaf() && s.sealed && s.pending_reads == 0 && !s.keep) s.value = {};
    return;
  }

  program.keep_replay_inputs(id);
  const std::vector<SlotId> read_while_open = std::exchange(program.region(id).read_while_open, {});
  for (const SlotId slot : read_while_open) program.finish_read(slot);
  const Region& r = program.region(id);
  for (SlotId slot = r.slot_begin; slot < r.slot_end; ++slot) {
    Slot& s = program.slot(slot);
    if (!s.is_leaf() && s.pending_reads == 0 && !s.keep && (s.vars == 0 || s.sealed)) s.value = {};
    program.evict(slot);
  }
}

/// A name that the user wrote and nothing carries is a mistake that would otherwise stay silent.
template <class = void>
void check_names(const Program& program) {
  std::vector<std::string> existing, ops;
  for (const auto& labels : program.labels) existing.insert(existing.end(), labels.begin(), labels.end());
  for (const Region& region : program.regions) {
    for (const std::string& name : policy::written_names(region.policy))
      if (std::find(existing.begin(), existing.end(), name) == existing.end())
        fail(policy::unmatched_name_message(name, existing));
    for (const std::string& op : policy::written_ops(region.policy)) {
      if (ops.empty())
        for (const Node& node : program.nodes) ops.emplace_back(node.op->name());
      // A policy may name ops that only other models have, dropout say, but not one that is nearly one of this step.
      if (std::find(ops.begin(), ops.end(), op) == ops.end() && !policy::near_misses(op, ops).empty())
        fail(policy::unmatched_op_message(op, ops));
    }
  }
}

}}}  // namespace remat::detail
