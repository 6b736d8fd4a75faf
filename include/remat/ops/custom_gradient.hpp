// A composite op: a function of other ops with a derivative of its own (JAX's custom_gradient).
#pragma once

#include <algorithm>
#include <cstring>
#include <memory>
#include <remat/autodiff/tape.hpp>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI {

/// What the derivative of a composite op is made from.
template <class T>
struct CustomBackward {
  Tape& tape;                  // of the derivative alone
  std::vector<Var<T>> inputs;  // as they were given to `forward`
  Var<T> result, gradient;     // what it gave, and the gradient of that, of equal shape
  std::vector<bool> wanted;    // which of the inputs' gradients are; those of others may be left unset
};

namespace ops {

/// Both functions run on tapes of their own, which keep nothing. What these take at most is known before from the same
/// functions in plan mode, and so is what backward reads.
template <class T, class Forward, class Backward>
class CustomGradient final : public Op {
 public:
  static constexpr Out<T> y{0};
  std::shared_ptr<SequenceRing> ring{};  // that of the tape it is recorded on

  CustomGradient(const char* name, Forward forward, Backward backward)
      : Op(name), forward_(std::move(forward)), backward_(std::move(backward)) {}

  Specs infer(const Operands& in) const override { return {y(planned_forward(in).shape)}; }
  Cost cost(const Operands& in, const Specs& out) const override {
    const Planned forward = planned_forward(in);
    Cost cost{.flops = forward.stats.forward_flops, .forward_scratch = forward.stats.peak_bytes, .nested = true};
    cost.dot = cost.flops > 0;
    if (is_any_wanted(in)) {
      const Planned backward = planned_backward(in, out.front().shape);
      cost.backward_flops = backward.stats.forward_flops;
      cost.backward_scratch = backward.stats.peak_bytes;
    }
    return cost;
  }
  Residuals residuals(const Wanted& wanted) const override {
    Residuals read;
    if (read_.empty()) return read;
    for (int i = 0; i < wanted.size(); ++i) read.add(In<T>{i}, read_[static_cast<std::size_t>(i)]);
    return read.add(y, read_.back());
  }
  void forward(Frame& f) const override {
    Tape tape({.ring = ring});
    const Var<T> result = forward_(tape, inputs_of(tape, f));
    check(tape);
    copy(result, f.outputs[0].shape, f.outputs[0].data);
  }
  void backward(Frame& f) const override {
    Tape tape({.ring = ring});
    const Frame::Value& result = f.outputs[0];
    const std::vector<Var<T>> gradients =
        backward_(CustomBackward<T>{tape, inputs_of(tape, f), leaf(tape, result.data, result.shape),
                                    leaf(tape, result.grad, result.shape), wanted_});
    check(tape);
    for (std::size_t i = 0; i < f.inputs.size(); ++i)
      if (const Frame::Value& input = f.inputs[i]; input.grad != nullptr)
        copy(gradients.at(i), input.shape, input.grad);
  }

 private:
  struct Planned {
    Shape shape{};
    TapeStats stats{};
  };

  static bool is_any_wanted(const Operands& in) {
    for (int i = 0; i < in.size(); ++i)
      if (in[i].wants_gradient) return true;
    return false;
  }
  /// Bytes of the frame on the inner tape, uncopied; null: bytes that nobody reads.
  static Var<T> leaf(Tape& tape, const void* data, const Shape& shape) {
    return tape.input(
        Tensor<T>(AnyTensor{dtype_of<T>(), shape, pool().borrow(static_cast<const std::byte*>(data)), 0}));
  }
  static std::vector<Var<T>> inputs_of(Tape& tape, const Frame& f) {
    std::vector<Var<T>> inputs;
    for (const Frame::Value& value : f.inputs) inputs.push_back(leaf(tape, value.data, value.shape));
    return inputs;
  }
  static std::vector<Var<T>> inputs_of(Tape& tape, const Operands& in) {
    std::vector<Var<T>> inputs;
    for (int i = 0; i < in.size(); ++i) inputs.push_back(leaf(tape, nullptr, in[i].spec.shape));
    return inputs;
  }
  static void copy(const Var<T>& from, const Shape& shape, void* to) {
    require(static_cast<bool>(from) && from.shape() == shape,
            "its functions gave other shapes than when it was recorded");
    if (shape.size() > 0) std::memcpy(to, from.value().data(), static_cast<std::size_t>(shape.size()) * sizeof(T));
  }
  /// A replay must give the same, and no gradient may get lost.
  static void check(Tape& tape) {
    const Program& program = tape.program();
    require(program.parameters.empty(), "its functions read the parameter ",
            program.parameters.empty() ? "" : program.parameters.front()->path,
            ", which would get no gradient; make it ", "one of the inputs with tape.parameter");
    for (const Node& node : program.nodes)
      require(!node.op->always_saved(), "its functions call ", node.op->name(),
              " of a sequence that ranks share, and a ", "replay of them would communicate; call it outside");
    require(program.next_site == 0, "its functions draw random numbers; draw them outside and make them an input");
  }

