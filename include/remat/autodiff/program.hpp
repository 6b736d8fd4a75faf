// When a value of the recorded program may go, and where it waits until then.
#pragma once

#include <algorithm>
#include <cstdint>
#include <exception>
#include <memory>
#include <remat/autodiff/recorded_program.hpp>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI {

/// Calls `visit(slot)` for each residual of a node that is not a leaf.
template <class Visit>
void for_each_residual(const RecordedProgram& program, const Node& node, Visit&& visit) {
  const auto operands = program.operands_of(node);
  for (std::size_t i = 0; i < operands.size(); ++i)
    if (node.residuals.input(static_cast<int>(i)) && operands[i].slot >= 0 && !program.slot(operands[i].slot).is_leaf())
      visit(operands[i].slot);
  for (int i = 0; i < node.output_count; ++i)
    if (node.residuals.output(i)) visit(node.first_output + i);
}

/// The program of one tape. Tape and Vars share it; without its tape it holds no value.
class Program : public RecordedProgram {
 public:
  void add_var(const Operand& where) {
    if (tape == nullptr) return;
    ++slot(where.slot).vars;
    if (where.stops_gradient) ++slot(where.slot).constants;
  }
  void drop_var(const Operand& where) {
    if (tape == nullptr) return;
    const SlotId id = where.slot;
    Slot& s = slot(id);
    if (where.stops_gradient) --s.constants;
    if (--s.vars > s.constants || (s.vars > 0 && where.stops_gradient)) return;
    nothing_follows(id);
  }
  /// The slot has no Var any more but those through which no gradient flows.
  template <class = void>
  void nothing_follows(SlotId id);
  void rethrow() {
    if (error) std::rethrow_exception(std::exchange(error, nullptr));
  }
  void expect_read(SlotId id) { ++slot(id).pending_reads; }
  void finish_read(SlotId id) {
    Slot& s = slot(id);
    if (--s.pending_reads > 0) return;
    s.packed = {};
    release(id);
  }

  /// Lets go of what only this op and those before it needed, where nobody can use its results any more: its backward
  /// cannot run, and what no Var and no other op will read need not be there for a replay.
  template <class = void>
  void forget(std::int32_t first);

  /// Keeps what a replay of a closed outermost region starts from, and no longer what it was said to start from before.
  template <class = void>
  void keep_replay_inputs(std::int32_t id);

  /// A label that is given when the region of a returned value has closed: policies that name labels are asked again.
  template <class = void>
  void label_late(SlotId id);

  /// May the backward of an op that reads this operand give it a gradient?
  bool wants_gradient(const Operand& operand) const {
    return operand.slot >= 0 && !operand.stops_gradient && slot(operand.slot).wants_gradient;
  }

  /// The policy's answer for a slot of the region, asked once.
  Verdict verdict(std::int32_t region_id, SlotId id) {
    Region& r = region(region_id);
    const auto at = static_cast<std::size_t>(id - r.slot_begin);
    if (r.verdicts.size() <= at) r.verdicts.resize(slots.size() - static_cast<std::size_t>(r.slot_begin), unasked);
    if (r.verdicts[at] == unasked) ask(r, id);
    return static_cast<Verdict>(region(region_id).verdicts[at]);
  }
  bool kept_by(std::int32_t region_id, SlotId id) { return verdict(region_id, id) != Verdict::recompute; }

  /// The region whose policy decides while the forward runs; -1 outside all regions, and in one that keeps everything:
  /// there each residual waits for its reader, as if the region were not.
  std::int32_t ruling_region() const {
    if (open_regions.empty() || region(open_regions.front()).keeps_everything) return -1;
    return open_regions.front();
  }

  /// The outermost region around the op that made a slot; -1 for none.
  std::int32_t outermost_region(SlotId id) const {
    return slot(id).is_leaf() ? -1 : outermost_region_of(node(slot(id).node));
  }
  std::int32_t outermost_region_of(const Node& n) const {
    std::int32_t found = n.region;
    while (found >= 0 && region(found).parent >= 0) found = region(found).parent;
    return found;
  }
  bool is_open(std::int32_t outermost) const { return !open_regions.empty() && open_regions.front() == outermost; }

  /// Writes the value to disk, or compresses it, and frees it, where the policy of its region says so and only the
  /// backward of one region, its own or a later one, will read it.
  template <class = void>
  void evict(SlotId id);
  /// Brings a value back that was put away.
  void fetch(SlotId id) {
    Slot& s = slot(id);
    if (s.value || (s.offload_position < 0 && !s.packed)) return;
    Storage value = allocate(s.spec.bytes(), {MemoryUse::replayed, id});
    if (computes() && s.packed)
      decompress(*s.packing, s.spec.dtype, s.packed->data(), s.spec.shape.size(), value->data());
    else if (computes())
      offload_file->read(value->data(), s.spec.bytes(), static_cast<std::size_t>(s.offload_position));
    s.value = std::move(value);
    s.packed = {};
    s.offload_position = -1;
  }

