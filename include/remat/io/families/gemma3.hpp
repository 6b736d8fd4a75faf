// Gemma 3, of text: a Llama with two norms to a branch, by 1 + w, and windows in most layers.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <remat/io/families/llama.hpp>
#include <string>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace io { namespace families {

/// @cond inside
/// `count` layers like `layer`, which sees everything; where `is_local(i)`, layer i has `window` and `local`.
template <class IsLocal>
models::DecoderConfig gemma3_decoder(nn::TransformerLayerConfig layer, Index count, double epsilon, Index window,
                                     const RotaryTable& local, const IsLocal& is_local) {
  layer.attention.query_key_norm = nn::QueryKeyNorm::each_head;
  layer.norm_placement = nn::NormPlacement::sandwich;
  layer.norm_scale = nn::NormScale::one_plus_weight;
  models::DecoderConfig config = llama_decoder(layer, count, epsilon);
  config.norm_scale = nn::NormScale::one_plus_weight;
  // As transformers rounds it, in models of double too.
  config.embedding_multiplier = static_cast<float>(std::sqrt(static_cast<double>(config.model_dims)));
  for (std::size_t i = 0; i < config.layers.size(); ++i) {
    nn::TransformerLayerConfig& each = config.layers[i];
    each.ffn.activation = Activation::gelu_tanh;
    if (!is_local(i)) continue;
    each.attention.window = window;
    each.attention.rotary_base = local.base, each.attention.rotary_scaling = local.scaling;
  }
  return config;
}

