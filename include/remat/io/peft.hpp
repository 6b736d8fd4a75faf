// Adapters in the files of Hugging Face's PEFT: adapter_config.json and adapter_model.safetensors.
#pragma once

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <remat/io/decoder_save.hpp>
#include <remat/io/lora_names.hpp>
#include <remat/io/safetensors.hpp>
#include <remat/nn/lora.hpp>
#include <remat/text/json_place.hpp>
#include <remat/text/text_file.hpp>
#include <set>
#include <sstream>
#include <string>
#include <string_view>
#include <system_error>
#include <tuple>
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
    found->second = found->second && adapted.contains(linear.name);
  }
  for (const auto& [part, whole] : is_whole)
    if (whole) targets.push_back(part.substr(part.rfind('.') + 1));
  for (const NamedLinear& linear : linears)
    if (adapted.contains(linear.name) && !is_whole[linear.part]) targets.push_back(linear.name);
  return targets;
}

/// The names of the transformers class that a decoder is.
template <class T>
DecoderNames peft_names(const models::Decoder<T>& model, const std::string& folder) {
  const DecoderFamily& family =
      *find_family(&DecoderFamily::model_type, model_type_for(completed_config(model, folder)));
  DecoderNames names = with_prefix(family.folder_names, std::string(family.prefix));
  for (const auto& layer : model.decoder.layers)
    require(names.gate.empty() || layer.ffn.gate, folder, ": ", layer.path, " has no gate, as models of ",
            family.model_type, " have, so that PEFT has no names for its linears");
  return names;
}

/// All that PEFT may adapt here.
template <class T>
std::vector<NamedLinear> peft_layers(const models::Decoder<T>& model, const DecoderNames& names) {
  std::vector<NamedLinear> all = linears_of(model, names);
  all.push_back({model.embedding.path, names.embedding, names.embedding, {}, {}, true});
  if (!model.head) all.push_back({model.embedding.path, names.head, names.head, {}, {}, false, true, true});
  return all;
}

/// What PEFT multiplies an adapter's product by, times the rank that it divides by, see `use_rslora`: of one whose rank
/// is `count` times R, so that the factor is as of rank R.
inline double peft_alpha(double alpha, Index count, bool is_rank_stabilized) {
  const auto times = static_cast<double>(count);
  return alpha * (is_rank_stabilized ? std::sqrt(times) : times);
}

/// Under which metadata of a safetensors file the parts lie that an adapter is of: "query value".
inline std::string parts_key(const std::string& name) { return "parts of " + name; }

}  // namespace detail

