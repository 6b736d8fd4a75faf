// Runs one recorded op by hand, outside the engine, on buffers that show what it reads and writes.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <core/aligned.hpp>
#include <cstring>
#include <limits>
#include <map>
#include <ops/op_case.hpp>
#include <string>
#include <vector>

namespace remat_test {

using remat::AnyTensor, remat::Frame, remat::Index, remat::Op, remat::OperandSpec, remat::Shape, remat::Spec;

/// Bytes of a value, with NaN behind them that must stay.
class Buffer {
 public:
  explicit Buffer(const Spec& spec, double fill = std::numeric_limits<double>::quiet_NaN())
      : spec_(spec), bytes_(spec.bytes() + guard, std::byte{0xff}) {
    for (Index i = 0; i < spec.shape.size(); ++i) {
      if (spec.dtype == remat::DType::float64) reinterpret_cast<double*>(bytes_.data())[i] = fill;
      if (spec.dtype == remat::DType::float32) reinterpret_cast<float*>(bytes_.data())[i] = static_cast<float>(fill);
    }
  }
  Buffer(const Spec& spec, const void* source) : Buffer(spec) { std::memcpy(bytes_.data(), source, spec.bytes()); }
  void* data() { return bytes_.data(); }
  const Spec& spec() const { return spec_; }
  bool guard_is_whole() const {
    return std::all_of(bytes_.end() - guard, bytes_.end(), [](std::byte b) { return b == std::byte{0xff}; });
  }
  friend bool operator==(const Buffer& a, const Buffer& b) { return a.spec_ == b.spec_ && a.bytes_ == b.bytes_; }

 private:
  static constexpr std::ptrdiff_t guard = 64;
  Spec spec_;
  std::vector<std::byte, Aligned<std::byte>> bytes_;
};

/// An op with its operands at hand.
class OpBench {
 public:
  OpBench(const Op& op, std::vector<OperandSpec> specs, std::vector<Buffer> inputs)
      : op_(op), specs_(std::move(specs)), inputs_(std::move(inputs)) {
    const remat::Operands operands(specs_);
    output_specs_ = op_.infer(operands);
    cost_ = op_.cost(operands, output_specs_);
  }

  /// Runs forward on buffers full of `fill`.
  std::vector<Buffer> forward(double fill) {
    std::vector<Buffer> outputs;
    for (const Spec& spec : output_specs_) outputs.emplace_back(spec, fill);
    Frame f = frame(outputs, nullptr);
    Buffer scratch = scratch_of(cost_.forward_scratch);
    f.scratch_memory = static_cast<std::byte*>(scratch.data());
    op_.forward(f);
    EXPECT_TRUE(scratch.guard_is_whole()) << op_.name() << ": forward writes behind its scratch";
    for (const Buffer& each : outputs) EXPECT_TRUE(each.guard_is_whole()) << op_.name() << ": writes behind a result";
    return outputs;
  }

  /// What backward finds where it declared no reading.
  enum class Undeclared { value, nothing, nan };

