// What Gemma 2 and 3 share: Llamas with two norms to a branch, by 1 + w, and windows in some layers.
#pragma once

#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <map>
#include <remat/io/families/llama.hpp>
#include <remat/io/families/windows.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace io { namespace families {

/// @cond inside
/// Layers like `layer`, which sees everything; where `has_window` says so, layer i has `window` and the table `local`.
inline models::DecoderConfig gemma_decoder(nn::TransformerLayerConfig layer, double epsilon, Index window,
                                           const RotaryTable& local, const std::vector<bool>& has_window) {
  layer.norm_placement = nn::NormPlacement::sandwich;
  layer.norm_scale = nn::NormScale::one_plus_weight;
  models::DecoderConfig config = llama_decoder(layer, static_cast<Index>(has_window.size()), epsilon);
  config.norm_scale = nn::NormScale::one_plus_weight;
  // As transformers rounds it, in models of double too.
  config.embedding_multiplier = static_cast<float>(std::sqrt(static_cast<double>(config.model_dims)));
  for (std::size_t i = 0; i < config.layers.size(); ++i) {
    nn::TransformerLayerConfig& each = config.layers[i];
    each.ffn.activation = Activation::gelu_tanh;
    if (!has_window[i]) continue;
    each.attention.window = window;
    each.attention.rotary_base = local.base, each.attention.rotary_scaling = local.scaling;
  }
  return config;
}

/// Fields that do not matter for results are known by name; any other that is not null and not in `more` is refused.
inline void check_gemma_fields(const text::detail::JsonPlace& json, std::initializer_list<const char*> more) {
  json.allow_only(
      {"model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
       "num_key_value_heads", "head_dim", "rms_norm_eps", "rope_theta", "rope_parameters", "rope_scaling",
       "tie_word_embeddings", "attention_bias", "hidden_activation", "max_position_embeddings", "sliding_window",
       "layer_types", "attention_dropout", "query_pre_attn_scalar", "use_bidirectional_attention",
       // no matter of results
       "architectures", "bos_token_id", "eos_token_id", "pad_token_id", "torch_dtype", "dtype", "transformers_version",
       "use_cache", "cache_implementation", "initializer_range", "_name_or_path", "_attn_implementation", "return_dict",
       "output_hidden_states", "output_attentions"},
      more);
  if (json.text("hidden_activation", "gelu_pytorch_tanh") != "gelu_pytorch_tanh")
    json["hidden_activation"].refuse("is not supported; only \"gelu_pytorch_tanh\" is");
  if (json.flag("use_bidirectional_attention", false))
    json["use_bidirectional_attention"].refuse("is not supported; only false is");
}
/// A layer that sees everything.
inline nn::TransformerLayerConfig gemma_layer_of_folder(const text::detail::JsonPlace& json, const RotaryTable& table) {
  const auto size = [&](const char* name) { return json[name].index(std::int64_t{1} << 31); };
  nn::TransformerLayerConfig layer;
  layer.model_dims = size("hidden_size");
  layer.hidden_dims = size("intermediate_size");
  layer.num_heads = size("num_attention_heads");
  layer.attention = {.num_kv_heads = size("num_key_value_heads"),
                     .head_dims = json.has("head_dim") ? size("head_dim") : 256,
                     .bias = json.flag("attention_bias", false),
                     .dropout = json.has("attention_dropout") ? json["attention_dropout"].number() : 0,
                     .scale = 1 / std::sqrt(json["query_pre_attn_scalar"].number()),
                     .rotary_base = table.base,
                     .rotary_scaling = table.scaling};
  return layer;
}
/// The same of a GGUF file. What no key says llama.cpp knows by the architecture, and the score scale of the 27 B by
/// its number of layers.
inline nn::TransformerLayerConfig gemma_layer_of_gguf(const GgufSettings& file, Index layers_of_27b, double base) {
  nn::TransformerLayerConfig layer;
  layer.model_dims = file.get<Index>("embedding_length");
  layer.hidden_dims = file.get<Index>("feed_forward_length");
  layer.num_heads = file.get<Index>("attention.head_count");
  const Index count = file.index("block_count", 10'000), head_dims = gguf_head_dims(file);
  if (layer.num_heads <= 0) file.refuse("attention.head_count", "is ", layer.num_heads, ", not above 0");
  const Index scaled_dims = count == layers_of_27b || head_dims == 0 ? layer.model_dims / layer.num_heads : head_dims;
  layer.attention = {.num_kv_heads = file.get<Index>("attention.head_count_kv", layer.num_heads),
                     .head_dims = head_dims,
                     .bias = false,
                     .scale = 1 / std::sqrt(static_cast<double>(scaled_dims)),
                     .rotary_base = file.get<double>("rope.freq_base", base),
                     .rotary_dims = file.get<Index>("rope.dimension_count", 0),
                     .rotary_scaling = gguf_rotary_scaling(file, false)};
  return layer;
}

inline nlohmann::ordered_json gemma_to_folder(const models::DecoderConfig& c) {
  const nn::AttentionConfig& global = *LayerKinds(c).global;
  nlohmann::ordered_json json = llama_to_folder(c);
  json.erase("hidden_act");
  json["hidden_activation"] = "gelu_pytorch_tanh";
  json["attention_bias"] = global.bias;
  const double scale = global.scale.value_or(1 / std::sqrt(static_cast<double>(global.head_dims)));
  json["query_pre_attn_scalar"] = std::llround(1 / (scale * scale));
  windows_to_folder(c, json);
  return json;
}

/// Without what reads and writes its configs.
inline DecoderFamily gemma(std::string_view architecture, std::string_view type, std::string_view class_name) {
  DecoderFamily family{.architecture = architecture,
                       .model_type = type,
                       .class_name = class_name,
                       .gguf_names = gguf_names(),
                       .folder_names = hugging_face_names(""),
                       .prefix = "model."};
  DecoderNames &file = family.gguf_names, &folder = family.folder_names;
  file.attention_out_norm = "post_attention_norm", file.ffn_out_norm = "post_ffw_norm";
  file.norm_excess = 1;
  folder.attention_out_norm = "post_attention_layernorm", folder.ffn_norm = "pre_feedforward_layernorm";
  folder.ffn_out_norm = "post_feedforward_layernorm";
  return family;
}

/// @endcond

}}}}  // namespace remat::io::families
