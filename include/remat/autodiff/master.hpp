// Float masters of layers that compute in bfloat16: one cast of a parameter for each tape that reads it.
#pragma once

#include <remat/core/numbers.hpp>
#include <remat/core/parallel.hpp>
#include <remat/core/tensor.hpp>

namespace remat::inline REMAT_ABI::detail {

/// The float32 tensor rounded to bfloat16. Charged to nobody: it counts as parameters do.
inline AnyTensor rounded(const AnyTensor& master) {
  AnyTensor cast{DType::bfloat16, master.shape, {}, 0};
  cast.storage = pool().allocate(cast.bytes());
  const auto* from = reinterpret_cast<const float*>(master.data());
  parallel_for(cast.size(), 16384,
               [from, to = numbers(reinterpret_cast<bfloat16*>(cast.mutable_data()))](Index begin, Index end) {
#pragma omp simd
                 for (Index i = begin; i < end; ++i) to[i] = from[i];
               });
  return cast;
}

}  // namespace remat::inline REMAT_ABI::detail
