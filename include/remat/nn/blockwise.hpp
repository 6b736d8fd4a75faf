// Settings of layers that work on a sequence in chunks.
#pragma once

#include <remat/core/shape.hpp>
#include <remat/policy/policy.hpp>

namespace remat { inline namespace REMAT_ABI { namespace nn {

/// Tokens to a chunk; 0: all at once. Each chunk is a checkpoint region under `policy`, inside whatever region the
/// layer lies in.
struct BlockwiseConfig {
  Index query_chunk = 0;  // queries for which attention, its output projection and feed-forward run together, as in the
                          // Blockwise Parallel Transformer (Liu and Abbeel 2023); keys and values are computed by
                          // chunks too, and held whole, so the layer needs combined_qkv = false
  Index key_chunk = 0;    // keys to a block of fused self attention; 0: a cache tile
  Index ffn_chunk = 0;    // of the feed-forward, inside a query chunk if there is one
  Policy policy = policy::nothing;  // what each chunk keeps until backward
};

}}}  // namespace remat::nn
