// Gemma 3, of text: queries and keys are normalized, and layers with windows have a rotary table of their own.
#pragma once

#include <cstdint>
#include <map>
#include <remat/io/families/gemma.hpp>
#include <string>

namespace remat { inline namespace REMAT_ABI { namespace io { namespace families {

/// @cond inside
inline models::DecoderConfig gemma3_of_folder(const text::detail::JsonPlace& json) {
  const auto size = [&](const char* name) { return json[name].index(std::int64_t{1} << 31); };
  check_gemma_fields(json, {"rope_local_base_freq", "sliding_window_pattern", "_sliding_window_pattern"});
  RotaryTable global{json.has("rope_theta") ? json["rope_theta"].number() : 1e6};
  RotaryTable local{json.has("rope_local_base_freq") ? json["rope_local_base_freq"].number() : 1e4};
  if (json.has("rope_parameters")) read_rotary_by_layer(json["rope_parameters"], global, local);
  if (json.has("rope_scaling")) read_rotary_of_kind(json["rope_scaling"], global);
  std::size_t period = 6;
  for (const char* name : {"_sliding_window_pattern", "sliding_window_pattern"})
    if (json.has(name)) period = static_cast<std::size_t>(size(name));
  if (!json.has("layer_types") && period == 0) json["sliding_window_pattern"].refuse("must be above 0");

  nn::TransformerLayerConfig layer = gemma_layer_of_folder(json, global);
  layer.attention.query_key_norm = nn::QueryKeyNorm::each_head;
  const auto count = static_cast<std::size_t>(json["num_hidden_layers"].index(10'000));
  models::DecoderConfig config = gemma_decoder(layer, json["rms_norm_eps"].number(), size("sliding_window"), local,
                                               windows_of_folder(json, count, period));
  config.vocabulary = size("vocab_size");
  config.context = size("max_position_embeddings");
  config.tied_head = json.flag("tie_word_embeddings", true);
  return config;
}

inline models::DecoderConfig gemma3_of_gguf(const GgufSettings& file) {
  file.refuse_any({"attn_logit_softcapping", "final_logit_softcapping"});
  nn::TransformerLayerConfig layer = gemma_layer_of_gguf(file, 62, 1e6);
  layer.attention.query_key_norm = nn::QueryKeyNorm::each_head;
  const auto count = static_cast<std::size_t>(file.index("block_count", 10'000));
  models::DecoderConfig config = gemma_decoder(
      layer, file.get<double>("attention.layer_norm_rms_epsilon"), file.get<Index>("attention.sliding_window"),
      RotaryTable{file.get<double>("rope.freq_base_swa", 1e4)}, windows_of_gguf(file, count, 6));
  config.context = file.get<Index>("context_length");
  return config;
}

inline nlohmann::ordered_json gemma3_to_folder(const models::DecoderConfig& c) {
  const LayerKinds kinds(c);
  nlohmann::ordered_json json = gemma_to_folder(c);
  json.erase("rope_scaling");
  json["rope_theta"] = kinds.global->rotary_base, json["rope_local_base_freq"] = kinds.local->rotary_base;
  rotary_by_layer_to_folder(*kinds.global, *kinds.local, json);
  return json;
}

inline std::map<std::string, GgufContent> gemma3_to_gguf(const models::DecoderConfig& c) {
  const LayerKinds kinds(c);
  std::map<std::string, GgufContent> settings = llama_to_gguf(c);
  rotary_scaling_to_gguf(kinds.global->rotary_scaling, settings, false);
  settings["rope.freq_base"] = static_cast<float>(kinds.global->rotary_base);
  settings["rope.freq_base_swa"] = static_cast<float>(kinds.local->rotary_base);
  windows_to_gguf(c, settings);
  return settings;
}

inline DecoderFamily gemma3() {
  DecoderFamily family = gemma("gemma3", "gemma3_text", "Gemma3ForCausalLM");
  family.gguf_names.query_norm = "attn_q_norm", family.gguf_names.key_norm = "attn_k_norm";
  family.folder_names.query_norm = "self_attn.q_norm", family.folder_names.key_norm = "self_attn.k_norm";
  family.of_folder = gemma3_of_folder, family.of_gguf = gemma3_of_gguf;
  family.to_folder = gemma3_to_folder, family.to_gguf = gemma3_to_gguf;
  return family;
}

/// @endcond

}}}}  // namespace remat::io::families
