// Granite: a Llama with multipliers of embeddings, branches, scores and logits.
#pragma once

#include <cmath>
#include <map>
#include <remat/io/families/llama.hpp>
#include <string>

namespace remat { inline namespace REMAT_ABI { namespace io { namespace families {

/// @cond inside
/// Logits are divided by it in files, multiplied by `logit_multiplier` here.
inline double granite_logits_scaling(double logit_multiplier) {
  const double divisor = 1 / logit_multiplier, whole = std::round(divisor);
  return 1 / whole == logit_multiplier ? whole : divisor;
}

/// transformers takes 1 for each multiplier where it is not said, that of scores too.
inline models::DecoderConfig granite_of_folder(const text::detail::JsonPlace& json) {
  models::DecoderConfig config =
      llama_of_folder(json, {"embedding_multiplier", "logits_scaling", "residual_multiplier", "attention_multiplier"});
  const auto multiplier = [&](const char* name) {
    const double found = json.has(name) ? json[name].number() : 1;
    if (found <= 0) json[name].refuse("is ", found, ", not above 0");
    return found;
  };
  config.embedding_multiplier = multiplier("embedding_multiplier");
  config.logit_multiplier = 1 / multiplier("logits_scaling");
  for (nn::TransformerLayerConfig& layer : config.layers) {
    layer.residual_multiplier = multiplier("residual_multiplier");
    layer.attention.scale = multiplier("attention_multiplier");
  }
  return config;
}

/// llama.cpp takes a multiplier of 0 as none.
inline models::DecoderConfig granite_of_gguf(const GgufSettings& file) {
  if (!file.get<bool>("rope.scaling.finetuned", true))
    file.refuse("rope.scaling.finetuned", "is false, which turns nothing by position and is not supported");
  models::DecoderConfig config = llama_of_gguf(file);
  const auto multiplier = [&](const char* name) {
    const auto found = file.get<double>(name, 0.0);
    if (!(found >= 0) || !std::isfinite(found)) file.refuse(name, "is ", found, ", not above 0");
    return found;
  };
  const auto or_one = [](double found) { return found == 0 ? 1 : found; };
  config.embedding_multiplier = or_one(multiplier("embedding_scale"));
  const auto divisor = file.get<double>("logit_scale");
  if (!(divisor > 0) || !std::isfinite(divisor)) file.refuse("logit_scale", "is ", divisor, ", not above 0");
  config.logit_multiplier = 1 / divisor;
  const double of_scores = multiplier("attention.scale");
  for (nn::TransformerLayerConfig& layer : config.layers) {
    layer.residual_multiplier = or_one(multiplier("residual_scale"));
    if (of_scores != 0) layer.attention.scale = of_scores;
  }
  return config;
}

/// The multiplier of scores, of a layer in which what was left out is filled in.
inline double granite_score_scale(const nn::AttentionConfig& c) {
  return c.scale.value_or(1 / std::sqrt(static_cast<double>(c.head_dims)));
}

inline nlohmann::ordered_json granite_to_folder(const models::DecoderConfig& c) {
  nlohmann::ordered_json json = llama_to_folder_with_biases(c);
  json["embedding_multiplier"] = c.embedding_multiplier;
  json["logits_scaling"] = granite_logits_scaling(c.logit_multiplier);
  json["residual_multiplier"] = c.layers.front().residual_multiplier;
  json["attention_multiplier"] = granite_score_scale(c.layers.front().attention);
  return json;
}

inline std::map<std::string, GgufContent> granite_to_gguf(const models::DecoderConfig& c) {
  std::map<std::string, GgufContent> settings = llama_to_gguf(c);
  settings["embedding_scale"] = static_cast<float>(c.embedding_multiplier);
  settings["logit_scale"] = static_cast<float>(granite_logits_scaling(c.logit_multiplier));
  settings["residual_scale"] = static_cast<float>(c.layers.front().residual_multiplier);
  settings["attention.scale"] = static_cast<float>(granite_score_scale(c.layers.front().attention));
  return settings;
}

inline DecoderFamily granite() {
  DecoderFamily family = llama_family("granite", "granite", "GraniteForCausalLM", true, granite_to_folder);
  family.of_folder = granite_of_folder, family.of_gguf = granite_of_gguf, family.to_gguf = granite_to_gguf;
  family.has_multipliers = true;
  return family;
}

/// @endcond

}}}}  // namespace remat::io::families
