// Writing a decoder as a GGUF file that llama.cpp opens.
#pragma once

#include <cstdint>
#include <map>
#include <remat/io/decoder_save.hpp>
#include <remat/io/gguf_decoder.hpp>
#include <remat/io/gguf_save.hpp>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace io {

/// Settings of `save_gguf_model`.
struct GgufModelOptions {
  std::string architecture{};             // as of `decoder_config(file)`; empty: that of `base`, or by config
  BlockFormat format = BlockFormat::f16;  // of matrices: F32, F16, BF16 or Q8_0; vectors and positions are F32
  const GgufFile* base = nullptr;         // an open file whose tokenizer and general metadata are taken over, or none
};

namespace detail {

/// The number that llama.cpp has for files of mostly this format.
inline std::uint32_t file_type_of(BlockFormat format) {
  return format == BlockFormat::f32 ? 0 : format == BlockFormat::f16 ? 1 : format == BlockFormat::q8_0 ? 7 : 32;
}

/// All of the base's metadata but its settings, and those of `config`.
inline std::map<std::string, GgufContent> metadata_of(const DecoderFamily& family, const models::DecoderConfig& config,
                                                      const GgufModelOptions& options) {
  std::map<std::string, GgufContent> metadata;
  if (options.base != nullptr) {
    const std::string before = options.base->get<std::string>("general.architecture") + ".";
    for (const GgufEntry& entry : options.base->metadata())
      if (!entry.key.starts_with(before) && !entry.key.starts_with("split."))
        metadata.emplace(std::string(entry.key), entry.value);
  }
  metadata.insert_or_assign("general.architecture", std::string(family.architecture));
  metadata.insert_or_assign("general.file_type", file_type_of(options.format));
  for (auto& [name, value] : family.to_gguf(config))
    metadata.insert_or_assign(std::string(family.architecture) + "." + name, std::move(value));
  return metadata;
}

}  // namespace detail

/// Writes a decoder, one weight at a time; a tied head is not stored again. `GgufFile` and llama.cpp read it, the
/// latter with the tokenizer of a base only. An `Error`, before anything is written, names a setting of the decoder
/// that its architecture cannot say, and an adapter that would be lost. The file is replaced as a whole.
template <class T>
void save_gguf_model(const models::Decoder<T>& model, const std::string& path, const GgufModelOptions& options = {}) {
  const models::DecoderConfig config = detail::completed_config(model, path);
  const std::string architecture = options.architecture.empty() && options.base != nullptr
                                       ? options.base->get<std::string>("general.architecture")
                                       : options.architecture;
  const DecoderFamily& family = detail::family_to_write(&DecoderFamily::architecture, architecture, config, path);
  std::map<std::string, GgufContent> metadata = detail::metadata_of(family, config, options);
  const std::string text = detail::gguf_header_text({}, metadata, path);
  const GgufHeader header = parse_gguf(std::as_bytes(std::span(text)));
  models::DecoderConfig said = detail::config_of(family, GgufSettings(header, path));
  said.vocabulary = config.vocabulary, said.tied_head = config.tied_head;
  for (std::size_t i = 0; i < said.layers.size() && i < config.layers.size(); ++i)
    said.layers[i].parallel_one_norm = said.layers[i].parallel && config.layers[i].parallel_one_norm;
  // Frequencies that are divided one by one go into a tensor, which says all of it.
  const std::vector<float> factors =
      family.gguf_names.rotary_factors.empty() ? std::vector<float>{} : detail::rotary_factors_of(config);
  for (std::size_t i = 0; i < said.layers.size() && i < config.layers.size() && !factors.empty(); ++i)
    if (config.layers[i].attention.rotary_base != 0)
      said.layers[i].attention.rotary_scaling = config.layers[i].attention.rotary_scaling;
  detail::require_same(config, detail::completed_config(said), path,
                       "a GGUF file of architecture " + std::string(family.architecture));

  std::vector<GgufOutput> tensors;
  if (!factors.empty()) {
    const Shape shape{static_cast<Index>(factors.size())};
    tensors.emplace_back(
        family.gguf_names.rotary_factors + ".weight", shape,
        [factors, shape] { return Tensor<float>(shape, std::span<const float>(factors)).any(); }, BlockFormat::f32);
  }
  for (const auto& weight : detail::weights_to_write(model, family.gguf_names, path)) {
    const Shape shape = detail::stored_shape(weight);
    tensors.emplace_back(
        weight.name, shape, [weight] { return detail::stored_value<float>(weight); },
        shape.rank() == 2 && !weight.layout.always_numbers ? options.format : BlockFormat::f32);
  }
  save_gguf(tensors, path, std::move(metadata));
}

}}}  // namespace remat::io
