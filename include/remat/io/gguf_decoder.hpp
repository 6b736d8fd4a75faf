// A decoder from a GGUF file: its config from the metadata, its weights from the tensors.
#pragma once

#include <array>
#include <remat/io/decoder_weights.hpp>
#include <remat/io/gguf.hpp>
#include <string>

namespace remat { inline namespace REMAT_ABI { namespace io {

namespace detail {

/// What sets the architectures apart that are read.
struct GgufFamily {
  std::string_view architecture;
  bool qkv_bias;      // query, key and value have biases
  bool paired_turns;  // rotary turns rows 2 i and 2 i + 1 of a head, where ours turns i and i + H / 2
};
inline constexpr std::array gguf_families{GgufFamily{"llama", false, true}, GgufFamily{"qwen2", true, false}};

inline const GgufFamily& family_of(const GgufFile& file) {
  const auto name = file.get<std::string_view>("general.architecture");
  std::string known;
  for (const GgufFamily& family : gguf_families) {
    if (family.architecture == name) return family;
    known += (known.empty() ? "" : ", ") + std::string(family.architecture);
  }
  fail(file.path(), ": is of architecture ", remat::detail::quoted(name), ", those that are read are ", known);
}

}  // namespace detail

/// The config of the decoder in a GGUF file, of architecture llama (SmolLM2, Llama 2, Mistral) or qwen2. Its
/// initializers are zeros, for weights are to be read. An `Error` names a setting that is missing, or that changes
/// results and is not known here.
inline models::DecoderConfig decoder_config(const GgufFile& file) {
  const detail::GgufFamily& family = detail::family_of(file);
  const auto key = [&](std::string_view name) { return std::string(family.architecture) + "." + std::string(name); };
  const auto size = [&](std::string_view name) { return file.get<Index>(key(name)); };
  if (const auto* scaling = file.find(key("rope.scaling.type")))
    require(scaling->as<std::string_view>() == "none", file.path(), ": ", key("rope.scaling.type"), " is ",
            remat::detail::quoted(scaling->as<std::string_view>()), "; scaled rotary tables are not supported");
  const auto refuse = [&](std::string_view name) {
    fail(file.path(), ": ", key(name), " is set, which changes results and is not supported");
  };
  for (const char* name : {"logit_scale", "embedding_scale", "residual_scale", "attention.scale", "rope.scaling.factor",
                           "rope.scale_linear"})
    if (file.find(key(name)) != nullptr) refuse(name);
  if (file.get<Index>(key("expert_count"), 0) != 0) refuse("expert_count");
  const Index head_dims = file.get<Index>(key("attention.key_length"), 0);
  if (file.get<Index>(key("attention.value_length"), head_dims) != head_dims) refuse("attention.value_length");

  nn::TransformerLayerConfig layer;
  layer.model_dims = size("embedding_length");
  layer.hidden_dims = size("feed_forward_length");
  layer.num_heads = size("attention.head_count");
  layer.attention = {.num_kv_heads = file.get<Index>(key("attention.head_count_kv"), layer.num_heads),
                     .head_dims = head_dims,
                     .bias = family.qkv_bias,
                     .out_bias = false,
                     .window = file.get<Index>(key("attention.sliding_window"), 0),
                     .rotary_base = file.get<double>(key("rope.freq_base"), 10000.0),
                     .rotary_dims = file.get<Index>(key("rope.dimension_count"), 0)};
  const Index layers = size("block_count");
  require(layers >= 0 && layers < 10'000, file.path(), ": ", key("block_count"), " is ", layers);
  auto config = detail::llama_decoder(layer, layers, file.get<double>(key("attention.layer_norm_rms_epsilon")));
  config.vocabulary = file.at("token_embd.weight").shape[0];
  config.context = size("context_length");
  config.tied_head = file.find_tensor("output.weight") == nullptr;
  return config;
}

/// Fills the weights of a decoder that was built by `decoder_config(file)`. An `Error` lists all tensors that are
/// missing, of another shape, or not known to the decoder; then no weight has changed.
template <class T>
void load_weights(const GgufFile& file, const models::Decoder<T>& model, const LoadOptions& options = {}) {
  DecoderNames names = gguf_names();
  names.paired_turns = detail::family_of(file).paired_turns;
  load_decoder(ModelWeights<Accum<T>>(weights_of<Accum<T>>(file)), model, names, options);
}

}}}  // namespace remat::io
