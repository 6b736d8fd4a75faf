// The header of a .safetensors file: text in, checked table out. The text may come from anyone.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <remat/core/dtype.hpp>
#include <remat/core/shape.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace io {

/// One tensor of a file.
struct TensorInfo {
  std::string dtype{};             // as in the file: "F32"
  Shape shape{};                   // axis lengths
  std::size_t begin = 0, end = 0;  // bytes, relative to the end of the header
};

/// What a header says.
struct SafetensorsHeader {
  std::map<std::string, TensorInfo> tensors{};    // by name
  std::map<std::string, std::string> metadata{};  // what `__metadata__` holds
};

/// The format's name of an element type.
constexpr const char* safetensors_name(DType dtype) {
  constexpr const char* names[] = {"F32", "F64", "BF16", "I8", "U8", "I32", "I64"};
  return names[static_cast<int>(dtype)];
}

namespace detail {

/// Bits of an element; an `Error` for a type that the format does not know.
inline Index bits_of(std::string_view dtype) {
  static constexpr std::pair<std::string_view, Index> table[] = {
      {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"BOOL", 8},        {"U8", 8},   {"I8", 8},
      {"F8_E4M3", 8}, {"F8_E5M2", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8}, {"F16", 16}, {"F8_E5M2FNUZ", 8},
      {"BF16", 16},   {"U16", 16},    {"I16", 16},    {"U32", 32},        {"I32", 32}, {"F32", 32},
      {"C64", 64},    {"U64", 64},    {"I64", 64},    {"F64", 64}};
  for (const auto& [name, bits] : table)
    if (name == dtype) return bits;
  fail("unknown dtype \"", dtype, '"');
}

/// Receives the parser's events and accepts this grammar only: {name: {"dtype": text, "shape": [n...],
/// "data_offsets": [n, n], text: anything}, "__metadata__": {text: text} or null}. Nothing here recurses.
class HeaderEvents : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit HeaderEvents(SafetensorsHeader& header) : header_(header) {}

  bool start_object(std::size_t) override {
    if (place_ == Place::ignored) return ++depth_, true;
    if (place_ == Place::start) return go(Place::root);
    if (place_ == Place::name) return go(name_ == "__metadata__" ? Place::metadata : Place::tensor);
    refuse("an object");
  }
  bool key(std::string& text) override {
    if (place_ == Place::ignored) return true;
    if (place_ == Place::root) {
      name_ = std::move(text);
      field_.clear();
      const bool is_new =
          name_ == "__metadata__" ? !std::exchange(has_metadata_, true) : header_.tensors.try_emplace(name_).second;
      require(is_new, "the name \"", name_, "\" appears twice");
      return go(Place::name);
    }
    field_ = std::move(text);
    if (place_ == Place::metadata) {
      require(header_.metadata.try_emplace(field_).second, "the metadata key \"", field_, "\" appears twice");
      return go(Place::metadata_value);
    }
    static constexpr std::string_view fields[] = {"dtype", "shape", "data_offsets"};
    const auto found = std::find(std::begin(fields), std::end(fields), field_);
    if (found == std::end(fields)) return go(Place::ignored);  // of a later format perhaps
    const unsigned bit = 1U << (found - std::begin(fields));
    require((seen_ & bit) == 0, '"', name_, "\" has the field \"", field_, "\" twice");
    seen_ |= bit;
    numbers_.clear();
    return go(Place::field);
  }
  bool string(std::string& text) override {
    if (place_ == Place::ignored) return end_ignored();
    if (place_ == Place::metadata_value) {
      header_.metadata[field_] = std::move(text);
      return go(Place::metadata);
    }
    if (place_ != Place::field || field_ != "dtype") refuse("a string");
    bits_of(text);
    tensor().dtype = std::move(text);
    return go(Place::tensor);
  }
  bool start_array(std::size_t) override {
    if (place_ == Place::ignored) return ++depth_, true;
    if (place_ != Place::field || field_ == "dtype") refuse("an array");
    return go(Place::numbers);
  }
  bool number_unsigned(std::uint64_t value) override {
    if (place_ == Place::ignored) return end_ignored();
    if (place_ != Place::numbers) refuse("a number");
    require(value <= INT64_MAX, '"', name_, "\" has the number ", value, ", which does not fit into 63 bits");
    require(numbers_.size() < (field_ == "shape" ? std::size_t{Shape::max_rank} : 2), '"', name_,
            "\" has too many numbers in \"", field_, '"');
    numbers_.push_back(static_cast<Index>(value));
    return true;
  }
  bool end_array() override {
    if (place_ == Place::ignored) return --depth_, end_ignored();
    if (field_ == "shape") {
      tensor().shape = Shape(numbers_.begin(), numbers_.end());
    } else {
      require(numbers_.size() == 2, '"', name_, "\" has ", numbers_.size(), " data_offsets instead of 2");
      tensor().begin = static_cast<std::size_t>(numbers_[0]);
      tensor().end = static_cast<std::size_t>(numbers_[1]);
    }
    return go(Place::tensor);
  }
  bool end_object() override {
    if (place_ == Place::ignored) return --depth_, end_ignored();
    if (place_ == Place::tensor)
      require(std::exchange(seen_, 0) == 7, '"', name_, "\" lacks one of dtype, shape and data_offsets");
    return go(place_ == Place::root ? Place::start : Place::root);
  }
  bool null() override {
    if (place_ == Place::name && name_ == "__metadata__") return go(Place::root);
    return ignore_or_refuse("null");
  }
  bool boolean(bool) override { return ignore_or_refuse("a boolean"); }
  bool number_integer(std::int64_t) override { return ignore_or_refuse("a negative number"); }
  bool number_float(double, const std::string&) override {
    return ignore_or_refuse("a number that is no 64-bit integer");
  }
  bool binary(binary_t&) override { return ignore_or_refuse("binary data"); }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception& error) override {
    fail("the header is not valid JSON at its byte ", position, ": ", error.what());
  }

 private:
  enum class Place { start, root, name, metadata, metadata_value, tensor, field, numbers, ignored };

  bool go(Place place) {
    place_ = place;
    return true;
  }
  // A value inside a field that is ignored has ended, and the field with it unless it is inside another.
  bool end_ignored() { return depth_ > 0 || go(Place::tensor); }
  bool ignore_or_refuse(const char* what) {
    if (place_ != Place::ignored) refuse(what);
    return end_ignored();
  }
  TensorInfo& tensor() { return header_.tensors.find(name_)->second; }
  [[noreturn]] void refuse(const char* what) const {
    fail("found ", what, name_.empty() ? "" : " at \"" + name_ + (field_.empty() ? "" : "\", \"" + field_) + "\"",
         ", where the format allows none");
  }

  SafetensorsHeader& header_;
  Place place_ = Place::start;
  std::string name_{}, field_{};
  std::vector<Index> numbers_{};
  unsigned seen_ = 0;  // fields of the tensor, one bit each
  bool has_metadata_ = false;
  std::size_t depth_ = 0;  // arrays and objects open inside an ignored field
};

}  // namespace detail

