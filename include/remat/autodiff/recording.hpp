// Recording: an op is checked, run and written down.
#pragma once

#include <memory>
#include <remat/autodiff/diagnose.hpp>
#include <remat/autodiff/needs.hpp>
#include <span>
#include <utility>

namespace remat { inline namespace REMAT_ABI { namespace detail {

/// Points the program's frame at the values of one run. `reads` limits what a backward may see.
template <class = void>
void set_values(Program& program, Frame& frame, std::span<const Operand> operands, SlotId first_output,
                int output_count, const Residuals* reads) {
  frame.inputs.resize(operands.size());
  for (std::size_t i = 0; i < operands.size(); ++i) {
    Frame::Value& value = frame.inputs[i];
    value = {};
    value.present = operands[i].slot >= 0;
    if (!value.present) continue;
    value.shape = operands[i].shape;
    if (reads == nullptr || reads->input(static_cast<int>(i)))
      value.data = program.data(operands[i].slot, operands[i].offset);
  }
  frame.outputs.resize(static_cast<std::size_t>(output_count));
  for (int i = 0; i < output_count; ++i) {
    Frame::Value& value = frame.outputs[static_cast<std::size_t>(i)];
    value = {};
    value.present = true;
    value.shape = program.slot(first_output + i).spec.shape;
    if (reads == nullptr || reads->output(i)) value.data = program.data(first_output + i, 0);
  }
}

/// Throws `error` again, with the op's name in front and the layer path behind.
[[noreturn]] inline void fail_in_layer(const Program& program, const Op& op, std::int32_t path, const Error& error) {
  const std::string& where = program.paths[static_cast<std::size_t>(path)];
  fail(op.name(), ": ", error.what(), where.empty() ? "" : " (in ", where, where.empty() ? "" : ")");
}

/// Runs `forward` or `backward` of what is, or will be, `node`, called `phase` in traces, with the scratch that `cost`
/// asked for; errors gain the op's name and layer path.
template <class Run>
void run_op(Program& program, const Op& op, const Cost& cost, std::int32_t node, std::int32_t path, const char* phase,
            Frame& frame, Run&& run) {
  const bool is_backward = phase == std::string_view("backward");
  const std::size_t scratch_bytes = is_backward ? cost.backward_scratch : cost.forward_scratch;
  Storage scratch;
  if (scratch_bytes > 0) scratch = program.allocate(scratch_bytes, {MemoryUse::scratch, node}, cost.nested);
  if (!program.computes()) return;
  frame.scratch_memory = scratch ? scratch->data() : nullptr;
  const double start = program.tracing ? program.seconds() : 0;
  try {
    run();
    if (program.tracing)
      program.trace.push_back({op.name(), phase, program.paths[static_cast<std::size_t>(path)], start,
                               program.seconds(), program.account->live_bytes});
  } catch (const Error& error) {
    fail_in_layer(program, op, path, error);
  }
}

/// The operands as `infer` sees them. Refuses values that are gone or that belong to a closed region.
template <class = void>
std::vector<OperandSpec> operand_specs(const Program& program, std::span<const Operand> operands, const char* op) {
  std::vector<OperandSpec> specs;
  specs.reserve(operands.size());
  for (const Operand& operand : operands) {
    if (operand.slot < 0) {
      specs.emplace_back();
      continue;
    }
    const Slot& s = program.slot(operand.slot);
    require(!s.sealed, op, ": an operand was made inside a checkpoint region that did not return it; return it from ",
            "the region's function");
    require(static_cast<bool>(s.value), op, ": an operand's value is gone");
    OperandSpec spec{{s.spec.dtype, operand.shape}, true, program.wants_gradient(operand), {}};
    if (s.parameter >= 0) spec.name = program.parameters[static_cast<std::size_t>(s.parameter)]->path;
    specs.push_back(spec);
  }
  return specs;
}

/// While a region is open, what its ops read from outside must stay.
template <class = void>
void keep_for_open_region(Program& program, std::span<const Operand> operands) {
  Region& outer = program.region(program.ruling_region());
  for (const Operand& operand : operands) {
    if (operand.slot < 0 || operand.slot >= outer.slot_begin || program.slot(operand.slot).is_leaf()) continue;
    program.expect_read(operand.slot);
    outer.read_while_open.push_back(operand.slot);
  }
}

/// An op that was checked, ready to be run and written down.
struct Checked {
  std::shared_ptr<const Op> op;
  Specs outputs{};
  Cost cost{};
  Residuals residuals{};
  bool wants = false;  // a gradient of some operand
};

/// Asks the op its questions about the operands; errors gain the op's name and layer path.
template <class = void>
Checked check(Program& program, std::shared_ptr<const Op> op, std::span<const Operand> operands) {
  program.rethrow();
  require(!program.finished, op->name(), ": backward has ended the recording of this tape; make a new tape");
  require(!program.is_running, op->name(), ": recorded by an op that this tape is running; an op's own code may use a ",
          "tape of its own, not the one it is recorded on");
  const std::vector<OperandSpec> specs = operand_specs(program, operands, op->name());
  const Operands view(specs);
  Checked checked{std::move(op)};
  try {
    checked.outputs = checked.op->infer(view);
    checked.cost = checked.op->cost(view, checked.outputs);
    if (program.mode != Mode::evaluate)
      for (const OperandSpec& spec : specs) checked.wants = checked.wants || spec.wants_gradient;
    if (!checked.wants) return checked;
    checked.residuals = checked.op->residuals(Wanted(view));
    for (int i = 0; i < view.size(); ++i)
      require(!view[i].wants_gradient || checked.op->gradient(i).same_as < i, "the gradient of operand ", i,
              " is `same_as` that of one behind it");
  } catch (const Error& error) {
    fail_in_layer(program, *checked.op, program.path, error);
  }
  return checked;
}

/// Runs a checked op and writes it down. Returns the slot of its first result; results follow each other, each with one
/// Var counted, which the caller takes over. Whatever throws leaves the tape as it was.
template <class = void>
SlotId run_and_write(Program& program, const Checked& checked, std::span<const Operand> operands) {
  const Op& op = *checked.op;
  const int count = static_cast<int>(checked.outputs.size());
  std::vector<Storage> values;
  for (const Spec& spec : checked.outputs)
    values.push_back(
        program.allocate(spec.bytes(), {MemoryUse::value, static_cast<SlotId>(program.slots.size() + values.size())}));
  // All that can throw, before the op runs: once it is written down nothing does.
  if (program.mode != Mode::evaluate) {
    make_room(program.nodes, 1);
    make_room(program.operands, operands.size());
    if (program.mode == Mode::plan) make_room(program.events, 1);
    if (program.ruling_region() >= 0)
      make_room(program.region(program.ruling_region()).read_while_open, operands.size());
  }
  const SlotId first = program.add_slots(count);
  for (std::size_t i = 0; i < checked.outputs.size(); ++i) {
    Slot& s = program.slot(first + static_cast<SlotId>(i));
    s.spec = checked.outputs[i];
    s.value = std::move(values[i]);
    s.wants_gradient = checked.wants && is_floating(s.spec.dtype);
    s.vars = 1;
    s.node = program.node_count();
  }
  Frame& frame = program.frame;
  try {
    program.is_running = true;
    set_values(program, frame, operands, first, count, nullptr);
    // Verifying runs every op twice, as a replay would.
    for (int run = 0; run <= (program.verify && op.replayable() ? 1 : 0); ++run) {
      run_op(program, op, checked.cost, program.node_count(), program.path, "forward", frame,
             [&] { op.forward(frame); });
      diagnose_forward(program, op, program.path, first, count, run == 1);
    }
    watch_forward(program, op, first, count);
    if (program.mode == Mode::train) op.update_state(frame);
    program.is_running = false;
  } catch (...) {
    program.is_running = false;
    program.discard_slots(first, count);
    throw;
  }
  program.stats.forward_flops += checked.cost.flops;
  if (checked.cost.batched) program.stats.batched_flops += checked.cost.flops;
  ++program.stats.ops_recorded;
  if (program.mode == Mode::evaluate) return first;

  Node node{checked.op};
  node.first_operand = static_cast<std::int32_t>(program.operands.size());
  node.operand_count = static_cast<std::int32_t>(operands.size());
  node.first_output = first;
  node.output_count = count;
  node.region = program.open_regions.empty() ? -1 : program.open_regions.back();
  node.path = program.path;
  node.live = checked.wants;
  node.cost = checked.cost;
  node.residuals = checked.residuals;
  for (const Spec& spec : checked.outputs) node.moved_bytes += static_cast<double>(spec.bytes());
  for (const Operand& operand : operands)
    if (operand.slot >= 0)
      node.moved_bytes += static_cast<double>(operand.shape.size()) *
                          static_cast<double>(size_of(program.slot(operand.slot).spec.dtype));
  program.stats.moved_bytes += node.moved_bytes;
  program.note(Event::Kind::record, program.node_count());
  program.operands.insert(program.operands.end(), operands.begin(), operands.end());
  program.nodes.push_back(std::move(node));
  for (const Operand& operand : operands) {
    if (operand.slot < 0) continue;
    ++program.slot(operand.slot).readers;
    if (program.wants_gradient(operand)) ++program.slot(operand.slot).gradients;
  }
  if (program.ruling_region() >= 0) {
    keep_for_open_region(program, operands);
  } else if (checked.wants) {
    program.nodes.back().keeps_residuals = true;
    for_each_residual(program, program.nodes.back(), [&](SlotId slot) { program.expect_read(slot); });
  }
  if (count == 0) program.forget(program.node_count() - 1);
  return first;
}

/// The first result of a recorded op, and how many there are.
struct Recorded {
  SlotId first = 0;
  int count = 0;
};

/// Checks, runs and writes down an op. In evaluate mode the constants among its operands go with it. A template, like
/// the engine's other entrances, so that remat::compiled can hold it.
template <class = void>
Recorded record(Program& program, std::shared_ptr<const Op> op, std::span<const Operand> operands) {
  const auto release_constants = [&] {
    if (program.mode != Mode::evaluate) return;
    for (const Operand& operand : operands)
      if (operand.slot >= 0 && program.slot(operand.slot).vars == 0) program.release(operand.slot);
  };
  try {
    const Checked checked = check(program, std::move(op), operands);
    const SlotId first = run_and_write(program, checked, operands);
    release_constants();
    return {first, static_cast<int>(checked.outputs.size())};
  } catch (...) {
    release_constants();
    throw;
  }
}

}}}  // namespace remat::detail
