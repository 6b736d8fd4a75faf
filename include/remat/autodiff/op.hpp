// What an op is: five questions about a pure function of tensors, asked by recording, replay, backward and plans.
#pragma once

#include <cstddef>
#include <remat/autodiff/frame.hpp>
#include <remat/autodiff/spec.hpp>

namespace remat { inline namespace REMAT_ABI {

/// What an op costs. Flops count contractions only, 2mnk each; bytes of scratch are all that its `Frame` grants.
struct Cost {
  double flops = 0;                                       // of forward
  double backward_flops = 0;                              // of backward, for the gradients that are wanted
  std::size_t forward_scratch = 0, backward_scratch = 0;  // bytes
  bool dot = false;                                       // a contraction, for policies
  bool batched = false;                                   // with batch dimensions
  bool coupled = false;                                   // its results are kept together or not at all
  bool nested = false;  // its scratch is what tapes of its own take: counted, not given
};

/// How the gradient of one operand may be made more cheaply than by writing it whole to a buffer of its own.
struct GradientRule {
  bool adds = false;      // `backward` can add it to one that is there, see `Frame::accumulate`
  bool wide = false;      // `backward` writes it in `Accum<T>`: float for a bfloat16 operand, see `Weight`
  bool passes = false;    // it is that of the only result, element by element: `backward` is not asked for it
  bool in_place = false;  // it may be written over that of the first result, of equal shape and type
  int same_as = -1;  // the operand before this one whose gradient it always is; where both are wanted, `backward` is
                     // not asked for it
};

/// A pure function of its operands and attributes, so that a recorded run can be repeated bit for bit. Five questions,
/// and one about each operand.
class Op {
 public:
  /// `name` is a literal: what policies, errors and reports call the op.
  explicit Op(const char* name) : name_(name) {}
  virtual ~Op() = default;
  /// As given: "linear".
  const char* name() const { return name_; }
  /// Types and shapes of the results. Every check of the operands lives here.
  virtual Specs infer(const Operands& in) const = 0;
  /// What it costs; by default nothing.
  virtual Cost cost(const Operands& /*in*/, const Specs& /*out*/) const { return {}; }
  /// What `backward` reads, given which gradients are wanted.
  virtual Residuals residuals(const Wanted& wanted) const = 0;
  /// Writes every result whole, from the operands.
  virtual void forward(Frame& f) const = 0;
  /// Writes `grad(x)` of each wanted operand from the gradients of the results.
  virtual void backward(Frame& f) const = 0;
  /// What the engine may do with the gradient of an operand.
  virtual GradientRule gradient(int /*input*/) const { return {}; }

  /// Called once, after the first forward of a training step, never in a replay: here an op may change what outlives
  /// the step (a running mean, a count). Its results must not depend on that.
  virtual void update_state(Frame& /*f*/) const {}
  /// False for an op whose results another run would not give again (one that reads a clock, say). A region must save
  /// its results or is refused when it closes.
  virtual bool replayable() const { return true; }
  /// True for an op whose results are saved whatever policies say, in memory or offloaded, so that it never runs again:
  /// one that communicates. It is not replayable either.
  virtual bool always_saved() const { return false; }

 private:
  const char* name_;
};

}}  // namespace remat
