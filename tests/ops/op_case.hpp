// A row of the table of op cases, and what is made from it: inputs and a run on a tape.
#pragma once

#include <cmath>
#include <cstdint>
#include <functional>
#include <remat/autodiff/tape.hpp>
#include <string>
#include <utility>
#include <vector>

namespace remat_test {

using remat::Index, remat::Shape, remat::Tape, remat::Tensor, remat::Var;

/// An integer operand: ids, targets, positions. Filled with `values`, or if empty with numbers in [0, limit).
struct Integers {
  Shape shape;
  std::int32_t limit = 1;
  std::vector<std::int32_t> values = {};

  Tensor<std::int32_t> tensor() const {
    if (!values.empty()) return Tensor<std::int32_t>(shape, std::span<const std::int32_t>(values));
    Tensor<std::int32_t> x(shape);
    const remat::RandomStream stream{.seed = 77};
    for (Index i = 0; i < x.size(); ++i)
      x.write()[i] =
          static_cast<std::int32_t>(stream.word(static_cast<std::uint64_t>(i)) % static_cast<std::uint32_t>(limit));
    return x;
  }
};

/// The operands of one run: `in[0]`, `in[1]`, ... for the floating ones, `in.integers[0]`, ... for the others.
template <class T>
struct OpArguments {
  using type = T;
  Tape& tape;
  std::vector<Var<T>> x;
  std::vector<Var<std::int32_t>> integers;
  const Var<T>& operator[](std::size_t i) const { return x[i]; }
};

/// One generic lambda `[](const auto& in) { return some_op(in[0], in[1]); }`, for float and for double.
class OpFunction {
 public:
  template <class F>
  OpFunction(F f) : float_(f), double_(f) {}
  Var<float> operator()(const OpArguments<float>& in) const { return float_(in); }
  Var<double> operator()(const OpArguments<double>& in) const { return double_(in); }

 private:
  std::function<Var<float>(const OpArguments<float>&)> float_;
  std::function<Var<double>(const OpArguments<double>&)> double_;
};

/// The shapes of one case: of the floating operands, then the integer ones.
struct OpInputs {
  std::vector<Shape> shapes;
  std::vector<Integers> integers;
};
/// `on({{7, 33}, {33}})`: two operands.
inline OpInputs on(std::initializer_list<Shape> shapes, std::vector<Integers> integers = {}) {
  return {{shapes}, std::move(integers)};
}

/// One op or variant of an op, with the inputs it is tried on.
struct OpCase {
  std::string name;
  OpFunction fn;
  std::vector<OpInputs> inputs;
  double low = -1.5, high = 1.5;  // of the floating operands' values
  /// Values keep 1/24 away from 0, and those of one operand from those of another: there the op has no derivative.
  bool has_kinks = false;
  /// Draws random numbers in train mode only, so that evaluate mode gives another value.
  bool is_random = false;
};

/// Takes in a row: `row({.name = ..., .fn = ..., .inputs = ...})`.
using AddCase = std::function<void(OpCase)>;

/// Shapes for an op that works element by element.
inline std::vector<OpInputs> elementwise_inputs() {
  return {on({{}}), on({{1}}), on({{0}}), on({{3, 0, 2}}), on({{7}}), on({{33}}), on({{3, 100}}), on({{41, 1001}})};
}

/// One case on one set of shapes.
struct OpRun {
  OpCase op;
  OpInputs inputs;

  std::string name() const {
    std::string text = op.name;
    for (const Shape& shape : inputs.shapes) text += " " + shape.to_string();
    return text;
  }
  Index input_size() const {
    Index size = 0;
    for (const Shape& shape : inputs.shapes) size += shape.size();
    return size;
  }
  /// The same values, rounded, for float and for double.
  template <class T>
  std::vector<Tensor<T>> values() const {
    std::vector<Tensor<T>> all;
    const std::size_t count = inputs.shapes.size();
    for (std::size_t k = 0; k < count; ++k) {
      Tensor<T> x(inputs.shapes[k]);
      const remat::RandomStream stream{.seed = 5, .site = static_cast<std::uint32_t>(k)};
      for (Index i = 0; i < x.size(); ++i) {
        double value = op.low + (op.high - op.low) * double{stream.uniform(static_cast<std::uint64_t>(i))};
        const double offset = static_cast<double>(k + 1) / static_cast<double>(count + 1);
        if (op.has_kinks) value = (std::floor(8 * value) + offset) / 8;
        x.write()[i] = static_cast<T>(static_cast<float>(value));
      }
      all.push_back(std::move(x));
    }
    return all;
  }
  /// Runs the op on Vars that the caller made.
  template <class T>
  Var<T> operator()(Tape& tape, const std::vector<Var<T>>& x) const {
    OpArguments<T> in{tape, x, {}};
    for (const Integers& each : inputs.integers) in.integers.push_back(tape.input(each.tensor()));
    return op.fn(in);
  }
};

}  // namespace remat_test
