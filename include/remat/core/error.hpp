// The one exception type, and the checks that throw it.
#pragma once

#include <cstddef>
#include <ostream>
#include <remat/core/config.hpp>
#include <sstream>
#include <stdexcept>
#include <string>

namespace remat { inline namespace REMAT_ABI {

/// Every error that the library reports: one sentence that says where, which rule, both values, and what to do.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

namespace detail {

/// A part of a message, whatever its type. Messages are many and hardly two are alike: so what joins and throws them is
/// compiled once, and how a part is written once for each type.
class MessagePart {
 public:
  explicit MessagePart(const char* text) : value_(text), write_(write_text) {}
  template <class T>
  explicit MessagePart(const T& value)
      : value_(&value), write_([](std::ostream& out, const void* part) { out << *static_cast<const T*>(part); }) {}
  void write(std::ostream& out) const { write_(out, value_); }

 private:
  static void write_text(std::ostream& out, const void* text) { out << static_cast<const char*>(text); }
  const void* value_;
  void (*write_)(std::ostream&, const void*);
};

template <class = void>
[[noreturn]] void fail_with(const MessagePart* parts, std::size_t count) {
  std::ostringstream message;
  for (std::size_t i = 0; i < count; ++i) parts[i].write(message);
  throw Error(message.str());
}

}  // namespace detail

/// Throws `Error` with the parts, each written by `<<`. Never call it inside a parallel region.
template <class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  const detail::MessagePart all[] = {detail::MessagePart(parts)...};
  detail::fail_with(all, sizeof...(Parts));
}

/// Throws `Error` unless `condition` holds; the parts are joined only then.
template <class... Parts>
void require(bool condition, const Parts&... parts) {
  if (!condition) [[unlikely]]
    fail(parts...);
}

}}  // namespace remat
