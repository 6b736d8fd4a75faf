// Float masters of layers that compute in bfloat16: one cast for each value of a parameter.
#pragma once

#include <mutex>
#include <remat/core/numbers.hpp>
#include <remat/core/parallel.hpp>
#include <remat/params/parameter.hpp>

namespace remat { inline namespace REMAT_ABI { namespace detail {

/// The float32 parameter rounded to bfloat16. Charged to nobody: it counts as parameters do.
template <class = void>
AnyTensor rounded(ParameterEntry& entry) {
  const std::lock_guard lock(ParameterEntry::cast_mutex());
  const AnyTensor& master = entry.value;
  // The cast shares its master's bytes: whoever else writes there gets others, and a cast of those.
  if (entry.cast.storage && entry.cast_from.get() == master.storage.get()) return entry.cast;
  AnyTensor cast{DType::bfloat16, master.shape, {}, 0};
  cast.storage = pool().allocate(cast.bytes());
  const auto* from = reinterpret_cast<const float*>(master.data());
  parallel_for(cast.size(), 16384,
               [from, to = numbers(reinterpret_cast<bfloat16*>(cast.mutable_data()))](Index begin, Index end) {
#pragma omp simd
                 for (Index i = begin; i < end; ++i) to[i] = from[i];
               });
  entry.cast = std::move(cast);
  entry.cast_from = master.storage;
  return entry.cast;
}

}}}  // namespace remat::detail
