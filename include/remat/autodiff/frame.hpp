// The values that one run of an op reads and writes.
#pragma once

#include <cstddef>
#include <remat/autodiff/spec.hpp>
#include <type_traits>
#include <vector>

namespace remat { inline namespace REMAT_ABI {

/// Elements with a shape. Reading what is not there is an `Error`.
template <class T>
class View {
 public:
  /// Views what the frame points at.
  View(T* data, const Shape& shape) : data_(data), shape_(&shape) {}
  /// The axis lengths.
  const Shape& shape() const { return *shape_; }
  /// The number of elements.
  Index size() const { return shape_->size(); }
  /// All axes but the last, multiplied.
  Index rows() const { return shape_->rows(); }
  /// The last axis; 1 for a scalar.
  Index cols() const { return shape_->back(); }
  /// The elements in row-major order.
  T* data() const {
    require(data_ != nullptr || size() == 0, "reads or writes what is not there: an operand that was left out, a ",
            "gradient that is not wanted, or in backward a value that residuals() did not declare");
    return data_;
  }
  /// Row i of `rows()`, `cols()` elements.
  T* row(Index i) const { return data() + i * cols(); }

 private:
  T* data_;
  const Shape* shape_;
};

/// The values of one run of one op. In `backward` only declared residuals have data; shapes can always be read.
class Frame {
 public:
  /// One operand or result, for the engine to fill in.
  struct Value {
    void* data = nullptr;     // null: not declared by `residuals`
    Shape shape{};            // axis lengths
    bool present = false;     // false: left out
    void* grad = nullptr;     // null: not wanted (operand) or zero (result)
    bool accumulate = false;  // add to the gradient that is there, for operands whose rule says `adds`
    bool wide = false;        // the gradient is of `Accum<T>`, for operands whose rule says `wide`
  };
  std::vector<Value> inputs, outputs;   // set by the engine
  std::byte* scratch_memory = nullptr;  // see `scratch`

  ///@{
  /// An operand to read, or a result to write (in `backward` to read).
  template <class T>
  View<const T> operator[](In<T> x) const {
    return {static_cast<const T*>(in(x).data), in(x).shape};
  }
  template <class T>
  View<T> operator[](Out<T> y) const {
    return {static_cast<T*>(out(y).data), out(y).shape};
  }
  ///@}
  /// False for an operand that was left out.
  template <class T>
  bool has(In<T> x) const {
    return in(x).present;
  }
  /// Is the gradient of this operand wanted? Its buffer is uninitialized and must be written whole.
  template <class T>
  bool wants(In<T> x) const {
    return has(x) && in(x).grad != nullptr;
  }
  /// True: add to `grad(x)`, false: overwrite it. Only asked of operands whose rule says `adds`.
  template <class T>
  bool accumulate(In<T> x) const {
    return in(x).accumulate;
  }
  ///@{
  /// The gradient of an operand, to write; only of those that `wants` is true for.
  template <class T>
  View<T> grad(In<T> x) const {
    require(!in(x).wide, "the rule of operand ", x.index, " says `wide`, but it is not declared as a Weight");
    return {static_cast<T*>(in(x).grad), in(x).shape};
  }
  template <class T>
  View<Accum<T>> grad(Weight<T> x) const {
    if constexpr (!std::is_same_v<T, Accum<T>>)
      require(in(x).wide || in(x).grad == nullptr, "operand ", x.index,
              " is a Weight, but its rule does not say `wide`");
    return {static_cast<Accum<T>*>(in(x).grad), in(x).shape};
  }
  ///@}
  /// False: the gradient of this result is zero, and nowhere.
  template <class T>
  bool has_grad(Out<T> y) const {
    return out(y).grad != nullptr;
  }
  /// The gradient of a result, to read; only of those that `has_grad` is true for.
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
    static const Value left_out;
    const auto i = static_cast<std::size_t>(x.index);
    return i < inputs.size() ? inputs[i] : left_out;
  }
  template <class T>
  const Value& out(Out<T> y) const {
    const auto i = static_cast<std::size_t>(y.index);
    require(i < outputs.size(), "infer gives ", outputs.size(), " results, none of number ", y.index);
    return outputs[i];
  }
};

}}  // namespace remat
