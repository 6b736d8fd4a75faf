// Var: the user's handle to a value on a tape.
#pragma once

#include <memory>
#include <remat/autodiff/recording.hpp>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

namespace remat { inline namespace REMAT_ABI {

/// A handle to a slot, whatever its type. While a Var lives before backward, so does the slot's value.
class AnyVar {
 public:
  AnyVar() = default;
  /// A handle to a place on a tape.
  AnyVar(Counted<Program> program, Operand where) : program_(std::move(program)), where_(where) {
    program_->add_var(where_);
  }
  ///@{
  /// Another handle to the same value.
  AnyVar(const AnyVar& other) : program_(other.program_), where_(other.where_) {
    if (program_) program_->add_var(where_);
  }
  AnyVar(AnyVar&& other) noexcept : program_(std::move(other.program_)), where_(other.where_) {}
  AnyVar& operator=(const AnyVar& other) noexcept { return *this = AnyVar(other); }
  AnyVar& operator=(AnyVar&& other) noexcept {  // not by value, see Counted
    AnyVar taken(std::move(other));
    std::swap(program_, taken.program_);
    std::swap(where_, taken.where_);
    return *this;
  }
  ///@}
  ~AnyVar() {
    if (program_) program_->drop_var(where_);
  }

  /// Was a value given to it?
  explicit operator bool() const { return static_cast<bool>(program_); }
  /// The axis lengths.
  const Shape& shape() const& { return where_.shape; }
  Shape shape() && { return where_.shape; }
  ///@{
  /// Slot and tape, for ops and the engine; `program()` is an `Error` where there is none or its tape is gone.
  const Operand& where() const { return where_; }
  Program& program() const {
    require(static_cast<bool>(program_), "var: used before a value was given to it");
    require(program_->tape != nullptr, "var: its tape is gone");
    return *program_;
  }
  const Counted<Program>& shared_program() const { return program_; }
  ///@}
  /// The tape it lies on; an `Error` when there is none any more.
  Tape& tape() const { return *program().tape; }

 private:
  Counted<Program> program_;
  Operand where_{};
};

/// A value of type `Tensor<T>` on a tape: made by `tape.input` and by ops, read by `value()` until backward.
template <class T>
class Var : public AnyVar {
 public:
  using value_type = T;  // the element type
  using AnyVar::AnyVar;

  /// The value. An `Error` in plan mode, when backward has freed it, or when its region or tape is closed.
  Tensor<T> value() const {
    Program& p = program();
    const Slot& s = p.slot(where().slot);
    require(p.computes(),
            "var: a tape in plan mode has no values to read; programs that read values cannot be planned");
    require(!s.sealed, "var: made inside a checkpoint region that did not return it");
    require(static_cast<bool>(s.value),
            "var: its value was freed when backward began; tape.keep(x) before backward keeps it");
    return Tensor<T>(AnyTensor{s.spec.dtype, where().shape, s.value, s.offset + where().offset});
  }
  /// The only element.
  T item() const { return value().item(); }

  /// The same elements in another shape; no op, no copy. One axis may be -1.
  Var reshape(const Axes& axes) const { return view(where().offset, axes.of(shape())); }
  /// Rows [begin, end) of the first axis; no op, no copy.
  Var slice(Index begin, Index end) const {
    const Shape& whole = shape();
    require(whole.rank() > 0 && 0 <= begin && begin <= end && end <= whole.front(), "slice: rows [", begin, ", ", end,
            ") of shape ", whole);
    Shape part = whole;
    part[0] = end - begin;
    const Index row = whole.front() == 0 ? 0 : whole.size() / whole.front();
    return view(where().offset + begin * row, part);
  }

