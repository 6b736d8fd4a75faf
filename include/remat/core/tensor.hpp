// Tensors: dense, row-major, dynamic shape, shared storage.
#pragma once

#include <algorithm>
#include <concepts>
#include <cstring>
#include <initializer_list>
#include <remat/core/dtype.hpp>
#include <remat/core/pool.hpp>
#include <remat/core/shape.hpp>
#include <span>
#include <utility>

namespace remat { inline namespace REMAT_ABI {

/// A tensor whose element type is a value: what the engine, the registry and files handle.
struct AnyTensor {
  DType dtype = DType::float32;  // of the elements
  Shape shape{};                 // axis lengths, row-major
  Storage storage{};             // shared with other tensors
  Index offset = 0;              // elements from the start of the storage

  /// The number of elements.
  Index size() const { return shape.size(); }
  /// What the elements take in memory, less than `storage` holds where they are a part of it.
  std::size_t bytes() const { return checked_bytes(size(), size_of(dtype)); }
  /// The first element, for reading; null where there are no bytes, as in plan mode.
  const std::byte* data() const {
    std::byte* const begin = storage ? storage->data() : nullptr;
    return begin ? begin + static_cast<std::size_t>(offset) * size_of(dtype) : nullptr;
  }
  /// For writing: a copy is made first when the bytes are shared.
  std::byte* mutable_data() {
    if (storage.use_count() > 1) *this = copied();
    return const_cast<std::byte*>(data());
  }
  /// The same elements in bytes of their own.
  AnyTensor copied() const {
    AnyTensor copy{dtype, shape, pool().allocate(bytes()), 0};
    if (size() > 0) std::memcpy(copy.storage->data(), data(), bytes());
    return copy;
  }
  /// The same bytes, or `copied` where a user may still write to them.
  AnyTensor shared() const { return storage && storage->is_written ? copied() : *this; }
};

/// Says how a foreign array (an xtensor expression, an Eigen matrix) becomes a tensor; see core/xtensor.hpp,
/// core/eigen.hpp.
template <class Source>
struct TensorFrom;
/// What a `Tensor<T>` can be made from.
template <class Source, class T>
concept TensorSource = requires(const Source& source, T* destination) {
  { TensorFrom<Source>::shape(source) } -> std::convertible_to<Shape>;
  TensorFrom<Source>::copy(source, destination);
};

/// A dense row-major array of `T`, 64-byte aligned. Copies share bytes until one of them is written to; reading never
/// copies. A tensor that `write` has given a span of is not shared, for the span may be written to at any time: copies
/// and views take bytes of their own then; what is moved does not.
template <class T>
class Tensor {
 public:
  using value_type = T;  // the element type

  /// No elements: shape [0], until a tensor is assigned.
  Tensor() : any_{dtype_of<T>(), Shape{0}, {}, 0} {}
  /// Uninitialized elements.
  explicit Tensor(const Shape& shape) : any_{dtype_of<T>(), shape, storage_for(shape), 0} {}
  /// Every element is `value`.
  Tensor(const Shape& shape, T value) : Tensor(shape) { std::fill_n(own(), size(), value); }
  ///@{
  /// Row-major `values`; their number must be the shape's size.
  Tensor(const Shape& shape, std::span<const T> values) : Tensor(shape) {
    require(static_cast<Index>(values.size()) == size(), "tensor: ", values.size(), " values for shape ", shape);
    std::copy(values.begin(), values.end(), own());
  }
  Tensor(const Shape& shape, std::initializer_list<T> values)
      : Tensor(shape, std::span<const T>(values.begin(), values.size())) {}
  ///@}
  /// From an xtensor expression or an Eigen matrix, copied.
  template <class Source>
  requires TensorSource<Source, T> Tensor(const Source& source) : Tensor(TensorFrom<Source>::shape(source)) {
    TensorFrom<Source>::copy(source, own());
  }
  /// The same bytes, typed; an `Error` when the element type is another.
  explicit Tensor(AnyTensor any) : any_(std::move(any)) {
    require(any_.dtype == dtype_of<T>(), "tensor: holds ", name_of(any_.dtype), ", asked for ", name_of(dtype_of<T>()));
  }
  ///@{
  /// A copy shares the bytes, unless a span of `write` may change them.
  Tensor(const Tensor& other) : any_(other.any_.shared()) {}
  Tensor(Tensor&&) noexcept = default;
  Tensor& operator=(const Tensor& other) { return *this = Tensor(other); }
  Tensor& operator=(Tensor&&) noexcept = default;  // not by value, see Counted
  ///@}

