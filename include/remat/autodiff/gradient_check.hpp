// Analytic gradients against differences of values.
#pragma once

#include <algorithm>
#include <cmath>
#include <iomanip>
#include <ostream>
#include <remat/autodiff/tape.hpp>
#include <vector>

namespace remat { inline namespace REMAT_ABI {

/// How `gradient_check` takes differences.
struct GradientCheckOptions {
  double step = 1e-3;      // of the differences; their error grows as its fourth power and as 1e-16 over it
  std::uint64_t seed = 1;  // of the tapes, so that dropout drops the same elements each time
};

/// What `gradient_check` found; prints as a table.
struct GradientCheckResult {
  /// What was found for one input.
  struct Input {
    Shape shape{};                     // of the input
    double max_gradient = 0;           // greatest magnitude, analytic or numeric
    double max_error = 0;              // greatest difference of the two, at element `worst`
    Index worst = 0;                   // number of the element, row-major
    double analytic = 0, numeric = 0;  // the two gradients of that element
    double scale = 0;                  // what errors are measured by
    /// `max_error` over `scale`.
    double relative_error() const { return max_error == 0 ? 0 : max_error / scale; }
  };
  std::vector<Input> inputs;  // in order

  /// The greatest error, relative to the greatest gradient of its input; NaN if a gradient is NaN.
  double error() const {
    double greatest = 0;
    for (const Input& input : inputs) {
      if (std::isnan(input.relative_error())) return input.relative_error();
      greatest = std::max(greatest, input.relative_error());
    }
    return greatest;
  }
  /// Is every gradient right, to `tolerance`?
  bool ok(double tolerance = 1e-7) const { return error() <= tolerance; }
};

/// One line an input.
inline std::ostream& operator<<(std::ostream& out, const GradientCheckResult& result) {
  const auto row = [&out](auto input, auto shape, auto gradient, auto error, auto worst, auto analytic, auto numeric) {
    out << std::left << std::setw(6) << input << std::setw(18) << shape << std::right << std::setw(14) << gradient
        << std::setw(14) << error << std::setw(9) << worst << std::setw(16) << analytic << std::setw(16) << numeric
        << '\n';
  };
  row("input", "shape", "max gradient", "rel. error", "at", "analytic", "numeric");
  for (std::size_t i = 0; i < result.inputs.size(); ++i) {
    const auto& each = result.inputs[i];
    row(i, each.shape.to_string(), each.max_gradient, each.relative_error(), each.worst, each.analytic, each.numeric);
  }
  return out;
}

namespace detail {

/// y = sum of w x, with weights w in +-[0.5, 1) that depend on the position alone: tells all outputs of a function
/// apart in one number.
template <class T>
struct WeightedSum : Op {
  static constexpr In<T> x{0};
  static constexpr Out<T> y{0};

  WeightedSum() : Op("weighted_sum") {}
  Specs infer(const Operands&) const override { return {y(Shape{})}; }
  Residuals residuals(const Wanted&) const override { return {}; }
  void forward(Frame& f) const override {
    T sum{};
    for (Index i = 0; i < f[x].size(); ++i) sum += weight(i) * f[x].data()[i];
    *f[y].data() = sum;
  }
  void backward(Frame& f) const override {
    const T dy = *f.grad(y).data();
    for (Index i = 0; i < f[x].size(); ++i) f.grad(x).data()[i] = dy * weight(i);
  }
  static T weight(Index i) {
    const std::uint32_t word = RandomStream{.seed = 0x5eed}.word(static_cast<std::uint64_t>(i));
    const T magnitude = T(0.5) + static_cast<T>(word >> 12) * T(0x1p-21);
    return word & 1U ? magnitude : -magnitude;
  }
};

template <class T>
Var<T> weighted_sum(const Var<T>& x) {
  return record(WeightedSum<T>(), x)[WeightedSum<T>::y];
}

/// The derivative of `values(step)`, a tensor, at 0, element by element: central differences with the second-order term
/// removed (Richardson 1911).
template <class F>
std::vector<double> derivative(F&& values, double step) {
  const Tensor<double> near_plus = values(step), near_minus = values(-step);
  const Tensor<double> far_plus = values(2 * step), far_minus = values(-2 * step);
  std::vector<double> slopes(static_cast<std::size_t>(near_plus.size()));
  for (std::size_t i = 0; i < slopes.size(); ++i) {
    const auto at = static_cast<Index>(i);
    const double near = near_plus[at] - near_minus[at], far = far_plus[at] - far_minus[at];
    slopes[i] = (8 * near - far) / (12 * step);
  }
  return slopes;
}

}  // namespace detail

/// Compares the gradient of every element of every input with differences of values, four runs of `fn` for each.
/// `fn(Tape&, const std::vector<Var<double>>&)` returns a `Var<double>` of any shape, whose elements are weighted by
/// fixed random numbers and summed. It must be smooth within two steps of the inputs, and not read them otherwise.
template <class Fn>
GradientCheckResult gradient_check(Fn&& fn, std::vector<Tensor<double>> inputs,
                                   const GradientCheckOptions& options = {}) {
  const auto run = [&](Tape& tape, bool wants_gradient, std::vector<Var<double>>& vars) -> Var<double> {
    for (const Tensor<double>& input : inputs) vars.push_back(tape.input(input, {.wants_gradient = wants_gradient}));
    return fn(tape, vars);
  };
  Tape tape({.seed = options.seed, .step = 0});
  std::vector<Var<double>> vars;
  const Var<double> y = run(tape, true, vars);
  double largest_value = 0;
  const Tensor<double> y_value = y.value();
  for (const double value : y_value) largest_value = std::max(largest_value, std::abs(value));
  tape.backward(detail::weighted_sum(y));

  GradientCheckResult result;
  for (std::size_t k = 0; k < inputs.size(); ++k) {
    const Tensor<double> analytic = tape.grad(vars[k]);
    GradientCheckResult::Input found{.shape = analytic.shape()};
    for (Index i = 0; i < analytic.size(); ++i) {
      const double here = inputs[k][i];
      const auto values = [&](double step) {
        inputs[k].write()[static_cast<std::size_t>(i)] = here + step;
        Tape moved({.seed = options.seed, .step = 0});
        std::vector<Var<double>> unused;
        return run(moved, false, unused).value();
      };
      double numeric = 0;
      const std::vector<double> slopes = detail::derivative(values, options.step);
      for (std::size_t j = 0; j < slopes.size(); ++j)
        numeric += detail::WeightedSum<double>::weight(static_cast<Index>(j)) * slopes[j];
      inputs[k].write()[static_cast<std::size_t>(i)] = here;
      const double slope = analytic[i], error = std::abs(slope - numeric);
      found.max_gradient = std::max({found.max_gradient, std::abs(slope), std::abs(numeric)});
      if (error <= found.max_error) continue;
      found.max_error = error;  // NaN too
      found.worst = i;
      found.analytic = slope;
      found.numeric = numeric;
      if (std::isnan(error)) break;
    }
    // Where all gradients are almost 0, rounding of the values is all that differences show.
    found.scale = std::max(found.max_gradient, 1e-4 * largest_value);
    result.inputs.push_back(found);
  }
  return result;
}

}}  // namespace remat
