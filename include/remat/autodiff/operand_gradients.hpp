// Where one op's backward writes the gradients of its operands, and how those of one slot are summed.
#pragma once

#include <cstring>
#include <remat/autodiff/accumulate.hpp>
#include <remat/autodiff/diagnose.hpp>
#include <span>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace detail {

/// The gradients of one node's operands, from before its backward to after it.
class OperandGradients {
 public:
  explicit OperandGradients(Program& program) : p_(program) {}

  /// Points the frame at the gradients of the node's results and at where those of its operands go. Is there anything
  /// for its backward to compute?
  bool begin(const Node& n, Frame& frame) {
    for (int k = 0; k < n.output_count; ++k)
      if (const Slot& s = p_.slot(n.first_output + k); s.grad)
        frame.outputs[static_cast<std::size_t>(k)].grad = s.grad->data();
    targets_.clear();
    bool has_work = false;
    for (std::size_t i = 0; i < frame.inputs.size(); ++i) {
      targets_.push_back(target(n, i, frame.inputs[i]));
      has_work = has_work || targets_.back().kind >= Target::Kind::direct;
    }
    return has_work;
  }

  /// Adds what was written to the gradients of the operands' slots; those of the results are used up.
  void end(const Node& n, const Frame& frame) {
    const auto operands = p_.operands_of(n);
    for (std::size_t i = 0; i < operands.size(); ++i)
      if (const Frame::Value& value = frame.inputs[i]; value.grad != nullptr)
        diagnose_gradient(p_, *n.op, n.path, targets_[i].dtype, value.grad, value.shape.size());
    for (int k = 0; k < n.output_count; ++k) p_.slot(n.first_output + k).grad = {};
    for (std::size_t i = 0; i < operands.size(); ++i)
      if (targets_[i].kind == Target::Kind::passed || targets_[i].kind == Target::Kind::fresh)
        contribute(operands[i], std::move(targets_[i]));
  }

 private:
  /// Where the gradient of one operand is written.
  struct Target {
    enum class Kind { none, passed, direct, fresh } kind = Kind::none;
    Storage buffer{};
    DType dtype = DType::float32;
  };

  Target target(const Node& n, std::size_t i, Frame::Value& value) {
    const std::span<const Operand> operands = p_.operands_of(n);
    const Operand& operand = operands[i];
    if (!p_.wants_gradient(operand)) return {};
    const GradientRule rule = n.op->gradient(static_cast<int>(i));
    Slot& s = p_.slot(operand.slot);
    Slot& y = p_.slot(n.first_output);
    const bool same_spec = y.spec.dtype == s.spec.dtype && y.spec.shape == operand.shape;
    if (rule.passes && same_spec) return {Target::Kind::passed, y.grad, s.spec.dtype};
    if (rule.same_as >= 0) {
      const Target& other = targets_[static_cast<std::size_t>(rule.same_as)];
      if (other.kind == Target::Kind::fresh) return {Target::Kind::passed, other.buffer, other.dtype};
    }

    // Straight into the gradient that is summed up, unless another operand of this op writes there too.
    const auto meets = [&](SlotId other) {  // a master and its cast meet, too
      return other == operand.slot || (other >= 0 && s.parameter >= 0 && p_.slot(other).parameter == s.parameter);
    };
    bool alone = true;
    for (std::size_t k = 0; k < operands.size(); ++k) alone = alone && (k == i || !meets(operands[k].slot));
    const bool is_wide = s.spec.dtype == DType::bfloat16 && rule.wide;
    const DType dtype = is_wide ? DType::float32 : s.spec.dtype;
    value.wide = is_wide;
    const bool whole = operand.shape.size() == s.spec.shape.size() && dtype == p_.gradient_type(s);
    if (s.parameter >= 0 && alone && whole && rule.adds) {
      value.accumulate = has_gradient(s);
      value.grad = parameter_gradient(s);
      return {Target::Kind::direct, {}, dtype};
    }
    if (s.parameter < 0 && alone && whole && s.grad && s.grad.use_count() == 1 && rule.adds) {
      value.grad = s.grad->data();
      value.accumulate = true;
      return {Target::Kind::direct, {}, dtype};
    }
    Target fresh{Target::Kind::fresh, {}, dtype};
    if (rule.in_place && same_spec && !is_wide && y.grad.use_count() == 1)
      fresh.buffer = y.grad;
    else
      fresh.buffer =
          p_.allocate(checked_bytes(operand.shape.size(), size_of(dtype)), {MemoryUse::gradient, operand.slot});
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
    entry.consumed = false;
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
  std::vector<Target> targets_;
};

}}}  // namespace remat::detail
