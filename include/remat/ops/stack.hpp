// Tensors laid side by side along a new axis, and one cut into parts along an axis.
#pragma once

#include <cstddef>
#include <numeric>
#include <remat/ops/concat.hpp>
#include <remat/ops/slice.hpp>
#include <remat/ops/squeeze.hpp>
#include <vector>

namespace remat { inline namespace REMAT_ABI {

///@{
/// The operands, all of one shape, along a new axis that becomes axis `axis` of the result (counted from its end when
/// negative). Error: no operands, or of different shapes.
template <class T>
Var<T> stack(const std::vector<Var<T>>& xs, int axis = 0) {
  require(!xs.empty(), "stack: needs at least one operand");
  std::vector<Var<T>> slices;
  for (std::size_t i = 0; i < xs.size(); ++i) {
    require(xs[i].shape() == xs[0].shape(), "stack: operand ", i, " has shape ", xs[i].shape(), ", operand 0 has ",
            xs[0].shape(), "; they must be equal");
    slices.push_back(unsqueeze(xs[i], axis));
  }
  return concat(slices, axis);
}
template <class T>
Var<T> stack(std::initializer_list<Var<T>> xs, int axis = 0) {
  return stack(std::vector<Var<T>>(xs), axis);
}
///@}

///@{
/// x cut along `axis` (counted from the end when negative) into parts of the given lengths; along axis 0 they are views
/// and no ops. Error: unless the lengths are those of the whole axis together.
template <class T>
std::vector<Var<T>> split(const Var<T>& x, const std::vector<Index>& sizes, int axis = 0) {
  const Index length = x.shape()[x.shape().axis(axis, "split")];
  for (const Index size : sizes) require(size >= 0, "split: a part cannot have length ", size);
  const Index total = std::accumulate(sizes.begin(), sizes.end(), Index{0});
  require(total == length, "split: the parts have ", total, " elements together, axis ", axis, " of ", x.shape(),
          " has ", length);
  std::vector<Var<T>> parts;
  Index begin = 0;
  for (const Index size : sizes) {
    parts.push_back(slice(x, axis, begin, begin + size));
    begin += size;
  }
  return parts;
}
template <class T>
std::vector<Var<T>> split(const Var<T>& x, std::initializer_list<Index> sizes, int axis = 0) {
  return split(x, std::vector<Index>(sizes), axis);
}
///@}
/// x cut along `axis` into `parts` parts of equal length, as in NumPy and JAX: a number of parts, where PyTorch's split
/// takes their length. Error: an axis that `parts` does not divide.
template <class T>
std::vector<Var<T>> split(const Var<T>& x, Index parts, int axis = 0) {
  const Index length = x.shape()[x.shape().axis(axis, "split")];
  require(parts > 0 && length % parts == 0, "split: axis ", axis, " of ", x.shape(), " has length ", length,
          ", which is not divided by ", parts, "; give the length of each part, {a, b, ..}");
  return split(x, std::vector<Index>(static_cast<std::size_t>(parts), length / parts), axis);
}

}}  // namespace remat
