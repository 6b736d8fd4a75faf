// Backward: nodes in reverse; a region's values are replayed when its last node is reached.
#pragma once

#include <algorithm>
#include <cstring>
#include <remat/autodiff/accumulate.hpp>
#include <remat/autodiff/recording.hpp>
#include <vector>

namespace remat::inline REMAT_ABI::detail {

/// One backward over one program. No recursion over nodes, so depth costs no stack.
class Backward {
 public:
  Backward(Program& program, SlotId loss, const GradientHook& when_complete = {})
      : p_(program), loss_(loss), when_complete_(when_complete) {}

  void run() {
    prune();
    hold_exactly();
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
        if (operand.slot >= 0 && p_.slot(operand.slot).wants_gradient)
          reached[static_cast<std::size_t>(operand.slot)] = 1;
    }
  }

  /// The end of recording: from here on a value lives for its readers alone.
  void hold_exactly() {
    p_.slot(loss_).keep = true;
    p_.finished = true;
    p_.saved = level_needs(p_, -1);
    for (Slot& s : p_.slots) s.holds = 0;
    for (const Need& need : p_.saved) p_.hold(need.slot);
    std::erase_if(p_.saved, [this](const Need& need) { return need.slot == loss_; });
    std::size_t saved_bytes = 0;
    for (std::size_t i = 0; i < p_.slots.size(); ++i) {
      Slot& s = p_.slots[i];
      if (s.is_leaf()) continue;
      if (s.holds == 0 && !s.keep) s.value = {}, s.packed = {};
      p_.put_away(static_cast<SlotId>(i));  // what a Var in scope kept in memory so far
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
      if (entry.has_grad) when_complete_(entry);
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
    if (--s.holds == 0 && !s.keep) s.value = {};
  }

  /// Makes at hand all that backward of the region's level reads, by running its ops again in tape order, each once.
  void enter(std::int32_t id) {
    for (const SlotId slot : p_.region(id).held) p_.fetch(slot);
    read_ahead_before(id);
    const std::vector<Need> targets = level_needs(p_, id);
    for (const Need& need : targets) p_.hold(need.slot);
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
        p_.hold(slot);
      });
    }
    for (std::int32_t i = begin; i < end; ++i)
      if (replayed[static_cast<std::size_t>(i - begin)]) replay(p_.node(i));
    for (const SlotId slot : p_.region(id).held) release(slot);
  }

  /// While this region computes, the system reads what the one before it offloaded.
  void read_ahead_before(std::int32_t id) {
    if (!p_.offload_file) return;
    do --id;
    while (id >= 0 && p_.region(id).parent >= 0);
    if (id < 0) return;
    for (const SlotId slot : p_.region(id).held)
      if (const Slot& s = p_.slot(slot); s.place >= 0)
        p_.offload_file->read_ahead(s.spec.bytes(), static_cast<std::size_t>(s.place));
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
    run_op(p_, *n.op, p_.slot(n.first_output).node, n.path, "replay", frame_, n.cost.forward_scratch,
           [&] { n.op->forward(frame_); });
    diagnose_forward(p_, *n.op, n.path, n.first_output, n.output_count, true);
    for (int k = 0; k < n.output_count; ++k) {
      Slot& s = p_.slot(n.first_output + k);
      if (spare_[static_cast<std::size_t>(k)]) s.value = std::move(spare_[static_cast<std::size_t>(k)]);
      if (s.holds == 0 && !s.keep) s.value = {};
    }
    spare_.clear();
    ++p_.stats.ops_replayed;
    ++p_.stats.replayed_by_op[n.op->name()];
    p_.stats.replay_flops += n.cost.flops;
    if (n.cost.batched) p_.stats.batched_flops += n.cost.flops;
    p_.stats.moved_bytes += n.moved_bytes;
    for_each_operand(n, [&](SlotId slot) { release(slot); });
  }

  /// Where the gradient of one operand is written during one backward.
  struct Target {
    enum class Kind { none, passed, direct, fresh } kind = Kind::none;
    Storage buffer{};
    DType dtype = DType::float32;
  };

  void step(Node& n) {
    const auto operands = p_.operands_of(n);
    bool has_gradient = false;
    for (int k = 0; k < n.output_count; ++k) has_gradient = has_gradient || p_.slot(n.first_output + k).grad;
    if (has_gradient) {
      set_values(p_, frame_, operands, n.first_output, n.output_count, &n.residuals);
      for (int k = 0; k < n.output_count; ++k)
        if (const Slot& s = p_.slot(n.first_output + k); s.grad)
          frame_.outputs[static_cast<std::size_t>(k)].grad = s.grad->data();
      targets_.clear();
      bool has_work = false;
      for (std::size_t i = 0; i < operands.size(); ++i) {
        targets_.push_back(target(n, operands, i));
        has_work = has_work || targets_.back().kind >= Target::Kind::direct;
      }
      if (has_work)
        run_op(p_, *n.op, p_.slot(n.first_output).node, n.path, "backward", frame_, n.cost.backward_scratch,
               [&] { n.op->backward(frame_); });
      for (std::size_t i = 0; i < operands.size(); ++i)
        if (const Frame::Value& value = frame_.inputs[i]; value.grad != nullptr)
          diagnose_gradient(p_, *n.op, n.path, targets_[i].dtype, value.grad, value.shape.size());
      p_.stats.backward_flops += n.cost.backward_flops;
      if (n.cost.batched) p_.stats.batched_flops += n.cost.backward_flops;
      p_.stats.moved_bytes += 2 * n.moved_bytes;
      for (int k = 0; k < n.output_count; ++k) p_.slot(n.first_output + k).grad = {};
      for (std::size_t i = 0; i < operands.size(); ++i)
        if (targets_[i].kind == Target::Kind::passed || targets_[i].kind == Target::Kind::fresh)
          contribute(operands[i], std::move(targets_[i]));
    }
    for_each_residual(p_, n, [&](SlotId slot) { release(slot); });
  }

  Target target(const Node& n, std::span<const Operand> operands, std::size_t i) {
    const Operand& operand = operands[i];
    const int input = static_cast<int>(i);
    if (operand.slot < 0 || !p_.slot(operand.slot).wants_gradient) return {};
    Slot& s = p_.slot(operand.slot);
    Slot& y = p_.slot(n.first_output);
    const bool same_spec = y.spec.dtype == s.spec.dtype && y.spec.shape == operand.shape;
    if (n.op->passes_gradient(input) && same_spec) return {Target::Kind::passed, y.grad, s.spec.dtype};

    Frame::Value& value = frame_.inputs[i];
    // Straight into the gradient that is summed up, unless another operand of this op writes there too.
    const auto meets = [&](SlotId other) {  // a master and its cast meet, too
      return other == operand.slot || (other >= 0 && s.parameter >= 0 && p_.slot(other).parameter == s.parameter);
    };
    bool alone = true;
    for (std::size_t k = 0; k < operands.size(); ++k) alone = alone && (k == i || !meets(operands[k].slot));
    const bool is_wide = s.spec.dtype == DType::bfloat16 && n.op->wide_gradient(input);
    const DType dtype = is_wide ? DType::float32 : s.spec.dtype;
    const bool whole = operand.shape.size() == s.spec.shape.size() && dtype == p_.gradient_type(s);
    if (s.parameter >= 0 && alone && whole && n.op->accumulates(input)) {
      value.accumulate = has_gradient(s);
      value.grad = parameter_gradient(s);
      return {Target::Kind::direct, {}, dtype};
    }
    if (s.parameter < 0 && alone && whole && s.grad && s.grad.use_count() == 1 && n.op->accumulates(input)) {
      value.grad = s.grad->data();
      value.accumulate = true;
      return {Target::Kind::direct, {}, dtype};
    }
    Target fresh{Target::Kind::fresh, {}, dtype};
    if (n.op->in_place_gradient(input) && same_spec && !is_wide && y.grad.use_count() == 1)
      fresh.buffer = y.grad;
    else
      fresh.buffer = p_.allocate(static_cast<std::size_t>(operand.shape.size()) * size_of(dtype),
                                 {MemoryUse::gradient, operand.slot});
    value.grad = fresh.buffer->data();
    return fresh;
  }

  // A parameter's gradient is the registry's; plan mode only notes, without bytes, that there is one.
  bool has_gradient(const Slot& s) const {
    return p_.computes() ? p_.parameters[static_cast<std::size_t>(s.parameter)]->has_grad : static_cast<bool>(s.grad);
  }
  std::byte* parameter_gradient(Slot& s) {
    if (!p_.computes()) {
      if (!s.grad) s.grad = p_.allocate(0, {MemoryUse::gradient});
      return nullptr;
    }
    ParameterEntry& entry = *p_.parameters[static_cast<std::size_t>(s.parameter)];
    entry.has_grad = true;
    entry.is_used_up = false;
    return entry.grad_buffer().mutable_data();
  }

  /// Adds the gradient of one operand to that of its slot.
  void contribute(const Operand& operand, Target gradient) {
    Slot& s = p_.slot(operand.slot);
    const Index count = operand.shape.size();
    const DType dtype = p_.gradient_type(s);
    const std::size_t bytes = Spec{dtype, s.spec.shape}.bytes();
    if (s.parameter >= 0) {
      const bool had = has_gradient(s);
      std::byte* sum = parameter_gradient(s);
      if (!p_.computes()) return;
      if (!had) std::memset(sum, 0, bytes);
      sum += static_cast<std::size_t>(operand.offset) * size_of(dtype);
      add_arrays(dtype, sum, sum, gradient.dtype, gradient.buffer->data(), count);
      return;
    }
    if (!s.grad && count == s.spec.shape.size() && gradient.dtype == dtype) {
      s.grad = std::move(gradient.buffer);
      return;
    }
    const Storage before = std::exchange(s.grad, {});
    // Gradients that were passed on are shared: a sum then needs bytes of its own.
    const bool reuse = before && before.use_count() == 1;
    s.grad = reuse ? before : p_.allocate(bytes, {MemoryUse::gradient, operand.slot});
    if (!p_.computes()) return;
    const std::size_t at = static_cast<std::size_t>(operand.offset) * size_of(dtype);
    std::byte* sum = s.grad->data();
    if (!before) std::memset(sum, 0, bytes);
    if (before && !reuse && count != s.spec.shape.size()) std::memcpy(sum, before->data(), bytes);
    const std::byte* old = before && count == s.spec.shape.size() ? before->data() : sum;
    add_arrays(dtype, sum + at, old + at, gradient.dtype, gradient.buffer->data(), count);
  }

  Program& p_;
  SlotId loss_;
  const GradientHook& when_complete_;
  std::vector<std::pair<std::int32_t, std::int32_t>> first_readers_;  // node and parameter, in tape order
  Frame frame_;
  std::vector<Target> targets_;
  std::vector<Storage> spare_;
};

}  // namespace remat::inline REMAT_ABI::detail
