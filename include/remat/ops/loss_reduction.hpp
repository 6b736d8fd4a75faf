// How the losses of many tokens, rows or elements become the result of one op.
#pragma once

#include <algorithm>
#include <remat/autodiff/frame.hpp>

namespace remat { inline namespace REMAT_ABI {

/// What a loss gives: the mean of what counts (by weight, 0 of nothing), the sum of weight times loss, or these one by
/// one, 0 for what does not count.
enum class Reduction { mean, sum, none };

namespace ops {

/// The same for losses of type `T`, and how the gradient of the result becomes that of each loss.
template <class T>
struct LossReduction {
  Reduction kind = Reduction::mean;

  Shape shape(const Shape& losses) const { return kind == Reduction::none ? losses : Shape{}; }
  /// Where losses go one by one; null: only their sum is wanted.
  T* each(const View<T>& result) const { return kind == Reduction::none ? result.data() : nullptr; }
  /// What `sum` becomes; the weight of all is asked for by a mean alone.
  template <class Weight>
  T of_sum(T sum, Weight&& total_weight) const {
    if (kind != Reduction::mean) return sum;
    const T weight = total_weight();
    return weight == 0 ? T{0} : sum / weight;
  }
  template <class Weight>
  void write(T sum, Weight&& total_weight, const View<T>& result) const {
    if (kind != Reduction::none) *result.data() = of_sum(sum, total_weight);
  }

  /// The gradient of weight times loss of each: one number for all, or an array.
  struct Shares {
    const T* each = nullptr;
    T all = 0;
    T operator()(Index i) const { return each != nullptr ? each[i] : all; }
    Shares from(Index first) const { return {each != nullptr ? each + first : nullptr, all}; }
  };
  template <class Weight>
  Shares shares(const View<const T>& gradient, Weight&& total_weight) const {
    if (kind == Reduction::none) return {gradient.data(), T{0}};
    return {nullptr, of_sum(*gradient.data(), total_weight)};
  }
};

/// Weights are constants, whatever made them.
template <class T>
void pass_nothing_to(In<T> weights, Frame& f) {
  if (f.wants(weights)) std::fill_n(f.grad(weights).data(), f[weights].size(), T{0});
}

}  // namespace ops

}}  // namespace remat
