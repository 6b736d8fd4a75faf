// The recorded program, and the rule of when a value may go.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <exception>
#include <memory>
#include <remat/autodiff/graph.hpp>
#include <remat/autodiff/master.hpp>
#include <remat/core/offload_file.hpp>
#include <remat/core/trace.hpp>
#include <remat/params/parameter.hpp>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

namespace remat::inline REMAT_ABI {

class Tape;

/// Everything one tape recorded. Tape and Vars share it; without its tape it holds no value.
class Program {
 public:
  std::atomic<int> references{0};
  Tape* tape = nullptr;  // null once the tape is gone
  Mode mode = Mode::train;
  std::uint64_t seed = 0;
  std::uint32_t step = 0;
  std::uint32_t next_site = 0;      // of random ops
  std::optional<ChunkPlace> chunk;  // inside `blockwise`
  bool finished = false;            // backward has begun
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
  struct ParameterSlots {
    std::int32_t parameter = -1;   // index into `parameters`
    SlotId value = -1, cast = -1;  // of the master itself, and of its cast to bfloat16
  };
  std::unordered_map<const ParameterEntry*, ParameterSlots> parameter_slots;
  std::vector<SlotId> free_slots;  // evaluate mode uses slots again
  std::vector<Need> saved;         // when backward began
  std::vector<Event> events;       // plan mode only
  std::vector<Place> places;       // likewise
  std::exception_ptr error;        // what a policy threw while a Var died
  std::string offload_directory;
  std::unique_ptr<OffloadFile> offload_file;
  bool verify = false, find_nan = false, tracing = false;
  std::vector<TraceSlice> trace;
  std::chrono::steady_clock::time_point begun = std::chrono::steady_clock::now();
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