  /// Runs backward; gives the gradient of each operand, empty where none is asked for. `in_place`: the operand whose
  /// gradient lies where the result's does. `add_to`: gradients start from this number and are added to.
  std::vector<Buffer> backward(std::vector<Buffer>& outputs, Undeclared undeclared, const std::vector<bool>& wanted,
                               int in_place = -1, double add_to = 0) {
    for (std::size_t i = 0; i < specs_.size(); ++i) specs_[i].wants_gradient = wanted[i];
    const remat::Operands operands(specs_);
    const remat::Residuals reads = op_.residuals(remat::Wanted(operands));
    std::vector<Buffer> output_gradients, gradients, nans;
    for (std::size_t k = 0; k < outputs.size(); ++k) output_gradients.push_back(random(outputs[k].spec(), k));
    Frame f = frame(outputs, undeclared == Undeclared::nothing ? &reads : nullptr);
    nans.reserve(specs_.size() + outputs.size());
    if (undeclared == Undeclared::nan) {
      for (std::size_t i = 0; i < specs_.size(); ++i)
        if (specs_[i].present && !reads.input(static_cast<int>(i)) && remat::is_floating(specs_[i].spec.dtype))
          f.inputs[i].data = nans.emplace_back(specs_[i].spec).data();
      for (std::size_t k = 0; k < outputs.size(); ++k)
        if (!reads.output(static_cast<int>(k)) && remat::is_floating(outputs[k].spec().dtype))
          f.outputs[k].data = nans.emplace_back(outputs[k].spec()).data();
    }
    for (std::size_t k = 0; k < outputs.size(); ++k)
      if (remat::is_floating(outputs[k].spec().dtype)) f.outputs[k].grad = output_gradients[k].data();
    gradients.reserve(specs_.size());
    for (std::size_t i = 0; i < specs_.size(); ++i) {
      const bool adds = add_to != 0 && rule(i).adds;
      gradients.push_back(adds ? Buffer(specs_[i].spec, add_to) : Buffer(specs_[i].spec));
      if (!is_asked(i)) continue;
      const bool is_in_place = static_cast<int>(i) == in_place;
      f.inputs[i].grad = is_in_place ? output_gradients.front().data() : gradients.back().data();
      f.inputs[i].accumulate = adds;
    }
    Buffer scratch = scratch_of(op_.cost(operands, output_specs_).backward_scratch);
    f.scratch_memory = static_cast<std::byte*>(scratch.data());
    bool is_any_asked = false;
    for (std::size_t i = 0; i < specs_.size(); ++i) is_any_asked = is_any_asked || is_asked(i);
    if (is_any_asked) op_.backward(f);
    EXPECT_TRUE(scratch.guard_is_whole()) << op_.name() << ": backward writes behind its scratch";
    if (in_place >= 0) gradients[static_cast<std::size_t>(in_place)] = output_gradients.front();
    for (const Buffer& each : gradients)
      EXPECT_TRUE(each.guard_is_whole()) << op_.name() << ": writes behind a gradient";
    return gradients;
  }

  const Op& op() const { return op_; }
  const std::vector<OperandSpec>& specs() const { return specs_; }
  remat::GradientRule rule(std::size_t i) const { return op_.gradient(static_cast<int>(i)); }
  /// Would the engine ask `backward` for the gradient of operand i, were it wanted?
  bool is_asked(std::size_t i) const { return specs_[i].wants_gradient && !is_passed(i); }
  bool is_passed(std::size_t i) const { return rule(i).passes && specs_[i].spec == output_specs_.front(); }
  bool can_be_in_place(std::size_t i) const {
    return is_asked(i) && rule(i).in_place && specs_[i].spec == output_specs_.front();
  }

 private:
  Frame frame(std::vector<Buffer>& outputs, const remat::Residuals* reads) {
    Frame f;
    for (std::size_t i = 0; i < specs_.size(); ++i) {
      Frame::Value value;
      value.present = specs_[i].present;
      value.shape = specs_[i].spec.shape;
      if (value.present && (reads == nullptr || reads->input(static_cast<int>(i)))) value.data = inputs_[i].data();
      f.inputs.push_back(value);
    }
    for (std::size_t k = 0; k < outputs.size(); ++k) {
      Frame::Value value;
      value.present = true;
      value.shape = outputs[k].spec().shape;
      if (reads == nullptr || reads->output(static_cast<int>(k))) value.data = outputs[k].data();
      f.outputs.push_back(value);
    }
    return f;
  }
  static Buffer scratch_of(std::size_t bytes) {
    return Buffer(Spec{remat::DType::uint8, Shape{static_cast<Index>(bytes)}});
  }
  static Buffer random(const Spec& spec, std::size_t site) {
    Buffer buffer(spec);
    const remat::RandomStream stream{.seed = 9, .site = static_cast<std::uint32_t>(site)};
    for (Index i = 0; i < spec.shape.size(); ++i) {
      const float value = stream.uniform(static_cast<std::uint64_t>(i)) - 0.5F;
      if (spec.dtype == remat::DType::float64) static_cast<double*>(buffer.data())[i] = double{value};
      if (spec.dtype == remat::DType::float32) static_cast<float*>(buffer.data())[i] = value;
    }
    return buffer;
  }