/// Fields that do not matter for results are known by name; any other that is not null is refused.
inline models::DecoderConfig gemma3_of_folder(const text::detail::JsonPlace& json) {
  constexpr std::int64_t most = std::int64_t{1} << 31;
  const auto size = [&](const char* name) { return json[name].index(most); };
  json.allow_only({"model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
                   "num_attention_heads", "num_key_value_heads", "head_dim", "rms_norm_eps", "rope_theta",
                   "rope_local_base_freq", "rope_parameters", "rope_scaling", "tie_word_embeddings", "attention_bias",
                   "hidden_activation", "max_position_embeddings", "sliding_window", "sliding_window_pattern",
                   "_sliding_window_pattern", "layer_types", "attention_dropout", "query_pre_attn_scalar",
                   "use_bidirectional_attention",
                   // no matter of results
                   "architectures", "bos_token_id", "eos_token_id", "pad_token_id", "torch_dtype", "dtype",
                   "transformers_version", "use_cache", "cache_implementation", "initializer_range", "_name_or_path",
                   "_attn_implementation", "return_dict", "output_hidden_states", "output_attentions"});
  if (json.text("hidden_activation", "gelu_pytorch_tanh") != "gelu_pytorch_tanh")
    json["hidden_activation"].refuse("is not supported; only \"gelu_pytorch_tanh\" is");
  if (json.flag("use_bidirectional_attention", false))
    json["use_bidirectional_attention"].refuse("is not supported; only false is");
  RotaryTable global{json.has("rope_theta") ? json["rope_theta"].number() : 1e6};
  RotaryTable local{json.has("rope_local_base_freq") ? json["rope_local_base_freq"].number() : 1e4};
  if (json.has("rope_parameters")) {
    const auto both = json["rope_parameters"];
    both.allow_only({"full_attention", "sliding_attention"});
    if (both.has("full_attention")) read_rotary(both["full_attention"], global);
    if (both.has("sliding_attention")) read_rotary(both["sliding_attention"], local);
  }
  if (json.has("rope_scaling")) read_rotary(json["rope_scaling"], global);
  const bool is_list = json.has("layer_types");
  std::size_t period = 6;
  for (const char* name : {"_sliding_window_pattern", "sliding_window_pattern"})
    if (json.has(name)) period = static_cast<std::size_t>(size(name));
  if (!is_list && period == 0) json["sliding_window_pattern"].refuse("must be above 0");

  nn::TransformerLayerConfig layer;
  layer.model_dims = size("hidden_size");
  layer.hidden_dims = size("intermediate_size");
  layer.num_heads = size("num_attention_heads");
  layer.attention = {.num_kv_heads = size("num_key_value_heads"),
                     .head_dims = json.has("head_dim") ? size("head_dim") : 256,
                     .bias = json.flag("attention_bias", false),
                     .dropout = json.has("attention_dropout") ? json["attention_dropout"].number() : 0,
                     .scale = 1 / std::sqrt(json["query_pre_attn_scalar"].number()),
                     .rotary_base = global.base,
                     .rotary_scaling = global.scaling};
  auto config = gemma3_decoder(layer, json["num_hidden_layers"].index(10'000), json["rms_norm_eps"].number(),
                               size("sliding_window"), local, [&](std::size_t i) {
                                 if (!is_list) return (i + 1) % period != 0;
                                 const auto type = json["layer_types"][i];
                                 if (type.text() != "sliding_attention" && type.text() != "full_attention")
                                   type.refuse("is \"", type.text(), "\", which is not supported");
                                 return type.text() == "sliding_attention";
                               });
  config.vocabulary = size("vocab_size");
  config.context = size("max_position_embeddings");
  config.tied_head = json.flag("tie_word_embeddings", true);
  return config;
}

/// What no key says llama.cpp knows by the architecture, and the score scale of the 27 B by its number of layers.
inline models::DecoderConfig gemma3_of_gguf(const GgufSettings& file) {
  file.refuse_any({"attn_logit_softcapping", "final_logit_softcapping"});
  nn::TransformerLayerConfig layer;
  layer.model_dims = file.get<Index>("embedding_length");
  layer.hidden_dims = file.get<Index>("feed_forward_length");
  layer.num_heads = file.get<Index>("attention.head_count");
  const Index count = file.index("block_count", 10'000), head_dims = gguf_head_dims(file);
  if (layer.num_heads <= 0) file.refuse("attention.head_count", "is ", layer.num_heads, ", not above 0");
  const Index scaled_dims = count == 62 || head_dims == 0 ? layer.model_dims / layer.num_heads : head_dims;
  layer.attention = {.num_kv_heads = file.get<Index>("attention.head_count_kv", layer.num_heads),
                     .head_dims = head_dims,
                     .bias = false,
                     .scale = 1 / std::sqrt(static_cast<double>(scaled_dims)),
                     .rotary_base = file.get<double>("rope.freq_base", 1e6),
                     .rotary_dims = file.get<Index>("rope.dimension_count", 0),
                     .rotary_scaling = gguf_rotary_scaling(file)};
  const auto period = static_cast<std::size_t>(
      file.has("attention.sliding_window_pattern") ? file.index("attention.sliding_window_pattern", 10'000) : 6);
  if (period == 0) file.refuse("attention.sliding_window_pattern", "must be above 0");
  auto config = gemma3_decoder(
      layer, count, file.get<double>("attention.layer_norm_rms_epsilon"), file.get<Index>("attention.sliding_window"),
      RotaryTable{file.get<double>("rope.freq_base_swa", 1e4)}, [&](std::size_t i) { return (i + 1) % period != 0; });
  config.context = file.get<Index>("context_length");
  return config;
}

/// The attention of a layer that sees everything, and of one that has a window; the first layer's where there is none.
struct Gemma3Kinds {
  const nn::AttentionConfig *global = nullptr, *local = nullptr;
  std::size_t period = 0;  // every so many layers one that sees everything

  explicit Gemma3Kinds(const models::DecoderConfig& c) {
    for (std::size_t i = 0; i < c.layers.size(); ++i) {
      const nn::AttentionConfig& each = c.layers[i].attention;
      if (each.window == 0 && global == nullptr) global = &each, period = i + 1;
      if (each.window != 0 && local == nullptr) local = &each;
    }
    if (period == 0) period = c.layers.size() + 1;
    if (global == nullptr) global = local;
    if (local == nullptr) local = global;
  }
};

inline nlohmann::ordered_json gemma3_to_folder(const models::DecoderConfig& c) {
  const Gemma3Kinds kinds(c);
  nlohmann::ordered_json json = llama_to_folder(c);
  for (const char* name : {"hidden_act", "rope_theta", "rope_scaling"}) json.erase(name);
  json["hidden_activation"] = "gelu_pytorch_tanh";
  json["attention_bias"] = kinds.global->bias;
  const double scale = kinds.global->scale.value_or(1 / std::sqrt(static_cast<double>(kinds.global->head_dims)));
  json["query_pre_attn_scalar"] = std::llround(1 / (scale * scale));
  json["sliding_window"] = std::max<Index>(1, kinds.local->window);
  for (const auto& layer : c.layers)
    json["layer_types"].push_back(layer.attention.window != 0 ? "sliding_attention" : "full_attention");
  json["rope_theta"] = kinds.global->rotary_base, json["rope_local_base_freq"] = kinds.local->rotary_base;
  const auto table = [](const nn::AttentionConfig& a) { return rotary_to_folder(a.rotary_base, a.rotary_scaling); };
  json["rope_parameters"] = {{"full_attention", table(*kinds.global)}, {"sliding_attention", table(*kinds.local)}};
  return json;
}

inline std::map<std::string, GgufContent> gemma3_to_gguf(const models::DecoderConfig& c) {
  const Gemma3Kinds kinds(c);
  std::map<std::string, GgufContent> settings = llama_to_gguf(c);
  for (const char* name : {"rope.scaling.type", "rope.scaling.factor"}) settings.erase(name);
  rotary_scaling_to_gguf(kinds.global->rotary_scaling, settings);
  settings["rope.freq_base"] = static_cast<float>(kinds.global->rotary_base);
  settings["rope.freq_base_swa"] = static_cast<float>(kinds.local->rotary_base);
  settings["attention.sliding_window"] = static_cast<std::uint32_t>(kinds.local->window);
  settings["attention.sliding_window_pattern"] = static_cast<std::uint32_t>(kinds.period);
  return settings;
}

inline DecoderFamily gemma3() {
  DecoderFamily family{.architecture = "gemma3",
                       .model_type = "gemma3_text",
                       .class_name = "Gemma3ForCausalLM",
                       .gguf_names = gguf_names(),
                       .folder_names = hugging_face_names(""),
                       .prefix = "model."};
  DecoderNames &file = family.gguf_names, &folder = family.folder_names;
  file.query_norm = "attn_q_norm", file.key_norm = "attn_k_norm";
  file.attention_out_norm = "post_attention_norm", file.ffn_out_norm = "post_ffw_norm";
  file.norm_excess = 1;
  folder.query_norm = "self_attn.q_norm", folder.key_norm = "self_attn.k_norm";
  folder.attention_out_norm = "post_attention_layernorm", folder.ffn_norm = "pre_feedforward_layernorm";
  folder.ffn_out_norm = "post_feedforward_layernorm";
  family.of_folder = gemma3_of_folder, family.of_gguf = gemma3_of_gguf;
  family.to_folder = gemma3_to_folder, family.to_gguf = gemma3_to_gguf;
  return family;
}

/// @endcond

}}}}  // namespace remat::io::families