  /// Frees the value of a slot that nobody needs any more, or puts it away.
  void release(SlotId id) {
    evict(id);
    const Slot& s = slot(id);
    if (!s.value || s.vars > 0 || s.pending_reads > 0 || s.keep) return;
    if (s.parameter >= 0 || (s.is_leaf() && mode != Mode::evaluate)) return;
    if (mode == Mode::evaluate) {
      slot(id).value = {};
      use_again(s.run_begin, s.run_end);
      return;
    }
    if (const std::int32_t ruling = ruling_region(); ruling >= 0 && id >= region(ruling).slot_begin) {
      settle_in_region(ruling, id);
      return;
    }
    slot(id).value = {};
  }
  /// The end of the tape: no value survives it, whatever Vars do.
  template <class = void>
  void end();

 private:
  static constexpr std::uint8_t unasked = 255;

  /// In evaluate mode: once all results of an op are gone, another op may have their slots.
  void use_again(SlotId begin, SlotId end) {
    for (SlotId id = begin; id < end; ++id)
      if (slot(id).value || slot(id).vars > 0) return;
    free_runs[end - begin].push_back(begin);
  }
  void add_maker(SlotId id, std::vector<std::int32_t>& makers) const {
    if (!slot(id).is_leaf()) makers.push_back(slot(id).node);
  }
  static std::int32_t pop(std::vector<std::int32_t>& pending) {
    if (pending.empty()) return -1;
    const std::int32_t last = pending.back();
    pending.pop_back();
    return last;
  }

  template <class = void>
  void write_away(Slot& s);
  /// Statistics, results of another shape than the first, stay exact: errors in them would grow.
  template <class = void>
  void pack(SlotId id, Compression how);

  /// The results that are decided with this one: all of its op where they are coupled, else itself alone.
  std::pair<SlotId, SlotId> decided_with(SlotId id) const {
    const Node& n = node(slot(id).node);
    return n.cost.coupled ? std::pair(n.first_output, n.first_output + n.output_count) : std::pair(id, id + 1);
  }

  template <class = void>
  void ask(Region& r, SlotId id);

  // In an open region the policy decides when the last Var dies; coupled results are decided together.
  template <class = void>
  void settle_in_region(std::int32_t region_id, SlotId id);
};

template <class>
void Program::nothing_follows(SlotId id) {
  const Slot& s = slot(id);
  try {
    note(s.vars == 0 ? Event::Kind::drop : Event::Kind::only_constants, id);
    if (s.vars == 0) release(id);
    if (!slot(id).is_leaf()) forget(slot(id).node);
  } catch (...) {  // a policy threw, or memory ended: this may be the destructor of a Var, so the tape says it when it
                   // is used next
    if (!error) error = std::current_exception();
  }
}

template <class>
void Program::label_late(SlotId id) {
  const std::int32_t outermost = mode == Mode::evaluate ? -1 : outermost_region(id);
  if (outermost < 0 || is_open(outermost) || region(outermost).keeps_everything) return;
  const auto [first, end] = decided_with(id);
  bool is_other = false;
  for (std::int32_t r = node(slot(id).node).region; r >= 0; r = region(r).parent) {
    if (!policy::reads_labels(region(r).policy)) continue;
    const Verdict before = verdict(r, id);
    for (SlotId each = first; each < end; ++each)
      region(r).verdicts[static_cast<std::size_t>(each - region(r).slot_begin)] = unasked;
    is_other = verdict(r, id) != before || is_other;
  }
  if (is_other) keep_replay_inputs(outermost);
}

template <class>
void Program::end() {
  tape = nullptr;
  release_parameters();
  slots = {};
  nodes = std::vector<Node>();
  operands = {};
  regions = {};
  parameters = {};
  parameter_slots = {};
  offload_file = nullptr;
}

