// The recorded program: slots, nodes and regions, and the rule of when a value may go.
#pragma once

#include <cstdint>
#include <exception>
#include <map>
#include <memory>
#include <remat/autodiff/op.hpp>
#include <remat/params/parameter.hpp>
#include <remat/policy/policy.hpp>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

namespace remat::inline REMAT_ABI {

/// train: records and computes; evaluate: computes and keeps nothing; plan: records and computes nothing.
enum class Mode { train, evaluate, plan };

/// What a step did and held. Bytes are rounded up to 64 for each value; parameters, their gradients, optimizer state
/// and inputs are never counted.
struct TapeStats {
  Index ops_recorded = 0;
  Index ops_replayed = 0;
  std::map<std::string, Index> replayed_by_op{};
  double forward_flops = 0;
  double backward_flops = 0;  // replays included
  double replay_flops = 0;
  double moved_bytes = 0;       // read and written by all ops, replays included: what memory-bound time goes by
  std::size_t saved_bytes = 0;  // held when backward begins, beside the loss
  std::size_t peak_bytes = 0;   // activations, their gradients and scratch, each rounded up to 64
};

class Tape;
using SlotId = std::int32_t;

/// A place on the tape: one result of one op, an input, or a parameter.
struct Slot {
  Spec spec{};
  Storage value{};   // empty when the value is not at hand
  Index offset = 0;  // of a leaf, in elements of its storage
  Storage grad{};
  std::int32_t node = -1;       // who makes it; -1 for leaves
  std::int32_t vars = 0;        // living Vars
  std::int32_t holds = 0;       // backwards, replays and open regions still to read it
  std::int32_t labels = -1;     // index into Program::labels
  std::int32_t parameter = -1;  // index into Program::parameters
  bool wants_gradient = false;
  bool keep = false;    // until the tape ends
  bool sealed = false;  // made in a region that closed without returning it
  bool is_leaf() const { return node < 0; }
};

/// A slot as one op reads it: whole, reshaped, or some leading rows.
struct Operand {
  SlotId slot = -1;  // -1: an optional operand left out
  Index offset = 0;  // elements
  Shape shape{};
};

/// One recorded op.
struct Node {
  std::shared_ptr<const Op> op;
  std::int32_t first_operand = 0, operand_count = 0;
  SlotId first_output = 0;
  std::int32_t output_count = 0;
  std::int32_t region = -1;  // the innermost region around it
  std::int32_t path = 0;     // index into Program::paths
  bool live = false;         // its backward will run
  Cost cost{};
  Residuals residuals{};   // what backward reads
  double moved_bytes = 0;  // of forward; backward moves values and gradients
};

/// A stretch of the tape under one policy. Slots and nodes of a region are contiguous.
struct Region {
  Policy policy{};
  std::int32_t parent = -1;
  std::int32_t node_begin = 0, node_end = 0;
  SlotId slot_begin = 0, slot_end = 0;
  std::vector<std::int32_t> children{};
  std::vector<std::uint8_t> verdicts{};  // by slot, once asked
  std::vector<SlotId> open_holds{};      // outer values that must stay while the region is open
  std::vector<SlotId> held{};            // what a replay of the region reads
  std::vector<SlotId> returned{};        // what may be used after it
  bool contains(SlotId slot) const { return slot >= slot_begin && slot < slot_end; }
};

/// Why a value is held: which node reads it, in its backward or in a replay.
struct Need {
  SlotId slot = -1;
  std::int32_t reader = -1;
  bool replay = false;
};

/// What a plan needs beside the program to run it again under another policy.
struct Event {
  enum class Kind : std::uint8_t { record, drop, open, close } kind = Kind::record;
  std::int32_t id = -1;  // a node, a slot whose last Var died, a region
};

/// Everything one tape recorded. Tape and Vars share it; without its tape it holds no value.
class Program {
 public:
  std::atomic<int> references{0};
  Tape* tape = nullptr;  // null once the tape is gone
  Mode mode = Mode::train;
  std::uint64_t seed = 0;
  std::uint32_t step = 0;
  std::uint32_t next_site = 0;  // of random ops
  bool finished = false;        // backward has begun
  Counted<Account> account{new Account};
  std::vector<Slot> slots;
  std::vector<Node> nodes;
  std::vector<Operand> operands;
  std::vector<Region> regions;
  std::vector<std::int32_t> open_regions;  // innermost last
  std::vector<std::string> paths{""};
  std::int32_t path = 0;
  std::vector<std::vector<std::string>> labels;
  std::vector<std::shared_ptr<ParameterEntry>> parameters;
  std::unordered_map<const ParameterEntry*, SlotId> parameter_slots;
  std::vector<SlotId> free_slots;  // evaluate mode uses slots again
  std::vector<Need> saved;         // when backward began
  std::vector<Event> events;       // plan mode only
  std::exception_ptr error;        // what a policy threw while a Var died
  bool verify = false, find_nan = false;
  std::vector<std::uint64_t> prints;  // verify: of every result's bits, by slot
  TapeStats stats;