/// Reads the JSON text of a header whose file has `data_bytes` bytes behind it. Tensors must lie side by side, without
/// hole or overlap, and fill those bytes exactly. Everything else is an `Error` that names the tensor and the rule. As
/// in the format's own reader fields of a tensor that it does not know are skipped; unlike there, no name appears twice
/// and no tensor has more than 8 axes.
inline SafetensorsHeader parse_safetensors_header(std::string_view text, std::size_t data_bytes) {
  const std::size_t begin = text.find_first_not_of(" \t\n\r");
  require(begin != std::string_view::npos && text[begin] == '{', "the header does not begin with '{'");
  // The parser takes a NUL for the end of the text and would not look behind it.
  require(text.find('\0') == std::string_view::npos, "the header holds a NUL byte");
  SafetensorsHeader header;
  detail::HeaderEvents events(header);
  nlohmann::json::sax_parse(text.begin(), text.end(), &events);

  std::vector<std::pair<const std::string, TensorInfo>*> order;
  for (auto& tensor : header.tensors) order.push_back(&tensor);
  std::sort(order.begin(), order.end(), [](const auto* a, const auto* b) {
    return std::pair(a->second.begin, a->second.end) < std::pair(b->second.begin, b->second.end);
  });
  std::size_t end = 0;
  for (const auto* tensor : order) {
    const auto& [name, info] = *tensor;
    const Index bits = checked_mul(info.shape.size(), detail::bits_of(info.dtype), name.c_str());
    require(bits % 8 == 0, '"', name, "\" has ", bits, " bits, which are no whole bytes");
    require(info.begin <= info.end && info.end <= data_bytes, '"', name, "\" has data_offsets [", info.begin, ", ",
            info.end, "), but the file has ", data_bytes, " bytes of data");
    require(info.end - info.begin == static_cast<std::size_t>(bits / 8), '"', name, "\" has ", info.end - info.begin,
            " bytes, but ", info.dtype, info.shape, " needs ", bits / 8);
    require(info.begin == end, '"', name, "\" begins at byte ", info.begin, " of the data, where byte ", end,
            " is next; tensors leave no hole and do not overlap");
    end = info.end;
  }
  require(end == data_bytes, "the tensors end at byte ", end, " of the data, the file at ", data_bytes);
  return header;
}

}}}  // namespace remat::io
