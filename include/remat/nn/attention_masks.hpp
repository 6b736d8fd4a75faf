// What the attention of one call of a layer may see, and that of a part of its queries.
#pragma once

#include <algorithm>
#include <remat/ops/attention_options.hpp>
#include <remat/ops/blockwise.hpp>
#include <string>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace nn { namespace detail {

/// Is anything masked or biased?
template <class T>
bool masks_anything(const AttentionMasks<T>& masks) {
  return masks.key_lengths.has_value() || masks.query_segments.has_value() || masks.key_segments.has_value() ||
         masks.prefix_lengths.has_value() || masks.bias.has_value() || masks.relative_bias.has_value() ||
         masks.positions.has_value() || masks.query_offsets.has_value();
}

template <class N>
bool all_equal(const std::vector<N>& numbers) {
  return std::all_of(numbers.begin(), numbers.end(), [&](const N& n) { return n == numbers.front(); });
}
/// Positions [B, count] of the tokens behind those that each row has seen.
inline Tensor<std::int32_t> positions_behind(const std::vector<Index>& seen, Index count) {
  std::vector<std::int32_t> positions;
  for (const Index before : seen)
    for (Index t = 0; t < count; ++t) positions.push_back(static_cast<std::int32_t>(before + t));
  return {{static_cast<Index>(seen.size()), count}, std::span<const std::int32_t>(positions)};
}

/// The masks of all queries, from which those of a part can be cut: on the tape of x, once for all parts.
template <class T>
class MasksByChunk {
 public:
  /// Of a layer at `path`, for the queries of x [B, T, D]. An `Error` for what is neither of all queries nor of one,
  /// which might fit a part by chance.
  template <class X>
  MasksByChunk(const AttentionMasks<T>& masks, const Var<X>& x, const std::string& path) : all_(masks) {
    const Index queries = x.shape()[1];
    const auto on_tape = [&](auto& argument, auto& var) {
      using V = std::remove_reference_t<decltype(var)>;
      if (argument.has_value()) argument = var = V(x.shared_program(), argument.on(x.program()));
    };
    on_tape(all_.query_segments, segments_);
    require(!segments_ || (segments_.shape().rank() == 2 && segments_.shape()[1] == queries), path,
            ": query_segments have shape ", all_.query_segments.shape(), ", x of shape ", x.shape(), " needs [B, ",
            queries, "]");
    require(!all_.query_offsets.has_value(), path,
            ": query_offsets are of decoding, which is not done by chunks; set blockwise.query_chunk = 0");
    require(all_.weights == nullptr, path,
            ": attention weights exist whole, for all queries at once; set blockwise.query_chunk = 0");
    on_tape(all_.head_mask, head_mask_);
    on_tape(all_.positions, positions_);
    require(!positions_ || (positions_.shape().rank() == 2 && positions_.shape()[1] == queries), path,
            ": positions have shape ", all_.positions.shape(), ", x of shape ", x.shape(), " needs [B, ", queries, "]");
    if (!all_.key_positions.has_value()) all_.key_positions = all_.positions;
    on_tape(all_.bias, bias_);
    const Shape& bias = all_.bias.shape();
    require(!bias_ || (bias.rank() == 4 && (bias[2] == queries || bias[2] == 1)), path, ": bias has shape ", bias,
            ", x of shape ", x.shape(), " needs [B or 1, N or 1, ", queries, " or 1, S or 1]");
    if (!all_.key_segments.has_value()) all_.key_segments = all_.query_segments;  // of all queries, not of a part
  }
  /// Of the queries [begin, begin + count).
  AttentionMasks<T> of(Index begin, Index count) const {
    AttentionMasks<T> part = all_;
    if (segments_) part.query_segments = remat::detail::chunk_of(segments_, 1, begin, begin + count);
    if (positions_) part.positions = remat::detail::chunk_of(positions_, 1, begin, begin + count);
    if (bias_ && bias_.shape()[2] > 1) part.bias = remat::detail::chunk_of(bias_, 2, begin, begin + count);
    return part;
  }

 private:
  AttentionMasks<T> all_;
  Var<std::int32_t> segments_{}, positions_{};
  Var<Accum<T>> bias_{}, head_mask_{};
};

}}}}  // namespace remat::nn::detail
