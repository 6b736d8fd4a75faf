// GGUF: models with their metadata and tokenizers in one file, weights often quantized in blocks.
#pragma once

#include <cstddef>
#include <memory>
#include <remat/core/near_misses.hpp>
#include <remat/core/parallel.hpp>
#include <remat/core/tensor.hpp>
#include <remat/io/gguf_header.hpp>
#include <remat/io/mapped_file.hpp>
#include <remat/kernels/quantized.hpp>
#include <remat/kernels/quantized/block_matrix.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace io {

/// A file of version 2 or 3, mapped for reading, all its tables checked. Any file is safe to open: what breaks a rule
/// is an `Error` that names file and rule. Metadata, names and bytes are views into the mapping, which lasts as long as
/// this object, its copies, and what `mapping` returned.
class GgufFile {
 public:
  /// Opens and maps `path`.
  explicit GgufFile(const std::string& path) : mapping_(std::make_shared<const MappedFile>(path)) {
    try {
      header_ = parse_gguf(mapping_->bytes());
    } catch (const Error& error) {
      fail(path, ": ", error.what());
    }
  }

  /// The path it was opened by.
  const std::string& path() const& { return mapping_->path(); }
  std::string path() && { return mapping_->path(); }
  /// Of the format: 2 or 3.
  std::uint32_t version() const { return header_.version; }
  /// Holds the file's bytes; for those who keep views longer than this object.
  std::shared_ptr<const MappedFile> mapping() const { return mapping_; }

  ///@{
  /// All tables of the file.
  const GgufHeader& header() const& { return header_; }
  void header() && = delete;
  ///@}
  ///@{
  /// All keys with their values, in the file's order.
  const std::vector<GgufEntry>& metadata() const& { return header_.metadata; }
  void metadata() && = delete;  // views into a file that closes at once: name the GgufFile first
  ///@}
  ///@{
  /// The value of a key, or null.
  const GgufValue* find(std::string_view key) const& {
    const GgufEntry* const found = detail::find_by(header_.metadata, header_.by_key, &GgufEntry::key, key);
    return found ? &found->value : nullptr;
  }
  void find(std::string_view key) && = delete;
  ///@}
  ///@{
  /// The value of a key as a `T`, see `GgufValue::as`. An `Error` lists near keys when there is none.
  template <class T>
  T get(std::string_view key) const& {
    const GgufValue* const found = find(key);
    if (!found)
      fail(path(), ": has no metadata ", remat::detail::quoted(key), nearest(key, header_.metadata, &GgufEntry::key));
    try {
      return found->as<T>();
    } catch (const Error& error) {
      fail(path(), ": metadata ", remat::detail::quoted(key), ' ', error.what());
    }
  }
  template <class T>
  void get(std::string_view key) && = delete;
  /// The same, or `otherwise` where the file has no such key; an `Error` still where it is of another type.
  template <class T>
  T get(std::string_view key, T otherwise) const& {
    return find(key) ? get<T>(key) : otherwise;
  }
  template <class T>
  void get(std::string_view key, T otherwise) && = delete;
  ///@}

  ///@{
  /// All tensors, in the file's order.
  const std::vector<GgufTensor>& tensors() const& { return header_.tensors; }
  void tensors() && = delete;
  ///@}
  ///@{
  /// The tensor of this name, or null.
  const GgufTensor* find_tensor(std::string_view name) const& {
    return detail::find_by(header_.tensors, header_.by_name, &GgufTensor::name, name);
  }
  void find_tensor(std::string_view name) && = delete;
  ///@}
  ///@{
  /// The tensor of this name; an `Error` lists near names when there is none.
  const GgufTensor& at(std::string_view name) const& {
    const GgufTensor* const found = find_tensor(name);
    if (!found)
      fail(path(), ": has no tensor ", remat::detail::quoted(name), nearest(name, header_.tensors, &GgufTensor::name));
    return *found;
  }
  void at(std::string_view name) && = delete;
  ///@}

