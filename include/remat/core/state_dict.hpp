// What something goes on from, as a file keeps it.
#pragma once

#include <cmath>
#include <map>
#include <remat/core/error.hpp>
#include <remat/core/tensor.hpp>
#include <string>

namespace remat { inline namespace REMAT_ABI {

/// The state of an optimizer or the like, by names: "gpt/final_norm/scale/mean". Tensors share bytes with what they
/// were taken from until that changes.
struct StateDict {
  std::map<std::string, AnyTensor> tensors{};  // by name
  std::map<std::string, double> numbers{};     // likewise, of names that no tensor has
};

namespace detail {

/// `number` of a saved state, which counts something: an `Error` that begins with `whose` unless it is whole and at
/// least 0. States come from files, and what goes on from -1 steps divides by zero.
inline double require_count(double number, const char* whose, const std::string& name) {
  require(number >= 0 && number < 0x1p53 && number == std::floor(number), whose, ": the saved state has \"", name,
          "\" as ", number, ", which counts nothing");
  return number;
}

}  // namespace detail

}}  // namespace remat
