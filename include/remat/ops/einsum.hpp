// Sums of products whose axes are named by letters, made of other ops.
#pragma once

#include <remat/ops/arithmetic.hpp>
#include <remat/ops/einsum_spec.hpp>
#include <remat/ops/matmul.hpp>
#include <remat/ops/reduce.hpp>
#include <remat/ops/transpose.hpp>
#include <string>
#include <vector>

namespace remat { inline namespace REMAT_ABI {

namespace detail {

/// x, whose axes are `from`, with those of `to`, which are the same, in their order.
template <class T>
Var<T> arranged(const Var<T>& x, const EinsumSpec& spec, const std::string& from, const std::string& to) {
  if (spec.is_same(from, to)) return x.reshape(spec.shape(to));
  std::vector<int> axes;
  for (const char label : to) axes.push_back(static_cast<int>(from.find(label)));
  return transpose(x.reshape(spec.shape(from)), axes);
}

/// The sum of x over those of its axes that neither `other` nor the result has; `labels` then names the others.
template <class T>
Var<T> summed(const Var<T>& x, std::string& labels, const std::string& others) {
  std::vector<int> axes;
  for (const char label : without(labels, others)) axes.push_back(static_cast<int>(labels.find(label)));
  labels = common(labels, others);
  return axes.empty() ? x : sum(x, axes);
}

template <class T>
Var<T> einsum_as(const EinsumOrder& order, const EinsumSpec& spec, const Var<T>& a, const std::string& a_labels,
                 const Var<T>& b, const std::string& b_labels) {
  const auto size = [&](const std::string& labels) { return spec.shape(labels).size(); };
  const Index n = size(order.batch), rows = size(order.rows), columns = size(order.columns), inner = size(order.inner);
  const Var<T> left = arranged(a, spec, a_labels, order.a()), right = arranged(b, spec, b_labels, order.b());
  if (inner == 1 || rows * columns == 1) {  // no matrices
    const Var<T> y = left.reshape({n, rows, 1, inner}) * right.reshape({n, 1, columns, inner});
    return arranged(inner == 1 ? y : sum(y, {3}), spec, order.y(), spec.result);
  }
  const Shape batch = n == 1 ? Shape{} : Shape{n};
  const auto matrices = [&](const Var<T>& x, Index first, Index second, bool transposed) {
    return x.reshape(transposed ? batch.with(second).with(first) : batch.with(first).with(second));
  };
  const Var<T> y =
      matmul(matrices(left, rows, inner, order.transposed_a), matrices(right, inner, columns, order.transposed_b),
             {.transposed_a = order.transposed_a, .transposed_b = order.transposed_b});
  return arranged(y, spec, order.y(), spec.result);
}

template <class T>
Var<T> on_tape_of(const Var<T>& other, const Argument<T>& x) {
  require(x.has_value(), "einsum: an operand is missing");
  return Var<T>(other.shared_program(), x.on(other.program()));
}

}  // namespace detail

///@{
/// `einsum("bqhd,bkhd->bhqk", q, k)`: multiplies elements whose letters agree and sums over letters that the result
/// does not have, as in NumPy, but the result is always named. "..." stands for leading axes that need no letters,
/// equal in both operands. It is a matmul (or, where that has one row and column or nothing to sum, a product element
/// by element) of operands that are transposed where their layout does not do. Errors: a letter of two lengths, twice
/// in one operand (a diagonal), or of the result alone; operands that are not one or two.
template <class T>
Var<T> einsum(const std::string& spec, const Var<T>& a, const Var<T>& b) {
  const detail::EinsumSpec s(spec, {a.shape(), b.shape()});
  std::string a_labels = s.operands[0], b_labels = s.operands[1];
  const Var<T> x = detail::summed(a, a_labels, s.operands[1] + s.result);
  const Var<T> y = detail::summed(b, b_labels, s.operands[0] + s.result);
  const detail::EinsumOrder order(s, a_labels, b_labels), other_way(s, b_labels, a_labels);
  if (other_way.copied < order.copied) return detail::einsum_as(other_way, s, y, b_labels, x, a_labels);
  return detail::einsum_as(order, s, x, a_labels, y, b_labels);
}
template <class T>
Var<T> einsum(const std::string& spec, const Var<T>& a, const Like<T>& b) {
  return einsum(spec, a, detail::on_tape_of(a, b));
}
template <class T>
Var<T> einsum(const std::string& spec, const Like<T>& a, const Var<T>& b) {
  return einsum(spec, detail::on_tape_of(b, a), b);
}
///@}
/// Of one operand: its axes in another order, summed over those that the result does not have.
template <class T>
Var<T> einsum(const std::string& spec, const Var<T>& x) {
  const detail::EinsumSpec s(spec, {x.shape()});
  std::string labels = s.operands[0];
  const Var<T> y = detail::summed(x, labels, s.result);
  return detail::arranged(y, s, labels, s.result);
}

}}  // namespace remat