  /// One tensor, decoded; `T` is float, double or bfloat16. Nothing is taken beside its own memory.
  template <class T>
  Tensor<T> read(std::string_view name) const {
    const GgufTensor& tensor = at(name);
    decoded_format(tensor);
    AnyTensor whole{dtype_of<T>(), tensor.shape, pool().allocate(checked_bytes(tensor.shape.size(), sizeof_element<T>)),
                    0};
    decode(tensor, 0, reinterpret_cast<T*>(whole.mutable_data()), tensor.shape.size());
    return Tensor<T>(std::move(whole));
  }
  /// Elements [first, first + to.size()) of a tensor, row-major, decoded into memory that is there. Both ends lie
  /// between blocks of its type; whole rows always do.
  template <class T>
  void read_into(std::string_view name, std::span<T> to, Index first = 0) const {
    const GgufTensor& tensor = at(name);
    decoded_format(tensor);
    const auto count = static_cast<Index>(to.size());
    const Index size = tensor.shape.size(), block = tensor.type.block_elements;
    require(first >= 0 && first <= size && count <= size - first, path(), ": ", remat::detail::quoted(name), " has ",
            size, " elements; asked for ", count, " from element ", first, " on");
    require(first % block == 0 && count % block == 0, path(), ": ", remat::detail::quoted(name), " is ",
            tensor.type.name, " in blocks of ", block, " elements; asked for ", count, " from element ", first, " on");
    decode(tensor, first, to.data(), count);
  }
  /// A tensor of two axes as it lies in the mapped file, which stays open as long as the matrix. Its rows lie in
  /// `order`.
  std::shared_ptr<const FrozenMatrix> matrix(std::string_view name, const kernels::RowOrder& order = {}) const {
    const GgufTensor& tensor = at(name);
    const BlockFormat format = decoded_format(tensor);
    require(tensor.shape.rank() == 2, path(), ": ", remat::detail::quoted(name), " has shape ", tensor.shape,
            ", a matrix is needed");
    using kernels::BlockMatrix;
    return std::make_shared<const BlockMatrix>(
        format, tensor.shape[0], tensor.shape[1],
        BlockMatrix::Source{tensor.bytes, mapping_, true, order.paired_heads, order.qkv_heads, order.qkv_groups});
  }
  /// The same of so many `paired_heads`, see `kernels::RowOrder`.
  std::shared_ptr<const FrozenMatrix> matrix(std::string_view name, Index paired_heads) const {
    return matrix(name, kernels::RowOrder{paired_heads});
  }

 private:
  template <class T>
  static constexpr std::size_t sizeof_element = size_of(dtype_of<T>());

  template <class Item>
  static std::string nearest(std::string_view wanted, const std::vector<Item>& items, std::string_view Item::*name) {
    std::vector<std::string> names;
    for (const Item& item : items) names.emplace_back((item.*name).substr(0, 100));
    return remat::detail::nearest_names(wanted, std::move(names));
  }

  BlockFormat decoded_format(const GgufTensor& tensor) const {
    require(tensor.type.format.has_value(), path(), ": ", remat::detail::quoted(tensor.name), " is stored as ",
            tensor.type.name, ", which is not decoded here; convert the file to F16, Q8_0 or Q4_K, for instance");
    return *tensor.type.format;
  }

  template <class T>
  void decode(const GgufTensor& tensor, Index first, T* to, Index count) const {
    static_assert(is_floating(dtype_of<T>()), "tensors are decoded to float, double or bfloat16");
    const BlockFormat format = decoded_format(tensor);
    const std::byte* const bytes = tensor.bytes.data();
    parallel_for(count, Index{16384}, [&](Index begin, Index end) {
      kernels::decode_blocks(format, bytes, first + begin, end - begin, to + begin);
    });
  }

  std::shared_ptr<const MappedFile> mapping_;
  GgufHeader header_{};
};

}}}  // namespace remat::io
