// Adapters in the files of Hugging Face's PEFT: adapter_config.json and adapter_model.safetensors.
#pragma once

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <remat/io/lora_names.hpp>
#include <remat/io/safetensors.hpp>
#include <remat/nn/lora.hpp>
#include <remat/text/json_place.hpp>
#include <remat/text/text_file.hpp>
#include <set>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace io {

namespace detail {

inline constexpr std::string_view peft_before = "base_model.model.";

/// Which modules PEFT is to adapt: by the name that they have in every layer where all of them are adapted, else one by
/// one.
inline std::vector<std::string> peft_targets(const std::vector<NamedLinear>& linears,
                                             const std::set<std::string>& adapted) {
  std::vector<std::string> targets;
  std::map<std::string, bool> is_whole;
  for (const NamedLinear& linear : linears) {
    const auto found = is_whole.emplace(linear.part, true).first;
    found->second = found->second && adapted.contains(linear.layer);
  }
  for (const auto& [part, whole] : is_whole)
    if (whole) targets.push_back(part.substr(part.rfind('.') + 1));
  for (const NamedLinear& linear : linears)
    if (adapted.contains(linear.layer) && !is_whole[linear.part]) targets.push_back(linear.name);
  return targets;
}

/// An `Error` that begins with `folder` for a decoder whose linears PEFT knows by other names than Llama's.
template <class T>
std::vector<NamedLinear> peft_linears(const models::Decoder<T>& model, const std::string& folder) {
  for (const auto& layer : model.decoder.layers)
    require(!layer.attention.qkv && layer.ffn.gate, folder, ": PEFT's files are known of Llama and its kind, but ",
            layer.path, " has ", layer.attention.qkv ? "one projection for query, key and value" : "no gate",
            ", as GPT-2 has; a GGUF file holds adapters of that too, see save_gguf_lora");
  return linears_of(model, hugging_face_names("model."));
}

}  // namespace detail

/// Writes the adapters of a decoder of Llama's kind to a folder that `peft.PeftModel.from_pretrained` opens beside the
/// base model, of which `base_model` is the name or path. Each file is replaced as a whole.
template <class T>
void save_peft(const nn::Lora<T>& lora, const models::Decoder<T>& model, const std::string& folder,
               const std::string& base_model = {}) {
  const std::vector<NamedLinear> linears = detail::peft_linears(model, folder);
  std::set<std::string> adapted;
  std::vector<SafetensorsOutput> tensors;
  for (const auto& part : lora.parts()) {
    const auto linear =
        std::find_if(linears.begin(), linears.end(), [&](const auto& each) { return each.layer == part.layer; });
    require(linear != linears.end(), folder, ": ", part.layer, " is adapted, but PEFT has no name for it here");
    adapted.insert(part.layer);
    const auto add = [&](const char* half, const Parameter<Accum<T>>& parameter) {
      const Shape shape{parameter.shape()[1], parameter.shape()[0]};
      tensors.push_back({std::string(detail::peft_before) + linear->name + half, DType::float32, shape,
                         [parameter] { return detail::turned_for_file(parameter.value()).any(); }});
    };
    add(".lora_A.weight", part.down);
    add(".lora_B.weight", part.up);
  }
  const nn::LoraConfig& config = lora.config();
  const nlohmann::ordered_json json{{"peft_type", "LORA"},
                                    {"task_type", "CAUSAL_LM"},
                                    {"base_model_name_or_path", base_model},
                                    {"r", config.rank},
                                    {"lora_alpha", config.alpha},
                                    {"lora_dropout", config.dropout},
                                    {"use_rslora", config.rank_stabilized},
                                    {"use_dora", false},
                                    {"bias", "none"},
                                    {"fan_in_fan_out", false},
                                    {"inference_mode", true},
                                    {"target_modules", detail::peft_targets(linears, adapted)}};
  std::error_code failure;
  std::filesystem::create_directories(folder, failure);
  require(!failure, folder, ": cannot be made: ", failure.message());
  save_safetensors(std::move(tensors), folder + "/adapter_model.safetensors", {{"format", "pt"}});
  std::string text;
  try {
    text = json.dump(2) + "\n";
  } catch (const nlohmann::json::exception& error) {
    fail(folder, ": the base model's name is not valid UTF-8: ", error.what());
  }
  ReplacedFile file(folder + "/adapter_config.json");
  file.file().write(text);
  file.commit();
}

/// Makes the adapters of such a folder in `where`, beside the layers of `model`, and activates them. An `Error` for a
/// setting that changes results and is not supported here (DoRA, ranks by layer, trained biases), for a tensor that is
/// no half of an adapter, and for a layer that the model does not have.
template <class T>
nn::Lora<T> load_peft(const ParameterRegistry& parameters, const Scope& where, const models::Decoder<T>& model,
                      const std::string& folder) {
  const std::string path = folder + "/adapter_config.json";
  nn::LoraConfig config;
  try {
    const text::detail::Json json = text::detail::parse_json(text::detail::read_text_file(path));
    const text::detail::JsonPlace place(json, "");
    const auto only = [&](const char* name, bool is_so, const char* rule) {
      if (!is_so) place[name].refuse("is not supported; only ", rule, " is");
    };
    only("peft_type", place["peft_type"].text() == "LORA", "\"LORA\"");
    for (const char* name : {"use_dora", "fan_in_fan_out", "lora_bias", "use_qalora"})
      only(name, !place.flag(name, false), "false");
    only("bias", place.text("bias", "none") == "none", "\"none\"");
    for (const char* name : {"rank_pattern", "alpha_pattern"})
      if (place.has(name))
        place[name].each_member([&](const auto&, const auto&) { only(name, false, "an empty one"); });
    for (const char* name : {"modules_to_save", "layer_replication", "trainable_token_indices", "target_parameters",
                             "use_bdlora", "alora_invocation_tokens", "velora_config", "kasa_config"})
      only(name, !place.has(name), "null");
    config.alpha = place["lora_alpha"].number();
    config.dropout = place.has("lora_dropout") ? place["lora_dropout"].number() : 0;
    config.rank_stabilized = place.flag("use_rslora", false);
  } catch (const Error& error) {
    fail(path, ": ", error.what());
  }

  const SafetensorsFile file(folder + "/adapter_model.safetensors");
  std::map<std::string, detail::StoredAdapter> stored;
  for (const auto& [name, info] : file.tensors()) {
    const bool is_a = name.ends_with(".lora_A.weight"), is_b = name.ends_with(".lora_B.weight");
    require(name.starts_with(detail::peft_before) && (is_a || is_b), file.path(), ": ", remat::detail::quoted(name),
            " is no half of an adapter");
    require(info.shape.rank() == 2, file.path(), ": ", remat::detail::quoted(name), " has shape ", info.shape,
            ", a matrix is needed");
    const std::size_t begin = detail::peft_before.size();
    const std::string layer = name.substr(begin, name.size() - std::string_view(".lora_A.weight").size() - begin);
    detail::StoredAdapter& adapter = stored[layer];
    adapter.name = layer;
    (is_a ? adapter.a : adapter.b) = file.read_as<float>(name);
  }
  std::vector<detail::StoredAdapter> all;
  for (auto& [layer, adapter] : stored) {
    require(adapter.a.shape().rank() == 2 && adapter.b.shape().rank() == 2, file.path(), ": of the adapter of ",
            remat::detail::quoted(layer), " one half is missing");
    all.push_back(std::move(adapter));
  }
  return detail::lora_of<T>(file.path(), parameters, where, detail::peft_linears(model, folder), all, config);
}

}}}  // namespace remat::io