 private:
  Var view(Index offset, const Shape& shape) const {
    program();  // an Error where there is none
    return Var(shared_program(), Operand{where().slot, offset, shape, where().stops_gradient});
  }
};

/// The same elements in another shape; a view, not an op. One axis may be -1.
template <class T>
Var<T> reshape(const Var<T>& x, const Axes& axes) {
  return x.reshape(axes);
}

/// The same value as a constant: no gradient flows through it (JAX's stop_gradient, PyTorch's detach). It is no op and
/// no copy.
template <class T>
Var<T> stop_gradient(const Var<T>& x) {
  x.program();  // an Error where there is none
  Operand where = x.where();
  where.stops_gradient = true;
  return Var<T>(x.shared_program(), where);
}

/// Labels the value for policies ("ffn1"); a value may have many labels. It is no op: the value itself is returned. Of
/// a slice the whole value that it was cut from is labelled, and kept or recomputed. A policy that names
/// labels is asked again about a value that its region, closed by now, returned; a function is not, for it is asked
/// once about each value. A value that a closed region did not return is an `Error`.
template <class T>
Var<T> checkpoint_name(const Var<T>& x, const std::string& label) {
  Program& p = x.program();
  Slot& s = p.slot(x.where().slot);
  require(!label.empty(), "checkpoint_name: an empty label");
  require(!s.sealed, "checkpoint_name: \"", label,
          "\" is for a value that was made inside a checkpoint region that did "
          "not return it; label it inside the region");
  if (x.shape().size() != s.spec.shape.size()) s.labelled_part = true;
  p.add_label(x.where().slot, label);
  p.label_late(x.where().slot);
  return x;
}

/// Anything an op takes: a Var, a Parameter, a Tensor or a number as a constant, or nothing. It holds what it was made
/// from, so it may be kept: as long as it lives, so does a Var's value.
template <class T>
class Argument {
 public:
  Argument() = default;
  ///@{
  /// A value on a tape.
  Argument(const Var<T>& var) : held_(std::in_place_type<Var<T>>, var) {}
  Argument(Var<T>&& var) : held_(std::in_place_type<Var<T>>, std::move(var)) {}
  ///@}
  /// Where `T` is bfloat16, a float parameter is its master: the op reads its cast. A parameter that was never made
  /// counts as nothing: an optional bias.
  template <class Master>
  requires std::is_same_v<Master, T> || std::is_same_v<Master, Accum<T>> Argument(const Parameter<Master>& parameter) {
    if (parameter) held_ = parameter.entry();
  }
  /// A constant.
  Argument(Tensor<T> tensor) : held_(std::move(tensor)) {}
  /// A constant of shape [], which broadcasts.
  template <class Number>
  requires std::is_arithmetic_v<Number> Argument(Number value) : held_(Tensor<T>(Shape{}, static_cast<T>(value))) {}

  /// The Var; null where it is anything else.
  const AnyVar* var() const { return std::get_if<Var<T>>(&held_); }
  Shape shape() && { return std::as_const(*this).shape(); }
  /// The axis lengths; [] where it is nothing.
  const Shape& shape() const& {
    static constexpr Shape nothing{};
    if (const AnyVar* const v = var()) return v->shape();
    if (const auto* parameter = std::get_if<Entry>(&held_)) return (*parameter)->value.shape;
    const auto* constant = std::get_if<Tensor<T>>(&held_);
    return constant != nullptr ? constant->shape() : nothing;
  }
  /// The parameter; null where it is anything else.
  std::shared_ptr<ParameterEntry> parameter() const {
    const auto* const entry = std::get_if<Entry>(&held_);
    return entry != nullptr ? *entry : nullptr;
  }
  /// The same without the adapter that the parameter has, for the op that adds it.
  Argument without_adapter() const {
    Argument plain = *this;
    plain.reads_adapter_ = true;
    return plain;
  }
  /// The same, where the adapter is of rows that are looked up, for ops that read the table as a matrix.
  Argument as_matrix() const {
    const std::shared_ptr<ParameterEntry> entry = parameter();
    const bool is_of_rows = entry != nullptr && entry->adapter && entry->adapter->is_of_rows;
    return is_of_rows || (entry != nullptr && entry->head_adapter && !entry->adapter) ? without_adapter() : *this;
  }
  /// False for nothing, as of an optional bias.
  bool has_value() const { return held_.index() != 0; }
  /// Its place on a tape, where it is brought to when it has none; for ops. An `Error` for a Var of another tape.
  Operand on(Program& program) const {
    if (const AnyVar* const v = var()) {
      require(&v->program() == &program, "an op's operands lie on two tapes");
      return v->where();
    }
    if (const auto* constant = std::get_if<Tensor<T>>(&held_))
      return {program.add_leaf(constant->any(), false), 0, constant->shape()};
    if (const auto* parameter = std::get_if<Entry>(&held_)) {
      require(reads_adapter_ || (!(*parameter)->adapter && !(*parameter)->head_adapter), (*parameter)->path,
              ": has an adapter, which only linear and embedding add to what they make; leave it out of the adapter's "
              "targets");
      return {program.parameter_slot(*parameter, dtype_of<T>()), 0, shape()};
    }
    return {};
  }

