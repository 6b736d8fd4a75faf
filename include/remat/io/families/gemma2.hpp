// Gemma 2: soft caps of scores and of logits, and a window in every other layer.
#pragma once

#include <cstdint>
#include <map>
#include <remat/io/families/gemma.hpp>
#include <string>
#include <utility>

namespace remat { inline namespace REMAT_ABI { namespace io { namespace families {

/// @cond inside
/// `layer` and what follows from it, with these soft caps.
inline models::DecoderConfig gemma2_decoder(nn::TransformerLayerConfig layer, double epsilon, Index window,
                                            double score_cap, double logit_cap, const std::vector<bool>& has_window) {
  layer.attention.soft_cap = score_cap;
  models::DecoderConfig config =
      gemma_decoder(layer, epsilon, window, {layer.attention.rotary_base, layer.attention.rotary_scaling}, has_window);
  config.logit_soft_cap = logit_cap;
  return config;
}

/// The older files have the activation by two names, of which transformers reads one.
inline models::DecoderConfig gemma2_of_folder(const text::detail::JsonPlace& json) {
  const auto size = [&](const char* name) { return json[name].index(std::int64_t{1} << 31); };
  check_gemma_fields(json, {"attn_logit_softcapping", "final_logit_softcapping", "hidden_act"});
  RotaryTable table{json.has("rope_theta") ? json["rope_theta"].number() : 1e4};
  for (const char* name : {"rope_parameters", "rope_scaling"})
    if (json.has(name)) read_rotary(json[name], table);
  // null is none; where there is no such field it is what transformers takes
  const auto cap = [&](const char* name, double otherwise) {
    if (!json.contains(name)) return otherwise;
    if (json[name].is_null()) return 0.0;
    const double found = json[name].number();
    if (found <= 0) json[name].refuse("is ", found, ", which caps nothing; null does not either");
    return found;
  };
  const auto count = static_cast<std::size_t>(json["num_hidden_layers"].index(10'000));
  models::DecoderConfig config = gemma2_decoder(gemma_layer_of_folder(json, table), json["rms_norm_eps"].number(),
                                                size("sliding_window"), cap("attn_logit_softcapping", 50),
                                                cap("final_logit_softcapping", 30), windows_of_folder(json, count, 2));
  config.vocabulary = size("vocab_size");
  config.context = size("max_position_embeddings");
  config.tied_head = json.flag("tie_word_embeddings", true);
  return config;
}

/// llama.cpp divides by the caps whatever they are.
inline models::DecoderConfig gemma2_of_gguf(const GgufSettings& file) {
  const auto cap = [&](const char* name, double otherwise) {
    const auto found = file.get<double>(name, otherwise);
    if (!(found > 0)) file.refuse(name, "is ", found, ", not above 0");
    return found;
  };
  const auto count = static_cast<std::size_t>(file.index("block_count", 10'000));
  models::DecoderConfig config =
      gemma2_decoder(gemma_layer_of_gguf(file, 46, 1e4), file.get<double>("attention.layer_norm_rms_epsilon"),
                     file.get<Index>("attention.sliding_window", 4096), cap("attn_logit_softcapping", 50),
                     cap("final_logit_softcapping", 30), windows_of_gguf(file, count, 2));
  config.context = file.get<Index>("context_length");
  return config;
}

inline nlohmann::ordered_json gemma2_to_folder(const models::DecoderConfig& c) {
  nlohmann::ordered_json json = gemma_to_folder(c);
  const auto cap = [](double value) { return value > 0 ? nlohmann::ordered_json(value) : nlohmann::ordered_json(); };
  json["attn_logit_softcapping"] = cap(c.layers.front().attention.soft_cap);
  json["final_logit_softcapping"] = cap(c.logit_soft_cap);
  return json;
}

inline std::map<std::string, GgufContent> gemma2_to_gguf(const models::DecoderConfig& c) {
  std::map<std::string, GgufContent> settings = llama_to_gguf(c);
  settings["attn_logit_softcapping"] = static_cast<float>(c.layers.front().attention.soft_cap);
  settings["final_logit_softcapping"] = static_cast<float>(c.logit_soft_cap);
  windows_to_gguf(c, settings);
  return settings;
}

inline DecoderFamily gemma2() {
  DecoderFamily family = gemma("gemma2", "gemma2", "Gemma2ForCausalLM");
  family.of_folder = gemma2_of_folder, family.of_gguf = gemma2_of_gguf;
  family.to_folder = gemma2_to_folder, family.to_gguf = gemma2_to_gguf;
  return family;
}

/// @endcond

}}}}  // namespace remat::io::families
