// Writing GGUF files: metadata, and tensors each in a format of its own.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <remat/core/numbers.hpp>
#include <remat/core/tensor.hpp>
#include <remat/io/file.hpp>
#include <remat/io/gguf_header.hpp>
#include <remat/kernels/quantized.hpp>
#include <set>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace io {

/// A value for the metadata, stored as the type that it has here: `std::uint32_t{12}` as uint32. A `GgufValue` of
/// another file, which must still be open, is stored as it lies there.
using GgufContent = std::variant<bool, std::uint8_t, std::int8_t, std::uint16_t, std::int16_t, std::uint32_t,
                                 std::int32_t, std::uint64_t, std::int64_t, float, double, std::string,
                                 std::vector<bool>, std::vector<std::uint8_t>, std::vector<std::int8_t>,
                                 std::vector<std::uint16_t>, std::vector<std::int16_t>, std::vector<std::uint32_t>,
                                 std::vector<std::int32_t>, std::vector<std::uint64_t>, std::vector<std::int64_t>,
                                 std::vector<float>, std::vector<double>, std::vector<std::string>, GgufValue>;

/// A tensor for a file.
class GgufOutput {
 public:
  ///@{
  /// Values of float, double or bfloat16, to be stored in `format`: F32, F16, BF16, or Q8_0, whose rows are multiples
  /// of 32 elements.
  template <class T>
  GgufOutput(std::string name, const Tensor<T>& values, BlockFormat format = BlockFormat::f32)
      : GgufOutput(std::move(name), values.any(), format) {}
  GgufOutput(std::string name, AnyTensor values, BlockFormat format = BlockFormat::f32)
      : name_(std::move(name)), values_(std::move(values)), type_(gguf_tensor_type_of(format)) {}
  ///@}
  /// The same of values that are made when their bytes are due, so that they need not all exist at one time.
  GgufOutput(std::string name, const Shape& shape, std::function<AnyTensor()> values,
             BlockFormat format = BlockFormat::f32)
      : name_(std::move(name)), make_(std::move(values)), type_(gguf_tensor_type_of(format)) {
    values_.shape = shape;
  }
  /// A tensor of another file, which must still be open, of any type: stored byte for byte.
  explicit GgufOutput(const GgufTensor& copied)
      : name_(copied.name), type_(copied.type), bytes_(copied.bytes), is_copied_(true) {
    values_.shape = copied.shape;
  }

  /// Its name in the file.
  const std::string& name() const { return name_; }
  /// Its axis lengths, row-major.
  const Shape& shape() const { return values_.shape; }
  /// How it will be stored.
  const GgufTensorType& type() const { return type_; }
  /// Is it another file's, stored byte for byte?
  bool is_copied() const { return is_copied_; }
  /// Are the values made by each call of `values`?
  bool is_made_late() const { return make_ != nullptr; }
  /// The values to encode, where it is not copied.
  AnyTensor values() const { return make_ ? make_() : values_; }
  /// The bytes to copy, where it is.
  std::span<const std::byte> bytes() const { return bytes_; }

 private:
  std::string name_;
  AnyTensor values_{};
  std::function<AnyTensor()> make_{};
  GgufTensorType type_;
  std::span<const std::byte> bytes_{};
  bool is_copied_ = false;
};

