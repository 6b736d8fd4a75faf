// Adapters in a GGUF file, as llama.cpp applies them (`llama-cli --lora FILE`).
#pragma once

#include <algorithm>
#include <cmath>
#include <map>
#include <remat/io/gguf.hpp>
#include <remat/io/gguf_decoder.hpp>
#include <remat/io/gguf_save.hpp>
#include <remat/io/lora_names.hpp>
#include <remat/nn/lora.hpp>
#include <string>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace io {

namespace detail {

/// Under which metadata the parts lie that one tensor's adapter is of, "blk.0.attn_qkv/query": llama.cpp has no use for
/// them, reading has.
inline constexpr const char* gguf_lora_parts = "remat.lora.parts";

inline const DecoderNames& gguf_names_of(std::string_view architecture, const std::string& path) {
  const DecoderFamily* const family = find_family(&DecoderFamily::architecture, architecture);
  if (family == nullptr)
    fail(path, ": is of architecture ", remat::detail::quoted(architecture), ", whose tensors are not known here");
  return family->gguf_names;
}

}  // namespace detail

/// Writes the adapters of a decoder of GGUF's `architecture` ("llama", also for Mistral and SmolLM2; "qwen2"
/// and the others of `decoder_config`): rows of query and key lie as in a base of that architecture. The format knows
/// alpha / R only, so that of a rank-stabilized adapter alpha is stored times sqrt(R). Adapters of P parts of a tensor
/// of the format, query and value in one, are one of rank P R: A stacked, B in blocks. The file is replaced as a whole.
template <class T>
void save_gguf_lora(const nn::Lora<T>& lora, const models::Decoder<T>& model, const std::string& path,
                    const std::string& architecture) {
  detail::require_adapters_alone(lora, model, path);
  require(!lora.config().dora, path,
          ": llama.cpp's adapters have no magnitudes, which DoRA trains; write the model with "
          "them merged, or the adapters as PEFT has them");
  const std::vector<NamedLinear> linears = linears_of(model, detail::gguf_names_of(architecture, path));
  std::vector<detail::StoredAdapter> all;
  for (const auto& part : lora.parts()) {
    require(!part.is_of_head || model.head, path, ": the head, which is tied to ", part.layer,
            ", is adapted; llama.cpp has no adapters of tied heads: write the adapters as PEFT has them");
    for (auto& each : detail::stored_adapters<T>(part, linears, path)) all.push_back(std::move(each));
  }
  const Index common = detail::common_count(all);
  std::vector<GgufOutput> tensors;
  std::vector<std::string> pieces;
  for (detail::StoredAdapter& each : all) {
    // There is one alpha, which llama.cpp divides by the rank of each tensor.
    if (const auto factor = static_cast<float>(each.count()) / static_cast<float>(common); factor != 1)
      for (float& value : each.b.write()) value *= factor;
    tensors.emplace_back(each.name + ".weight.lora_a", each.a);
    tensors.emplace_back(each.name + ".weight.lora_b", each.b);
    for (const std::string& piece : each.pieces) pieces.push_back(each.name + "/" + piece);
  }
  const auto alpha = static_cast<float>(lora.scale() * static_cast<double>(lora.config().rank * common));
  std::map<std::string, GgufContent> metadata{{"general.architecture", architecture},
                                              {"general.type", std::string("adapter")},
                                              {"adapter.type", std::string("lora")},
                                              {"adapter.lora.alpha", alpha}};
  if (!pieces.empty()) metadata[detail::gguf_lora_parts] = pieces;
  save_gguf(tensors, path, std::move(metadata));
}

/// Makes the adapters of such a file in `where`, beside the layers of `model`, and activates them. An `Error` for a
/// file that is no adapter, and for a tensor or a layer that does not fit.
template <class T>
nn::Lora<T> load_gguf_lora(const ParameterRegistry& parameters, const Scope& where, const models::Decoder<T>& model,
                           const std::string& path) {
  const GgufFile file(path);
  require(file.get<std::string>("general.type", "model") == "adapter" &&
              file.get<std::string>("adapter.type", "") == "lora",
          path, ": is no LoRA adapter, but of general.type ",
          remat::detail::quoted(file.get<std::string>("general.type", "model")));
  std::map<std::string, detail::StoredAdapter> stored;
  for (const GgufTensor& tensor : file.tensors()) {
    const bool is_a = tensor.name.ends_with(".weight.lora_a"), is_b = tensor.name.ends_with(".weight.lora_b");
    require((is_a || is_b) && tensor.shape.rank() == 2, path, ": ", remat::detail::quoted(tensor.name), " of shape ",
            tensor.shape, " is no half of an adapter");
    const std::string layer(tensor.name.substr(0, tensor.name.size() - std::string_view(".weight.lora_a").size()));
    detail::StoredAdapter& adapter = stored[layer];
    adapter.name = layer;
    (is_a ? adapter.a : adapter.b) = file.read<float>(tensor.name);
  }
  for (const auto& name : file.get<std::vector<std::string>>(detail::gguf_lora_parts, {})) {
    const std::size_t slash = std::min(name.find('/'), name.size());
    const auto found = stored.find(name.substr(0, slash));
    require(found != stored.end() && slash + 1 < name.size(), path, ": ", detail::gguf_lora_parts, " names ",
            remat::detail::quoted(name), ", which is no part of an adapter");
    found->second.pieces.push_back(name.substr(slash + 1));
  }
  const auto alpha = file.get<double>("adapter.lora.alpha");
  std::vector<detail::StoredAdapter> all;
  for (auto& [layer, adapter] : stored) {
    adapter.alpha = alpha / static_cast<double>(adapter.count());
    require(adapter.a.shape().rank() == 2 && adapter.b.shape().rank() == 2, path, ": of the adapter of ",
            remat::detail::quoted(layer), " one half is missing");
    all.push_back(std::move(adapter));
  }
  const auto architecture = file.get<std::string>("general.architecture");
  return detail::lora_of<T>(path, parameters, where, linears_of(model, detail::gguf_names_of(architecture, path)), all,
                            {});
}

}}}  // namespace remat::io
