// A decoder from a GGUF file: its config from the metadata, its weights from the tensors.
#pragma once

#include <remat/io/families.hpp>
#include <remat/io/gguf.hpp>
#include <remat/io/rotary_factors.hpp>
#include <string>
#include <string_view>

namespace remat { inline namespace REMAT_ABI { namespace io {

namespace detail {

inline const DecoderFamily& family_of(const GgufFile& file) {
  const auto name = file.get<std::string_view>("general.architecture");
  const DecoderFamily* const family = find_family(&DecoderFamily::architecture, name);
  if (family == nullptr)
    fail(file.path(), ": is of architecture ", remat::detail::quoted(name), ", those that are read are ",
         family_names(&DecoderFamily::architecture));
  return *family;
}

/// All but what the tensors tell.
inline models::DecoderConfig config_of(const DecoderFamily& family, const GgufSettings& settings) {
  if (!family.has_multipliers)
    settings.refuse_any({"logit_scale", "embedding_scale", "residual_scale", "attention.scale"});
  if (settings.get<Index>("expert_count", 0) != 0)
    settings.refuse("expert_count", "is set, which changes results and is not supported");
  return family.of_gguf(settings);
}

}  // namespace detail

/// The config of the decoder in a GGUF file, of architecture llama (SmolLM2, Llama 2, Mistral), qwen2, qwen3, smollm3,
/// olmo2, granite, gemma2, gemma3, falcon or gpt2. Its initializers are zeros, for weights are to be read. An `Error`
/// names a setting that is missing, or that changes results and is not known here.
inline models::DecoderConfig decoder_config(const GgufFile& file) {
  const DecoderFamily& family = detail::family_of(file);
  models::DecoderConfig config = detail::config_of(family, GgufSettings(file.header(), file.path()));
  config.vocabulary = file.at(family.gguf_names.embedding + ".weight").shape[0];
  config.tied_head = file.find_tensor(family.gguf_names.head + ".weight") == nullptr;
  const DecoderNames& names = family.gguf_names;
  const std::string factors = names.rotary_factors + ".weight";
  if (!names.rotary_factors.empty() && file.find_tensor(factors) != nullptr) {
    const Tensor<float> values = file.read<float>(factors);
    detail::set_rotary_factors(config, values.span(), file.path() + ": " + factors);
  }
  for (std::size_t i = 0; i < config.layers.size(); ++i)
    config.layers[i].parallel_one_norm =
        config.layers[i].parallel &&
        file.find_tensor(names.layers + std::to_string(i) + "." + names.parallel_attention_norm + ".weight") == nullptr;
  return config;
}

/// Fills the weights of a decoder that was built by `decoder_config(file)`. An `Error` lists all tensors that are
/// missing, of another shape, or not known to the decoder; then no weight has changed.
template <class T>
void load_weights(const GgufFile& file, const models::Decoder<T>& model, const LoadOptions& options = {}) {
  load_decoder(ModelWeights<Accum<T>>(weights_of<Accum<T>>(file)), model, detail::family_of(file).gguf_names, options);
}

}}}  // namespace remat::io