 private:
  using Entry = std::shared_ptr<ParameterEntry>;
  std::variant<std::monostate, Var<T>, Entry, Tensor<T>> held_;
  bool reads_adapter_ = false;
};

/// `Argument<T>`, kept out of template deduction.
template <class T>
using Like = std::type_identity_t<Argument<T>>;

/// The results of a recorded op; `results[LayerNorm<T>::y]` is a Var.
class Results {
 public:
  /// Takes over the Vars that recording counted.
  Results(Counted<Program> program, const detail::Recorded& recorded)
      : program_(std::move(program)), first_(recorded.first), count_(recorded.count) {}
  Results(const Results&) = delete;
  Results& operator=(const Results&) = delete;
  ~Results() {
    for (int i = 0; i < count_; ++i) program_->drop_var({first_ + i});
  }
  /// A result by its name. An `Error` for one that `infer` did not give, or gave another type.
  template <class T>
  Var<T> operator[](Out<T> y) const {
    require(0 <= y.index && y.index < count_, "infer gives ", count_, " results, none of number ", y.index);
    detail::check_type("result", y.index, program_->slot(first_ + y.index).spec.dtype, dtype_of<T>());
    return Var<T>(program_, {first_ + y.index, 0, program_->slot(first_ + y.index).spec.shape});
  }

 private:
  Counted<Program> program_;
  SlotId first_;
  int count_;
};

namespace detail {
template <class X>
const AnyVar* var_of(const X& x) {
  if constexpr (std::is_base_of_v<AnyVar, X>)
    return &x;
  else
    return x.var();
}
template <class X>
Operand operand_of(const X& x, Program& program) {
  if constexpr (std::is_base_of_v<AnyVar, X>) {
    require(&x.program() == &program, "an op's operands lie on two tapes");
    return x.where();
  } else {
    return x.on(program);
  }
}
/// The op on the heap. Its owner is of one type for all ops, for there are many.
template <class O>
std::shared_ptr<const Op> on_heap(O op) {
  const Op* const made = new O(std::move(op));
  return std::shared_ptr<const Op>(made);
}
}  // namespace detail

/// Runs `op` on Vars and `Argument`s, at least one of them a Var, and writes it on their tape.
template <class O, class... Xs>
Results record(O op, const Xs&... xs) {
  const AnyVar* var = nullptr;
  ((var = var ? var : detail::var_of(xs)), ...);
  require(var != nullptr, op.name(), ": no operand is on a tape; bring one there with tape.input or tape.parameter");
  Program& program = var->program();
  const Operand operands[] = {detail::operand_of(xs, program)...};
  return {var->shared_program(), detail::record(program, detail::on_heap(std::move(op)), operands)};
}

/// The same for any number of operands of one type.
template <class O, class T>
Results record(O op, const std::vector<Var<T>>& xs) {
  require(!xs.empty(), op.name(), ": needs at least one operand");
  Program& program = xs.front().program();
  std::vector<Operand> operands;
  for (const Var<T>& x : xs) operands.push_back(detail::operand_of(x, program));
  return {xs.front().shared_program(), detail::record(program, detail::on_heap(std::move(op)), operands)};
}

}}  // namespace remat
