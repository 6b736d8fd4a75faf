// Writing .safetensors: 8 bytes little-endian N, a JSON header of N bytes, the tensors' bytes side by side.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <remat/core/tensor.hpp>
#include <remat/io/file.hpp>
#include <remat/io/safetensors_header.hpp>
#include <remat/params/registry.hpp>
#include <string>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace io {

static_assert(std::endian::native == std::endian::little, "safetensors: the file's bytes are copied as they are");

/// The format's own limit.
inline constexpr std::size_t max_safetensors_header = 100'000'000;

/// A tensor for a file: `value` is called when its bytes are due, so that they need not all exist at once.
struct SafetensorsOutput {
  std::string name{};                  // in the file
  DType dtype = DType::float32;        // of its elements
  Shape shape{};                       // its axis lengths
  std::function<AnyTensor()> value{};  // of this type and shape
};

/// Writes tensors under their names, and texts beside them. The file is replaced as a whole or, after an `Error`, not
/// at all.
inline void save_safetensors(std::vector<SafetensorsOutput> tensors, const std::string& path,
                             const std::map<std::string, std::string>& metadata = {}) {
  // Widest elements first, so that all data is aligned to its type; equal widths stay in their order.
  std::stable_sort(tensors.begin(), tensors.end(),
                   [](const auto& a, const auto& b) { return size_of(a.dtype) > size_of(b.dtype); });
  auto header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  std::size_t end = 0;
  for (const SafetensorsOutput& tensor : tensors) {
    require(!header.contains(tensor.name), path, ": two tensors are called \"", tensor.name, '"');
    const std::size_t begin = std::exchange(end, end + checked_bytes(tensor.shape.size(), size_of(tensor.dtype)));
    header[tensor.name] = {
        {"dtype", safetensors_name(tensor.dtype)},
        {"shape", std::vector<Index>(tensor.shape.begin(), tensor.shape.end())},
        {"data_offsets", {begin, end}},
    };
  }
  std::string text;
  try {
    text = header.dump();
  } catch (const nlohmann::json::exception& error) {
    fail(path, ": a name or a metadata text is not valid UTF-8: ", error.what());
  }
  text.resize((text.size() + 7) / 8 * 8, ' ');  // the data begins aligned
  require(text.size() <= max_safetensors_header, path, ": the header has ", text.size(), " bytes, above the limit ",
          max_safetensors_header);

  ReplacedFile replaced(path);
  const std::uint64_t length = text.size();
  replaced.file().write(&length, 8);
  replaced.file().write(text);
  for (const SafetensorsOutput& tensor : tensors) {
    const AnyTensor value = tensor.value();
    require(value.dtype == tensor.dtype && value.shape == tensor.shape, path, ": \"", tensor.name, "\" is ",
            name_of(value.dtype), value.shape, ", not ", name_of(tensor.dtype), tensor.shape, " as was said");
    replaced.file().write(value.data(), value.bytes());
  }
  replaced.commit();
}

/// Writes every parameter once, under its path. `metadata` is stored with the file; so is, for each layer that uses a
/// parameter under another path, that path with the parameter's (the convention for tied weights). The file is
/// replaced as a whole or, after an `Error`, not at all.
inline void save_safetensors(const ParameterRegistry& parameters, const std::string& path,
                             std::map<std::string, std::string> metadata = {}) {
  std::vector<SafetensorsOutput> tensors;
  for (const auto& entry : parameters.entries()) {
    for (const auto& user : entry->users) {
      if (user == entry->path) continue;
      const bool is_new = metadata.emplace(user, entry->path).second;
      require(is_new, path, ": the metadata key \"", user, "\" is taken by an alias of ", entry->path, "; use another");
    }
    tensors.push_back({entry->path, entry->value.dtype, entry->value.shape, [entry] {
                         const auto use = entry->used(ParameterUse::read);
                         return entry->numbers();
                       }});
  }
  save_safetensors(std::move(tensors), path, metadata);
}

}}}  // namespace remat::io
