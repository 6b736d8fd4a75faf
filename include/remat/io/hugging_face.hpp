// A folder of Hugging Face's transformers: config.json, and the weights in safetensors files.
#pragma once

#include <filesystem>
#include <remat/io/decoder_weights.hpp>
#include <remat/text/json_place.hpp>
#include <remat/text/text_file.hpp>
#include <string>

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

/// The config of a decoder of Llama's kind. Fields that do not matter for results are known by name; any other that is
/// not null is refused.
inline models::DecoderConfig llama_config(const text::detail::JsonPlace& json) {
  constexpr std::int64_t most = std::int64_t{1} << 31;
  const auto size = [&](const char* name) { return json[name].index(most); };
  const auto size_or = [&](const char* name, Index otherwise) { return json.has(name) ? size(name) : otherwise; };
  const std::string type = json["model_type"].text();
  const bool is_qwen2 = type == "qwen2";
  json.allow_only(
      {"model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
       "num_key_value_heads", "head_dim", "rms_norm_eps", "rope_theta", "rope_parameters", "rope_scaling",
       "tie_word_embeddings", "attention_bias", "mlp_bias", "hidden_act", "max_position_embeddings", "sliding_window",
       "use_sliding_window", "max_window_layers", "layer_types", "attention_dropout", "rope_interleaved",
       // no matter of results
       "architectures", "bos_token_id", "eos_token_id", "pad_token_id", "torch_dtype", "dtype", "transformers_version",
       "use_cache", "initializer_range", "pretraining_tp", "_name_or_path", "is_llama_config", "transformers.js_config",
       "_attn_implementation", "return_dict", "output_hidden_states", "output_attentions"});
  const auto only = [&](const char* name, bool is_so, const char* rule) {
    if (!is_so) json[name].refuse("is not supported; only ", rule, " is");
  };
  double base = json.has("rope_theta") ? json["rope_theta"].number() : 10000;
  for (const char* name : {"rope_scaling", "rope_parameters"}) {
    if (!json.has(name)) continue;
    const auto rope = json[name];
    rope.allow_only({"rope_theta", "rope_type", "type"});
    for (const char* kind : {"rope_type", "type"})
      if (rope.text(kind, "default") != "default")
        rope[kind].refuse("is \"", rope[kind].text(), "\"; only \"default\" is supported");
    if (rope.has("rope_theta")) base = rope["rope_theta"].number();
  }
  only("hidden_act", json.text("hidden_act", "silu") == "silu", "\"silu\"");
  only("mlp_bias", !json.flag("mlp_bias", false), "false");
  only("rope_interleaved", !json.flag("rope_interleaved", false), "false");
  if (json.has("layer_types"))
    json["layer_types"].each([](const auto& each) {
      if (each.text() != "full_attention")
        each.refuse("is \"", each.text(), "\"; only \"full_attention\" is supported");
    });

  nn::TransformerLayerConfig layer;
  layer.model_dims = size("hidden_size");
  layer.hidden_dims = size("intermediate_size");
  layer.num_heads = size("num_attention_heads");
  const bool windowed = json.has("sliding_window") && (!is_qwen2 || json.flag("use_sliding_window", false));
  only("use_sliding_window", !is_qwen2 || !windowed, "false");
  const bool bias = is_qwen2 || json.flag("attention_bias", false);
  layer.attention = {.num_kv_heads = size_or("num_key_value_heads", layer.num_heads),
                     .head_dims = size_or("head_dim", 0),
                     .bias = bias,
                     .out_bias = bias && !is_qwen2,
                     .dropout = json.has("attention_dropout") ? json["attention_dropout"].number() : 0,
                     .window = windowed ? size("sliding_window") : 0,
                     .rotary_base = base};
  auto config = llama_decoder(layer, json["num_hidden_layers"].index(10'000), json["rms_norm_eps"].number());
  config.vocabulary = size("vocab_size");
  config.context = size("max_position_embeddings");
  config.tied_head = json.flag("tie_word_embeddings", false);
  return config;
}

}  // namespace detail

/// The config of the decoder in a folder: model_type llama (SmolLM2, TinyLlama), mistral or qwen2. Its initializers are
/// zeros, for weights are to be read. An `Error` names a field that is missing, or that is not known to change nothing.
inline models::DecoderConfig decoder_config(const HuggingFaceFolder& folder) {
  try {
    const text::detail::JsonPlace type = folder.config()["model_type"];
    if (type.text() != "llama" && type.text() != "mistral" && type.text() != "qwen2")
      type.refuse("is \"", type.text(), "\"; those that are read are llama, mistral, qwen2");
    return detail::llama_config(folder.config());
  } catch (const Error& error) {
    fail(folder.path(), "/config.json: ", error.what());
  }
}

/// Fills the weights of a decoder that was built by `decoder_config(folder)`. An `Error` as of a GGUF file's.
template <class T>
void load_weights(const HuggingFaceFolder& folder, const models::Decoder<T>& model, const LoadOptions& options = {}) {
  ModelWeights<Accum<T>> weights(weights_of<Accum<T>>(folder.weights()));
  const std::string before = weights.contains("embed_tokens.weight") ? "" : "model.";
  for (std::size_t i = 0; i < model.decoder.layers.size(); ++i)  // tables that old versions stored
    weights.ignore(before + "layers." + std::to_string(i) + ".self_attn.rotary_emb.inv_freq");
  load_decoder(std::move(weights), model, hugging_face_names(before), options);
}

}}}  // namespace remat::io