namespace detail {

/// The part of a file before the tensors' bytes, as it grows.
class GgufText {
 public:
  template <class T>
  void number(T value) {
    text.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  void type(GgufType type) { number(static_cast<std::uint32_t>(type)); }
  void string(std::string_view characters) {
    number(static_cast<std::uint64_t>(characters.size()));
    text.append(characters);
  }
  void content(const GgufContent& content) {
    std::visit([this](const auto& value) { typed(value); }, content);
  }

  std::string text{};

 private:
  template <class T>
  void untyped(const T& value) {
    if constexpr (std::is_same_v<T, std::string>)
      string(value);
    else if constexpr (std::is_same_v<T, bool>)
      number(static_cast<std::uint8_t>(value));
    else
      number(value);
  }
  template <class T>
  void typed(const T& value) {
    type(gguf_type_of<T>());
    untyped(value);
  }
  template <class T>
  void typed(const std::vector<T>& values) {
    type(GgufType::array);
    type(gguf_type_of<T>());
    number(static_cast<std::uint64_t>(values.size()));
    for (std::size_t i = 0; i < values.size(); ++i) untyped<T>(values[i]);
  }
  void typed(const GgufValue& value) {
    type(value.type());
    if (value.type() == GgufType::array) {
      type(value.element_type());
      number(static_cast<std::uint64_t>(value.size()));
    } else if (value.type() == GgufType::string) {
      number(static_cast<std::uint64_t>(value.bytes().size()));
    }
    text.append(reinterpret_cast<const char*>(value.bytes().data()), value.bytes().size());
  }
};

/// `count` elements from `first` on as floats; doubles are rounded.
inline void copy_as_floats(const AnyTensor& values, Index first, Index count, float* to) {
  const auto copy = [&](const auto from) {
    for (Index i = 0; i < count; ++i) to[i] = static_cast<float>(from[first + i]);
  };
  if (values.dtype == DType::float32) copy(reinterpret_cast<const float*>(values.data()));
  if (values.dtype == DType::float64) copy(reinterpret_cast<const double*>(values.data()));
  if (values.dtype == DType::bfloat16) copy(WidenedArray(reinterpret_cast<const bfloat16*>(values.data())));
}

/// An `Error` where the values are not what `tensor` said, or none that are stored.
inline void check_values(const AnyTensor& values, const GgufOutput& tensor, const std::string& where) {
  require(values.shape == tensor.shape(), where, "is of shape ", values.shape, ", not ", tensor.shape(),
          " as was said");
  require(is_floating(values.dtype), where, "holds ", name_of(values.dtype),
          "; float32, float64 and bfloat16 are stored");
  require(values.size() == 0 || values.data() != nullptr, where, "has no bytes, being of a tape in plan mode");
}

/// Writes the values piece by piece, each checked: an infinity that was none would end a later run without a word.
inline void write_encoded(const File& file, const std::string& where, const GgufOutput& tensor) {
  constexpr Index piece = 16384;
  const BlockFormat format = *tensor.type().format;
  const kernels::BlockLayout layout = kernels::layout_of(format);
  const AnyTensor all = tensor.values();
  check_values(all, tensor, where);
  const Index size = tensor.shape().size();
  std::vector<float> values(static_cast<std::size_t>(std::min(piece, size))), decoded(values.size());
  std::vector<std::byte> encoded(values.size() * sizeof(float) + 64);
  for (Index first = 0; first < size; first += piece) {
    const Index count = std::min(piece, size - first);
    copy_as_floats(all, first, count, values.data());
    kernels::encode_blocks(format, values.data(), count, encoded.data());
    kernels::decode_blocks(format, encoded.data(), 0, count, decoded.data());
    for (std::size_t i = 0; i < static_cast<std::size_t>(count); ++i)
      require(std::isfinite(values[i]) == std::isfinite(decoded[i]), where, "element ", first + static_cast<Index>(i),
              " is ", values[i], ", which as ", layout.name, " would be ", decoded[i], "; store it as F32");
    file.write(encoded.data(), static_cast<std::size_t>(count / layout.elements * layout.bytes));
  }
}

inline std::size_t padding(std::size_t bytes, std::size_t alignment) {
  return (alignment - bytes % alignment) % alignment;
}

/// The bytes that it will take. Its errors are of what readers refuse, llama.cpp among them.
inline std::size_t checked_output(const GgufOutput& tensor, const std::string& where) {
  constexpr std::size_t longest_name = 63;
  constexpr int most_axes = 4;
  require(!tensor.name().empty() && tensor.name().size() <= longest_name, where, "a name of ", tensor.name().size(),
          " bytes; GGUF has names of 1 to ", longest_name);
  require(tensor.shape().rank() <= most_axes, where, "has the shape ", tensor.shape(), "; GGUF has at most ", most_axes,
          " axes");
  const std::size_t bytes = bytes_of({tensor.name(), tensor.shape(), tensor.type()}, where);
  if (tensor.is_copied()) {
    require(tensor.bytes().size() == bytes, where, "has ", tensor.bytes().size(), " bytes, but ", tensor.type().name,
            tensor.shape(), " needs ", bytes);
  } else {
    if (!tensor.is_made_late()) check_values(tensor.values(), tensor, where);
    require(kernels::can_encode(*tensor.type().format), where, "is to be stored as ", tensor.type().name,
            ", which is only read; F32, F16, BF16 and Q8_0 are written");
  }
  return bytes;
}

/// What the metadata says, checked as a reader checks it.
inline std::size_t alignment_in(const std::map<std::string, GgufContent>& metadata, const std::string& path) {
  const auto found = metadata.find("general.alignment");
  if (found == metadata.end()) return 32;
  GgufText stored;
  stored.content(found->second);
  GgufCursor cursor(std::as_bytes(std::span(stored.text)));
  const GgufType type = GgufValue::read_type(cursor);
  constexpr std::size_t most = 65536;  // so much is written behind each tensor
  try {
    const std::size_t alignment = alignment_of({found->first, GgufValue::read(cursor, type)});
    require(alignment <= most, "metadata \"general.alignment\": is ", alignment, "; files are written with ", most,
            " at most");
    return alignment;
  } catch (const Error& error) {
    fail(path, ": ", error.what());
  }
}

/// What errors about a tensor begin with.
inline std::string place_of(const GgufOutput& tensor, const std::string& path) {
  return path + ": " + remat::detail::quoted(tensor.name()) + ": ";
}

/// All of a file that stands before the tensors' bytes.
inline std::string gguf_header_text(const std::vector<GgufOutput>& tensors,
                                    const std::map<std::string, GgufContent>& metadata, const std::string& path) {
  const std::size_t alignment = alignment_in(metadata, path);
  GgufText header;
  header.text = "GGUF";
  header.number(std::uint32_t{3});
  header.number(static_cast<std::uint64_t>(tensors.size()));
  header.number(static_cast<std::uint64_t>(metadata.size()));
  for (const auto& [key, value] : metadata) {
    require(!key.empty() && key.size() <= longest_gguf_key, path, ": a metadata key has ", key.size(),
            " bytes; GGUF has keys of 1 to ", longest_gguf_key);
    header.string(key);
    header.content(value);
  }
  std::size_t offset = 0;
  std::set<std::string_view> names;
  for (const GgufOutput& tensor : tensors) {
    const std::size_t bytes = checked_output(tensor, place_of(tensor, path));
    require(names.insert(tensor.name()).second, place_of(tensor, path), "is given twice");
    header.string(tensor.name());
    header.number(static_cast<std::uint32_t>(tensor.shape().rank()));
    for (int axis = tensor.shape().rank(); axis-- > 0;) header.number(static_cast<std::uint64_t>(tensor.shape()[axis]));
    header.number(tensor.type().code);
    header.number(static_cast<std::uint64_t>(offset));
    offset += bytes + padding(bytes, alignment);
  }
  header.text.append(padding(header.text.size(), alignment), '\0');
  return std::move(header.text);
}

}  // namespace detail

/// Writes a file of version 3. `general.alignment`, where given, is what offsets are multiples of, else 32; where a
/// tensor is quantized, `general.quantization_version` is added unless it is given. The file is replaced as a whole or,
/// after an `Error`, not at all.
inline void save_gguf(const std::vector<GgufOutput>& tensors, const std::string& path,
                      std::map<std::string, GgufContent> metadata = {}) {
  const bool is_quantized = std::any_of(tensors.begin(), tensors.end(),
                                        [](const GgufOutput& tensor) { return tensor.type().block_elements > 1; });
  if (is_quantized) metadata.emplace("general.quantization_version", std::uint32_t{2});
  const std::size_t alignment = detail::alignment_in(metadata, path);
  const std::string header = detail::gguf_header_text(tensors, metadata, path);
  ReplacedFile replaced(path);
  replaced.file().write(header);
  for (const GgufOutput& tensor : tensors) {
    if (tensor.is_copied())
      replaced.file().write(tensor.bytes().data(), tensor.bytes().size());
    else
      detail::write_encoded(replaced.file(), detail::place_of(tensor, path), tensor);
    const std::size_t bytes =
        detail::bytes_of({tensor.name(), tensor.shape(), tensor.type()}, detail::place_of(tensor, path));
    replaced.file().write(std::string(detail::padding(bytes, alignment), '\0'));
  }
  replaced.commit();
}

}}}  // namespace remat::io
