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
  DType dtype = DType::float32;
  Shape shape{};
  Storage storage{};
  Index offset = 0;  // elements from the start of the storage

  Index size() const { return shape.size(); }
  std::size_t bytes() const { return checked_bytes(size(), size_of(dtype)); }
  const std::byte* data() const {
    std::byte* const begin = storage ? storage->data() : nullptr;
    return begin ? begin + static_cast<std::size_t>(offset) * size_of(dtype) : nullptr;
  }
  /// For writing: a copy is made first when the bytes are shared, with a recorded op perhaps.
  std::byte* mutable_data() {
    if (storage.use_count() > 1) {
      Storage copy = pool().allocate(bytes());
      std::memcpy(copy->data(), data(), bytes());
      storage = std::move(copy);
      offset = 0;
    }
    return const_cast<std::byte*>(data());
  }
};

/// Says how a foreign array (an xtensor expression, an Eigen matrix) becomes a tensor; see core/xtensor.hpp,
/// core/eigen.hpp.
template <class Source>
struct TensorFrom;
template <class Source, class T>
concept TensorSource = requires(const Source& source, T* destination) {
  { TensorFrom<Source>::shape(source) } -> std::convertible_to<Shape>;
  TensorFrom<Source>::copy(source, destination);
};

/// A dense row-major array of `T`, 64-byte aligned. Copies share bytes until one of them is written to.
template <class T>
class Tensor {
 public:
  using value_type = T;

  /// No elements: shape [0], until a tensor is assigned.
  Tensor() : any_{dtype_of<T>(), Shape{0}, {}, 0} {}
  /// Uninitialized elements.
  explicit Tensor(const Shape& shape) : any_{dtype_of<T>(), shape, storage_for(shape), 0} {}
  Tensor(const Shape& shape, T value) : Tensor(shape) { std::fill_n(data(), size(), value); }
  /// Row-major `values`; their number must be the shape's size.
  Tensor(const Shape& shape, std::span<const T> values) : Tensor(shape) {
    require(static_cast<Index>(values.size()) == size(), "tensor: ", values.size(), " values for shape ", shape);
    std::copy(values.begin(), values.end(), data());
  }
  Tensor(const Shape& shape, std::initializer_list<T> values)
      : Tensor(shape, std::span<const T>(values.begin(), values.size())) {}
  /// From an xtensor expression or an Eigen matrix, copied.
  template <class Source>
  requires TensorSource<Source, T> Tensor(const Source& source) : Tensor(TensorFrom<Source>::shape(source)) {
    TensorFrom<Source>::copy(source, data());
  }
  /// The same bytes, typed; an `Error` when the element type is another.
  explicit Tensor(AnyTensor any) : any_(std::move(any)) {
    require(any_.dtype == dtype_of<T>(), "tensor: holds ", name_of(any_.dtype), ", asked for ", name_of(dtype_of<T>()));
  }

  const Shape& shape() const& { return any_.shape; }
  Shape shape() && { return any_.shape; }
  Index size() const { return any_.size(); }
  const T* data() const& { return reinterpret_cast<const T*>(any_.data()); }
  /// For writing; unshares the bytes first.
  T* data() & { return reinterpret_cast<T*>(any_.mutable_data()); }
  /// Of a temporary, for reading while it lives: writing to a copy that is about to go would be lost.
  const T* data() && { return reinterpret_cast<const T*>(any_.data()); }
  std::span<const T> span() const& { return {data(), static_cast<std::size_t>(size())}; }
  std::span<T> span() & { return {data(), static_cast<std::size_t>(size())}; }
  void span() const&& = delete;  // `for (float v : x.value().span())` would read what is gone: name the tensor first
  /// Element i in row-major order; i is not checked, but that there are elements is.
  const T& operator[](Index i) const& { return require_made(), data()[i]; }
  T& operator[](Index i) & { return require_made(), data()[i]; }
  T operator[](Index i) && { return require_made(), reinterpret_cast<const T*>(any_.data())[i]; }
  /// The only element.
  T item() const {
    require(size() == 1, "tensor: item() of shape ", shape(), " with ", size(), " elements");
    return data()[0];
  }
  /// The same elements in another shape of the same size; shares bytes. One axis may be -1.
  Tensor reshape(const Axes& axes) const {
    Tensor view = *this;
    view.any_.shape = axes.of(shape());
    return view;
  }
  /// Rows [begin, end) of the first axis; shares bytes.
  Tensor slice(Index begin, Index end) const {
    require(shape().rank() > 0 && begin >= 0 && begin <= end && end <= shape().front(), "slice: [", begin, ", ", end,
            ") of shape ", shape());
    Tensor view = *this;
    view.any_.offset += begin * (shape().front() == 0 ? 0 : size() / shape().front());
    view.any_.shape[0] = end - begin;
    return view;
  }
  /// Bytes of its own.
  Tensor copy() const { return Tensor(shape(), span()); }

  const AnyTensor& any() const& { return any_; }
  AnyTensor& any() & { return any_; }
  AnyTensor any() && { return std::move(any_); }

  /// Same shape and same bits: NaN equals itself, 0 differs from -0.
  friend bool same_bits(const Tensor& a, const Tensor& b) {
    return a.shape() == b.shape() && (a.size() == 0 || std::memcmp(a.data(), b.data(), a.any_.bytes()) == 0);
  }

 private:
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
