// What a recorded program is made of: slots, nodes, regions, and what is counted of a step.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <remat/autodiff/op.hpp>
#include <remat/core/compress.hpp>
#include <remat/policy/policy.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace remat { inline namespace REMAT_ABI {

/// train: records and computes; evaluate: computes and keeps nothing; plan: records and computes nothing.
enum class Mode { train, evaluate, plan };

/// What a step's memory is used for. Parameters, their gradients and optimizer state live outside the tape:
/// `ParameterRegistry::bytes()`, `AdamW::state_bytes()`.
enum class MemoryClass : std::uint8_t {
  saved,      // results of the forward that backward or a replay reads
  replayed,   // results computed again, or brought back from disk or from few bits
  gradient,   // of results and inputs
  workspace,  // scratch, and results of the forward that nothing reads later
};
/// "saved", "replayed", "gradient" or "workspace".
constexpr std::string_view to_string(MemoryClass c) {
  constexpr std::string_view names[] = {"saved", "replayed", "gradient", "workspace"};
  return names[static_cast<int>(c)];
}

/// One block that was alive at a tape's peak.
struct LiveBlock {
  std::size_t bytes = 0;                      // rounded up to 64
  MemoryClass kind = MemoryClass::workspace;  // what it is for
  std::string op{};                           // that made the value, or whose scratch it is
  std::string layer_path{};                   // of the use
  Index slot = -1;                            // of the value or gradient; -1 for scratch
};

/// What a step did and held. Bytes are rounded up to 64 for each value; parameters, their gradients, optimizer state
/// and inputs are never counted.
struct TapeStats {
  Index ops_recorded = 0;                         // in forward
  Index ops_replayed = 0;                         // in backward
  std::map<std::string, Index> replayed_by_op{};  // how many of these, by the op's name
  double forward_flops = 0;                       // of contractions, 2mnk each, as all flops here
  double backward_flops = 0;                      // replays included
  double replay_flops = 0;                        // of what ran again
  double batched_flops = 0;                       // of attention and batched products, replays included
  double moved_bytes = 0;            // read and written by all ops, replays included: what memory-bound time goes by
  std::size_t saved_bytes = 0;       // held in memory when backward begins, beside the loss
  std::size_t offloaded_bytes = 0;   // written to the offload file
  std::size_t peak_bytes = 0;        // activations, their gradients and scratch, each rounded up to 64
  std::vector<LiveBlock> at_peak{};  // who made up the peak, largest first; of a tape that ran, not of a plan
};

/// @cond inside
using SlotId = std::int32_t;

/// A place on the tape: one result of one op, an input, or a parameter.
struct Slot {
  Spec spec{};
  Storage value{};   // empty when the value is not at hand
  Index offset = 0;  // of a leaf, in elements of its storage
  Storage grad{};
  std::int32_t node = -1;           // who makes it; -1 for leaves
  std::int32_t vars = 0;            // living Vars
  std::int32_t constants = 0;       // those of them made by stop_gradient
  std::int32_t readers = 0;         // recorded ops that read it and whose results can still be used
  std::int32_t gradients = 0;       // those of them whose backward may give it a gradient
  std::int32_t pending_reads = 0;   // backwards, replays and open regions still to read it
  std::int32_t replay_region = -1;  // the last region whose replay starts from it
  std::int32_t labels = -1;         // index into Program::labels
  std::int32_t parameter = -1;      // index into Program::parameters
  bool wants_gradient = false;
  bool keep = false;                     // until the tape ends
  bool sealed = false;                   // made in a region that closed without returning it
  bool labelled_part = false;            // a label was given to a slice of it
  Index offload_position = -1;           // in the offload file, when the value was written there
  Storage packed{};                      // the value, compressed, when a lossy policy keeps it
  std::optional<Compression> packing{};  // how it was, once it was
  SlotId run_begin = -1, run_end = -1;   // evaluate mode: the results of its op, which are used again together
  bool is_leaf() const { return node < 0; }
  /// What keeping it takes in memory or, offloaded, on disk.
  std::size_t kept_bytes() const {
    return packing ? compressed_bytes(*packing, spec.dtype, spec.shape.size()) : spec.bytes();
  }
};

/// A slot as one op reads it: whole, reshaped, or some leading rows.
struct Operand {
  SlotId slot = -1;  // -1: an optional operand left out
  Index offset = 0;  // elements
  Shape shape{};
  bool stops_gradient = false;  // read as a constant, see stop_gradient
};

/// One recorded op.
struct Node {
  std::shared_ptr<const Op> op;
  std::int32_t first_operand = 0, operand_count = 0;
  SlotId first_output = 0;
  std::int32_t output_count = 0;
  std::int32_t region = -1;      // the innermost region around it
  std::int32_t path = 0;         // index into Program::paths
  bool live = false;             // its backward may run
  bool gone = false;             // nobody can use its results any more
  bool keeps_residuals = false;  // itself, not the region around it
  Cost cost{};
  Residuals residuals{};   // what backward reads
  double moved_bytes = 0;  // of forward; backward moves values and gradients
};

/// Why a value is held: which node reads it, in its backward or in a replay.
struct Need {
  SlotId slot = -1;
  std::int32_t reader = -1;
  bool replay = false;
};

/// A stretch of the tape under one policy. Slots and nodes of a region are contiguous.
struct Region {
  Policy policy{};
  bool keeps_everything = false;  // its policy does: each residual waits for its reader, as if there were no region
  std::int32_t parent = -1;
  std::int32_t node_begin = 0, node_end = 0;
  SlotId slot_begin = 0, slot_end = 0;
  std::vector<std::uint8_t> verdicts{};   // by slot, once asked
  std::vector<SlotId> read_while_open{};  // outer values that must stay while the region is open
  std::vector<SlotId> replay_inputs{};    // what a replay of the region reads
  std::vector<SlotId> kept_inputs{};      // of these, what it keeps until backward begins
  std::vector<SlotId> frontier{};  // `replay_inputs` when the outermost region closed: later only less is at hand
  std::vector<SlotId> returned{};  // what may be used after it
  std::vector<Need> targets{};     // what its backward reads, once backward has begun
  bool contains(SlotId slot) const { return slot >= slot_begin && slot < slot_end; }
};

/// A stretch of the tape that is no region but that a plan may make one.
struct PlannableRegion {
  SlotId slot_begin = 0, slot_end = 0;
  std::vector<SlotId> returned{};
};

/// @endcond

/// The part of a sequence that `blockwise` works on: elements [offset, offset + length) of `whole` along `axis`.
struct ChunkPlace {
  int axis = 0;                             // counted from the front
  Index offset = 0, length = 0, whole = 0;  // elements
  bool is_cut_elsewhere = false;            // an outer `blockwise` cuts another axis
};

/// The part of the step's batch that a tape works on: rows [first_row, first_row + rows).
struct BatchPart {
  Index first_row = 0, rows = 0;  // 0 rows: the whole batch
  bool is_regrouped = false;      // the values at hand are not laid out by rows of the batch
};

/// @cond inside
/// What a plan needs beside the program to run it again under another policy.
struct Event {
  enum class Kind : std::uint8_t {
    record,
    drop,
    only_constants,
    open,
    close,
    open_plannable,
    close_plannable,
    label,
    keep
  } kind = Kind::record;
  std::int32_t id =
      -1;  // a node, a slot whose last Var (or last one that passes gradients) died, a region, a plannable region
};

/// @endcond

}}  // namespace remat
