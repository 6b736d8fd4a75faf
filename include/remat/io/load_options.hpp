// How the matrices of a model that is read from a file are kept.
#pragma once

#include <remat/core/config.hpp>

namespace remat { inline namespace REMAT_ABI { namespace io {

/// Every way but the first freezes the matrices: products read them a few rows at a time, see `FrozenMatrix`, and
/// adapters can be trained beside them, see `nn::Lora`. Vectors, as of norms and biases, become numbers in any case.
enum class Matrices {
  numbers,    // that are trained like any other parameter: 4 bytes for each element of float
  as_stored,  // in the file, which is mapped: no memory of the process's own, and shared by all processes that read it
  int8,       // the linears' as bytes with a scale for each row; embedding and head as stored
  nf4,  // the linears' as 4 bits with a scale for 64 elements (Dettmers et al. 2023); embedding and head as stored
};

/// Settings of `models::load`.
struct LoadOptions {
  Matrices matrices = Matrices::numbers;  // how they are kept
};

}}}  // namespace remat::io