template <class>
void Program::forget(std::int32_t first) {
  if (mode == Mode::evaluate || finished) return;
  std::vector<std::int32_t> pending, closed;
  for (std::int32_t id = first; id >= 0; id = pop(pending)) {
    Node& n = node(id);
    bool is_read = false, may_pass = false;
    for (SlotId each = n.first_output; each < n.first_output + n.output_count; ++each) {
      const Slot& s = slot(each);
      is_read = is_read || (s.vars > 0 && !s.sealed) || s.readers > 0;
      may_pass = may_pass || (s.vars > s.constants && !s.sealed) || s.gradients > 0;
    }
    if (n.live && !may_pass) {
      n.live = false;
      if (n.keeps_residuals) for_each_residual(*this, n, [this](SlotId slot) { finish_read(slot); });
      if (const std::int32_t around = outermost_region_of(n); around >= 0 && !is_open(around)) closed.push_back(around);
      for (const Operand& operand : operands_of(n))
        if (wants_gradient(operand) && --slot(operand.slot).gradients == 0) add_maker(operand.slot, pending);
    }
    if (n.gone || is_read) continue;
    n.gone = true;
    for (SlotId each = n.first_output; each < n.first_output + n.output_count; ++each)
      if (Slot& s = slot(each); s.pending_reads == 0 && !s.keep) s.value = {};
    for (const Operand& operand : operands_of(n))
      if (operand.slot >= 0 && --slot(operand.slot).readers == 0) add_maker(operand.slot, pending);
  }
  std::sort(closed.begin(), closed.end());
  closed.erase(std::unique(closed.begin(), closed.end()), closed.end());
  for (const std::int32_t id : closed)
    if (!region(id).keeps_everything) keep_replay_inputs(id);
}

template <class>
void Program::write_away(Slot& s) {
  const std::size_t bytes = s.spec.bytes();
  s.offload_position = 0;
  if (computes()) {
    if (!offload_file)
      offload_file = std::make_unique<OffloadFile>(offload_directory, "TapeOptions::offload_directory");
    s.offload_position = static_cast<Index>(offload_file->reserve(bytes));
    offload_file->write(s.value->data(), bytes, static_cast<std::size_t>(s.offload_position));
  }
  stats.offloaded_bytes += bytes;
  s.value = {};
}

template <class>
void Program::pack(SlotId id, Compression how) {
  Slot& s = slot(id);
  const bool is_statistic = s.spec.shape != slot(node(s.node).first_output).spec.shape;
  if (verify || is_statistic || !is_compressible(s.spec.dtype)) return;
  s.packed = allocate(compressed_bytes(how, s.spec.dtype, s.spec.shape.size()), {MemoryUse::value, id});
  s.packing = how;
  has_packed = true;
  if (computes()) compress(how, s.spec.dtype, s.value->data(), s.spec.shape.size(), s.packed->data());
  s.value = {};
}

template <class>
void Program::ask(Region& r, SlotId id) {
  const auto answer = [&](SlotId of) {
    // Discrete decisions are small, and recomputing one another way would change what follows.
    if (!is_floating(slot(of).spec.dtype)) return Verdict::save;
    const Verdict said = r.policy(describe(of));
    return node(slot(of).node).op->always_saved() && said != Verdict::offload ? Verdict::save : said;
  };
  const auto [first, end] = decided_with(id);
  Verdict verdict = Verdict::recompute;
  for (SlotId each = first; each < end; ++each) verdict = verdict | answer(each);
  for (SlotId each = first; each < end; ++each)
    r.verdicts[static_cast<std::size_t>(each - r.slot_begin)] = static_cast<std::uint8_t>(verdict);
}

template <class>
void Program::settle_in_region(std::int32_t region_id, SlotId id) {
  const auto [first, end] = decided_with(id);
  for (SlotId each = first; each < end; ++each)
    if (slot(each).vars > 0) return;
  if (kept_by(region_id, id)) return;
  for (SlotId each = first; each < end; ++each)
    if (slot(each).pending_reads == 0 && !slot(each).keep) slot(each).value = {};
}

template <class>
void Program::evict(SlotId id) {
  Slot& s = slot(id);
  if (mode == Mode::evaluate || !s.value || (s.vars > 0 && !finished) || s.pending_reads == 0 || s.replay_region < 0 ||
      s.keep)
    return;
  const std::int32_t maker = outermost_region(id);
  if (maker < 0 || is_open(maker) || !kept_by(maker, id)) return;
  const Verdict said = verdict(maker, id);
  if (said == Verdict::save) return;
  const std::vector<SlotId>& inputs = region(s.replay_region).replay_inputs;
  if (std::count(inputs.begin(), inputs.end(), id) != s.pending_reads) return;
  said == Verdict::offload ? write_away(s)
                           : pack(id, said == Verdict::int8 ? Compression::int8 : Compression::bfloat16);
}

namespace detail {
template <class = void>
void delete_program(Program* program) {
  delete program;
}
}  // namespace detail
inline void destroy(Program* program) { detail::delete_program(program); }

}}  // namespace remat
