// BERT from folders of Hugging Face's transformers, with any of its heads, and back.
#pragma once

#include <algorithm>
#include <array>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <remat/io/families/bert.hpp>
#include <remat/io/hugging_face.hpp>
#include <remat/io/hugging_face_save.hpp>
#include <set>
#include <string>
#include <system_error>
#include <type_traits>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace io {

/// Settings of `models::load_bert`.
struct BertOptions {
  bool new_head = false;  // a head, a pooler or cross attention that the folder lacks keeps its initial values; else it
                          // is an `Error`
  Index classes = 0;      // of a classifier with a new head; 0: as config.json says
  std::optional<double> dropout{};                      // everywhere; empty: as config.json says
  std::optional<bool> is_decoder{}, cross_attention{};  // empty: as config.json says
};

namespace detail {

/// Of the folder of a BERT. An `Error` names a field that is missing, or not known to change nothing.
inline families::BertSettings bert_settings(const HuggingFaceFolder& folder) {
  return with_config(folder, [](const text::detail::JsonPlace& json) {
    const text::detail::JsonPlace type = json["model_type"];
    if (type.text() != "bert") type.refuse("is \"", type.text(), "\", not \"bert\"");
    return families::bert_of_folder(json);
  });
}

/// What a file calls the tensor `name`: norms were once gamma and beta, and a bare encoder goes without "bert.".
inline std::string bert_name(const std::set<std::string>& names, const std::string& name) {
  std::vector<std::string> forms{name};
  if (name.starts_with("bert.")) forms.push_back(name.substr(5));
  for (const auto& [now, once] :
       {std::pair{"LayerNorm.weight", "LayerNorm.gamma"}, {"LayerNorm.bias", "LayerNorm.beta"}})
    for (std::size_t i = 0, count = name.ends_with(now) ? forms.size() : 0; i < count; ++i)
      forms.push_back(forms[i].substr(0, forms[i].size() - std::string_view(now).size()) + once);
  if (name == "cls.predictions.bias") forms.push_back("cls.predictions.decoder.bias");
  const auto found = std::find_if(forms.begin(), forms.end(), [&](const auto& form) { return names.contains(form); });
  return found == forms.end() ? name : *found;
}

/// The model that a folder holds, without values of the folder's.
template <class Model>
Model make_bert(const Scope& where, families::BertSettings s, const BertOptions& options) {
  if (options.classes > 0) s.classes = options.classes;
  if (options.dropout)
    s.encoder.dropout = s.encoder.attention_dropout = *options.dropout, s.head_dropout = options.dropout;
  if (options.is_decoder) s.encoder.is_decoder = *options.is_decoder;
  if (options.cross_attention) s.encoder.cross_attention = *options.cross_attention;
  using Config = const models::EncoderConfig&;
  using Rate = std::optional<double>;
  if constexpr (std::is_constructible_v<Model, const Scope&, Config, Index, Rate>)
    return Model(where, s.encoder, s.classes, s.head_dropout);
  else if constexpr (std::is_constructible_v<Model, const Scope&, Config, Rate>)
    return Model(where, s.encoder, s.head_dropout);
  else
    return Model(where, s.encoder);
}

}  // namespace detail

