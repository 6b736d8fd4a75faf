// The decoder that tests of its options and of its decoding have.
#pragma once

#include <remat/models/decoder.hpp>
#include <vector>

namespace remat_test::decoder {

inline constexpr remat::Index vocabulary = 23;

inline remat::nn::TransformerLayerConfig llama_layer() {
  remat::nn::TransformerLayerConfig layer{.hidden_dims = 24, .num_heads = 4, .norm = remat::nn::NormKind::rms_norm};
  layer.attention = {.num_kv_heads = 2, .bias = false, .rotary_base = 100};
  layer.ffn = {.activation = remat::Activation::silu, .gated = true, .bias = false};
  return layer;
}
inline remat::models::DecoderConfig llama(remat::Index layers = 3) {
  remat::models::DecoderConfig config{.vocabulary = vocabulary, .model_dims = 16};
  config.layers.assign(static_cast<std::size_t>(layers), llama_layer());
  config.init_deviation = 0.5;
  return config;
}
/// [batch, count], of which each row is another text, from its token `from` on.
inline remat::Tensor<std::int32_t> ids_of(remat::Index batch, remat::Index from, remat::Index count) {
  std::vector<std::int32_t> ids;
  for (remat::Index b = 0; b < batch; ++b)
    for (remat::Index t = from; t < from + count; ++t)
      ids.push_back(static_cast<std::int32_t>((7 * t * t + 3 * b + t) % vocabulary));
  return {{batch, count}, std::span<const std::int32_t>(ids)};
}

}  // namespace remat_test::decoder
