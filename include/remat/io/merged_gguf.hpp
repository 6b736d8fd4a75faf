// A model with its adapters merged into it, as a GGUF file beside that of its base.
#pragma once

#include <algorithm>
#include <map>
#include <remat/io/gguf_lora.hpp>
#include <string>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace io {

/// Writes the base file again with the matrices that `lora` adapts replaced by what they are once its adapters are
/// merged into them, in `format`: F32, F16, BF16 or Q8_0. The model is not changed; the merged matrices are floats in
/// memory meanwhile. Returns the largest difference between an element and its exact sum that rounding to floats made,
/// before `format` rounds. All else is copied byte for byte. The file is replaced as a whole.
template <class T>
double save_merged_gguf(const GgufFile& base, const nn::Lora<T>& lora, const models::Decoder<T>& model,
                        const std::string& path, BlockFormat format = BlockFormat::f16) {
  detail::require_adapters_alone(lora, model, path);
  const auto linears =
      linears_of(model, detail::gguf_names_of(base.get<std::string_view>("general.architecture"), base.path()));
  double deviation = 0;
  std::map<std::string, GgufOutput, std::less<>> merged;
  for (const auto& part : lora.parts()) {
    const auto is_of = [&](const auto& linear) { return detail::is_of<T>(part, linear); };
    require(std::any_of(linears.begin(), linears.end(), is_of), path, ": ", part.layer,
            " is adapted, but the format has no name for it");
    const auto sum = lora.merged(part);
    deviation = std::max(deviation, sum.deviation);
    for (const NamedLinear& linear : linears) {
      if (!is_of(linear)) continue;
      const MatrixPart columns = linear.piece.value_or(MatrixPart{"", 0, sum.weight.shape()[1]});
      const std::string name = linear.name + ".weight";
      const Tensor<float> stored =
          part.is_of_head ? detail::turned_for_file(detail::turned_for_file(sum.weight))  // lies as the file has it
                          : detail::turned_for_file(sum.weight, linear.order, columns.begin, columns.end);
      merged.emplace(name, GgufOutput(name, stored, format));
    }
  }
  std::vector<GgufOutput> tensors;
  for (const GgufTensor& tensor : base.tensors()) {
    const auto found = merged.find(tensor.name);
    tensors.push_back(found != merged.end() ? found->second : GgufOutput(tensor));
  }
  std::map<std::string, GgufContent> metadata;
  for (const GgufEntry& entry : base.metadata()) metadata.emplace(std::string(entry.key), entry.value);
  save_gguf(tensors, path, std::move(metadata));
  return deviation;
}

}}}  // namespace remat::io
