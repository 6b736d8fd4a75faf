// Weights in several .safetensors files, with an index that says which file holds which tensor.
#pragma once

#include <list>
#include <map>
#include <nlohmann/json.hpp>
#include <remat/io/safetensors.hpp>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace io {

namespace detail {

/// The object `weight_map` of an index: tensor to file. The text may come from anyone.
inline std::map<std::string, std::string> parse_weight_map(std::string_view text) {
  std::string field;
  std::set<std::string> seen;  // keys by depth: of two the parser would take the last
  const auto check = [&](int depth, nlohmann::json::parse_event_t event, nlohmann::json& parsed) {
    require(depth < 16, "is nested more than 16 deep");
    if (event != nlohmann::json::parse_event_t::key || depth > 2) return true;
    const auto& key = parsed.get_ref<const std::string&>();
    if (depth == 1) field = key;
    if (depth == 1 || field == "weight_map")
      require(seen.insert((depth == 1 ? "1" : "2") + key).second, "has the key ", remat::detail::quoted(key), " twice");
    return true;
  };
  nlohmann::json index;
  try {
    index = nlohmann::json::parse(text, check);
  } catch (const nlohmann::json::exception& error) {
    fail("is no valid JSON: ", error.what());
  }
  const auto found = index.find("weight_map");
  require(index.is_object() && found != index.end() && found->is_object(),
          "has no object \"weight_map\" from tensors to files");
  std::map<std::string, std::string> files;
  for (const auto& [name, file] : found->items()) {
    require(file.is_string(), "names no file for ", remat::detail::quoted(name), ", but ", file.type_name());
    files.emplace(name, file.get<std::string>());
  }
  return files;
}

}  // namespace detail

/// Tensors of several files as if they lay in one. Any index is safe to open: files are looked for only beside it, and
/// what breaks a rule is an `Error` that names file and rule. All files are open as long as this is.
class SafetensorsShards {
 public:
  /// Opens `path`, an index (its name ends with ".json": model.safetensors.index.json) and every file that it names, or
  /// a single .safetensors file. Tensors of a file that the index does not name are left out.
  explicit SafetensorsShards(const std::string& path) : path_(path) {
    if (!path.ends_with(".json")) {
      files_.emplace_back(path);
      for (const auto& [name, info] : files_.front().tensors()) places_.emplace(name, &files_.front());
      return;
    }
    const std::string text = read_whole(path, max_safetensors_header);
    std::map<std::string, std::string> weight_map;
    try {
      weight_map = detail::parse_weight_map(text);
    } catch (const Error& error) {
      fail(path, ": ", std::string_view(error.what()).substr(0, 400));
    }
    std::map<std::string_view, const SafetensorsFile*> opened;
    for (const auto& [name, file] : weight_map) {
      const SafetensorsFile*& shard = opened[file];
      if (!shard) shard = &open_beside(file);
      require(shard->tensors().contains(name), path, ": says that ", remat::detail::quoted(name), " is in ", file,
              ", where it is not", SafetensorsFile::near(name, shard->names()));
      places_.emplace(name, shard);
    }
  }
  SafetensorsShards(const SafetensorsShards&) = delete;
  SafetensorsShards& operator=(const SafetensorsShards&) = delete;

  /// The path it was opened by.
  const std::string& path() const { return path_; }
  /// The names of all tensors, sorted.
  std::vector<std::string> names() const {
    std::vector<std::string> all;
    for (const auto& [name, file] : places_) all.push_back(name);
    return all;
  }
  /// Is there a tensor of this name?
  bool contains(const std::string& name) const { return places_.contains(name); }
  /// The file that holds it; an `Error` lists near names when there is none.
  const SafetensorsFile& file_of(const std::string& name) const {
    const auto found = places_.find(name);
    require(found != places_.end(), path_, ": has no tensor ", remat::detail::quoted(name),
            SafetensorsFile::near(name, names()));
    return *found->second;
  }
  ///@{
  /// As of a `SafetensorsFile`.
  const TensorInfo& info(const std::string& name) const { return file_of(name).info(name); }
  template <class T>
  Tensor<T> read(const std::string& name) const {
    return file_of(name).read<T>(name);
  }
  template <class T>
  Tensor<T> read_as(const std::string& name) const {
    return file_of(name).read_as<T>(name);
  }
  template <class T>
  void read_into(const std::string& name, std::span<T> to, Index first = 0) const {
    file_of(name).read_into(name, to, first);
  }
  ///@}

 private:
  const SafetensorsFile& open_beside(const std::string& file) {
    require(!file.empty() && file != "." && file != ".." && file.find('/') == std::string::npos &&
                file.find('\0') == std::string::npos,
            path_, ": names the file ", remat::detail::quoted(file), "; only files beside the index are opened");
    return files_.emplace_back(path_.substr(0, path_.rfind('/') + 1) + file);
  }

  std::string path_;
  std::list<SafetensorsFile> files_{};
  std::map<std::string, const SafetensorsFile*> places_{};
};

}}}  // namespace remat::io
