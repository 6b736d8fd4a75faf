// What something goes on from, as a file keeps it.
#pragma once

#include <map>
#include <remat/core/tensor.hpp>
#include <string>

namespace remat { inline namespace REMAT_ABI {

/// The state of an optimizer or the like, by names: "gpt/final_norm/scale/mean". Tensors share bytes with what they
/// were taken from until that changes.
struct StateDict {
  std::map<std::string, AnyTensor> tensors{};  // by name
  std::map<std::string, double> numbers{};     // likewise, of names that no tensor has
};

}}  // namespace remat
