// The one exception type, and the checks that throw it.
#pragma once

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

/// Throws `Error` with the parts joined by `<<`. Never call it inside a parallel region.
template <class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  std::ostringstream message;
  (message << ... << parts);
  throw Error(message.str());
}

/// Throws `Error` unless `condition` holds; the parts are joined only then.
template <class... Parts>
void require(bool condition, const Parts&... parts) {
  if (!condition) [[unlikely]]
    fail(parts...);
}

}}  // namespace remat
