// Which layers have a window, in the configs of families that have two kinds of layers.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <remat/io/decoder_family.hpp>
#include <string>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace io { namespace families {

/// @cond inside
/// For each of `count` layers, has it a window? As `layer_types` of config.json says, or all but every `period`-th.
inline std::vector<bool> windows_of_folder(const text::detail::JsonPlace& json, std::size_t count, std::size_t period) {
  std::vector<bool> has_window;
  for (std::size_t i = 0; i < count; ++i) {
    if (!json.has("layer_types")) {
      has_window.push_back((i + 1) % period != 0);
      continue;
    }
    const auto type = json["layer_types"][i];
    if (type.text() != "sliding_attention" && type.text() != "full_attention")
      type.refuse("is \"", type.text(), "\", which is not supported");
    has_window.push_back(type.text() == "sliding_attention");
  }
  return has_window;
}
/// The same of a GGUF file, which says it layer by layer or by a period, for which llama.cpp has its own where there is
/// none. (It passes over lists; those that its converter writes have that period.)
inline std::vector<bool> windows_of_gguf(const GgufSettings& file, std::size_t count, std::size_t period) {
  constexpr const char* name = "attention.sliding_window_pattern";
  if (file.is_array(name)) {
    auto listed = file.get<std::vector<bool>>(name);
    if (listed.size() != count) file.refuse(name, "has ", listed.size(), " elements for ", count, " layers");
    return listed;
  }
  if (file.has(name)) period = static_cast<std::size_t>(file.index(name, 10'000));
  if (period == 0) file.refuse(name, "must be above 0");
  std::vector<bool> has_window;
  for (std::size_t i = 0; i < count; ++i) has_window.push_back((i + 1) % period != 0);
  return has_window;
}

/// The attention of a layer that sees everything, and of one that has a window; the first layer's where there is none.
struct LayerKinds {
  const nn::AttentionConfig *global = nullptr, *local = nullptr;
  std::size_t period = 0;  // every so many layers one that sees everything

  explicit LayerKinds(const models::DecoderConfig& c) {
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

inline void windows_to_folder(const models::DecoderConfig& c, nlohmann::ordered_json& json) {
  json["sliding_window"] = std::max<Index>(1, LayerKinds(c).local->window);
  for (const auto& layer : c.layers)
    json["layer_types"].push_back(layer.attention.window != 0 ? "sliding_attention" : "full_attention");
}
inline void windows_to_gguf(const models::DecoderConfig& c, std::map<std::string, GgufContent>& settings) {
  const LayerKinds kinds(c);
  settings["attention.sliding_window"] = static_cast<std::uint32_t>(kinds.local->window);
  settings["attention.sliding_window_pattern"] = static_cast<std::uint32_t>(kinds.period);
}

/// @endcond

}}}}  // namespace remat::io::families