  Slot& slot(SlotId id) { return slots[static_cast<std::size_t>(id)]; }
  const Slot& slot(SlotId id) const { return slots[static_cast<std::size_t>(id)]; }
  Node& node(std::int32_t id) { return nodes[static_cast<std::size_t>(id)]; }
  const Node& node(std::int32_t id) const { return nodes[static_cast<std::size_t>(id)]; }
  Region& region(std::int32_t id) { return regions[static_cast<std::size_t>(id)]; }
  const Region& region(std::int32_t id) const { return regions[static_cast<std::size_t>(id)]; }
  std::span<const Operand> operands_of(const Node& n) const {
    return {operands.data() + n.first_operand, static_cast<std::size_t>(n.operand_count)};
  }
  std::int32_t node_count() const { return static_cast<std::int32_t>(nodes.size()); }

  bool computes() const { return mode != Mode::plan; }
  /// Uninitialized bytes charged to this tape; in plan mode they are only charged.
  Storage allocate(std::size_t bytes) {
    return computes() ? pool().allocate(bytes, account) : pool().imagine(bytes, account);
  }
  /// The bytes of a slot from element `offset` on; null in plan mode or when the value is not at hand.
  std::byte* data(SlotId id, Index offset) {
    Slot& s = slot(id);
    if (!computes() || !s.value) return nullptr;
    return s.value->data() + static_cast<std::size_t>(s.offset + offset) * size_of(s.spec.dtype);
  }

  SlotId add_leaf(AnyTensor tensor, bool wants_gradient) {
    const SlotId id = add_slot();
    Slot& s = slot(id);
    s.spec = {tensor.dtype, tensor.shape};
    s.offset = tensor.offset;
    s.value = std::move(tensor.storage);
    s.wants_gradient = wants_gradient && is_floating(s.spec.dtype);
    return id;
  }
  /// The one slot of a parameter, whatever region asks first.
  SlotId parameter_slot(const std::shared_ptr<ParameterEntry>& entry) {
    const auto [found, is_new] = parameter_slots.try_emplace(entry.get(), -1);
    if (is_new) {
      found->second = add_leaf(entry->value, mode != Mode::evaluate);
      slot(found->second).parameter = static_cast<std::int32_t>(parameters.size());
      parameters.push_back(entry);
    }
    return found->second;
  }
  SlotId add_slot(bool may_reuse = true) {
    if (may_reuse && !free_slots.empty()) {
      const SlotId id = free_slots.back();
      free_slots.pop_back();
      slot(id) = Slot{};
      return id;
    }
    require(slots.size() < std::size_t{1} << 31, "tape: more than 2^31 values");
    slots.emplace_back();
    return static_cast<SlotId>(slots.size()) - 1;
  }

  /// Takes back the newest slot, or one that was used again, because its op threw.
  void discard_slot(SlotId id) {
    if (static_cast<std::size_t>(id) + 1 == slots.size()) {
      slots.pop_back();
      return;
    }
    slot(id) = Slot{};
    free_slots.push_back(id);
  }