  /// The axis lengths; [0] until a tensor is assigned.
  const Shape& shape() const& { return any_.shape; }
  Shape shape() && { return any_.shape; }
  /// The number of elements.
  Index size() const { return any_.size(); }

  ///@{
  /// All elements in row-major order, for reading. What is read of a temporary must be used before it goes.
  const T* data() const { return reinterpret_cast<const T*>(any_.data()); }
  std::span<const T> span() const& { return {data(), static_cast<std::size_t>(size())}; }
  void span() const&& = delete;  // `for (float v : x.value().span())` would read what is gone: name the tensor first
  const T* begin() const { return data(); }
  const T* end() const { return data() + size(); }
  ///@}
  /// Element i in row-major order; i is not checked, but that there are elements is.
  const T& operator[](Index i) const& { return require_made(), data()[i]; }
  T operator[](Index i) && { return require_made(), data()[i]; }
  /// The element at one index an axis, `t(row, column)`; an `Error` when the indices are too few, too many or too
  /// large.
  template <std::convertible_to<Index>... Indices>
  T operator()(Indices... indices) const {
    return (*this)[offset_of({static_cast<Index>(indices)...})];
  }
  /// The only element.
  T item() const {
    require(size() == 1, "tensor: item() of shape ", shape(), " with ", size(), " elements");
    return data()[0];
  }

  /// For writing: all elements in row-major order, valid as long as the tensor. Bytes that are shared
  /// are copied first, once; take the span outside loops.
  std::span<T> write() & {
    T* const elements = own();
    if (any_.storage) any_.storage->is_written = true;
    return {elements, static_cast<std::size_t>(size())};
  }
  void write() && = delete;  // it would write to what is about to go

  /// The same elements in another shape of the same size; shares bytes. One axis may be -1.
  Tensor reshape(const Axes& axes) const {
    AnyTensor view = any_;
    view.shape = axes.of(shape());
    return Tensor(view.shared());
  }
  /// Rows [begin, end) of the first axis; shares bytes.
  Tensor slice(Index begin, Index end) const {
    require(shape().rank() > 0 && begin >= 0 && begin <= end && end <= shape().front(), "slice: [", begin, ", ", end,
            ") of shape ", shape());
    AnyTensor view = any_;
    view.offset += begin * (shape().front() == 0 ? 0 : size() / shape().front());
    view.shape[0] = end - begin;
    return Tensor(view.shared());
  }
  /// Bytes of its own.
  Tensor copy() const { return Tensor(any_.copied()); }

  /// The same tensor without its type.
  const AnyTensor& any() const& { return any_; }
  AnyTensor any() && { return std::move(any_); }

  /// Same shape and same bits: NaN equals itself, 0 differs from -0.
  friend bool same_bits(const Tensor& a, const Tensor& b) {
    return a.shape() == b.shape() && (a.size() == 0 || std::memcmp(a.data(), b.data(), a.any_.bytes()) == 0);
  }

 private:
  T* own() { return reinterpret_cast<T*>(any_.mutable_data()); }
  Index offset_of(std::initializer_list<Index> indices) const {
    require(static_cast<int>(indices.size()) == shape().rank(), "tensor: ", indices.size(), " indices into shape ",
            shape());
    Index offset = 0;
    int axis = 0;
    for (const Index i : indices) {
      const Index length = shape()[axis++];
      require(0 <= i && i < length, "tensor: index ", i, " into axis ", axis - 1, " of shape ", shape());
      offset = offset * length + i;
    }
    return offset;
  }
  void require_made() const {
    if (!any_.storage) [[unlikely]]
      fail_empty();
  }
  [[noreturn, gnu::noinline, gnu::cold]] static void fail_empty() {
    fail("tensor: an element was asked for, but no tensor has been assigned to this one");
  }
  static Storage storage_for(const Shape& shape) {
    return pool().allocate(checked_bytes(shape.size(), size_of(dtype_of<T>())));
  }

  AnyTensor any_;
};

}}  // namespace remat
