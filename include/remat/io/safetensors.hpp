// .safetensors: 8 bytes little-endian N, a JSON header of N bytes, the tensors' bytes side by side.
#pragma once

#include <algorithm>
#include <bit>
#include <cstring>
#include <map>
#include <memory>
#include <remat/core/near_misses.hpp>
#include <remat/core/numbers.hpp>
#include <remat/core/tensor.hpp>
#include <remat/io/file.hpp>
#include <remat/io/mapped_file.hpp>
#include <remat/io/safetensors_header.hpp>
#include <remat/io/safetensors_save.hpp>
#include <remat/kernels/quantized.hpp>
#include <remat/kernels/quantized/block_matrix.hpp>
#include <remat/params/registry.hpp>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace io {

/// A file open for reading, its header checked as a whole. Tensors are read on request. Any file is safe to open: what
/// breaks a rule is an `Error` that names file and rule, and no more memory is taken than the file's size calls for.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::string& path) : file_(path, O_RDONLY | O_NONBLOCK) {  // a pipe must not block
    const std::size_t size = file_.size();
    require(size >= 8, path, ": has ", size, " bytes; a safetensors file has at least 8");
    std::uint64_t length = 0;
    file_.read(&length, 8, 0);
    require(length <= max_safetensors_header, path, ": the header's length ", length, " is above the format's limit ",
            max_safetensors_header);
    require(length <= size - 8, path, ": the header's length is ", length, ", but only ", size - 8, " bytes follow");
    std::string text(length, '\0');
    file_.read(text.data(), length, 8);
    data_begin_ = 8 + length;
    try {
      header_ = parse_safetensors_header(text, size - data_begin_);
    } catch (const Error& error) {
      fail(path, ": ", std::string_view(error.what()).substr(0, 400));  // names in the file may be very long
    }
  }

  /// The path it was opened by.
  const std::string& path() const& { return file_.path(); }
  std::string path() && { return file_.path(); }
  /// All tensors by name, in order of name.
  const std::map<std::string, TensorInfo>& tensors() const& { return header_.tensors; }
  std::map<std::string, TensorInfo> tensors() && { return std::move(header_.tensors); }
  /// The texts under the header's `__metadata__`.
  const std::map<std::string, std::string>& metadata() const& { return header_.metadata; }
  std::map<std::string, std::string> metadata() && { return std::move(header_.metadata); }
  /// The names of all tensors, sorted.
  std::vector<std::string> names() const {
    std::vector<std::string> all;
    for (const auto& [name, info] : tensors()) all.push_back(name);
    return all;
  }
  TensorInfo info(const std::string& name) && { return std::as_const(*this).info(name); }
  /// Type, shape and place of one tensor; an `Error` lists near names when there is none.
  const TensorInfo& info(const std::string& name) const& {
    const auto found = tensors().find(name);
    require(found != tensors().end(), path(), ": has no tensor \"", name, '"', near(name, names()));
    return found->second;
  }
  ///@{
  /// One tensor; an `Error` when its type is another.
  template <class T>
  Tensor<T> read(const std::string& name) const {
    return Tensor<T>(read(name, dtype_of<T>()));
  }
  AnyTensor read(const std::string& name, DType dtype) const {
    const TensorInfo& found = info(name);
    require(found.dtype == safetensors_name(dtype), path(), ": \"", name, "\" holds ", found.dtype, ", asked for ",
            safetensors_name(dtype));
    AnyTensor tensor{dtype, found.shape, pool().allocate(found.end - found.begin), 0};
    file_.read(tensor.mutable_data(), tensor.bytes(), data_begin_ + found.begin);
    return tensor;
  }
  ///@}
  /// One tensor in the type that the file says; an `Error` where that is none of ours.
  AnyTensor read(const std::string& name) const {
    const std::string& dtype = info(name).dtype;
    for (const DType ours :
         {DType::float32, DType::float64, DType::bfloat16, DType::int8, DType::uint8, DType::int32, DType::int64})
      if (dtype == safetensors_name(ours)) return read(name, ours);
    fail(path(), ": \"", name, "\" holds ", dtype, ", which no tensor here can hold");
  }
  /// One tensor of F16, BF16, F32 or F64, converted: `T` is float, double or bfloat16. Numbers are rounded to nearest
  /// even, doubles on their way to bfloat16 to floats first. Little is taken beside its own memory.
  template <class T>
  Tensor<T> read_as(const std::string& name) const {
    const Shape& shape = info(name).shape;
    AnyTensor tensor{dtype_of<T>(), shape, pool().allocate(checked_bytes(shape.size(), size_of(dtype_of<T>()))), 0};
    convert(name, 0, reinterpret_cast<T*>(tensor.mutable_data()), shape.size());
    return Tensor<T>(std::move(tensor));
  }
  /// The same of elements [first, first + to.size()), row-major, into memory that is there.
  template <class T>
  void read_into(const std::string& name, std::span<T> to, Index first = 0) const {
    const Index size = info(name).shape.size(), count = static_cast<Index>(to.size());
    require(first >= 0 && first <= size && count <= size - first, path(), ": \"", name, "\" has ", size,
            " elements; asked for ", count, " from element ", first, " on");
    convert(name, first, to.data(), count);
  }

  /// A matrix of F16, BF16 or F32 as it lies in the file, which is mapped and stays open as long as the matrix.
  /// Its rows lie in `order`.
  std::shared_ptr<const FrozenMatrix> matrix(const std::string& name, const kernels::RowOrder& order = {}) const {
    const TensorInfo& found = info(name);
    require(found.shape.rank() == 2, path(), ": \"", name, "\" has shape ", found.shape, ", a matrix is needed");
    require(found.dtype == "F16" || found.dtype == "BF16" || found.dtype == "F32", path(), ": \"", name, "\" holds ",
            found.dtype, "; F16, BF16 and F32 can stay as they are stored: load the others as numbers");
    if (!mapping_) mapping_ = std::make_shared<const MappedFile>(path());
    const auto bytes = mapping_->bytes();
    require(data_begin_ + found.end <= bytes.size(), path(), ": has changed since it was opened");
    using kernels::BlockMatrix;
    return std::make_shared<const BlockMatrix>(
        format_of(found), found.shape[0], found.shape[1],
        BlockMatrix::Source{bytes.subspan(data_begin_ + found.begin, found.end - found.begin), mapping_, true,
                            order.paired_heads, order.qkv_heads, order.qkv_groups});
  }

  /// The same of so many `paired_heads`, see `kernels::RowOrder`.
  std::shared_ptr<const FrozenMatrix> matrix(const std::string& name, Index paired_heads) const {
    return matrix(name, kernels::RowOrder{paired_heads});
  }

  /// `; the nearest names are ...`: those that share the longest beginning and end with `name`.
  static std::string near(std::string_view name, std::vector<std::string> names) {
    return remat::detail::nearest_names(name, std::move(names));
  }

 private:
  static kernels::BlockFormat format_of(const TensorInfo& info) {
    using kernels::BlockFormat;
    return info.dtype == "F16" ? BlockFormat::f16 : info.dtype == "BF16" ? BlockFormat::bf16 : BlockFormat::f32;
  }
  template <class T>
  void convert(const std::string& name, Index first, T* to, Index count) const {
    static_assert(is_floating(dtype_of<T>()), "numbers are converted to float, double or bfloat16");
    const TensorInfo& found = info(name);
    require(found.dtype == "F16" || found.dtype == "BF16" || found.dtype == "F32" || found.dtype == "F64", path(),
            ": \"", name, "\" holds ", found.dtype, "; F16, BF16, F32 and F64 are converted");
    const auto each = static_cast<std::size_t>(detail::bits_of(found.dtype) / 8);
    const std::size_t begin = data_begin_ + found.begin;
    if (found.dtype == safetensors_name(dtype_of<T>()))
      return file_.read(to, static_cast<std::size_t>(count) * each, begin + static_cast<std::size_t>(first) * each);
    constexpr Index piece = 16384;
    std::vector<std::byte> bytes(static_cast<std::size_t>(std::min(piece, count)) * each);
    for (Index at = 0; at < count; at += piece) {
      const Index n = std::min(piece, count - at);
      file_.read(bytes.data(), static_cast<std::size_t>(n) * each, begin + static_cast<std::size_t>(first + at) * each);
      if (found.dtype == "F64") {
        const auto elements = numbers(to + at);
        for (Index i = 0; i < n; ++i) {
          double value = 0;
          std::memcpy(&value, bytes.data() + i * Index{sizeof value}, sizeof value);
          elements[i] = static_cast<Accum<T>>(value);
        }
      } else {
        kernels::decode_blocks(format_of(found), bytes.data(), 0, n, to + at);
      }
    }
  }

  File file_;
  mutable std::shared_ptr<const MappedFile> mapping_{};  // made when a matrix is to stay in the file
  std::size_t data_begin_ = 0;
  SafetensorsHeader header_{};
};