/// Writes the adapters of a decoder to a folder that `peft.PeftModel.from_pretrained` opens beside the base model, of
/// which `base_model` is the name or path. Adapters of P parts of a matrix that transformers has as one module,
/// Falcon's query_key_value, are one of rank P R: A stacked, B in blocks. Where it has modules apart, each is one. Each
/// file is replaced as a whole. An `Error` for a parameter of the model that is trained beside them.
template <class T>
void save_peft(const nn::Lora<T>& lora, const models::Decoder<T>& model, const std::string& folder,
               const std::string& base_model = {}) {
  detail::require_adapters_alone(lora, model, folder);
  const DecoderNames names = detail::peft_names(model, folder);
  const std::vector<NamedLinear> linears = detail::peft_layers(model, names);
  const nn::LoraConfig& config = lora.config();
  std::vector<detail::StoredAdapter> all;
  for (const auto& part : lora.parts())
    for (auto& each : detail::stored_adapters<T>(part, linears, folder)) all.push_back(std::move(each));
  const Index common = detail::common_count(all);
  std::set<std::string> adapted;
  std::vector<SafetensorsOutput> tensors;
  std::map<std::string, std::string> metadata{{"format", "pt"}};
  nlohmann::ordered_json ranks = nlohmann::ordered_json::object(), alphas = ranks;
  for (const detail::StoredAdapter& each : all) {
    adapted.insert(each.name);
    const auto add = [&](const char* half, const Tensor<float>& values) {
      tensors.push_back({std::string(detail::peft_before) + each.name + half, DType::float32, values.shape(),
                         [values] { return values.any(); }});
    };
    const bool is_embedding = each.name == names.embedding;
    add(is_embedding ? ".lora_embedding_A" : ".lora_A.weight", each.a);
    add(is_embedding ? ".lora_embedding_B" : ".lora_B.weight", each.b);
    if (config.dora) add(".lora_magnitude_vector", each.magnitude);
    for (const std::string& piece : each.pieces) {
      std::string& pieces = metadata[detail::parts_key(each.name)];
      pieces += (pieces.empty() ? "" : " ") + piece;
    }
    if (each.count() == common) continue;
    ranks[each.name] = config.rank * each.count();
    alphas[each.name] = detail::peft_alpha(config.alpha, each.count(), config.rank_stabilized);
  }
  const nlohmann::ordered_json json{{"peft_type", "LORA"},
                                    {"task_type", "CAUSAL_LM"},
                                    {"base_model_name_or_path", base_model},
                                    {"r", config.rank * common},
                                    {"lora_alpha", detail::peft_alpha(config.alpha, common, config.rank_stabilized)},
                                    {"rank_pattern", ranks},
                                    {"alpha_pattern", alphas},
                                    {"lora_dropout", config.dropout},
                                    {"use_rslora", config.rank_stabilized},
                                    {"use_dora", config.dora},
                                    {"bias", "none"},
                                    {"fan_in_fan_out", !names.transposed},
                                    {"inference_mode", true},
                                    {"target_modules", detail::peft_targets(linears, adapted)}};
  std::error_code failure;
  std::filesystem::create_directories(folder, failure);
  require(!failure, folder, ": cannot be made: ", failure.message());
  save_safetensors(std::move(tensors), folder + "/adapter_model.safetensors", metadata);
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
/// setting that changes results and is not supported here (factors by layer, trained biases), for a tensor that
/// is no half of an adapter, and for a layer that the model does not have.
template <class T>
nn::Lora<T> load_peft(const ParameterRegistry& parameters, const Scope& where, const models::Decoder<T>& model,
                      const std::string& folder) {
  const std::string path = folder + "/adapter_config.json";
  const DecoderNames names = detail::peft_names(model, folder);
  nn::LoraConfig config;
  std::map<std::string, double> ranks, alphas;  // by the name of a module, or the end of it
  try {
    const text::detail::Json json = text::detail::parse_json(text::detail::read_text_file(path));
    const text::detail::JsonPlace place(json, "");
    const auto only = [&](const char* name, bool is_so, const char* rule) {
      if (!is_so) place[name].refuse("is not supported; only ", rule, " is");
    };
    only("peft_type", place["peft_type"].text() == "LORA", "\"LORA\"");
    config.dora = place.flag("use_dora", false);
    for (const char* name : {"lora_bias", "use_qalora"}) only(name, !place.flag(name, false), "false");
    // Of matrices that lie as [inputs, outputs], as those of GPT-2; adapters lie one way.
    only("fan_in_fan_out", !place.flag("fan_in_fan_out", false) || !names.transposed, "false");
    only("bias", place.text("bias", "none") == "none", "\"none\"");
    for (const auto& [name, to] : {std::pair{"rank_pattern", &ranks}, std::pair{"alpha_pattern", &alphas}})
      if (place.has(name))
        place[name].each_member([to = to](const auto& module, const auto& v) {
          if (module.find_first_of("\\*+?()[]{}|^$") != std::string::npos)
            v.refuse("is of a regular expression; only names of modules are supported");
          to->emplace(module, v.number());
        });
    for (const char* name :
         {"modules_to_save", "layer_replication", "trainable_token_indices", "target_parameters", "use_bdlora",
          "alora_invocation_tokens", "velora_config", "kasa_config", "arrow_config", "monteclora_config"})
      only(name, !place.has(name), "null");
    // PiSSA, OLoRA, CorDA and LoftQ put other weights in the base's place, before they train and whenever they are
    // read.
    if (place.has("init_lora_weights") && json["init_lora_weights"].is_string()) {
      const std::string how = place["init_lora_weights"].text();
      only("init_lora_weights", how == "gaussian" || how == "eva" || how == "orthogonal",
           "a way that leaves the base's weights as they are");
    }
    config.alpha = place["lora_alpha"].number();
    config.dropout = place.has("lora_dropout") ? place["lora_dropout"].number() : 0;
    config.rank_stabilized = place.flag("use_rslora", false);
  } catch (const Error& error) {
    fail(path, ": ", error.what());
  }

  const SafetensorsFile file(folder + "/adapter_model.safetensors");
  std::map<std::string, detail::StoredAdapter> stored;
  using detail::StoredAdapter;
  constexpr std::tuple<std::string_view, Tensor<float> StoredAdapter::*, int> kinds[] = {
      {".lora_A.weight", &StoredAdapter::a, 2},
      {".lora_B.weight", &StoredAdapter::b, 2},
      {".lora_embedding_A", &StoredAdapter::a, 2},
      {".lora_embedding_B", &StoredAdapter::b, 2},
      {".lora_magnitude_vector", &StoredAdapter::magnitude, 1}};
  for (const auto& [name, info] : file.tensors()) {
    const std::string_view whole = name;
    // Where embeddings or heads are adapted PEFT also writes the tables that they were adapted beside.
    const auto is_table_of = [&](const std::string& module) {
      const std::string before = std::string(detail::peft_before) + module;
      return whole == before + ".base_layer.weight" || whole == before + ".weight";
    };
    if (const bool is_head = is_table_of(names.head); is_head || is_table_of(names.embedding)) {
      const Parameter<Accum<T>>& table = is_head && model.head ? *model.head : model.embedding.table;
      const Tensor<Accum<T>> is = file.read_as<Accum<T>>(name), ours = table.value();
      require(is.shape() == ours.shape() && std::equal(is.data(), is.data() + is.size(), ours.data()), file.path(),
              ": ", remat::detail::quoted(name), " is another table than the model's ", table.path());
      continue;
    }
    const auto* const kind = std::find_if(std::begin(kinds), std::end(kinds), [&](const auto& each) {
      return whole.ends_with(std::get<0>(each)) && (config.dora || std::get<2>(each) == 2);
    });
    require(whole.starts_with(detail::peft_before) && kind != std::end(kinds), file.path(), ": ",
            remat::detail::quoted(name), " is no half of an adapter");
    require(info.shape.rank() == std::get<2>(*kind), file.path(), ": ", remat::detail::quoted(name), " has shape ",
            info.shape, std::get<2>(*kind) == 2 ? ", a matrix is needed" : ", a vector is needed");
    const std::size_t begin = detail::peft_before.size();
    const std::string layer = name.substr(begin, name.size() - std::get<0>(*kind).size() - begin);
    require((layer == names.embedding) == (std::get<0>(*kind).find("embedding") != std::string_view::npos), file.path(),
            ": ", remat::detail::quoted(name), " is no half of an adapter of that layer");
    StoredAdapter& adapter = stored[layer];
    adapter.name = layer;
    adapter.*std::get<1>(*kind) = file.read_as<float>(name);
  }
  std::vector<detail::StoredAdapter> all;
  for (auto& of_layer : stored) {
    const std::string& layer = of_layer.first;
    detail::StoredAdapter& adapter = of_layer.second;
    if (const auto parts = file.metadata().find(detail::parts_key(layer)); parts != file.metadata().end()) {
      std::istringstream pieces(parts->second);
      for (std::string piece; pieces >> piece;) adapter.pieces.push_back(piece);
    }
    const auto pattern_or = [&](const char* what, const std::map<std::string, double>& pattern, double otherwise) {
      std::optional<double> found;
      for (const auto& [name, value] : pattern) {
        if (layer != name && !layer.ends_with("." + name)) continue;
        require(!found || *found == value, path, ": ", what, " gives ", layer, " both ", found.value_or(0), " and ",
                value);
        found = value;
      }
      return found.value_or(otherwise);
    };
    const auto rank = static_cast<double>(adapter.a.shape().rank() == 2 ? adapter.a.shape()[0] : 0);
    const double said = pattern_or("rank_pattern", ranks, rank);
    require(said == rank, path, ": rank_pattern gives ", layer, " a rank of ", said, ", but its adapter has ", rank);
    adapter.alpha = pattern_or("alpha_pattern", alphas, config.alpha);
    adapter.alpha /= detail::peft_alpha(1, adapter.count(), config.rank_stabilized);
    require(all.empty() || std::abs(adapter.alpha - all.front().alpha) <= 1e-6 * adapter.alpha, path,
            ": alpha_pattern gives ", layer, " another factor than ", all.empty() ? layer : all.front().name,
            ", which is not supported");
    require(adapter.a.shape().rank() == 2 && adapter.b.shape().rank() == 2, file.path(), ": of the adapter of ",
            remat::detail::quoted(layer), " one half is missing");
    all.push_back(std::move(adapter));
  }
  return detail::lora_of<T>(file.path(), parameters, where, detail::peft_layers(model, names), all, config);
}

}}}  // namespace remat::io