  Planned planned_forward(const Operands& in) const {
    Tape tape({.ring = ring, .mode = Mode::plan});
    const Var<T> result = forward_(tape, inputs_of(tape, in));
    require(static_cast<bool>(result), "its forward function returns a Var that was never given a value");
    check(tape);
    return {result.shape(), tape.stats()};
  }
  Planned planned_backward(const Operands& in, const Shape& shape) const {
    Tape tape({.ring = ring, .mode = Mode::plan});
    wanted_.clear();
    for (int i = 0; i < in.size(); ++i) wanted_.push_back(in[i].wants_gradient);
    CustomBackward<T> values{tape, inputs_of(tape, in), leaf(tape, nullptr, shape), leaf(tape, nullptr, shape),
                             wanted_};
    std::vector<SlotId> leaves;
    for (const Var<T>& input : values.inputs) leaves.push_back(input.where().slot);
    leaves.push_back(values.result.where().slot);
    const std::vector<Var<T>> gradients = backward_(std::move(values));
    check(tape);
    require(gradients.size() == wanted_.size(), "its backward function gives ", gradients.size(), " gradients for ",
            wanted_.size(), " inputs");
    for (std::size_t i = 0; i < gradients.size(); ++i) {
      if (!wanted_[i]) continue;
      const Shape& needed = in[static_cast<int>(i)].spec.shape;
      require(static_cast<bool>(gradients[i]), "its backward function leaves the gradient of input ", i, " unset");
      require(gradients[i].shape() == needed, "its backward function gives a gradient of shape ", gradients[i].shape(),
              " for input ", i, " of shape ", needed);
    }
    const auto is_read = [&](SlotId leaf) {
      const auto& operands = tape.program().operands;
      return std::any_of(operands.begin(), operands.end(), [&](const Operand& each) { return each.slot == leaf; }) ||
             std::any_of(gradients.begin(), gradients.end(),
                         [&](const Var<T>& each) { return each && each.where().slot == leaf; });
    };
    read_.clear();
    for (const SlotId leaf : leaves) read_.push_back(is_read(leaf));
    return {shape, tape.stats()};
  }

  Forward forward_;
  Backward backward_;
  // Found when it is recorded.
  mutable std::vector<bool> wanted_{}, read_{};  // by input; `read_` has the result at its end
};

}  // namespace ops

/// `forward(tape, inputs)`, whose gradients are what `backward` gives instead of those of its ops: for a derivative
/// that is known in closed form, more stable or cheaper, or for none at all (a straight-through estimator). To
/// policies, plans and reports it is one op called `name`, a literal: of all that both functions compute, only what
/// backward reads is kept, and the memory that they take is in the plan.
///
///     Var<float> forward(Tape& tape, const std::vector<Var<float>>& inputs)
///     std::vector<Var<float>> backward(const CustomBackward<float>& of)  // one for each input, of its shape
///
/// Both must be pure functions of the inputs and of constants that they hold. Errors: no input, a gradient of another
/// shape, a function that reads a parameter or draws random numbers.
template <class T, class Forward, class Backward>
Var<T> custom_gradient(const char* name, const std::vector<Var<T>>& inputs, Forward forward, Backward backward) {
  using O = ops::CustomGradient<T, Forward, Backward>;
  O op(name, std::move(forward), std::move(backward));
  if (!inputs.empty()) op.ring = inputs.front().tape().ring();
  return record(std::move(op), inputs)[O::y];
}

}}  // namespace remat
