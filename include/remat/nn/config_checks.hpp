// Settings are checked when a layer is built, before it makes a parameter: errors name the setting.
#pragma once

#include <climits>
#include <cmath>
#include <optional>
#include <remat/core/shape.hpp>
#include <remat/nn/blockwise.hpp>
#include <remat/params/initializer.hpp>
#include <string>

namespace remat { inline namespace REMAT_ABI { namespace nn::detail {

inline void check_rate(const std::string& path, const char* name, double rate) {
  require(rate >= 0 && rate < 1, path, ": ", name, " must be in [0, 1), got ", rate);
}
inline void check_not_negative(const std::string& path, const char* name, double value) {
  require(value >= 0 && std::isfinite(value), path, ": ", name, " must be >= 0 and finite, got ", value);
}
inline void check_not_negative(const std::string& path, const char* name, Index value) {
  require(value >= 0, path, ": ", name, " must be >= 0, got ", value);
}
inline void check_positive(const std::string& path, const char* name, double value) {
  require(value > 0 && std::isfinite(value), path, ": ", name, " must be > 0 and finite, got ", value);
}
inline void check_init(const std::string& path, const char* name, const std::optional<Initializer>& init) {
  require(!init || init->is_valid(), path, ": ", name, " is ", init ? init->to_string() : "",
          "; a deviation or a half width must be >= 0 and finite, a constant a number");
}
inline void check(const std::string& path, const BlockwiseConfig& c) {
  check_not_negative(path, "blockwise.query_chunk", c.query_chunk);
  check_not_negative(path, "blockwise.key_chunk", c.key_chunk);
  check_not_negative(path, "blockwise.ffn_chunk", c.ffn_chunk);
}
/// a * b as the width of a projection, or an `Error`.
inline Index width(const std::string& path, const char* what, Index a, Index b) {
  const Index product = checked_mul(a, b, path.c_str());
  require(product <= INT_MAX, path, ": ", what, " ", a, " * ", b, " is above ", INT_MAX);
  return product;
}

}}}  // namespace remat::nn::detail