  const Op& op_;
  std::vector<OperandSpec> specs_;
  std::vector<Buffer> inputs_;
  remat::Specs output_specs_;
  remat::Cost cost_;
};

/// Lays each op of the run on the bench, the results of those before it being its operands.
template <class T, class Visit>
void for_each_op(const OpRun& run, Visit&& visit) {
  Tape tape({.seed = 3, .step = 2});
  std::vector<Var<T>> x;
  for (const Tensor<T>& value : run.values<T>()) x.push_back(tape.input(value, {.wants_gradient = true}));
  const Var<T> y = run(tape, x);
  remat::Program& program = tape.program();
  std::map<remat::SlotId, Buffer> values;
  for (const remat::Node& node : program.nodes) {
    std::vector<remat::OperandSpec> specs;
    std::vector<Buffer> inputs;
    for (const remat::Operand& operand : program.operands_of(node)) {
      specs.emplace_back();
      inputs.emplace_back(remat::Spec{});
      if (operand.slot < 0) continue;
      const remat::Slot& slot = program.slot(operand.slot);
      specs.back() = {{slot.spec.dtype, operand.shape}, true, slot.wants_gradient, {}};
      std::byte* data = slot.is_leaf() ? program.data(operand.slot, operand.offset)
                                       : static_cast<std::byte*>(values.at(operand.slot).data()) +
                                             static_cast<std::size_t>(operand.offset) * size_of(slot.spec.dtype);
      inputs.back() = Buffer(specs.back().spec, data);
    }
    OpBench bench(*node.op, specs, inputs);
    std::vector<Buffer> outputs = bench.forward(0);
    for (int k = 0; k < node.output_count; ++k)
      values.emplace(node.first_output + k, outputs[static_cast<std::size_t>(k)]);
    visit(bench);
  }
}

/// Do op and declaration agree? Results and gradients are written whole; backward reads nothing undeclared, whichever
/// gradients are wanted; gradients may lie where the op says they may, and are added where it says so.
inline testing::AssertionResult keeps_its_word(OpBench& bench) {
  const auto failed = [&](const auto&... parts) {
    testing::AssertionResult result = testing::AssertionFailure() << bench.op().name() << ": ";
    (result << ... << parts);
    return result;
  };
  std::vector<Buffer> outputs = bench.forward(0);
  if (outputs != bench.forward(std::numeric_limits<double>::quiet_NaN())) return failed("forward leaves holes");
  const std::size_t count = bench.specs().size();
  std::vector<std::vector<bool>> choices(1, std::vector<bool>(count));
  for (std::size_t i = 0; i < count; ++i) {
    if (!bench.specs()[i].present || !remat::is_floating(bench.specs()[i].spec.dtype)) continue;
    choices.front()[i] = true;
    choices.emplace_back(count)[i] = true;
  }
  using Undeclared = OpBench::Undeclared;
  std::vector<Buffer> all;
  for (const std::vector<bool>& wanted : choices) {
    std::vector<Buffer> expected = bench.backward(outputs, Undeclared::value, wanted);
    if (all.empty()) all = expected;
    for (const Undeclared undeclared : {Undeclared::nothing, Undeclared::nan}) {
      try {
        if (bench.backward(outputs, undeclared, wanted) != expected)
          return failed("its gradients depend on what residuals() did not declare");
      } catch (const remat::Error& error) {
        return failed(error.what());
      }
    }
    for (std::size_t i = 0; i < count; ++i) {
      if (!bench.is_asked(i)) continue;
      if (!(expected[i] == all[i])) return failed("the gradient of operand ", i, " depends on what else is wanted");
      if (const int twin = bench.rule(i).same_as; twin >= 0 && wanted[static_cast<std::size_t>(twin)] &&
                                                  !(expected[i] == expected[static_cast<std::size_t>(twin)]))
        return failed("the gradient of operand ", i, " is not that of operand ", twin);
      if (bench.can_be_in_place(i) &&
          bench.backward(outputs, Undeclared::value, wanted, static_cast<int>(i)) != expected)
        return failed("the gradient of operand ", i, " cannot be written over that of the result");
      if (!bench.rule(i).adds || bench.specs()[i].spec.dtype != remat::DType::float64) continue;
      std::vector<Buffer> added = bench.backward(outputs, Undeclared::value, wanted, -1, 3);
      for (Index k = 0; k < expected[i].spec().shape.size(); ++k)
        if (!(std::abs(static_cast<double*>(added[i].data())[k] - static_cast<double*>(expected[i].data())[k] - 3) <
              1e-9))
          return failed("the gradient of operand ", i, " is not added to what was there");
    }
  }
  return testing::AssertionSuccess();
}

}  // namespace remat_test
