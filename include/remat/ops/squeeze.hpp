// Axes of length 1 taken out and put in: views, no ops.
#pragma once

#include <remat/autodiff/var.hpp>

namespace remat { inline namespace REMAT_ABI {

/// x without its axis `axis` (counted from the end when negative); a view, not an op. Error: an axis that x does not
/// have, or that is not of length 1.
template <class T>
Var<T> squeeze(const Var<T>& x, int axis) {
  const Shape& whole = x.shape();
  const int at = whole.axis(axis, "squeeze");
  require(whole[at] == 1, "squeeze: axis ", at, " of ", whole, " has length ", whole[at],
          "; only an axis of length 1 can be taken out");
  Shape shape(whole.begin(), whole.begin() + at);
  for (int i = at + 1; i < whole.rank(); ++i) shape.push_back(whole[i]);
  return x.reshape(shape);
}

/// x with a new axis of length 1 that becomes axis `axis` of the result (counted from its end when negative, so that -1
/// is behind the last one); a view, not an op. Error: an axis that the result does not have, or a ninth axis.
template <class T>
Var<T> unsqueeze(const Var<T>& x, int axis) {
  const Shape& whole = x.shape();
  const int rank = whole.rank() + 1;
  require(axis >= -rank && axis < rank, "unsqueeze: axis ", axis, " of a result with ", rank, " axes");
  const int at = axis < 0 ? axis + rank : axis;
  Shape shape(whole.begin(), whole.begin() + at);
  shape.push_back(1);
  for (int i = at; i < whole.rank(); ++i) shape.push_back(whole[i]);
  return x.reshape(shape);
}

}}  // namespace remat
