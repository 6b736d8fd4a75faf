// One register of numbers, for loops whose lanes are fixed.
#pragma once

#include <remat/core/config.hpp>

namespace remat { inline namespace REMAT_ABI { namespace kernels {

/// One register of T. Only ever a local variable: passing one by value would make the ABI depend on the target.
template <class T>
struct Vector {
  static constexpr int width = vector_bytes / static_cast<int>(sizeof(T));
  static constexpr int group = 2 * width;  // rows whose scores are computed side by side, one a lane
  typedef T type __attribute__((vector_size(vector_bytes)));
};

}}}  // namespace remat::kernels
