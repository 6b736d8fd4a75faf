// Shapes: up to 8 axis lengths, row-major.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <ostream>
#include <remat/core/error.hpp>
#include <string>

namespace remat { inline namespace REMAT_ABI {

/// Axis lengths, counts and positions: signed, so that differences are too.
using Index = std::int64_t;

/// a * b, or an `Error` that names `what` when the product does not fit. All sizes go through here.
inline Index checked_mul(Index a, Index b, const char* what = "size") {
  Index product = 0;
  if (__builtin_mul_overflow(a, b, &product)) fail(what, ": ", a, " * ", b, " overflows 64 bits");
  return product;
}
/// The bytes of so many elements of so many bytes each; the same `Error`.
inline std::size_t checked_bytes(Index elements, std::size_t each, const char* what = "tensor") {
  return static_cast<std::size_t>(checked_mul(elements, static_cast<Index>(each), what));
}

/// The axis lengths of a tensor, outermost first; at most 8 axes, each >= 0. Rank 0 is a scalar of one element.
class Shape {
 public:
  static constexpr int max_rank = 8;  // the most axes that a shape has

  Shape() = default;
  ///@{
  /// Axis lengths, outermost first, from any range (an xtensor shape, a vector). An `Error` for a ninth axis or a
  /// negative length.
  Shape(std::initializer_list<Index> axes) : Shape(axes.begin(), axes.end()) {}
  template <class Iterator>
  Shape(Iterator first, Iterator last) {
    for (; first != last; ++first) push_back(static_cast<Index>(*first));
  }
  ///@}

  /// The number of axes.
  int rank() const { return rank_; }
  ///@{
  /// The length of an axis, counted from the end when negative: -1 is the last. An `Error` when there is no such axis.
  Index operator[](int axis) const { return axes_[place(axis)]; }
  Index& operator[](int axis) { return axes_[place(axis)]; }
  ///@}
  ///@{
  /// The axis lengths, outermost first.
  const Index* begin() const { return axes_.data(); }
  const Index* end() const { return axes_.data() + rank_; }
  ///@}
  /// The first axis; an `Error` for a scalar.
  Index front() const { return (*this)[0]; }
  /// The last axis; 1 for a scalar.
  Index back() const { return rank_ == 0 ? 1 : axes_[static_cast<std::size_t>(rank_ - 1)]; }

  /// One more axis at the end; an `Error` when it is a ninth or its length negative.
  void push_back(Index length) {
    require(rank_ < max_rank, "shape: more than ", max_rank, " axes");
    require(length >= 0, "shape: axis ", rank_, " has negative length ", length);
    axes_[static_cast<std::size_t>(rank_++)] = length;
  }
  /// Product of all axes: the number of elements.
  Index size() const {
    Index product = 1;
    for (Index length : *this) product = checked_mul(product, length, "shape");
    return product;
  }
  /// Product of all axes but the last: the number of rows. 1 for a scalar.
  Index rows() const { return drop_last().size(); }
  /// All axes but the last; a scalar stays one.
  Shape drop_last() const {
    Shape shape = *this;
    if (shape.rank_ > 0) shape.axes_[static_cast<std::size_t>(--shape.rank_)] = 0;
    return shape;
  }
  /// This shape with one more axis at the end.
  Shape with(Index length) const {
    Shape shape = *this;
    shape.push_back(length);
    return shape;
  }
  /// `axis` counted from the end when negative; an `Error` names `what` when it is out of range.
  int axis(int axis, const char* what) const {
    require(axis >= -rank_ && axis < rank_, what, ": axis ", axis, " of a tensor with ", rank_, " axes");
    return axis < 0 ? axis + rank_ : axis;
  }
  /// As text: "[2, 3]".
  std::string to_string() const;

  /// Equal in every axis.
  friend bool operator==(const Shape& a, const Shape& b) {
    return a.rank_ == b.rank_ && std::equal(a.begin(), a.end(), b.begin());
  }
  /// Prints `to_string()`.
  friend std::ostream& operator<<(std::ostream& out, const Shape& shape) { return out << shape.to_string(); }

 private:
  std::size_t place(int axis) const {
    const int from_front = axis < 0 ? axis + rank_ : axis;
    if (from_front < 0 || from_front >= rank_) [[unlikely]]
      fail_axis(axis);
    return static_cast<std::size_t>(from_front);
  }
  [[noreturn, gnu::cold, gnu::noinline]] void fail_axis(int axis) const {
    fail("shape: axis ", axis, " of shape ", to_string(), " with ", rank_, " axes; ",
         rank_ == 0 ? "a scalar has none" : "axes count from 0, or from -1 at the end backwards");
  }

  std::array<Index, max_rank> axes_{};
  int rank_ = 0;
};

namespace detail {
template <class = void>
std::string text_of(const Shape& shape) {
  std::string text = "[";
  for (int i = 0; i < shape.rank(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}
}  // namespace detail
inline std::string Shape::to_string() const { return detail::text_of(*this); }

/// What `reshape` takes: a shape, or axis lengths of which one is -1, which then is as long as the elements suffice
/// for.
class Axes {
 public:
  Axes() = default;
  ///@{
  /// Lengths, outermost first. An `Error` for a second -1, and as of `Shape`.
  Axes(std::initializer_list<Index> lengths) : Axes(lengths.begin(), lengths.end()) {}
  Axes(const Shape& shape) : shape_(shape) {}
  template <class Iterator>
  Axes(Iterator first, Iterator last) {
    for (; first != last; ++first) {
      const auto length = static_cast<Index>(*first);
      require(length != -1 || open_ < 0, "reshape: axes ", open_, " and ", shape_.rank(),
              " are both -1; only one can follow from the others");
      if (length == -1) open_ = shape_.rank();
      shape_.push_back(length == -1 ? 1 : length);
    }
  }
  ///@}
  /// The shape of `whole`'s elements; an `Error` when their number differs, or leaves no length or several for the -1.
  Shape of(const Shape& whole) const {
    const Index size = whole.size(), known = shape_.size();
    if (open_ < 0) {
      require(known == size, "reshape: ", size, " elements do not fit shape ", shape_);
      return shape_;
    }
    require(known > 0, "reshape: ", whole, " to ", *this, ": beside an axis of 0 any length would do for the -1");
    require(size % known == 0, "reshape: ", size, " elements of ", whole, " do not fit ", *this, ": ", known,
            " does not divide them");
    Shape shape = shape_;
    shape[open_] = size / known;
    return shape;
  }
  /// As it was written: "[2, -1]".
  friend std::ostream& operator<<(std::ostream& out, const Axes& axes) {
    out << '[';
    for (int i = 0; i < axes.shape_.rank(); ++i) out << (i > 0 ? ", " : "") << (i == axes.open_ ? -1 : axes.shape_[i]);
    return out << ']';
  }

 private:
  Shape shape_{};
  int open_ = -1;  // the axis that is -1, 1 in `shape_`
};

/// The NumPy broadcast of two shapes; an `Error` names `what` and both shapes when they do not fit.
template <class = void>
Shape broadcast(const Shape& a, const Shape& b, const char* what) {
  const int rank = std::max(a.rank(), b.rank());
  Shape shape;
  for (int i = 0; i < rank; ++i) {
    const int ia = i - rank + a.rank(), ib = i - rank + b.rank();
    const Index la = ia < 0 ? 1 : a[ia], lb = ib < 0 ? 1 : b[ib];
    require(la == lb || la == 1 || lb == 1, what, ": shapes ", a, " and ", b, " do not broadcast at axis ", i);
    shape.push_back(la == 1 ? lb : la);
  }
  return shape;
}

}}  // namespace remat
