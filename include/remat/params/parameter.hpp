// A named leaf that outlives the step: value, gradient, users.
#pragma once

#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <remat/core/frozen_matrix.hpp>
#include <remat/core/tensor.hpp>
#include <remat/params/initializer.hpp>
#include <remat/params/matrix_part.hpp>
#include <remat/params/parameter_use.hpp>
#include <string>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI {

struct ParameterEntry;

/// What is added to a matrix w [D, F] wherever `linear` reads it: x w becomes x w + scale dropout(x) down up, LoRA (Hu
/// et al. 2021). Of P parts of w, each has a down [D, R] and an up of its own: the downs lie side by side [D, P R], and
/// so do the ups [R, U], U the parts' columns together. With magnitudes each adapted column j of w + scale down up is
/// scaled to be magnitude[j] long: DoRA (Liu et al. 2024). See `nn::Lora`, which makes them.
struct LowRankAdapter {
  std::shared_ptr<ParameterEntry> down, up;     // [D, R], [R, F]; of parts [D, P R], [R, U]
  double scale = 1;                             // of the product of both
  double dropout = 0;                           // on what `down` reads, in training
  std::vector<MatrixPart> parts{};              // in order of columns; empty: all of w
  std::shared_ptr<ParameterEntry> magnitude{};  // [U]; null: columns are as long as they are
  /// Of a table [V, D] that `embedding` looks up, whose rows become table[i] + scale down[i] up: down [V, R], up [R,
  /// D]. A head that is the same table reads it alone, as PEFT has it.
  bool is_of_rows = false;
};

/// What the registry keeps for one path.
struct ParameterEntry {
  std::string path;                  // its name in the registry
  AnyTensor value;                   // the master, in the type of the parameter; without bytes where `matrix` is set
  AnyTensor grad{};                  // without storage until a backward or grad() needs it
  bool has_grad = false;             // false: the gradient is zero, whatever the bytes say
  bool consumed = false;             // the last gradient has been spent in backward, see GradientHook
  bool is_frozen = false;            // tapes recorded from now on want no gradient
  Initializer initializer{};         // what `value` began as
  std::vector<std::string> users{};  // layer paths that asked, in order
  AnyTensor cast{};                  // the value in the type that layers compute in, made when a tape first asks
  Storage cast_from{};               // of which value
  ParameterUses uses{};              // by which threads
  std::shared_ptr<const FrozenMatrix> matrix{};     // set: the value is read from here and never written
  bool is_transposed = false;                       // `matrix` holds the transpose of the value
  std::shared_ptr<const LowRankAdapter> adapter{};  // what products with it add
  /// Of a head w [V, D], a table of its own or one that embeds, which products read transposed: what these add, down
  /// [D, R] and up [R, V].
  std::shared_ptr<const LowRankAdapter> head_adapter{};
  bool is_head = false;             // a head's own matrix [V, D]
  std::vector<MatrixPart> parts{};  // of a matrix: the layers that it makes up, where it is of several

  /// An `Error` where a use by another thread excludes this one; ends with the guard.
  [[nodiscard]] ParameterUseGuard used(ParameterUse use) { return {uses, use, path}; }

  /// The value for writing in place, without a copy for the cast's sake; bytes are made where it has none yet. An
  /// `Error` where it is a `matrix`.
  std::byte* writable() {
    require(!matrix, path, ": is read as it is stored, as ", matrix ? matrix->format() : "",
            ", and cannot be written to; load it as numbers");
    cast = {}, cast_from = {};
    if (!value.storage) value.storage = pool().allocate(value.bytes());
    return value.mutable_data();
  }
  /// The value from now on, which is frozen with it: `from`, or its transpose. Its own bytes go. An `Error` when the
  /// shape differs.
  void keep_as(std::shared_ptr<const FrozenMatrix> from, bool transposed) {
    const Shape stored = transposed ? Shape{from->columns(), from->rows()} : from->shape();
    require(stored == value.shape, path, ": has shape ", value.shape, ", was given a matrix of ", stored);
    drop_grad();
    is_frozen = true;
    value.storage = {}, cast = {}, cast_from = {};
    matrix = std::move(from), is_transposed = transposed;
  }
  /// The value as numbers: a copy where it is a `matrix`. An `Error` where it has none yet.
  template <class = void>
  AnyTensor numbers() const;

  /// Bytes for the gradient; contents mean something only when `has_grad`.
  AnyTensor& grad_buffer() {
    if (!grad.storage) {
      grad = {value.dtype, value.shape, {}, 0};
      grad.storage = pool().allocate(value.bytes());
    }
    return grad;
  }
  /// The gradient is zero from now on; its bytes stay for the next.
  void zero_grad() { has_grad = consumed = false; }
  /// Of the gradient, zero or not, once there is one.
  std::size_t grad_bytes() {
    const auto use = used(ParameterUse::train);
    return grad.storage ? grad.bytes() : 0;
  }
  /// Of the value, with those of its cast to bfloat16.
  std::size_t value_bytes() {
    const std::lock_guard lock(cast_mutex());
    return (matrix ? matrix->bytes() : value.storage ? value.bytes() : 0) + (cast.storage ? cast.bytes() : 0);
  }
  /// Of a mapped file, that the value is read from.
  std::size_t mapped_bytes() const { return matrix ? matrix->mapped_bytes() : 0; }
  /// Held by who makes or looks for a cast: tapes of several threads may read one value.
  static std::mutex& cast_mutex() {
    static std::mutex mutex;
    return mutex;
  }
  /// The gradient and its bytes go.
  void drop_grad() {
    zero_grad();
    grad = {};
  }
  /// Another parameter at the same path with value and gradient of its own; uses and cast are not copied.
  ParameterEntry copy() {
    const auto use = used(ParameterUse::train);  // nobody changes value or gradient meanwhile
    ParameterEntry to{path, value.storage ? value.copied() : value};
    to.matrix = matrix, to.is_transposed = is_transposed, to.adapter = adapter, to.parts = parts;
    to.head_adapter = head_adapter, to.is_head = is_head;
    if (has_grad) to.grad = grad.copied();
    to.has_grad = has_grad, to.consumed = consumed, to.is_frozen = is_frozen;
    to.initializer = initializer, to.users = users;
    return to;
  }
  /// The gradient for reading: zeros, and still none, where no backward has added to it yet.
  const AnyTensor& grad_or_zeros() {
    AnyTensor& buffer = grad_buffer();
    if (!has_grad) std::memset(buffer.mutable_data(), 0, buffer.bytes());
    return buffer;
  }
};

