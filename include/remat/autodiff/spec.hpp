// How an op names its operands and results, and what it is told of them before it runs.
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
  DType dtype = DType::float32;  // of an element
  Shape shape{};                 // axis lengths

  /// What all elements take.
  std::size_t bytes() const { return checked_bytes(shape.size(), size_of(dtype)); }
  friend bool operator==(const Spec&, const Spec&) = default;
};

/// The i-th operand of an op, an array of `T`. It may be left out where `f.has(x)` is asked.
template <class T>
struct In {
  int index;  // i, from 0
};
/// The i-th operand, whose gradient `backward` writes as `Accum<T>`: what many terms are summed in. An op with such an
/// operand says so with `GradientRule::wide`.
template <class T>
struct Weight : In<T> {
  /// Operand i.
  constexpr explicit Weight(int i) : In<T>{i} {}
};
/// The i-th result of an op.
template <class T>
struct Out {
  int index;  // i, from 0
  /// Its type and the shape that `infer` gives it.
  Spec operator()(const Shape& shape) const { return {dtype_of<T>(), shape}; }
};

/// Which values a backward reads: a set of operands and results.
class Residuals {
 public:
  /// An operand or a result.
  struct Reference {
    ///@{
    /// As written: `x` or `y`.
    template <class T>
    Reference(In<T> x) : input(x.index) {}
    template <class T>
    Reference(Out<T> y) : output(y.index) {}
    ///@}
    int input = -1, output = -1;  // its number; -1 for what it is not
  };
  /// What `residuals` returns, most often: `{x, y}`.
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
  ///@{
  /// Is operand, or result, i among them?
  bool input(int i) const { return i < most && (inputs_ & bit(i)); }
  bool output(int i) const { return i < most && (outputs_ & bit(i)); }
  ///@}

 private:
  static constexpr int most = 64;
  static std::uint64_t bit(int i) { return std::uint64_t{1} << i; }
  std::uint64_t inputs_ = 0, outputs_ = 0;
};

namespace detail {
/// Refuses operand or result i (`what` tells which) of another type than the op's declaration names.
inline void check_type(const char* what, int i, DType given, DType declared) {
  require(given == declared, what, " ", i, " is ", name_of(given), ", but the op declares ", name_of(declared));
}
}  // namespace detail

/// One operand as `infer` sees it: `name` is a parameter's path, else empty.
struct OperandSpec {
  Spec spec{};                  // of what the op reads of it
  bool present = false;         // it was not left out
  bool wants_gradient = false;  // `backward` will be asked for it
  std::string_view name{};      // "gpt/decoder/layer_0/ffn/ffn1/w"
};

/// The operands' types and shapes, and which of their gradients are wanted.
class Operands {
 public:
  /// Views of what the engine knows of each.
  explicit Operands(std::span<const OperandSpec> operands) : operands_(operands) {}
  /// The number of operands, those left out included.
  int size() const { return static_cast<int>(operands_.size()); }
  ///@{
  /// An operand by its name: `in[x].shape`; or by its number. Those behind the last that was recorded are left out. An
  /// `Error` for one of another type than the op reads.
  template <class T>
  const Spec& operator[](In<T> x) const {
    const OperandSpec& operand = (*this)[x.index];
    if (operand.present) detail::check_type("operand", x.index, operand.spec.dtype, dtype_of<T>());
    return operand.spec;
  }
  const OperandSpec& operator[](int i) const {
    static const OperandSpec left_out;
    return 0 <= i && i < size() ? operands_[static_cast<std::size_t>(i)] : left_out;
  }
  ///@}
  /// False for an operand that was left out.
  template <class T>
  bool has(In<T> x) const {
    return (*this)[x.index].present;
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
  /// As the operands say.
  explicit Wanted(const Operands& operands) : operands_(operands) {}
  ///@{
  /// Of an operand by its name, or by its number.
  template <class T>
  bool operator[](In<T> x) const {
    return operands_.has(x) && operands_[x.index].wants_gradient;
  }
  bool operator[](int i) const { return operands_[i].wants_gradient; }
  ///@}
  /// The number of operands, those left out included.
  int size() const { return operands_.size(); }

 private:
  const Operands& operands_;
};

/// Types and shapes of the results, in order.
using Specs = std::vector<Spec>;

}}  // namespace remat
