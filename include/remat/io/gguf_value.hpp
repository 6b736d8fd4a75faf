// Values in the metadata of a GGUF file, as they lie there.
#pragma once

#include <cstddef>
#include <cstring>
#include <limits>
#include <ostream>
#include <remat/core/error.hpp>
#include <remat/io/gguf_types.hpp>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace io {

namespace detail {

template <class T>
inline constexpr bool is_vector = false;
template <class T>
inline constexpr bool is_vector<std::vector<T>> = true;

/// Reads one thing after another and never past the end. `where` begins its errors.
class GgufCursor {
 public:
  explicit GgufCursor(std::span<const std::byte> bytes, std::size_t at = 0) : bytes_(bytes), at_(at) {}

  std::size_t at() const { return at_; }
  std::size_t left() const { return bytes_.size() - at_; }
  /// What was read from byte `begin` on.
  std::span<const std::byte> since(std::size_t begin) const { return bytes_.subspan(begin, at_ - begin); }
  /// The next `count` bytes.
  std::span<const std::byte> take(std::size_t count) {
    require(count <= left(), where, "needs ", count, " bytes at byte ", at_, ", but only ", left(), " follow");
    at_ += count;
    return bytes_.subspan(at_ - count, count);
  }
  template <class T>
  T number() {
    T value{};
    std::memcpy(&value, take(sizeof value).data(), sizeof value);
    return value;
  }
  std::string_view text() {
    const auto length = number<std::uint64_t>();
    require(length <= left(), where, "has a text of ", length, " bytes at byte ", at_, ", but only ", left(),
            " follow");
    const auto characters = take(length);
    return {reinterpret_cast<const char*>(characters.data()), characters.size()};
  }

  std::string where{};  // "metadata \"general.name\": "

 private:
  std::span<const std::byte> bytes_;
  std::size_t at_;
};

}  // namespace detail

/// A value of the metadata, or an element of an array there. It is a view: the file must stay open.
class GgufValue {
 public:
  /// The type that the file says it has.
  GgufType type() const { return type_; }
  /// Of an array: what its elements are.
  GgufType element_type() const { return element_type_; }
  /// Of an array the number of elements, else 1.
  std::size_t size() const { return size_; }
  /// The value as it lies in the file; of an array the elements, of a text the characters.
  std::span<const std::byte> bytes() const { return bytes_; }

  /// As a `T`: a number, bool, std::string_view (characters in the file) or std::string, or a std::vector of one of
  /// these, or of `GgufValue` for arrays of arrays. An integer is given in any type that can hold it, a number in any
  /// floating type, rounded; all else that differs from what the file says is an `Error`.
  template <class T>
  T as() const {
    if constexpr (detail::is_vector<T>) {
      using Element = typename T::value_type;
      require(type_ == GgufType::array, "is ", *this, ", not an array");
      T all;
      all.reserve(size_);
      detail::GgufCursor cursor(bytes_);
      for (std::size_t i = 0; i < size_; ++i) all.push_back(read(cursor, element_type_).template as<Element>());
      return all;
    } else if constexpr (std::is_same_v<T, GgufValue>) {
      return *this;
    } else if constexpr (std::is_same_v<T, std::string_view> || std::is_same_v<T, std::string>) {
      require(type_ == GgufType::string, "is ", *this, ", not text");
      return T(reinterpret_cast<const char*>(bytes_.data()), bytes_.size());
    } else if constexpr (std::is_same_v<T, bool>) {
      require(type_ == GgufType::boolean, "is ", *this, ", not a bool");
      return bytes_[0] != std::byte{0};
    } else {
      static_assert(std::is_arithmetic_v<T>, "a number, bool, std::string_view, std::string, or a std::vector of them");
      return as_number<T>();
    }
  }

