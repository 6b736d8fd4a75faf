// What an op is: five questions about a pure function of tensors, asked by recording, replay, backward and plans.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <remat/core/tensor.hpp>
#include <span>
#include <string_view>
#include <vector>

namespace remat { inline namespace REMAT_ABI {

/// Type and shape of one value.
struct Spec {
  DType dtype = DType::float32;
  Shape shape{};

  std::size_t bytes() const { return checked_bytes(shape.size(), size_of(dtype)); }
  friend bool operator==(const Spec&, const Spec&) = default;
};

/// The i-th operand of an op, an array of `T`. It may be left out where `f.has(x)` is asked.
template <class T>
struct In {
  int index;
};
/// The i-th operand, whose gradient `backward` writes as `Accum<T>`: what many terms are summed in. An op with such an
/// operand says so with `wide_gradient`.
template <class T>
struct Weight : In<T> {
  constexpr explicit Weight(int i) : In<T>{i} {}
};
/// The i-th result of an op.
template <class T>
struct Out {
  int index;
  Spec operator()(const Shape& shape) const { return {dtype_of<T>(), shape}; }
};

/// Which values a backward reads: a set of operands and results.
class Residuals {
 public:
  struct Reference {
    template <class T>
    Reference(In<T> x) : input(x.index) {}
    template <class T>
    Reference(Out<T> y) : output(y.index) {}
    int input = -1, output = -1;
  };
  Residuals(std::initializer_list<Reference> read = {}) {
    for (const Reference& r : read) add(r);
  }
  /// Adds `r` when `condition` holds; an `Error` for an operand or result behind the first 64.
  Residuals& add(const Reference& r, bool condition = true) {
    if (!condition) return *this;
    const bool is_input = r.input >= 0;
    const int i = is_input ? r.input : r.output;
    require(0 <= i && i < most, "residuals() names ", is_input ? "operand " : "result ", i, ", but only the first ",
            most, " of each can be kept for backward; put it among these, or stack operands into one");
    (is_input ? inputs_ : outputs_) |= bit(i);
    return *this;
  }
  bool input(int i) const { return i < most && (inputs_ & bit(i)); }
  bool output(int i) const { return i < most && (outputs_ & bit(i)); }

 private:
  static constexpr int most = 64;
  static std::uint64_t bit(int i) { return std::uint64_t{1} << i; }
  std::uint64_t inputs_ = 0, outputs_ = 0;
};

/// One operand as `infer` sees it: `name` is a parameter's path, else empty.
struct OperandSpec {
  Spec spec{};
  bool present = false;
  bool wants_gradient = false;
  std::string_view name{};
};

/// The operands' types and shapes, and which of their gradients are wanted.
class Operands {
 public:
  explicit Operands(std::span<const OperandSpec> operands) : operands_(operands) {}
  int size() const { return static_cast<int>(operands_.size()); }
  template <class T>
  const Spec& operator[](In<T> x) const {
    return (*this)[x.index].spec;
  }
  const OperandSpec& operator[](int i) const { return operands_[static_cast<std::size_t>(i)]; }
  template <class T>
  bool has(In<T> x) const {
    return x.index < size() && (*this)[x.index].present;
  }
  /// How an error calls the operand: its parameter path, else `otherwise`.
  template <class T>
  std::string_view name(In<T> x, std::string_view otherwise) const {
    return has(x) && !(*this)[x.index].name.empty() ? (*this)[x.index].name : otherwise;
  }

 private:
  std::span<const OperandSpec> operands_;
};

/// Which gradients are wanted: `wanted[x]` is false for an operand that was left out.
class Wanted {
 public:
  explicit Wanted(const Operands& operands) : operands_(operands) {}
  template <class T>
  bool operator[](In<T> x) const {
    return operands_.has(x) && operands_[x.index].wants_gradient;
  }
  bool operator[](int i) const { return operands_[i].wants_gradient; }
  int size() const { return operands_.size(); }

 private:
  const Operands& operands_;
};

using Specs = std::vector<Spec>;

/// What an op costs. Flops count contractions only, 2mnk each; bytes of scratch are all that its `Frame` grants.
struct Cost {
  double flops = 0;           // of forward
  double backward_flops = 0;  // of backward, for the gradients that are wanted
  std::size_t forward_scratch = 0, backward_scratch = 0;
  bool dot = false;      // a contraction, for policies
  bool batched = false;  // with batch dimensions
  bool coupled = false;  // its results are kept together or not at all
};

/// Elements with a shape. Reading what a backward did not declare is an `Error`.
template <class T>
class View {
 public:
  View(T* data, const Shape& shape) : data_(data), shape_(&shape) {}
  const Shape& shape() const { return *shape_; }
  Index size() const { return shape_->size(); }
  Index rows() const { return shape_->rows(); }
  Index cols() const { return shape_->back(); }
  T* data() const {
    require(data_ != nullptr || size() == 0, "backward reads a value that residuals() did not declare");
    return data_;
  }
  T* row(Index i) const { return data_ + i * cols(); }