template <class>
AnyTensor ParameterEntry::numbers() const {
  require(matrix || value.storage, path, ": has no value yet; read it from a file or set it");
  if (!matrix) return value;
  AnyTensor to{value.dtype, value.shape, pool().allocate(value.bytes()), 0};
  std::vector<float> row(static_cast<std::size_t>(matrix->columns()));
  const auto write = [&](auto* all) {
    using T = std::remove_reference_t<decltype(*all)>;
    const Index rows = matrix->rows(), columns = matrix->columns();
    for (Index r = 0; r < rows; ++r) {
      matrix->read(r, 1, row.data());
      for (Index c = 0; c < columns; ++c)
        all[is_transposed ? c * rows + r : r * columns + c] = static_cast<T>(row[static_cast<std::size_t>(c)]);
    }
  };
  if (value.dtype == DType::float32) write(reinterpret_cast<float*>(to.mutable_data()));
  if (value.dtype == DType::float64) write(reinterpret_cast<double*>(to.mutable_data()));
  require(value.dtype == DType::float32 || value.dtype == DType::float64, path, ": a matrix of ", name_of(value.dtype),
          " cannot be made numbers of");
  return to;
}

/// Called in backward for each parameter that got a gradient, once nothing will read its value or add to its gradient
/// any more: an optimizer may update and free there.
using GradientHook = std::function<void(ParameterEntry&)>;

/// A handle to one parameter of a registry; copies name the same one. One that no scope has made, the bias of a layer
/// without one perhaps, is false and names none: all but `entry()` are then an `Error`.
template <class T>
class Parameter {
 public:
  Parameter() = default;
  /// A handle to what a registry keeps.
  explicit Parameter(std::shared_ptr<ParameterEntry> entry) : entry_(std::move(entry)) {}

  /// Its name in the registry: "gpt/embedding/table".
  const std::string& path() const { return made().path; }
  /// The axis lengths.
  const Shape& shape() const { return made().value.shape; }
  /// The number of elements.
  Index size() const { return made().value.size(); }
  /// Has a scope made it?
  explicit operator bool() const { return entry_ != nullptr; }

  /// The value, which shares bytes until one of the two changes; a copy where it is read as it is stored, see
  /// `ParameterEntry::matrix`. An `Error` while another thread changes it.
  Tensor<T> value() const {
    const auto use = made().used(ParameterUse::read);
    return Tensor<T>(entry_->numbers());
  }
  /// Replaces the value; an `Error` when the shape differs, or when it is a matrix that is read as it is stored.
  void set_value(const Tensor<T>& value) const {
    require(value.shape() == shape(), path(), ": has shape ", shape(), ", was given ", value.shape());
    const auto use = entry_->used(ParameterUse::write);
    require(!entry_->matrix, path(), ": is read as it is stored and cannot be set; load it as numbers");
    entry_->value = value.copy().any();
  }
  /// The sum of all gradients since the last `zero_grad`, zeros if none.
  Tensor<T> grad() const {
    const auto use = made().used(ParameterUse::train);
    return Tensor<T>(entry_->grad_or_zeros());
  }
  /// Replaces the gradient, one that was summed over machines perhaps; an `Error` when the shape differs or the
  /// parameter is frozen.
  void set_grad(const Tensor<T>& grad) const {
    require(grad.shape() == shape(), path(), ": has shape ", shape(), ", was given a gradient of ", grad.shape());
    const auto use = entry_->used(ParameterUse::train);
    require(!is_frozen(), path(), ": is frozen and was given a gradient; unfreeze it first");
    entry_->grad = grad.copy().any();
    entry_->has_grad = true;
    entry_->consumed = false;
  }
  /// Has something been added to the gradient since the last `zero_grad`?
  bool has_grad() const { return made().has_grad; }
  /// See `ParameterRegistry::freeze`.
  bool is_frozen() const { return made().is_frozen; }
  /// The gradient is zero from now on; an `Error` while another thread trains it.
  void zero_grad() const {
    const auto use = made().used(ParameterUse::train);
    entry_->zero_grad();
  }

  /// What the registry keeps; null where no scope has made it.
  const std::shared_ptr<ParameterEntry>& entry() const { return entry_; }

 private:
  ParameterEntry& made() const {
    require(entry_ != nullptr,
            "parameter: used, but no scope has made it; a layer without a bias, say, has none to read");
    return *entry_;
  }

  std::shared_ptr<ParameterEntry> entry_;
};

}}  // namespace remat
