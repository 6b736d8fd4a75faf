// What writers of whole decoders share: the config as it was built, its family, and weights as they lie in files.
#pragma once

#include <algorithm>
#include <optional>
#include <remat/core/numbers.hpp>
#include <remat/core/parallel.hpp>
#include <remat/io/families.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace io { namespace detail {

/// The config of a decoder for its family to say, of layers in which what was 0 is filled in.
template <class T>
models::DecoderConfig completed_config(const models::Decoder<T>& model, const std::string& path) {
  models::DecoderConfig config = model.config;
  require(!config.layers.empty(), path, ": ", model.path, " has no layers, which no family of models says");
  for (std::size_t i = 0; i < config.layers.size(); ++i) config.layers[i] = model.decoder.layers[i].config;
  return config;
}
/// The same of a config that was read.
inline models::DecoderConfig completed_config(models::DecoderConfig config) {
  for (nn::TransformerLayerConfig& layer : config.layers) layer = nn::completed(layer, "layer");
  return config;
}

/// The model_type that says a config, if one does.
inline std::string_view model_type_for(const models::DecoderConfig& c) {
  const nn::TransformerLayerConfig& first = c.layers.front();
  const nn::AttentionConfig& attention = first.attention;
  if (c.learned_positions) return "gpt2";
  if (first.parallel || attention.alibi) return "falcon";
  const auto any = [&](auto&& is_so) { return std::any_of(c.layers.begin(), c.layers.end(), is_so); };
  if (first.norm_placement == nn::NormPlacement::sandwich)
    return attention.query_key_norm == nn::QueryKeyNorm::none ? "gemma2" : "gemma3_text";
  if (first.norm_placement == nn::NormPlacement::branch_output)
    return any([](const auto& l) { return l.attention.window != 0; }) ? "olmo3" : "olmo2";
  if (attention.query_key_norm != nn::QueryKeyNorm::none) return "qwen3";
  if (any([](const auto& l) { return l.attention.rotary_base == 0; })) return "smollm3";
  if (attention.bias && !attention.out_bias.value_or(true)) return "qwen2";
  if (c.embedding_multiplier != 1 || c.logit_multiplier != 1 || first.residual_multiplier != 1) return "granite";
  return attention.window != 0 ? "mistral" : "llama";
}
/// The family whose `name` is `wanted`, or that of the config where nothing is.
inline const DecoderFamily& family_to_write(std::string_view DecoderFamily::*name, std::string_view wanted,
                                            const models::DecoderConfig& config, const std::string& path) {
  if (wanted.empty()) return *find_family(&DecoderFamily::model_type, model_type_for(config));
  const DecoderFamily* const family = find_family(name, wanted);
  require(family != nullptr, path, ": ", remat::detail::quoted(wanted), " is no family that is written; there are ",
          family_names(name));
  return *family;
}

/// All weights, none of which has an adapter that would be lost.
template <class T>
std::vector<NamedWeight<Accum<T>>> weights_to_write(const models::Decoder<T>& model, const DecoderNames& names,
                                                    const std::string& path) {
  std::vector<NamedWeight<Accum<T>>> all = named_weights(model, names);
  for (const auto& weight : all)
    require(!weight.parameter.entry()->adapter, path, ": ", weight.parameter.path(),
            " has an adapter, which the file has no place for; add it by Lora::merge, or deactivate it and save it "
            "apart");
  return all;
}
/// The shape of a weight in its file.
template <class T>
Shape stored_shape(const NamedWeight<T>& weight) {
  const Shape& shape = weight.parameter.shape();
  return weight.layout.transposed ? Shape{shape[1], shape[0]} : shape;
}
/// A weight as it lies in its file, of type To.
template <class To, class T>
AnyTensor stored_value(const NamedWeight<T>& weight) {
  ParameterEntry& entry = *weight.parameter.entry();
  const auto use = entry.used(ParameterUse::read);
  const AnyTensor value = entry.numbers();
  const kernels::RowOrder order = weight.layout.order();
  const T excess = static_cast<T>(weight.layout.excess);
  const bool is_as_ours = !weight.layout.transposed && order.is_ours();
  if (is_as_ours && excess == 0 && value.dtype == dtype_of<To>()) return value;
  const Index outputs = value.shape.back(), inputs = value.size() / std::max<Index>(1, outputs);
  const Shape shape = stored_shape(weight);
  AnyTensor to{dtype_of<To>(), shape, pool().allocate(checked_bytes(shape.size(), size_of(dtype_of<To>()))), 0};
  const T* const from = reinterpret_cast<const T*>(value.data());
  const auto target = numbers(reinterpret_cast<To*>(to.mutable_data()));
  if (is_as_ours) {
    for (Index i = 0; i < value.size(); ++i)
      target[i] = static_cast<Accum<To>>(excess == 0 ? from[i] : from[i] + excess);
    return to;
  }
  constexpr Index strip = 16;  // rows of the file that are written at one time
  parallel_for((outputs + strip - 1) / strip, row_grain(strip * inputs), [=](Index begin, Index end) {
    for (Index first = begin * strip; first < std::min(end * strip, outputs); first += strip)
      for (Index k = 0; k < inputs; ++k)
        for (Index i = first; i < std::min(first + strip, outputs); ++i)
          target[order.stored(i, outputs) * inputs + k] = static_cast<Accum<To>>(from[k * outputs + i]);
  });
  return to;
}

}}}}  // namespace remat::io::detail
