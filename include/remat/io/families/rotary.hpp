// Rotary tables in the configs of families.
#pragma once

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
/// What config.json says of one; the base stays where it does not say that.
inline void read_rotary(const text::detail::JsonPlace& rope, RotaryTable& table) {
  const std::string kind = rope.text("rope_type", rope.text("type", "default"));
  if (rope.has("rope_theta")) table.base = rope["rope_theta"].number();
  table.scaling = {};
  if (kind == "default") return rope.allow_only({"rope_theta", "rope_type", "type"});
  if (kind != "linear" && kind != "llama3")
    rope[rope.has("rope_type") ? "rope_type" : "type"].refuse("is \"", kind,
                                                              "\"; default, linear and llama3 are supported");
  table.scaling.factor = rope["factor"].number();
  table.scaling.kind = RotaryScaling::linear;
  if (kind == "linear") return rope.allow_only({"rope_theta", "rope_type", "type", "factor"});
  rope.allow_only({"rope_theta", "rope_type", "type", "factor", "low_freq_factor", "high_freq_factor",
                   "original_max_position_embeddings"});
  table.scaling = {RotaryScaling::llama3, table.scaling.factor, rope["low_freq_factor"].number(),
                   rope["high_freq_factor"].number(),
                   rope["original_max_position_embeddings"].index(std::int64_t{1} << 31)};
}
/// The same, to be written.
inline nlohmann::ordered_json rotary_to_folder(double base, const RotaryScalingOptions& scaling) {
  nlohmann::ordered_json rope{{"rope_type", "default"}, {"rope_theta", base}};
  if (scaling.kind == RotaryScaling::none) return rope;
  rope["rope_type"] = scaling.kind == RotaryScaling::linear ? "linear" : "llama3";
  rope["factor"] = scaling.factor;
  if (scaling.kind == RotaryScaling::linear) return rope;
  rope["low_freq_factor"] = scaling.low_frequency_factor, rope["high_freq_factor"] = scaling.high_frequency_factor;
  rope["original_max_position_embeddings"] = scaling.original_context;
  return rope;
}
/// Of a GGUF file, which says Llama 3.1's by a tensor, `rope_freqs`, that is not read.
inline RotaryScalingOptions gguf_rotary_scaling(const GgufSettings& file) {
  const auto kind = file.get<std::string>("rope.scaling.type", "none");
  if (kind == "linear") return {RotaryScaling::linear, file.get<double>("rope.scaling.factor")};
  if (kind != "none")
    file.refuse("rope.scaling.type", "is ", remat::detail::quoted(kind), "; \"none\" and \"linear\" are supported");
  file.refuse_any({"rope.scaling.factor", "rope.scale_linear"});
  return {};
}
inline void rotary_scaling_to_gguf(const RotaryScalingOptions& scaling, std::map<std::string, GgufContent>& settings) {
  if (scaling.kind != RotaryScaling::linear) return;
  settings["rope.scaling.type"] = std::string("linear");
  settings["rope.scaling.factor"] = static_cast<float>(scaling.factor);
}

/// @endcond

}}}}  // namespace remat::io::families