  void add_var(SlotId id) {
    if (tape != nullptr) ++slot(id).vars;
  }
  void drop_var(SlotId id) {
    if (tape == nullptr) return;
    if (--slot(id).vars > 0) return;
    note(Event::Kind::drop, id);
    try {
      settle(id);
    } catch (...) {  // a policy threw, and this may be the destructor of a Var: the tape says so when it is used next
      if (!error) error = std::current_exception();
    }
  }
  void rethrow() {
    if (error) std::rethrow_exception(std::exchange(error, nullptr));
  }
  void note(Event::Kind kind, std::int32_t id) {
    if (mode == Mode::plan && !finished) events.push_back({kind, id});
  }
  void hold(SlotId id) { ++slot(id).holds; }
  void unhold(SlotId id) {
    if (--slot(id).holds == 0) settle(id);
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
  /// there each residual is held for its reader, as if the region were not.
  std::int32_t ruling_region() const {
    if (open_regions.empty() || region(open_regions.front()).policy == policy::everything) return -1;
    return open_regions.front();
  }

  /// Frees the value of a slot that nobody needs any more.
  void settle(SlotId id) {
    const Slot& s = slot(id);
    if (!s.value || s.vars > 0 || s.holds > 0 || s.keep) return;
    if (s.parameter >= 0 || (s.is_leaf() && mode != Mode::evaluate)) return;
    if (mode == Mode::evaluate) {
      slot(id).value = {};
      free_slots.push_back(id);
      return;
    }
    if (const std::int32_t ruling = ruling_region(); ruling >= 0 && id >= region(ruling).slot_begin) {
      settle_in_region(ruling, id);
      return;
    }
    slot(id).value = {};
  }

  SlotInfo describe(SlotId id) const {
    const Slot& s = slot(id);
    SlotInfo info;
    info.index = id;
    info.shape = s.spec.shape;
    info.bytes = s.spec.bytes();
    if (s.labels >= 0) info.labels = labels[static_cast<std::size_t>(s.labels)];
    if (s.is_leaf()) {
      info.op = s.parameter >= 0 ? "parameter" : "input";
      return info;
    }
    const Node& n = node(s.node);
    info.op = n.op->name();
    info.layer_path = paths[static_cast<std::size_t>(n.path)];
    info.flops = n.cost.flops;
    info.dot = n.cost.dot;
    info.batched = n.cost.batched;
    return info;
  }

  /// The end of the tape: no value survives it, whatever Vars do.
  void end() {
    tape = nullptr;
    slots = {};
    nodes = std::vector<Node>();
    operands = {};
    regions = {};
    parameters = {};
    parameter_slots = {};
  }

 private:
  static constexpr std::uint8_t unasked = 255;

  void ask(Region& r, SlotId id) {
    const Node& n = node(slot(id).node);
    const auto answer = [&](SlotId of) {
      // Discrete decisions are small, and recomputing one another way would change what follows.
      return is_floating(slot(of).spec.dtype) ? r.policy(describe(of)) : Verdict::save;
    };
    const SlotId first = n.cost.coupled ? n.first_output : id;
    const SlotId last = n.cost.coupled ? n.first_output + n.output_count - 1 : id;
    Verdict verdict = Verdict::recompute;
    for (SlotId each = first; each <= last; ++each) verdict = verdict | answer(each);
    for (SlotId each = first; each <= last; ++each)
      r.verdicts[static_cast<std::size_t>(each - r.slot_begin)] = static_cast<std::uint8_t>(verdict);
  }

  // In an open region the policy decides when the last Var dies; coupled results are decided together.
  void settle_in_region(std::int32_t region_id, SlotId id) {
    const Node& n = node(slot(id).node);
    const bool coupled = n.cost.coupled;
    const SlotId first = coupled ? n.first_output : id;
    const SlotId last = coupled ? n.first_output + n.output_count - 1 : id;
    for (SlotId each = first; each <= last; ++each)
      if (slot(each).vars > 0) return;
    if (kept_by(region_id, id)) return;
    for (SlotId each = first; each <= last; ++each)
      if (slot(each).holds == 0 && !slot(each).keep) slot(each).value = {};
  }
};

inline void destroy(Program* program) { delete program; }

}  // namespace remat::inline REMAT_ABI
