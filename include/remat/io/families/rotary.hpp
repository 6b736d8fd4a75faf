// Rotary tables in the configs of families.
#pragma once

#include <cmath>
#include <cstdint>
#include <map>
#include <remat/io/decoder_family.hpp>
#include <string>

namespace remat { inline namespace REMAT_ABI { namespace io { namespace families {

/// @cond inside
/// A rotary table: its base and which of its frequencies are lowered.
struct RotaryTable {
  double base = 10'000;
  RotaryScalingOptions scaling{};
};
/// The rest of what config.json says of YaRN's.
inline void read_yarn(const text::detail::JsonPlace& rope, RotaryScalingOptions& scaling) {
  rope.allow_only({"rope_theta", "rope_type", "type", "factor", "attention_factor", "beta_fast", "beta_slow",
                   "original_max_position_embeddings", "truncate"});
  scaling.kind = RotaryScaling::yarn;
  scaling.original_context = rope["original_max_position_embeddings"].index(std::int64_t{1} << 31);
  if (rope.has("beta_fast")) scaling.beta_fast = rope["beta_fast"].number();
  if (rope.has("beta_slow")) scaling.beta_slow = rope["beta_slow"].number();
  if (rope.has("attention_factor")) scaling.attention_factor = rope["attention_factor"].number();
  scaling.truncate = rope.flag("truncate", true);
}
/// What config.json says of one; the base stays where it does not say that.
inline void read_rotary(const text::detail::JsonPlace& rope, RotaryTable& table) {
  const std::string kind = rope.text("rope_type", rope.text("type", "default"));
  if (rope.has("rope_theta")) table.base = rope["rope_theta"].number();
  table.scaling = {};
  if (kind == "default") return rope.allow_only({"rope_theta", "rope_type", "type"});
  if (kind != "linear" && kind != "llama3" && kind != "yarn")
    rope[rope.has("rope_type") ? "rope_type" : "type"].refuse("is \"", kind,
                                                              "\"; default, linear, llama3 and yarn are supported");
  table.scaling.factor = rope["factor"].number();
  if (kind == "yarn") return read_yarn(rope, table.scaling);
  table.scaling.kind = RotaryScaling::linear;
  if (kind == "linear") return rope.allow_only({"rope_theta", "rope_type", "type", "factor"});
  rope.allow_only({"rope_theta", "rope_type", "type", "factor", "low_freq_factor", "high_freq_factor",
                   "original_max_position_embeddings"});
  table.scaling = {RotaryScaling::llama3, table.scaling.factor, rope["low_freq_factor"].number(),
                   rope["high_freq_factor"].number(),
                   rope["original_max_position_embeddings"].index(std::int64_t{1} << 31)};
}
/// One of several tables of a model, in which transformers 5 takes YaRN's `truncate` as true whatever it is.
inline void read_rotary_of_kind(const text::detail::JsonPlace& rope, RotaryTable& table) {
  read_rotary(rope, table);
  if (!table.scaling.truncate) rope["truncate"].refuse("is false; only true is supported beside another rotary table");
}
/// Those of layers that see everything and of layers with a window.
inline void read_rotary_by_layer(const text::detail::JsonPlace& both, RotaryTable& global, RotaryTable& local) {
  both.allow_only({"full_attention", "sliding_attention"});
  if (both.has("full_attention")) read_rotary_of_kind(both["full_attention"], global);
  if (both.has("sliding_attention")) read_rotary_of_kind(both["sliding_attention"], local);
}
/// The same, to be written.
inline nlohmann::ordered_json rotary_to_folder(double base, const RotaryScalingOptions& scaling) {
  nlohmann::ordered_json rope{{"rope_type", "default"}, {"rope_theta", base}};
  if (scaling.kind == RotaryScaling::none) return rope;
  const bool is_yarn = scaling.kind == RotaryScaling::yarn;
  rope["rope_type"] = scaling.kind == RotaryScaling::linear ? "linear" : is_yarn ? "yarn" : "llama3";
  rope["factor"] = scaling.factor;
  if (scaling.kind == RotaryScaling::linear) return rope;
  if (is_yarn) {
    rope["beta_fast"] = scaling.beta_fast, rope["beta_slow"] = scaling.beta_slow;
    if (scaling.attention_factor) rope["attention_factor"] = *scaling.attention_factor;
    rope["truncate"] = scaling.truncate;
    rope["original_max_position_embeddings"] = scaling.original_context;
    return rope;
  }
  rope["low_freq_factor"] = scaling.low_frequency_factor, rope["high_freq_factor"] = scaling.high_frequency_factor;
  rope["original_max_position_embeddings"] = scaling.original_context;
  return rope;
}
/// Both, of layers that see everything and of layers with a window.
inline void rotary_by_layer_to_folder(const nn::AttentionConfig& global, const nn::AttentionConfig& local,
                                      nlohmann::ordered_json& json) {
  const auto table = [](const nn::AttentionConfig& a) { return rotary_to_folder(a.rotary_base, a.rotary_scaling); };
  json["rope_parameters"] = {{"full_attention", table(global)}, {"sliding_attention", table(local)}};
}
/// The magnitude of YaRN that goes with a factor, from which `rope.scaling.attn_factor` counts.
inline double yarn_magnitude(double factor) { return factor <= 1 ? 1 : 1 + 0.1 * std::log(factor); }
/// YaRN's in a GGUF file, as llama.cpp computes it, with bounds of whole pairs. What it passes over must say the same.
inline RotaryScalingOptions gguf_yarn(const GgufSettings& file) {
  RotaryScalingOptions scaling{RotaryScaling::yarn, file.get<double>("rope.scaling.factor")};
  scaling.original_context = file.has("rope.scaling.original_context_length")
                                 ? file.get<Index>("rope.scaling.original_context_length")
                                 : file.get<Index>("context_length");
  scaling.beta_fast = file.get<double>("rope.scaling.yarn_beta_fast", scaling.beta_fast);
  scaling.beta_slow = file.get<double>("rope.scaling.yarn_beta_slow", scaling.beta_slow);
  const auto mixed = file.get<double>("rope.scaling.yarn_ext_factor", 1.0);  // below 0: as if there were none
  if (mixed >= 0 && mixed != 1) file.refuse("rope.scaling.yarn_ext_factor", "is ", mixed, "; only 1 is supported");
  const auto times = file.get<double>("rope.scaling.attn_factor", 1.0);
  const double magnitude = yarn_magnitude(scaling.factor) * times;
  if (times != 1) scaling.attention_factor = magnitude;
  const auto other = file.get<double>("rope.scaling.yarn_attn_factor", 1.0);
  if (other != 1 && std::abs(other - magnitude) > 1e-6 * magnitude)
    file.refuse("rope.scaling.yarn_attn_factor", "is ", other, ", which llama.cpp passes over; only 1 and ", magnitude,
                " are supported");
  file.refuse_any({"rope.scaling.yarn_log_multiplier", "rope.scaling.alpha"});
  return scaling;
}
/// Of a GGUF file, which says Llama 3.1's by a tensor: see rotary_factors.hpp. Some architectures know no YaRN.
inline RotaryScalingOptions gguf_rotary_scaling(const GgufSettings& file, bool may_be_yarn = true) {
  const auto kind = file.get<std::string>("rope.scaling.type", "none");
  if (kind == "linear") return {RotaryScaling::linear, file.get<double>("rope.scaling.factor")};
  if (kind == "yarn" && may_be_yarn) return gguf_yarn(file);
  if (kind != "none")
    file.refuse("rope.scaling.type", "is ", remat::detail::quoted(kind), "; \"none\"",
                may_be_yarn ? ", \"linear\" and \"yarn\"" : " and \"linear\"", " are supported");
  file.refuse_any({"rope.scaling.factor", "rope.scale_linear"});
  return {};
}
/// In the place of what is there.
inline void rotary_scaling_to_gguf(const RotaryScalingOptions& scaling, std::map<std::string, GgufContent>& settings,
                                   bool may_be_yarn = true) {
  std::erase_if(settings, [](const auto& setting) { return setting.first.starts_with("rope.scaling."); });
  const bool is_yarn = scaling.kind == RotaryScaling::yarn && may_be_yarn;
  if (scaling.kind != RotaryScaling::linear && !is_yarn) return;
  settings["rope.scaling.type"] = std::string(is_yarn ? "yarn" : "linear");
  settings["rope.scaling.factor"] = static_cast<float>(scaling.factor);
  if (!is_yarn) return;
  settings["rope.scaling.original_context_length"] = static_cast<std::uint32_t>(scaling.original_context);
  settings["rope.scaling.yarn_beta_fast"] = static_cast<float>(scaling.beta_fast);
  settings["rope.scaling.yarn_beta_slow"] = static_cast<float>(scaling.beta_slow);
  const double times = ops::rotary_amplitude(scaling) / yarn_magnitude(scaling.factor);
  if (std::abs(times - 1) > 1e-7) settings["rope.scaling.attn_factor"] = static_cast<float>(times);
}

/// @endcond

}}}}  // namespace remat::io::families
