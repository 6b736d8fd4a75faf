// What the attention of one call of a layer may see, and that of a part of its queries.
#pragma once

#include <remat/ops/attention_options.hpp>
#include <remat/ops/blockwise.hpp>
#include <string>

namespace remat { inline namespace REMAT_ABI { namespace nn { namespace detail {

/// Is anything masked or biased?
template <class T>
bool masks_anything(const AttentionMasks<T>& masks) {
  return masks.key_lengths.has_value() || masks.query_segments.has_value() || masks.key_segments.has_value() ||
         masks.prefix_lengths.has_value() || masks.bias.has_value() || masks.relative_bias.has_value();
}

/// The masks of all queries, from which those of a part can be cut: on the tape of x, once for all parts.
template <class T>
class MasksByChunk {
 public:
  template <class X>
  MasksByChunk(const AttentionMasks<T>& masks, const Var<X>& x, bool is_self) : all_(masks), whole_(x.shape()[1]) {
    const auto on_tape = [&](auto& argument, auto& var) {
      using V = std::remove_reference_t<decltype(var)>;
      if (argument.has_value()) argument = var = V(x.shared_program(), argument.on(x.program()));
    };
    on_tape(all_.query_segments, segments_);
    on_tape(all_.bias, bias_);
    if (is_self && !all_.key_segments.has_value()) all_.key_segments = all_.query_segments;  // not cut below
  }
  /// Of the queries [begin, begin + count) of the whole sequence.
  AttentionMasks<T> of(Index begin, Index count) const {
    AttentionMasks<T> part = all_;
    // What has another shape is refused by the op itself.
    if (segments_ && segments_.shape().rank() == 2 && segments_.shape()[1] == whole_)
      part.query_segments = remat::detail::chunk_of(segments_, 1, begin, begin + count);
    if (bias_ && bias_.shape().rank() == 4 && bias_.shape()[2] == whole_ && whole_ > 1)
      part.bias = remat::detail::chunk_of(bias_, 2, begin, begin + count);
    return part;
  }

 private:
  AttentionMasks<T> all_;
  Index whole_;
  Var<std::int32_t> segments_{};
  Var<Accum<T>> bias_{};
};

}}}}  // namespace remat::nn::detail