  /// Reads one value of a type whose number has been checked; an `Error` that begins with `cursor.where`.
  static GgufValue read(detail::GgufCursor& cursor, GgufType type, int depth = 0) {
    GgufValue value;
    value.type_ = type;
    if (type == GgufType::string) {
      value.bytes_ = std::as_bytes(std::span(cursor.text()));
    } else if (type == GgufType::array) {
      value.read_array(cursor, depth);
    } else {
      value.bytes_ = cursor.take(least_bytes_of(type));
      if (type == GgufType::boolean)
        require(value.bytes_[0] <= std::byte{1}, cursor.where, "has a bool of ", std::to_integer<int>(value.bytes_[0]),
                " at byte ", cursor.at() - 1, "; only 0 and 1 are");
    }
    return value;
  }
  /// Reads the number of a type; an `Error` when there is no such type.
  static GgufType read_type(detail::GgufCursor& cursor) {
    const auto code = cursor.number<std::uint32_t>();
    require(code < gguf_types, cursor.where, "has a value of type ", code, " at byte ", cursor.at() - sizeof code,
            "; the format has types 0 to ", gguf_types - 1);
    return static_cast<GgufType>(code);
  }
  /// Its type: "uint32", "string[49152]".
  friend std::ostream& operator<<(std::ostream& out, const GgufValue& value) {
    if (value.type_ != GgufType::array) return out << name_of(value.type_);
    return out << name_of(value.element_type_) << '[' << value.size_ << ']';
  }

 private:
  static constexpr int max_depth = 4;  // of arrays in arrays; no file is known to need 2

  void read_array(detail::GgufCursor& cursor, int depth) {
    require(depth < max_depth, cursor.where, "has arrays in arrays more than ", max_depth, " deep");
    element_type_ = read_type(cursor);
    const auto count = cursor.number<std::uint64_t>();
    const std::size_t each = least_bytes_of(element_type_);
    require(count <= cursor.left() / each, cursor.where, "has an array of ", count, " elements of type ",
            name_of(element_type_), " at byte ", cursor.at(), ", but the ", cursor.left(), " bytes that follow hold ",
            cursor.left() / each, " at most");
    size_ = count;
    const std::size_t begin = cursor.at();
    if (element_type_ == GgufType::boolean || element_type_ == GgufType::string || element_type_ == GgufType::array)
      for (std::size_t i = 0; i < size_; ++i) read(cursor, element_type_, depth + 1);
    else
      cursor.take(size_ * each);
    bytes_ = cursor.since(begin);
  }

  template <class T>
  T as_number() const {
    const auto from = []<class Stored>(Stored value) {
      if constexpr (std::is_integral_v<T> && std::is_integral_v<Stored>)
        require(std::in_range<T>(value), "is ", +value, ", but a whole number from ", +std::numeric_limits<T>::min(),
                " to ", +std::numeric_limits<T>::max(), " is asked for");
      else if constexpr (std::is_integral_v<T>)
        fail("is ", name_of(gguf_type_of<Stored>()), ", not a whole number");
      return static_cast<T>(value);
    };
    detail::GgufCursor cursor(bytes_);
    switch (type_) {
      case GgufType::uint8: return from(cursor.number<std::uint8_t>());
      case GgufType::int8: return from(cursor.number<std::int8_t>());
      case GgufType::uint16: return from(cursor.number<std::uint16_t>());
      case GgufType::int16: return from(cursor.number<std::int16_t>());
      case GgufType::uint32: return from(cursor.number<std::uint32_t>());
      case GgufType::int32: return from(cursor.number<std::int32_t>());
      case GgufType::uint64: return from(cursor.number<std::uint64_t>());
      case GgufType::int64: return from(cursor.number<std::int64_t>());
      case GgufType::float32: return from(cursor.number<float>());
      case GgufType::float64: return from(cursor.number<double>());
      default: fail("is ", *this, ", not a number");
    }
  }

  GgufType type_ = GgufType::uint8, element_type_ = GgufType::uint8;
  std::size_t size_ = 1;
  std::span<const std::byte> bytes_{};
};

}}}  // namespace remat::io
