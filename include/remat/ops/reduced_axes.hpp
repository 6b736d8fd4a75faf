// The axes that a reduction takes away, and the shapes this gives.
#pragma once

#include <remat/core/shape.hpp>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace ops {

class ReducedAxes {
 public:
  ReducedAxes(std::vector<int> axes, bool keepdims) : axes_(std::move(axes)), keepdims_(keepdims) {}
  /// All axes.
  explicit ReducedAxes(const Shape& shape) : keepdims_(false) {
    for (int axis = 0; axis < shape.rank(); ++axis) axes_.push_back(axis);
  }

  /// `full` with 1 for each axis that is reduced. Error: an axis that it does not have.
  Shape stretched(const Shape& full) const {
    Shape shape = full;
    for (const int each : axes_) shape[full.axis(each, "axes")] = 1;
    return shape;
  }
  /// The shape of the result.
  Shape result(const Shape& full) const {
    const Shape ones = stretched(full);  // refuses bad axes
    if (keepdims_) return ones;
    Shape shape;
    for (int axis = 0; axis < full.rank(); ++axis)
      if (!is_reduced(full, axis)) shape.push_back(full[axis]);
    return shape;
  }
  /// An `Error` where there is nothing along these axes to choose from.
  void require_elements(const Shape& full) const {
    require(full.size() > 0 || stretched(full).size() == 0, "x has shape ", full,
            ": along an axis of length 0 there is no element to choose");
  }

 private:
  bool is_reduced(const Shape& full, int axis) const {
    for (const int each : axes_)
      if (full.axis(each, "axes") == axis) return true;
    return false;
  }

  std::vector<int> axes_;
  bool keepdims_;
};

}}}  // namespace remat::ops
