// What a tape holds and why, as values and as text.
#pragma once

#include <algorithm>
#include <iomanip>
#include <ostream>
#include <remat/autodiff/tape.hpp>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace remat { inline namespace REMAT_ABI {

/// A value that is kept between forward and backward, beside inputs, parameters and the loss.
struct SavedResidual {
  Index slot = 0;                     // place on the tape
  std::vector<std::string> labels{};  // given by checkpoint_name
  std::string op{};                   // that made it
  std::string layer_path{};           // of the use that made it
  DType dtype = DType::float32;       // of an element
  Shape shape{};                      // axis lengths
  std::size_t bytes = 0;              // in memory or, offloaded, on disk
  Verdict verdict = Verdict::save;    // of the outermost region around it; save outside regions
  std::string why{};                  // who reads it: "backward of sin", "replay of linear (decoder/layer_0)"
  bool labelled_part = false;         // a label was given to a slice of it; the whole is kept
};

namespace detail {

template <class = void>
Verdict outermost_verdict(const Program& program, SlotId id) {
  const std::int32_t region = program.outermost_region(id);
  if (region < 0) return Verdict::save;
  const Region& r = program.region(region);
  const auto at = static_cast<std::size_t>(id - r.slot_begin);
  if (at >= r.verdicts.size()) return Verdict::recompute;
  return std::min(static_cast<Verdict>(r.verdicts[at]), Verdict::save);
}

inline std::string join(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : ", ") + word;
  return text;
}

}  // namespace detail

/// Every value held for backward, in tape order, with its reason. After `backward` it reports the moment when backward
/// began; before, what would be held if backward began now.
template <class = void>
std::vector<SavedResidual> saved_residuals(Tape& tape) {
  Program& program = tape.program();
  require(program.open_regions.empty(), "saved_residuals: a checkpoint region is still open");
  std::vector<Need> needs = program.finished ? program.saved : level_needs(program, -1);
  std::stable_sort(needs.begin(), needs.end(), [](const Need& a, const Need& b) { return a.slot < b.slot; });
  std::vector<SavedResidual> saved;
  for (const Need& need : needs) {
    const Node& reader = program.node(need.reader);
    const std::string& reader_path = program.paths[static_cast<std::size_t>(reader.path)];
    const std::string why = std::string(need.replay ? "replay of " : "backward of ") + reader.op->name() +
                            (reader_path.empty() ? "" : " (" + reader_path + ")");
    if (!saved.empty() && saved.back().slot == need.slot) {
      if (saved.back().why.find(why) == std::string::npos) saved.back().why += ", " + why;
      continue;
    }
    const SlotInfo info = program.describe(need.slot);
    saved.push_back({need.slot,
                     {info.labels.begin(), info.labels.end()},
                     std::string(info.op),
                     std::string(info.layer_path),
                     program.slot(need.slot).spec.dtype,
                     info.shape,
                     program.slot(need.slot).kept_bytes(),
                     detail::outermost_verdict(program, need.slot),
                     why,
                     program.slot(need.slot).labelled_part});
  }
  return saved;
}

/// One line for each residual: labels or op, type and shape, bytes, verdict, layer path, reason; then the total.
template <class = void>
std::ostream& operator<<(std::ostream& out, const std::vector<SavedResidual>& saved) {
  std::size_t total = 0;
  for (const SavedResidual& s : saved) {
    const std::string what = s.labels.empty() ? s.op : s.op + " \"" + detail::join(s.labels) + '"';
    out << '%' << std::left << std::setw(6) << s.slot << std::setw(32) << what << ' ' << std::setw(24)
        << name_of(s.dtype) + s.shape.to_string() << std::right << std::setw(12) << s.bytes << " B  " << std::left
        << std::setw(10) << policy::to_string(s.verdict) << s.layer_path << (s.layer_path.empty() ? "" : ": ")
        << "read by " << s.why << (s.labelled_part ? "; a slice of it was labelled, it is kept whole" : "")
        << std::right << '\n';
    total += s.bytes;
  }
  return out << saved.size() << " residuals, " << total << " B\n";
}

/// What a step did and held: ops, flops, bytes, replays by op, and the five largest blocks of the peak.
template <class = void>
std::ostream& operator<<(std::ostream& out, const TapeStats& stats) {
  const auto line = [&out](std::string_view what, const auto& value, std::string_view unit) {
    out << std::left << std::setw(28) << what << std::right << std::setw(14) << value << ' ' << unit << '\n';
  };
  line("ops recorded", stats.ops_recorded, "");
  line("ops replayed", stats.ops_replayed, "");
  for (const auto& [op, count] : stats.replayed_by_op) line("  " + op, count, "");
  line("forward", stats.forward_flops / 1e9, "GFLOP");
  line("backward, with replays", stats.backward_flops / 1e9, "GFLOP");
  line("replays", stats.replay_flops / 1e9, "GFLOP");
  line("held between", stats.saved_bytes, "B");
  if (stats.offloaded_bytes > 0) line("offloaded", stats.offloaded_bytes, "B");
  line("peak", stats.peak_bytes, "B");
  for (std::size_t i = 0; i < std::min<std::size_t>(5, stats.at_peak.size()); ++i) {
    const LiveBlock& block = stats.at_peak[i];
    line("  " + std::string(to_string(block.kind)) + ", " + block.op, block.bytes, "B  " + block.layer_path);
  }
  return out;
}

/// The recorded program, one line a slot: name, op, operands, shape, bytes, verdict, region, layer path.
template <class = void>
std::ostream& operator<<(std::ostream& out, const Tape& tape) {
  const Program& program = tape.program();
  const auto name = [&](const Operand& operand) {
    if (operand.slot < 0) return std::string("-");
    const Slot& slot = program.slot(operand.slot);
    if (slot.parameter >= 0) return program.parameters[static_cast<std::size_t>(slot.parameter)]->path;
    std::string text(1, '%');  // "%" + std::to_string(...) makes g++ 12 warn of an overlap that is not there
    text += std::to_string(operand.slot);
    if (operand.offset != 0 || !(operand.shape == slot.spec.shape)) text += operand.shape.to_string();
    return text;
  };
  for (std::size_t i = 0; i < program.slots.size(); ++i) {
    const auto id = static_cast<SlotId>(i);
    const Slot& slot = program.slot(id);
    if (slot.parameter >= 0) continue;
    const SlotInfo info = program.describe(id);
    out << '%' << i << " = " << info.op;
    if (!slot.is_leaf()) {
      const Node& node = program.node(slot.node);
      out << '(';
      for (const Operand& operand : program.operands_of(node))
        out << (&operand == program.operands_of(node).data() ? "" : ", ") << name(operand);
      out << ')';
      if (node.output_count > 1) out << '[' << id - node.first_output << ']';
    }
    if (!info.labels.empty()) out << " \"" << detail::join({info.labels.begin(), info.labels.end()}) << '"';
    out << " : " << name_of(slot.spec.dtype) << info.shape << ' ' << info.bytes << " B";
    if (!slot.is_leaf() && program.node(slot.node).region >= 0)
      out << ' ' << policy::to_string(detail::outermost_verdict(program, id)) << " region "
          << program.node(slot.node).region;
    if (!info.layer_path.empty()) out << "  (" << info.layer_path << ')';
    out << '\n';
  }
  return out;
}

}}  // namespace remat