/// Reads every parameter. The file must hold exactly the registry's paths, with their types and shapes. All is checked
/// and read before the first value changes: a load that throws has changed nothing.
inline void load_safetensors(ParameterRegistry& parameters, const std::string& path) {
  const SafetensorsFile file(path);
  const auto entries = parameters.entries();
  std::vector<std::string> paths;
  for (const auto& entry : entries) paths.push_back(entry->path);
  for (const auto& entry : entries) {
    const AnyTensor& value = entry->value;
    const TensorInfo& info = file.info(entry->path);
    require(!entry->matrix, path, ": ", entry->path, " is read as it is stored and cannot be written to");
    require(info.dtype == safetensors_name(value.dtype) && info.shape == value.shape, path, ": \"", entry->path,
            "\" is ", info.dtype, info.shape, ", the parameter is ", safetensors_name(value.dtype), value.shape);
  }
  for (const auto& [name, info] : file.tensors())
    require(std::binary_search(paths.begin(), paths.end(), name), path, ": holds \"", name,
            "\", which is no parameter here", SafetensorsFile::near(name, paths));
  std::vector<AnyTensor> values;
  for (const auto& entry : entries) values.push_back(file.read(entry->path, entry->value.dtype));
  std::vector<ParameterUseGuard> uses;
  for (const auto& entry : entries) uses.push_back(entry->used(ParameterUse::write));
  for (std::size_t i = 0; i < entries.size(); ++i) entries[i]->value = std::move(values[i]);
}

}}}  // namespace remat::io
