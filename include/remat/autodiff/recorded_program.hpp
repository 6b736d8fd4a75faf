// What one tape recorded: slots, nodes, regions, and how they come about.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <exception>
#include <map>
#include <memory>
#include <optional>
#include <remat/autodiff/graph.hpp>
#include <remat/autodiff/master.hpp>
#include <remat/core/offload_file.hpp>
#include <remat/core/sequence_ring.hpp>
#include <remat/core/trace.hpp>
#include <remat/params/parameter.hpp>
#include <span>
#include <string>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI {

class Tape;

namespace detail {
/// Room for `more` elements, so that adding them cannot throw; grows like `push_back`.
template <class T>
void make_room(std::vector<T>& list, std::size_t more) {
  if (list.capacity() - list.size() < more) list.reserve(std::max(list.size() + more, 2 * list.capacity()));
}
}  // namespace detail

/// Everything one tape recorded; `Program` adds the rule of when a value may go.
struct RecordedProgram {
  std::atomic<int> references{0};
  Tape* tape = nullptr;  // null once the tape is gone
  Mode mode = Mode::train;
  std::uint64_t seed = 0;
  std::uint32_t step = 0;
  bool has_step = false;  // one was given
  BatchPart part{};
  std::shared_ptr<SequenceRing> ring;  // of ranks that the step's sequences are cut among; null: they are whole
  std::uint32_t next_site = 0;         // of random ops
  std::optional<ChunkPlace> chunk;     // inside `blockwise`
  bool finished = false;               // backward has begun
  Counted<Account> account{new Account};
  std::vector<Slot> slots;
  std::vector<Node> nodes;
  std::vector<Operand> operands;
  std::vector<Region> regions;
  std::vector<std::int32_t> open_regions;  // innermost last
  std::vector<std::string> paths{""};
  std::unordered_map<std::string, std::int32_t> path_ids{{"", 0}};
  std::int32_t path = 0;
  Frame frame;              // of the op that is being recorded
  bool is_running = false;  // an op, whose own code may record on any tape but this one
  std::vector<std::vector<std::string>> labels;
  std::vector<std::shared_ptr<ParameterEntry>> parameters;
  struct ParameterSlots {
    std::int32_t parameter = -1;   // index into `parameters`
    SlotId value = -1, cast = -1;  // of the master itself, and of its cast to bfloat16
    std::thread::id user{};        // in whose name this tape uses it
    bool wants_gradient = false;   // it was not frozen when this tape first used it
  };
  std::unordered_map<const ParameterEntry*, ParameterSlots> parameter_slots;
  std::map<int, std::vector<SlotId>> free_runs;    // evaluate mode uses the slots of an op's results again, by number
  std::vector<SlotId> kept;                        // by Tape::keep
  std::vector<Need> saved;                         // when backward began
  std::vector<Event> events;                       // plan mode only
  std::vector<PlannableRegion> plannable_regions;  // likewise
  bool plans_anew = false;   // plan(): regions under an older plan's policy stand as if they kept everything
  bool had_plan = false;     // such regions were there
  std::exception_ptr error;  // what a policy threw while a Var died
  std::string offload_directory;
  std::unique_ptr<OffloadFile> offload_file;
  bool verify = false, find_nan = false, tracing = false;
  std::vector<TraceSlice> trace;
  std::chrono::steady_clock::time_point begun = std::chrono::steady_clock::now();
  std::vector<std::uint64_t> prints;                      // verify: of every result's bits, by slot
  std::vector<std::pair<SlotId, std::uint64_t>> watched;  // of the results of some nodes, by the first of them
  bool has_packed = false;                                // some value lost bits, so replays may differ
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
  /// Uninitialized bytes charged to this tape; in plan mode, and where they are to be `virtually` there, only charged.
  Storage allocate(std::size_t bytes, const MemoryTag& tag, bool virtually = false) {
    account->tag = tag;
    return computes() && !virtually ? pool().allocate(bytes, account) : pool().allocate_virtual(bytes, account);
  }
  /// The bytes of a slot from element `offset` on; null in plan mode or when the value is not at hand.
  std::byte* data(SlotId id, Index offset) {
    Slot& s = slot(id);
    if (!computes() || !s.value) return nullptr;
    return s.value->data() + static_cast<std::size_t>(s.offset + offset) * size_of(s.spec.dtype);
  }

