// What stands in a GGUF file before the tensors' bytes: bytes in, checked tables out. They may come from anyone.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <remat/core/near_misses.hpp>
#include <remat/core/shape.hpp>
#include <remat/io/gguf_value.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace io {

static_assert(std::endian::native == std::endian::little, "GGUF: the file's numbers are copied as they are");

/// The format's own limit, in bytes.
inline constexpr std::size_t longest_gguf_key = 65535;

/// A key of the metadata with its value; views into the file.
struct GgufEntry {
  std::string_view key{};  // "llama.block_count"
  GgufValue value{};       // of any type
};

/// One tensor of a file; name and bytes are views into it.
struct GgufTensor {
  std::string_view name{};             // "blk.0.attn_q.weight"
  Shape shape{};                       // row-major as ours; the file has the axes in the other order
  GgufTensorType type{};               // how its elements are stored
  std::size_t offset = 0;              // of its first byte in the file
  std::span<const std::byte> bytes{};  // its rows, one after another
};

/// The tables of a file.
struct GgufHeader {
  std::uint32_t version = 0;                     // of the format: 2 or 3
  std::size_t alignment = 32;                    // what offsets of tensors are multiples of
  std::size_t data_begin = 0;                    // where the bytes of tensors begin
  std::vector<GgufEntry> metadata{};             // in the file's order
  std::vector<GgufTensor> tensors{};             // in the file's order
  std::vector<std::size_t> by_key{}, by_name{};  // both sorted: places in `metadata` and in `tensors`
};

