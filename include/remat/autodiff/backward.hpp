// Backward: nodes in reverse; a region's values are replayed when its last node is reached.
#pragma once

#include <algorithm>
#include <remat/autodiff/operand_gradients.hpp>
#include <remat/autodiff/recording.hpp>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace detail {

/// One backward over one program. No recursion over nodes, so depth costs no stack.
class Backward {
 public:
  Backward(Program& program, SlotId loss, const GradientHook& when_complete)
      : p_(program), loss_(loss), when_complete_(when_complete) {}

  void run() {
    prune();
    recount_pending_reads();
    seed();
    find_first_readers();
    std::int32_t level = -1;
    for (std::int32_t i = p_.node_count() - 1; i >= 0; --i) {
      while (level >= 0 && i < p_.region(level).node_begin) level = p_.region(level).parent;
      if (p_.node(i).live) {
        while (p_.node(i).region != level) {
          std::int32_t child = p_.node(i).region;
          while (p_.region(child).parent != level) child = p_.region(child).parent;
          enter(child);
          level = child;
        }
        step(p_.node(i));
      }
      complete(i);
    }
    for (Slot& s : p_.slots)
      if (!s.keep) s.value = {};
    if (p_.computes())
      for (const auto& entry : p_.parameters)
        if (entry->is_frozen) entry->drop_grad();  // since this tape first used it
    p_.stats.backward_flops += p_.stats.replay_flops;
  }

 private:
  /// Leaves live only what the loss reaches.
  void prune() {
    std::vector<std::uint8_t> reached(p_.slots.size());
    reached[static_cast<std::size_t>(loss_)] = 1;
    for (std::int32_t i = p_.node_count() - 1; i >= 0; --i) {
      Node& n = p_.node(i);
      bool is_reached = false;
      for (int k = 0; k < n.output_count; ++k)
        is_reached = is_reached || reached[static_cast<std::size_t>(n.first_output + k)];
      n.live = n.live && is_reached;
      if (!n.live) continue;
      for (const Operand& operand : p_.operands_of(n))
        if (p_.wants_gradient(operand)) reached[static_cast<std::size_t>(operand.slot)] = 1;
    }
  }

  /// The end of recording: from here on a value lives for its readers alone.
  void recount_pending_reads() {
    p_.slot(loss_).keep = true;
    p_.finished = true;
    p_.saved = level_needs(p_, -1);
    for (Slot& s : p_.slots) s.pending_reads = 0;
    for (const Need& need : p_.saved) p_.expect_read(need.slot);
    std::erase_if(p_.saved, [this](const Need& need) { return need.slot == loss_; });
    std::size_t saved_bytes = 0;
    for (std::size_t i = 0; i < p_.slots.size(); ++i) {
      Slot& s = p_.slots[i];
      if (s.is_leaf()) continue;
      if (s.pending_reads == 0 && !s.keep) s.value = {}, s.packed = {};
      p_.evict(static_cast<SlotId>(i));  // what a Var in scope kept in memory so far
      if ((s.value || s.packed) && static_cast<SlotId>(i) != loss_) saved_bytes += s.kept_bytes();
    }
    p_.stats.saved_bytes = saved_bytes;
  }

  /// Regions are replayed when their last node is reached, so a parameter's last reader in time is its first on the
  /// tape.
  void find_first_readers() {
    if (!when_complete_ || !p_.computes()) return;
    std::vector<std::uint8_t> is_seen(p_.parameters.size());
    for (std::int32_t i = 0; i < p_.node_count(); ++i)
      for (const Operand& operand : p_.operands_of(p_.node(i))) {
        if (operand.slot < 0 || p_.slot(operand.slot).parameter < 0) continue;
        const std::int32_t parameter = p_.slot(operand.slot).parameter;
        auto& seen = is_seen[static_cast<std::size_t>(parameter)];
        if (!seen) first_readers_.emplace_back(i, parameter);
        seen = 1;
      }
  }
  void complete(std::int32_t node) {
    for (; !first_readers_.empty() && first_readers_.back().first == node; first_readers_.pop_back()) {
      ParameterEntry& entry = *p_.parameters[static_cast<std::size_t>(first_readers_.back().second)];
      const auto& slots = p_.parameter_slots[&entry];
      for (const SlotId id : {slots.value, slots.cast})
        if (id >= 0) p_.slot(id).value = {};  // or an update would copy it first
      if (entry.has_grad && !entry.is_frozen) when_complete_(entry);
    }
  }

  void seed() {
    Slot& loss = p_.slot(loss_);
    loss.grad = p_.allocate(loss.spec.bytes(), {MemoryUse::gradient, loss_});
    if (!p_.computes()) return;
    if (loss.spec.dtype == DType::float32) *reinterpret_cast<float*>(loss.grad->data()) = 1;
    if (loss.spec.dtype == DType::float64) *reinterpret_cast<double*>(loss.grad->data()) = 1;
    if (loss.spec.dtype == DType::bfloat16) *reinterpret_cast<std::uint16_t*>(loss.grad->data()) = narrow(1);
  }

  void release(SlotId id) {
    Slot& s = p_.slot(id);
    if (--s.pending_reads == 0 && !s.keep) s.value = {};
  }