 private:
  T* data_;
  const Shape* shape_;
};

/// The values of one run of one op. In `backward` only declared residuals have data; shapes can always be read.
class Frame {
 public:
  struct Value {
    void* data = nullptr;
    Shape shape{};
    bool present = false;
    void* grad = nullptr;     // null: not wanted (operand) or zero (result)
    bool accumulate = false;  // add to the gradient that is there, for operands the op declared `accumulates`
  };
  std::vector<Value> inputs, outputs;
  std::byte* scratch_memory = nullptr;

  template <class T>
  View<const T> operator[](In<T> x) const {
    return {static_cast<const T*>(in(x).data), in(x).shape};
  }
  template <class T>
  View<T> operator[](Out<T> y) const {
    return {static_cast<T*>(out(y).data), out(y).shape};
  }
  template <class T>
  bool has(In<T> x) const {
    return static_cast<std::size_t>(x.index) < inputs.size() && in(x).present;
  }
  /// Is the gradient of this operand wanted? Its buffer is uninitialized and must be written whole.
  template <class T>
  bool wants(In<T> x) const {
    return has(x) && in(x).grad != nullptr;
  }
  /// True: add to `grad(x)`, false: overwrite it. Only asked of operands that the op declares with `accumulates`.
  template <class T>
  bool accumulate(In<T> x) const {
    return in(x).accumulate;
  }
  template <class T>
  View<T> grad(In<T> x) const {
    return {static_cast<T*>(in(x).grad), in(x).shape};
  }
  template <class T>
  View<Accum<T>> grad(Weight<T> x) const {
    return {static_cast<Accum<T>*>(in(x).grad), in(x).shape};
  }
  /// False: the gradient of this result is zero, and nowhere.
  template <class T>
  bool has_grad(Out<T> y) const {
    return out(y).grad != nullptr;
  }
  template <class T>
  View<const T> grad(Out<T> y) const {
    return {static_cast<const T*>(out(y).grad), out(y).shape};
  }
  /// `count` elements of the scratch that `cost` asked for.
  template <class T>
  T* scratch() const {
    return reinterpret_cast<T*>(scratch_memory);
  }

 private:
  template <class T>
  const Value& in(In<T> x) const {
    return inputs[static_cast<std::size_t>(x.index)];
  }
  template <class T>
  const Value& out(Out<T> y) const {
    return outputs[static_cast<std::size_t>(y.index)];
  }
};

/// A pure function of its operands and attributes, so that a recorded run can be repeated bit for bit.
class Op {
 public:
  /// `name` is a literal: what policies, errors and reports call the op.
  explicit Op(const char* name) : name_(name) {}
  virtual ~Op() = default;
  const char* name() const { return name_; }
  /// Types and shapes of the results. Every check of the operands lives here.
  virtual Specs infer(const Operands& in) const = 0;
  virtual Cost cost(const Operands& /*in*/, const Specs& /*out*/) const { return {}; }
  /// What `backward` reads, given which gradients are wanted.
  virtual Residuals residuals(const Wanted& wanted) const = 0;
  virtual void forward(Frame& f) const = 0;
  /// Writes `grad(x)` of each wanted operand from the gradients of the results.
  virtual void backward(Frame& f) const = 0;
  /// Called once, after the first forward of a training step, never in a replay: here an op may change what outlives
  /// the step (a running mean, a count). Its results must not depend on that.
  virtual void update_state(Frame& /*f*/) const {}
  /// False for an op whose results another run would not give again (one that reads a clock, say). A region must save
  /// its results or is refused when it closes.
  virtual bool replayable() const { return true; }
  /// May `backward` be asked to add to the gradient of operand i instead of overwriting it?
  virtual bool accumulates(int /*input*/) const { return false; }
  /// Does `backward` write the gradient of operand i in the type in which it is summed, float for a bfloat16 operand?
  virtual bool wide_gradient(int /*input*/) const { return false; }
  /// Is the gradient of operand i that of the only result, element by element? Then `backward` is not asked for it.
  virtual bool passes_gradient(int /*input*/) const { return false; }
  /// The operand before i whose gradient is always that of operand i, too; -1: none. Where both are wanted, `backward`
  /// is not asked for i's.
  virtual int same_gradient(int /*input*/) const { return -1; }
  /// May the gradient of operand i be written over that of the first result (of equal shape and type)?
  virtual bool in_place_gradient(int /*input*/) const { return false; }

 private:
  const char* name_;
};

}}  // namespace remat
