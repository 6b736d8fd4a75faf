// The squared error, element by element.
#pragma once

#include <remat/ops/pair_loss.hpp>

namespace remat { inline namespace REMAT_ABI {

/// Settings of `mean_squared_error`.
struct MeanSquaredErrorOptions {
  Reduction reduction = Reduction::mean;  // over elements; none: the squared error of each
};

namespace functions {

struct SquaredError {
  static constexpr const char* name = "mean_squared_error";
  static constexpr const char* input = "prediction";
  static auto value(auto x, auto target) { return (x - target) * (x - target); }
  static auto dx(auto x, auto target) { return 2 * (x - target); }
  static auto dtarget(auto x, auto target) { return 2 * (target - x); }
};

}  // namespace functions

/// Mean over elements of (prediction - target)^2, of one shape: nothing is broadcast. Gradients flow to both. With
/// `weights` of that shape, constants, it is the weighted mean; 0 when nothing counts. Errors: shapes that differ.
template <class T>
Var<Accum<T>> mean_squared_error(const Var<T>& prediction, const Like<T>& target,
                                 const MeanSquaredErrorOptions& options = {}, const Like<Accum<T>>& weights = {}) {
  using O = ops::PairLoss<T, functions::SquaredError>;
  return record(O({}, options.reduction), prediction, target, weights)[O::loss];
}

}}  // namespace remat
