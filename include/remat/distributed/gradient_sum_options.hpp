// How gradients are summed.
#pragma once

#include <cstddef>
#include <memory>
#include <remat/distributed/shards.hpp>
#include <remat/params/parameter.hpp>

namespace remat { inline namespace REMAT_ABI { namespace distributed {

/// How a `GradientSum` transfers, and what it leaves. None of it changes a bit.
struct GradientSumOptions {
  std::size_t window_bytes = std::size_t{8} << 20;   // of what is sent to one rank at one time
  std::size_t bucket_bytes = std::size_t{25} << 20;  // of parameters whose gradients are summed together
  bool own_shard_only = false;  // each rank keeps the sums of its own shard alone, about 1/R of them: the second stage
                                // of ZeRO (Rajbhandari et al. 2020); what it does not own is freed as it is sent
  bool overlap = false;  // buckets are summed by a thread of their own, while backward goes on; see `GradientSum`
};

/// The update of a rank's shard as soon as its gradients are summed; `Sharded::in_backward` makes it.
struct ShardUpdate {
  GradientHook update{};                   // of one parameter; empty: none
  std::shared_ptr<const Shards> shards{};  // those of the optimizer
};

}}}  // namespace remat::distributed
