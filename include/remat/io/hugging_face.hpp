// A folder of Hugging Face's transformers: config.json, and the weights in safetensors files.
#pragma once

#include <filesystem>
#include <remat/io/families.hpp>
#include <remat/text/json_place.hpp>
#include <remat/text/text_file.hpp>
#include <string>
#include <string_view>
#include <utility>

namespace remat { inline namespace REMAT_ABI { namespace io {

/// An open folder. Any folder is safe to open: what breaks a rule is an `Error` that names file and rule.
class HuggingFaceFolder {
 public:
  /// Reads config.json and opens model.safetensors, or the files of model.safetensors.index.json.
  explicit HuggingFaceFolder(const std::string& path)
      : path_(path), config_(read_json("config.json")), weights_(weights_file(path)) {}

  /// The path it was opened by.
  const std::string& path() const { return path_; }
  /// The tensors.
  const SafetensorsShards& weights() const { return weights_; }
  /// Is there a file of this name?
  bool has(const std::string& name) const { return std::filesystem::exists(path_ + "/" + name); }
  ///@{
  /// For readers of configs.
  text::detail::JsonPlace config() const { return {config_, ""}; }
  text::detail::Json read_json(const std::string& name) const {
    const std::string file = path_ + "/" + name;
    const std::string text = text::detail::read_text_file(file);
    try {
      return text::detail::parse_json(text);
    } catch (const Error& error) {
      fail(file, ": ", error.what());
    }
  }
  ///@}

 private:
  static std::string weights_file(const std::string& path) {
    const std::string index = path + "/model.safetensors.index.json";
    return std::filesystem::exists(index) ? index : path + "/model.safetensors";
  }

  std::string path_;
  text::detail::Json config_;
  SafetensorsShards weights_;
};

namespace detail {

/// `use(config.json)`, whose errors get to name the file.
template <class F>
decltype(auto) with_config(const HuggingFaceFolder& folder, F&& use) {
  try {
    return use(folder.config());
  } catch (const Error& error) {
    fail(folder.path(), "/config.json: ", error.what());
  }
}
inline const DecoderFamily& family_of(const HuggingFaceFolder& folder) {
  return with_config(folder, [](const text::detail::JsonPlace& json) -> const DecoderFamily& {
    const text::detail::JsonPlace type = json["model_type"];
    const DecoderFamily* const family = find_family(&DecoderFamily::model_type, type.text());
    if (family == nullptr)
      type.refuse("is \"", type.text(), "\"; those that are read are ", family_names(&DecoderFamily::model_type));
    return *family;
  });
}

}  // namespace detail

/// The config of the decoder in a folder: model_type llama (SmolLM2, TinyLlama), mistral, qwen2, qwen3, smollm3,
/// olmo2, olmo3, granite, gemma2, gemma3_text, falcon or gpt2. Its initializers are zeros, for weights are to be read.
/// An `Error` names a field that is missing, or that is not known to change nothing.
inline models::DecoderConfig decoder_config(const HuggingFaceFolder& folder) {
  return detail::with_config(folder, detail::family_of(folder).of_folder);
}

/// Fills the weights of a decoder that was built by `decoder_config(folder)`. An `Error` as of a GGUF file's.
template <class T>
void load_weights(const HuggingFaceFolder& folder, const models::Decoder<T>& model, const LoadOptions& options = {}) {
  const DecoderFamily& family = detail::family_of(folder);
  ModelWeights<Accum<T>> weights(weights_of<Accum<T>>(folder.weights()));
  const std::string before(weights.contains(family.folder_names.embedding + ".weight") ? "" : family.prefix);
  const DecoderNames names = detail::with_prefix(family.folder_names, before);
  for (std::size_t i = 0; i < model.decoder.layers.size(); ++i)
    for (const std::string_view buffer : family.buffers)
      weights.ignore(names.layers + std::to_string(i) + "." + std::string(buffer));
  load_decoder(std::move(weights), model, names, options);
}

}}}  // namespace remat::io
