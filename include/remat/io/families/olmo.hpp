// OLMo 2 and 3: norms behind each branch and of the whole query and key; OLMo 3 has windows in most layers.
#pragma once

#include <cstdint>
#include <map>
#include <remat/io/families/llama.hpp>
#include <remat/io/families/windows.hpp>
#include <string>

namespace remat { inline namespace REMAT_ABI { namespace io { namespace families {

/// @cond inside
/// Where layer i has a window it has the table `local`, too.
inline void set_windows(models::DecoderConfig& config, Index window, const RotaryTable& local,
                        const std::vector<bool>& has_window) {
  for (std::size_t i = 0; i < config.layers.size(); ++i) {
    nn::AttentionConfig& attention = config.layers[i].attention;
    attention.window = has_window[i] ? window : 0;
    if (has_window[i]) attention.rotary_base = local.base, attention.rotary_scaling = local.scaling;
  }
}

/// A base that stands alone is of both kinds of layers, a scaling that does of those that see everything.
inline models::DecoderConfig olmo3_of_folder(const text::detail::JsonPlace& json) {
  RotaryTable global{json.has("rope_theta") ? json["rope_theta"].number()
                                            : llama_kind(json["model_type"].text()).rotary_base};
  RotaryTable local = global;
  if (json.has("rope_parameters")) read_rotary_by_layer(json["rope_parameters"], global, local);
  if (json.has("rope_scaling")) read_rotary_of_kind(json["rope_scaling"], global);
  models::DecoderConfig config = llama_of_folder(json, global, {});
  const std::vector<bool> has_window = windows_of_folder(json, config.layers.size(), 4);
  set_windows(config, json["sliding_window"].index(std::int64_t{1} << 31), local, has_window);
  return config;
}

/// llama.cpp has one architecture for both; where there is a window, rotary is not scaled.
inline models::DecoderConfig olmo_of_gguf(const GgufSettings& file) {
  models::DecoderConfig config = llama_of_gguf(file);
  const auto window = file.get<Index>("attention.sliding_window", 0);
  if (window == 0) return config;
  const double base = file.get<double>("rope.freq_base", 10'000.0);
  set_windows(config, window, {file.get<double>("rope.freq_base_swa", base)},
              windows_of_gguf(file, config.layers.size(), 4));
  return config;
}

inline nlohmann::ordered_json olmo2_to_folder(const models::DecoderConfig& c) {
  nlohmann::ordered_json json = llama_to_folder(c);
  json["attention_bias"] = c.layers.front().attention.bias;
  return json;
}
inline nlohmann::ordered_json olmo3_to_folder(const models::DecoderConfig& c) {
  const LayerKinds kinds(c);
  nlohmann::ordered_json json = olmo2_to_folder(c);
  const RotaryScalingOptions& scaling = kinds.global->rotary_scaling;
  json["rope_theta"] = kinds.global->rotary_base;  // for versions before transformers 5
  json.erase("rope_scaling");
  if (scaling.kind != RotaryScaling::none) json["rope_scaling"] = rotary_to_folder(kinds.global->rotary_base, scaling);
  windows_to_folder(c, json);
  rotary_by_layer_to_folder(*kinds.global, *kinds.local, json);
  return json;
}

inline std::map<std::string, GgufContent> olmo_to_gguf(const models::DecoderConfig& c) {
  const LayerKinds kinds(c);
  std::map<std::string, GgufContent> settings = llama_to_gguf(c);
  if (kinds.local->window == 0) return settings;
  rotary_scaling_to_gguf(kinds.global->rotary_scaling, settings);
  settings["rope.freq_base"] = static_cast<float>(kinds.global->rotary_base);
  if (kinds.local->rotary_base != kinds.global->rotary_base)
    settings["rope.freq_base_swa"] = static_cast<float>(kinds.local->rotary_base);
  windows_to_gguf(c, settings);
  return settings;
}

inline DecoderFamily olmo2() {
  DecoderFamily family = llama_family("olmo2", "olmo2", "Olmo2ForCausalLM", false, olmo2_to_folder);
  family.of_gguf = olmo_of_gguf, family.to_gguf = olmo_to_gguf;
  family.gguf_names.attention_norm = "post_attention_norm", family.gguf_names.ffn_norm = "post_ffw_norm";
  family.folder_names.attention_norm = "post_attention_layernorm";
  family.folder_names.ffn_norm = "post_feedforward_layernorm";
  return family;
}
inline DecoderFamily olmo3() {
  DecoderFamily family = olmo2();
  family.model_type = "olmo3", family.class_name = "Olmo3ForCausalLM";
  family.of_folder = olmo3_of_folder, family.to_folder = olmo3_to_folder;
  return family;
}

/// @endcond

}}}}  // namespace remat::io::families