namespace detail {

/// The places of `items` in the order of their names, of which no two are equal.
template <class Item>
std::vector<std::size_t> sorted_by(const std::vector<Item>& items, std::string_view Item::*name, const char* what) {
  std::vector<std::size_t> order(items.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  const auto name_at = [&](std::size_t i) { return items[i].*name; };
  std::sort(order.begin(), order.end(), [&](auto a, auto b) { return name_at(a) < name_at(b); });
  const auto twice =
      std::adjacent_find(order.begin(), order.end(), [&](auto a, auto b) { return name_at(a) == name_at(b); });
  require(twice == order.end(), "has ", what, ' ', twice == order.end() ? "" : remat::detail::quoted(name_at(*twice)),
          " twice");
  return order;
}
/// The item of this name, or null.
template <class Item>
const Item* find_by(const std::vector<Item>& items, const std::vector<std::size_t>& order, std::string_view Item::*name,
                    std::string_view wanted) {
  const auto found =
      std::lower_bound(order.begin(), order.end(), wanted, [&](auto i, auto text) { return items[i].*name < text; });
  return found != order.end() && items[*found].*name == wanted ? &items[*found] : nullptr;
}

/// How many of something follow, each of at least so many bytes.
inline std::size_t read_count(GgufCursor& cursor, std::size_t each, std::size_t behind, const char* what) {
  const auto count = cursor.number<std::uint64_t>();
  const std::size_t room = (cursor.left() - std::min(behind, cursor.left())) / each;
  require(count <= room, "has ", count, ' ', what, " by its count, but the ", cursor.left(),
          " bytes that follow have room for ", room, " at most");
  return count;
}

inline GgufEntry read_entry(GgufCursor& cursor, std::size_t place) {
  cursor.where = "metadata " + std::to_string(place) + ": ";
  GgufEntry entry;
  entry.key = cursor.text();
  require(!entry.key.empty() && entry.key.size() <= longest_gguf_key, cursor.where, "has a key of ", entry.key.size(),
          " bytes; GGUF has keys of 1 to ", longest_gguf_key);
  cursor.where = "metadata " + remat::detail::quoted(entry.key) + ": ";
  const GgufType type = GgufValue::read_type(cursor);
  entry.value = GgufValue::read(cursor, type);
  return entry;
}

inline std::size_t alignment_of(const GgufEntry& entry) {
  require(entry.value.type() == GgufType::uint32, "metadata \"general.alignment\": is ", entry.value,
          ", where the format wants uint32");
  const auto alignment = entry.value.as<std::uint32_t>();
  require(std::has_single_bit(alignment), "metadata \"general.alignment\": is ", alignment, ", no power of two");
  return alignment;
}

/// All but its bytes, which are known once all tensors' tables are read; its offset is from the begin of the data.
inline GgufTensor read_tensor(GgufCursor& cursor, std::size_t place) {
  cursor.where = "tensor " + std::to_string(place) + ": ";
  GgufTensor tensor;
  tensor.name = cursor.text();
  cursor.where = "tensor " + remat::detail::quoted(tensor.name) + ": ";
  const auto rank = cursor.number<std::uint32_t>();
  require(rank <= Shape::max_rank, cursor.where, "has ", rank, " axes; at most ", Shape::max_rank, " are read");
  Index axes[Shape::max_rank] = {};
  for (std::uint32_t i = rank; i-- > 0;) {
    const auto length = cursor.number<std::uint64_t>();
    require(length <= INT64_MAX, cursor.where, "has an axis of ", length, " elements, which do not fit into 63 bits");
    axes[i] = static_cast<Index>(length);
  }
  tensor.shape = Shape(axes, axes + rank);
  const auto code = cursor.number<std::uint32_t>();
  const GgufTensorType* const type = find_gguf_tensor_type(code);
  require(type != nullptr, cursor.where, "is of type ", code, ", which is unknown or was taken out of the format");
  tensor.type = *type;
  tensor.offset = cursor.number<std::uint64_t>();
  return tensor;
}

/// The bytes that the shape and the type call for.
inline std::size_t bytes_of(const GgufTensor& tensor, const std::string& where) {
  Index elements = 1;
  for (const Index length : tensor.shape) elements = checked_mul(elements, length, (where + "its size").c_str());
  require(tensor.shape.back() % tensor.type.block_elements == 0, where, "has rows of ", tensor.shape.back(),
          " elements, which are no whole blocks of ", tensor.type.name, ", of ", tensor.type.block_elements, " each");
  return checked_bytes(elements / tensor.type.block_elements, static_cast<std::size_t>(tensor.type.block_bytes),
                       (where + "its size").c_str());
}

inline void place_tensor(GgufTensor& tensor, const GgufHeader& header, std::span<const std::byte> file) {
  const std::string where = "tensor " + remat::detail::quoted(tensor.name) + ": ";
  const std::size_t bytes = bytes_of(tensor, where), offset = tensor.offset;
  require(offset % header.alignment == 0, where, "has the offset ", offset, ", no multiple of the alignment ",
          header.alignment);
  const std::size_t room = file.size() - std::min(header.data_begin, file.size());
  require(header.data_begin <= file.size() && offset <= room && bytes <= room - offset, where, "has ", bytes,
          " bytes at offset ", offset, " of the data, but the data has ", room, " bytes");
  tensor.offset += header.data_begin;
  tensor.bytes = file.subspan(tensor.offset, bytes);
}

inline void refuse_overlaps(const std::vector<GgufTensor>& tensors) {
  std::vector<const GgufTensor*> order;
  for (const GgufTensor& tensor : tensors)
    if (!tensor.bytes.empty()) order.push_back(&tensor);
  std::sort(order.begin(), order.end(), [](const auto* a, const auto* b) { return a->offset < b->offset; });
  for (std::size_t i = 1; i < order.size(); ++i) {
    const GgufTensor &a = *order[i - 1], &b = *order[i];
    const std::size_t end = a.offset + a.bytes.size();
    require(end <= b.offset, "tensors ", remat::detail::quoted(a.name), " and ", remat::detail::quoted(b.name),
            " overlap: one ends at byte ", end, ", the other begins at byte ", b.offset);
  }
}

}  // namespace detail

/// Reads the tables of a whole file. Any bytes are safe to read: what breaks a rule is an `Error` that says which, and
/// no more memory is taken than a small multiple of the file's size. What is returned are views into `file`.
inline GgufHeader parse_gguf(std::span<const std::byte> file) {
  constexpr std::size_t fixed_bytes = 24, least_entry = 8 + 4 + 1, least_tensor = 8 + 4 + 4 + 8;
  require(file.size() >= fixed_bytes, "has ", file.size(), " bytes; a GGUF file has at least ", fixed_bytes);
  detail::GgufCursor cursor(file);
  require(std::memcmp(cursor.take(4).data(), "GGUF", 4) == 0, "does not begin with the bytes \"GGUF\"");
  GgufHeader header;
  header.version = cursor.number<std::uint32_t>();
  require((header.version & 0xffffU) != 0 || header.version == 0,
          "is a big-endian file; only little-endian ones are read");
  require(header.version == 2 || header.version == 3, "is of version ", header.version,
          " of GGUF; versions 2 and 3 are read");
  const std::size_t tensors = detail::read_count(cursor, least_tensor, 8, "tensors");
  const std::size_t entries = detail::read_count(cursor, least_entry, tensors * least_tensor, "entries of metadata");

  for (std::size_t i = 0; i < entries; ++i) header.metadata.push_back(detail::read_entry(cursor, i));
  header.by_key = detail::sorted_by(header.metadata, &GgufEntry::key, "the metadata key");
  for (std::size_t i = 0; i < tensors; ++i) header.tensors.push_back(detail::read_tensor(cursor, i));
  header.by_name = detail::sorted_by(header.tensors, &GgufTensor::name, "a tensor");

  const auto* const alignment =
      detail::find_by(header.metadata, header.by_key, &GgufEntry::key, std::string_view("general.alignment"));
  if (alignment) header.alignment = detail::alignment_of(*alignment);
  header.data_begin = (cursor.at() + header.alignment - 1) / header.alignment * header.alignment;
  for (GgufTensor& tensor : header.tensors) detail::place_tensor(tensor, header, file);
  detail::refuse_overlaps(header.tensors);
  return header;
}

}}}  // namespace remat::io