  double seconds() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count(); }
  bool computes() const { return mode != Mode::plan; }
  /// Uninitialized bytes charged to this tape; in plan mode they are only charged.
  Storage allocate(std::size_t bytes, const MemoryTag& tag) {
    account->tag = tag;
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
  /// The one slot of a parameter, whatever region asks first; in bfloat16, where its master is float32, that of a cast.
  SlotId parameter_slot(const std::shared_ptr<ParameterEntry>& entry, DType as) {
    ParameterSlots& slots_of = parameter_slots[entry.get()];
    if (slots_of.parameter < 0) {
      slots_of.parameter = static_cast<std::int32_t>(parameters.size());
      parameters.push_back(entry);
    }
    const bool is_cast = as != entry->value.dtype;
    SlotId& found = is_cast ? slots_of.cast : slots_of.value;
    if (found < 0) {
      require(!is_cast || (as == DType::bfloat16 && entry->value.dtype == DType::float32), entry->path, ": holds ",
              name_of(entry->value.dtype), ", asked for ", name_of(as));
      found = add_leaf(is_cast ? cast_of(entry->value) : entry->value, mode != Mode::evaluate);
      slot(found).parameter = slots_of.parameter;
    }
    return found;
  }
  /// The type in which the gradient of a slot is summed: for a parameter that of its master.
  DType gradient_type(const Slot& s) const {
    return s.parameter < 0 ? s.spec.dtype : parameters[static_cast<std::size_t>(s.parameter)]->value.dtype;
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
  /// Adds a label to the slot's set.
  void add_label(SlotId id, const std::string& label) {
    Slot& s = slot(id);
    if (s.labels < 0) {
      s.labels = static_cast<std::int32_t>(labels.size());
      labels.emplace_back();
    }
    auto& all = labels[static_cast<std::size_t>(s.labels)];
    if (std::find(all.begin(), all.end(), label) != all.end()) return;
    all.push_back(label);
    note(Event::Kind::label, id);
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

  /// The outermost region around the op that made a slot; -1 for none.
  std::int32_t outermost_region(SlotId id) const {
    std::int32_t found = slot(id).is_leaf() ? -1 : node(slot(id).node).region;
    while (found >= 0 && region(found).parent >= 0) found = region(found).parent;
    return found;
  }

  /// Writes the value to disk, or compresses it, and frees it, where the policy of its region says so and only the
  /// backward of one region, its own or a later one, will read it.
  void put_away(SlotId id) {
    Slot& s = slot(id);
    if (mode == Mode::evaluate || !s.value || (s.vars > 0 && !finished) || s.holds == 0 || s.holder < 0 || s.keep)
      return;
    const std::int32_t maker = outermost_region(id);
    if (maker < 0 || (!open_regions.empty() && open_regions.front() == maker) || !kept_by(maker, id)) return;
    const Verdict kept = verdict(maker, id);
    if (kept == Verdict::save) return;
    const std::vector<SlotId>& held = region(s.holder).held;
    if (std::count(held.begin(), held.end(), id) != s.holds) return;
    kept == Verdict::offload ? write_away(s)
                             : pack(id, kept == Verdict::int8 ? Compression::int8 : Compression::bfloat16);
  }
  /// Brings a value back that was put away.
  void fetch(SlotId id) {
    Slot& s = slot(id);
    if (s.value || (s.place < 0 && !s.packed)) return;
    Storage value = allocate(s.spec.bytes(), {MemoryUse::replayed, id});
    if (computes() && s.packed)
      decompress(*s.packing, s.spec.dtype, s.packed->data(), s.spec.shape.size(), value->data());
    else if (computes())
      offload_file->read(value->data(), s.spec.bytes(), static_cast<std::size_t>(s.place));
    s.value = std::move(value);
    s.packed = {};
    s.place = -1;
  }

  /// Frees the value of a slot that nobody needs any more, or puts it away.
  void settle(SlotId id) {
    put_away(id);
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
    offload_file = nullptr;
  }

 private:
  static constexpr std::uint8_t unasked = 255;

  AnyTensor cast_of(const AnyTensor& master) const {
    if (computes()) return detail::rounded(master);
    return {DType::bfloat16, master.shape, pool().imagine(0, {}), 0};
  }
  void write_away(Slot& s) {
    const std::size_t bytes = s.spec.bytes();
    s.place = 0;
    if (computes()) {
      if (!offload_file) offload_file = std::make_unique<OffloadFile>(offload_directory);
      s.place = static_cast<Index>(offload_file->reserve(bytes));
      offload_file->write(s.value->data(), bytes, static_cast<std::size_t>(s.place));
    }
    stats.offloaded_bytes += bytes;
    s.value = {};
  }
  /// Statistics, results beside the first, stay exact: they are small, and errors in them would grow.
  void pack(SlotId id, Compression how) {
    Slot& s = slot(id);
    const bool is_first = id == node(s.node).first_output;
    if (verify || !is_first || !is_compressible(s.spec.dtype)) return;
    s.packing = how;
    s.packed = allocate(s.kept_bytes(), {MemoryUse::value, id});
    if (computes()) compress(how, s.spec.dtype, s.value->data(), s.spec.shape.size(), s.packed->data());
    s.value = {};
  }

  /// The results that are decided with this one: all of its op where they are coupled, else itself alone.
  std::pair<SlotId, SlotId> decided_with(SlotId id) const {
    const Node& n = node(slot(id).node);
    return n.cost.coupled ? std::pair(n.first_output, n.first_output + n.output_count) : std::pair(id, id + 1);
  }

  void ask(Region& r, SlotId id) {
    const auto answer = [&](SlotId of) {
      // Discrete decisions are small, and recomputing one another way would change what follows.
      return is_floating(slot(of).spec.dtype) ? r.policy(describe(of)) : Verdict::save;
    };
    const auto [first, end] = decided_with(id);
    Verdict verdict = Verdict::recompute;
    for (SlotId each = first; each < end; ++each) verdict = verdict | answer(each);
    for (SlotId each = first; each < end; ++each)
      r.verdicts[static_cast<std::size_t>(each - r.slot_begin)] = static_cast<std::uint8_t>(verdict);
  }

  // In an open region the policy decides when the last Var dies; coupled results are decided together.
  void settle_in_region(std::int32_t region_id, SlotId id) {
    const auto [first, end] = decided_with(id);
    for (SlotId each = first; each < end; ++each)
      if (slot(each).vars > 0) return;
    if (kept_by(region_id, id)) return;
    for (SlotId each = first; each < end; ++each)
      if (slot(each).holds == 0 && !slot(each).keep) slot(each).value = {};
  }
};

inline void destroy(Program* program) { delete program; }

}  // namespace remat::inline REMAT_ABI
