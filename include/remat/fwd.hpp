// Forward declarations, for headers that only pass these types on.
#pragma once

#include <remat/core/dtype.hpp>

namespace remat { inline namespace REMAT_ABI {
class Error;
class Shape;
template <class T>
class Tensor;
template <class T>
class Parameter;
class ParameterRegistry;
class Scope;
class Op;
class Tape;
template <class T>
class Var;
namespace policy {
class Policy;
}
using policy::Policy;
}}  // namespace remat