  /// Makes at hand all that backward of the region's level reads, by running its ops again in tape order, each once.
  void enter(std::int32_t id) {
    for (const SlotId slot : p_.region(id).replay_inputs) p_.fetch(slot);
    read_ahead_before(id);
    const std::vector<Need> targets = std::move(p_.region(id).targets);
    for (const Need& need : targets) p_.expect_read(need.slot);
    const std::int32_t begin = p_.region(id).node_begin, end = p_.region(id).node_end;
    std::vector<std::uint8_t> replayed(static_cast<std::size_t>(end - begin));
    const auto demand = [&](SlotId slot) {
      const Slot& s = p_.slot(slot);
      if (s.is_leaf() || s.value) return;
      require(s.node >= begin, "replay: ", p_.node(s.node).op->name(), " lies before its region and is not held");
      replayed[static_cast<std::size_t>(s.node - begin)] = 1;
    };
    for (const Need& need : targets) demand(need.slot);
    for (std::int32_t i = end - 1; i >= begin; --i) {
      if (!replayed[static_cast<std::size_t>(i - begin)]) continue;
      for_each_operand(p_.node(i), [&](SlotId slot) {
        demand(slot);
        p_.expect_read(slot);
      });
    }
    for (std::int32_t i = begin; i < end; ++i)
      if (replayed[static_cast<std::size_t>(i - begin)]) replay(p_.node(i));
    for (const SlotId slot : p_.region(id).replay_inputs) release(slot);
  }

  /// While this region computes, the system reads what the one before it offloaded.
  void read_ahead_before(std::int32_t id) {
    if (!p_.offload_file) return;
    do --id;
    while (id >= 0 && p_.region(id).parent >= 0);
    if (id < 0) return;
    for (const SlotId slot : p_.region(id).replay_inputs)
      if (const Slot& s = p_.slot(slot); s.offload_position >= 0)
        p_.offload_file->read_ahead(s.spec.bytes(), static_cast<std::size_t>(s.offload_position));
  }

  template <class Visit>
  void for_each_operand(const Node& n, Visit&& visit) {
    for (const Operand& operand : p_.operands_of(n))
      if (operand.slot >= 0 && !p_.slot(operand.slot).is_leaf()) visit(operand.slot);
  }

  void replay(const Node& n) {
    require(n.op->replayable(), "replay: ", n.op->name(), in_layer(p_, n.path),
            " cannot be replayed; save its results");
    for (int k = 0; k < n.output_count; ++k) {
      Slot& s = p_.slot(n.first_output + k);
      // A result that is still at hand keeps its bytes: the op writes the same ones into a spare.
      spare_.push_back(std::exchange(s.value, p_.allocate(s.spec.bytes(), {MemoryUse::replayed, n.first_output + k})));
    }
    set_values(p_, frame_, p_.operands_of(n), n.first_output, n.output_count, nullptr);
    run_op(p_, *n.op, n.cost, p_.slot(n.first_output).node, n.path, "replay", frame_, [&] { n.op->forward(frame_); });
    diagnose_forward(p_, *n.op, n.path, n.first_output, n.output_count, true);
    check_watched(p_, *n.op, n.path, n.first_output, n.output_count);
    for (int k = 0; k < n.output_count; ++k) {
      Slot& s = p_.slot(n.first_output + k);
      if (spare_[static_cast<std::size_t>(k)]) s.value = std::move(spare_[static_cast<std::size_t>(k)]);
      if (s.pending_reads == 0 && !s.keep) s.value = {};
    }
    spare_.clear();
    ++p_.stats.ops_replayed;
    ++p_.stats.replayed_by_op[n.op->name()];
    p_.stats.replay_flops += n.cost.flops;
    if (n.cost.batched) p_.stats.batched_flops += n.cost.flops;
    p_.stats.moved_bytes += n.moved_bytes;
    for_each_operand(n, [&](SlotId slot) { release(slot); });
  }

  void step(const Node& n) {
    bool has_gradient = false;
    for (int k = 0; k < n.output_count; ++k) has_gradient = has_gradient || p_.slot(n.first_output + k).grad;
    if (has_gradient) {
      set_values(p_, frame_, p_.operands_of(n), n.first_output, n.output_count, &n.residuals);
      if (gradients_.begin(n, frame_))
        run_op(p_, *n.op, n.cost, p_.slot(n.first_output).node, n.path, "backward", frame_,
               [&] { n.op->backward(frame_); });
      p_.stats.backward_flops += n.cost.backward_flops;
      if (n.cost.batched) p_.stats.batched_flops += n.cost.backward_flops;
      p_.stats.moved_bytes += 2 * n.moved_bytes;
      gradients_.end(n, frame_);
    }
    for_each_residual(p_, n, [&](SlotId slot) { release(slot); });
  }

  Program& p_;
  SlotId loss_;
  const GradientHook& when_complete_;
  std::vector<std::pair<std::int32_t, std::int32_t>> first_readers_;  // node and parameter, in tape order
  Frame frame_;
  OperandGradients gradients_{p_};
  std::vector<Storage> spare_;
};

template <class = void>
void run_backward(Program& program, SlotId loss, const GradientHook& when_complete = {}) {
  Backward(program, loss, when_complete).run();
}

}}}  // namespace remat::detail