/// Fills the weights of a BERT with a head, `models::MaskedLanguageModel` and its kind, or of an `Encoder`, from a
/// folder. Tensors of other heads are passed over. An `Error` lists all that is missing, of another shape or unknown.
template <class T, template <class> class Model>
void load_bert_weights(const HuggingFaceFolder& folder, const Model<T>& model, const BertOptions& options = {}) {
  const auto list = folder.weights().names();
  const std::set<std::string> names(list.begin(), list.end());
  ModelWeights<Accum<T>> weights(weights_of<Accum<T>>(folder.weights()));
  std::set<std::string> used;
  families::BertWeights<T> all(model);
  const auto add = [&](std::vector<NamedWeight<Accum<T>>>& part, bool may_lack) {
    for (NamedWeight<Accum<T>>& weight : part) weight.name = detail::bert_name(names, weight.name);
    const bool has_any =
        std::any_of(part.begin(), part.end(), [&](const auto& weight) { return names.contains(weight.name); });
    if (may_lack && options.new_head && !has_any) return false;
    for (NamedWeight<Accum<T>>& weight : part) used.insert(weight.name), weights.add(std::move(weight));
    return true;
  };
  add(all.encoder, false);
  add(all.pooler, true);
  add(all.cross_attention, true);
  if (add(all.head, true))
    for (const NamedWeight<Accum<T>>& copy : all.copies)
      if (used.insert(copy.name).second) weights.add_copy(copy.parameter, copy.name);
  for (const std::string& name : names)
    for (const char* other : {"cls.", "classifier.", "qa_outputs.", "bert.pooler.", "pooler.",
                              "bert.embeddings.position_ids", "embeddings.position_ids"})
      if (name.starts_with(other) && !used.contains(name)) weights.ignore(name);
  weights.load();
}

/// Writes a BERT with a head, or an `Encoder`, to a folder, which is made where there is none: config.json and
/// model.safetensors of `dtype` (float32, float64 or bfloat16; empty: as parameters are), which transformers opens.
/// Each file is replaced as a whole, config.json last. An `Error` names an adapter that would be lost.
template <class T, template <class> class Model>
void save_bert(const Model<T>& model, const std::string& folder, std::optional<DType> dtype = {}) {
  const DType type = dtype.value_or(dtype_of<Accum<T>>());
  require(is_floating(type), folder, ": weights of ", name_of(type),
          " are not written; float32, float64 and bfloat16 are");
  const families::BertWeights<T> all(model);
  const models::EncoderConfig* config = nullptr;
  if constexpr (std::is_same_v<Model<T>, models::Encoder<T>>)
    config = &model.config;
  else
    config = &model.encoder.config;
  nlohmann::ordered_json json{{"architectures", {all.class_name}}, {"model_type", "bert"}};
  json.update(families::bert_to_folder(*config));
  if (all.head_dropout) json["classifier_dropout"] = *all.head_dropout;
  for (Index i = 0; i < all.classes; ++i) {
    const std::string label = "LABEL_" + std::to_string(i);
    json["id2label"][std::to_string(i)] = label, json["label2id"][label] = i;
  }
  json["torch_dtype"] = type == DType::float64 ? "float64" : type == DType::float32 ? "float32" : "bfloat16";
  std::vector<SafetensorsOutput> tensors;
  for (const auto* part : {&all.encoder, &all.cross_attention, &all.pooler, &all.head})
    for (const NamedWeight<Accum<T>>& weight : *part) {
      require(!weight.parameter.entry()->adapter, folder, ": ", weight.parameter.path(),
              " has an adapter, which the file has no place for; add it by Lora::merge");
      tensors.push_back({weight.name, type, detail::stored_shape(weight), [weight, type] {
                           if (type == DType::float64) return detail::stored_value<double>(weight);
                           if (type == DType::float32) return detail::stored_value<float>(weight);
                           return detail::stored_value<bfloat16>(weight);
                         }});
    }
  std::error_code failure;
  std::filesystem::create_directories(folder, failure);
  require(!failure, folder, ": cannot be made: ", failure.message());
  detail::write_weights(std::move(tensors), folder, 0);
  detail::write_file(folder + "/config.json", json.dump(2) + "\n");
}

}}}  // namespace remat::io

namespace remat { inline namespace REMAT_ABI { namespace models {

/// The BERT in a folder of Hugging Face's, with the head that is asked for, made in `where`:
/// `load_bert<MaskedLanguageModel<float>>(parameters / "bert", path)`. An `Error` names what does not fit.
template <class Model>
Model load_bert(const Scope& where, const std::string& folder, const io::BertOptions& options = {}) {
  const io::HuggingFaceFolder files(folder);
  Model model = io::detail::make_bert<Model>(where, io::detail::bert_settings(files), options);
  io::load_bert_weights(files, model, options);
  return model;
}

}}}  // namespace remat::models