  template <class = void>
  SlotId add_leaf(AnyTensor tensor, bool wants_gradient);
  /// The one slot of a parameter, whatever region asks first; in bfloat16, where its master is float32, that of a cast.
  template <class = void>
  SlotId parameter_slot(const std::shared_ptr<ParameterEntry>& entry, DType as);
  ParameterUse parameter_use() const { return mode == Mode::train ? ParameterUse::train : ParameterUse::read; }
  /// From now on this tape reads no parameter and adds to no gradient.
  void release_parameters() {
    for (auto& [entry, slots_of] : parameter_slots)
      if (const std::thread::id user = std::exchange(slots_of.user, {}); user != std::thread::id{})
        parameters[static_cast<std::size_t>(slots_of.parameter)]->uses.end(parameter_use(), user);
  }
  /// The type in which the gradient of a slot is summed: for a parameter that of its master.
  DType gradient_type(const Slot& s) const {
    return s.parameter < 0 ? s.spec.dtype : parameters[static_cast<std::size_t>(s.parameter)]->value.dtype;
  }
  /// The first of `count` neighbouring slots, new or used again.
  SlotId add_slots(int count) {
    auto first = static_cast<SlotId>(slots.size());
    if (const auto free = free_runs.find(count); free != free_runs.end() && !free->second.empty()) {
      first = free->second.back();
      free->second.pop_back();
    } else {
      require(slots.size() + static_cast<std::size_t>(count) < std::size_t{1} << 31, "tape: more than 2^31 values");
      slots.resize(slots.size() + static_cast<std::size_t>(count));
    }
    for (SlotId id = first; id < first + count; ++id) {
      slot(id) = Slot{};
      slot(id).run_begin = first;
      slot(id).run_end = first + count;
    }
    return first;
  }
  /// Takes back slots that `add_slots` gave, because their op threw.
  void discard_slots(SlotId first, int count) {
    if (count == 0) return;
    for (SlotId id = first; id < first + count; ++id) slot(id) = Slot{};
    if (static_cast<std::size_t>(first + count) == slots.size())
      slots.resize(static_cast<std::size_t>(first));
    else
      free_runs[count].push_back(first);
  }
  /// The number of a layer path, the same whenever it is asked for.
  template <class = void>
  std::int32_t path_id(std::string_view layer);

  void note(Event::Kind kind, std::int32_t id) {
    if (mode == Mode::plan && !finished) events.push_back({kind, id});
  }
  /// Adds a label to the slot's set. Evaluate mode asks no policy.
  template <class = void>
  void add_label(SlotId id, const std::string& label);

  /// A slot as policies see it.
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

 private:
  AnyTensor cast_of(ParameterEntry& master) const {
    if (computes()) return detail::rounded(master);
    return {DType::bfloat16, master.value.shape, pool().allocate_virtual(0, {}), 0};
  }
};

template <class>
SlotId RecordedProgram::parameter_slot(const std::shared_ptr<ParameterEntry>& entry, DType as) {
  require(!entry->matrix, entry->path, ": is read as it is stored, as ", entry->matrix ? entry->matrix->format() : "",
          ", which linear, embedding and linear_cross_entropy can; for other ops load it as numbers");
  require(static_cast<bool>(entry->value.storage), entry->path, ": has no value yet; read it from a file or set it");
  ParameterSlots& slots_of = parameter_slots[entry.get()];
  if (slots_of.parameter < 0) {
    detail::make_room(parameters, 1);  // so that nothing throws once its use has begun
    entry->uses.begin(parameter_use(), entry->path);
    slots_of.user = std::this_thread::get_id();
    slots_of.wants_gradient = mode != Mode::evaluate && !entry->is_frozen;
    slots_of.parameter = static_cast<std::int32_t>(parameters.size());
    parameters.push_back(entry);
  }
  const bool is_cast = as != entry->value.dtype;
  SlotId& found = is_cast ? slots_of.cast : slots_of.value;
  if (found < 0) {
    require(!is_cast || (as == DType::bfloat16 && entry->value.dtype == DType::float32), entry->path, ": holds ",
            name_of(entry->value.dtype), ", asked for ", name_of(as));
    found = add_leaf(is_cast ? cast_of(*entry) : entry->value, slots_of.wants_gradient);
    slot(found).parameter = slots_of.parameter;
  }
  return found;
}

template <class>
SlotId RecordedProgram::add_leaf(AnyTensor tensor, bool wants_gradient) {
  const SlotId id = add_slots(1);
  Slot& s = slot(id);
  s.spec = {tensor.dtype, tensor.shape};
  s.offset = tensor.offset;
  s.value = std::move(tensor.storage);
  s.wants_gradient = wants_gradient && is_floating(s.spec.dtype);
  return id;
}

template <class>
std::int32_t RecordedProgram::path_id(std::string_view layer) {
  std::string name(layer);
  detail::make_room(paths, 1);
  const auto [found, is_new] = path_ids.try_emplace(name, static_cast<std::int32_t>(paths.size()));
  if (is_new) paths.push_back(std::move(name));
  return found->second;
}

template <class>
void RecordedProgram::add_label(SlotId id, const std::string& label) {
  if (mode == Mode::evaluate) return;
  Slot& s = slot(id);
  if (s.labels < 0) {
    labels.emplace_back();
    s.labels = static_cast<std::int32_t>(labels.size()) - 1;
  }
  auto& all = labels[static_cast<std::size_t>(s.labels)];
  if (std::find(all.begin(), all.end(), label) != all.end()) return;
  all.push_back(label);
  note(Event::Kind::label, id);
}

}}  // namespace remat
