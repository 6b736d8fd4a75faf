// Folders with one state each: written so that a state is whole or told from whole ones, whenever all ends.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <remat/core/config.hpp>
#include <remat/core/shape.hpp>
#include <remat/io/file.hpp>
#include <remat/io/file_hash.hpp>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace io { namespace detail {

/// What manifest.json says of a state, beside its files.
struct StateManifest {
  Index step = 0;
  std::optional<double> loss{};
  std::map<std::string, std::string> must{}, may{};  // facts, see `TrainingStates`
  std::string frozen{};                              // hash of the parameters that it was saved beside
};

/// A folder of folders "step-N". In each are files and, written last, manifest.json with their sizes and hashes and its
/// own: a state is complete when its manifest holds.
class StateFolder {
 public:
  explicit StateFolder(std::string path) : path_(std::move(path)) {}

  std::string of(Index step) const { return path_ + "/step-" + std::to_string(step); }

  /// Calls `write(path)` for each file of the state, then writes the manifest. What was there of the same step goes
  /// first, its manifest before all else.
  void write(const StateManifest& state, const std::map<std::string, std::function<void(const std::string&)>>& files) {
    const std::string folder = of(state.step);
    std::error_code failure;
    if (!remove(state.step, failure)) fail(folder, ": cannot be removed: ", failure.message());
    std::filesystem::create_directories(folder, failure);
    require(!failure, folder, ": cannot be made: ", failure.message());
    File(path_, O_RDONLY | O_DIRECTORY).sync();
    nlohmann::ordered_json json{{"format", format},
                                {"remat", version()},
                                {"step", state.step},
                                {"must", state.must},
                                {"may", state.may},
                                {"frozen", state.frozen},
                                {"loss", state.loss ? nlohmann::ordered_json(*state.loss) : nlohmann::ordered_json()}};
    for (const auto& [name, write_to] : files) {
      const std::string file = folder + "/" + name;
      write_to(file);
      json["files"][name] = {{"bytes", File(file, O_RDONLY).size()}, {"xxh3_128", hash_of_file(file)}};
    }
    std::string text = json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
    text.replace(text.size() - 2, 2, ",\n");  // the hash is its last line, of all before it
    ReplacedFile file(folder + manifest);
    file.file().write(text + last_line(text));
    file.commit();
  }

  /// All steps that there is a folder of, newest first.
  std::vector<Index> steps() const {
    std::vector<Index> found;
    std::error_code failure;
    for (std::filesystem::directory_iterator it(path_, failure), end; !failure && it != end; it.increment(failure)) {
      const std::string name = it->path().filename().string();
      const bool is_state = name.size() > 5 && name.size() < 20 && name.starts_with("step-") &&
                            std::all_of(name.begin() + 5, name.end(), [](char c) { return c >= '0' && c <= '9'; });
      if (is_state && name == "step-" + std::to_string(std::stoll(name.substr(5))))
        found.push_back(std::stoll(name.substr(5)));
    }
    std::sort(found.rbegin(), found.rend());
    return found;
  }

  /// Was it written to its end, whatever happened to it then?
  bool is_written(Index step) const { return std::filesystem::exists(of(step) + manifest); }
  /// The manifest of a state whose files are those that were written; an `Error` says what is not so.
  StateManifest read(Index step) const {
    const std::string folder = of(step), path = folder + manifest;
    require(is_written(step), folder, ": has no manifest.json: it was not written to its end");
    const StateManifest state = parsed(path);
    require(state.step == step, path, ": is of step ", state.step);
    return state;
  }

  /// Removes incomplete states up to `step`, and complete ones up to it but for the newest `keep` and, with
  /// `keep_best`, that of the least loss.
  void remove_others(Index step, int keep, bool keep_best) const {
    std::vector<Index> others;
    std::optional<std::pair<double, Index>> best;
    for (const Index each : steps()) {
      if (each > step) continue;  // of a run that went further
      std::optional<StateManifest> state;
      try {
        state = parsed(of(each) + manifest, false);
      } catch (const Error&) {
      }
      if (state && state->loss && (!best || *state->loss < best->first)) best = {*state->loss, each};
      if (!state || --keep < 0) others.push_back(each);
    }
    for (const Index each : others) {
      if (keep_best && best && best->second == each) continue;
      std::error_code failure;  // what stays is told from complete states, and no reason to stop
      remove(each, failure);
    }
  }

 private:
  static constexpr const char* manifest = "/manifest.json";
  static constexpr int format = 2;                    // 1 had no hash of itself
  static constexpr std::size_t most_bytes = 1 << 20;  // of a manifest

  /// The manifest first, so that at no moment a part passes for the whole.
  bool remove(Index step, std::error_code& failure) const {
    if (std::filesystem::remove(of(step) + manifest, failure)) File(of(step), O_RDONLY | O_DIRECTORY).sync();
    if (!failure) std::filesystem::remove_all(of(step), failure);
    return !failure;
  }
  static std::string last_line(std::string_view before) {
    FileHash hash;
    hash.add(before.data(), before.size());
    return "  \"xxh3_128\": \"" + hash.text() + "\"\n}\n";
  }
  static bool has_its_hash(std::string_view text) {
    const std::size_t last = last_line({}).size(), before = text.size() - std::min(text.size(), last);
    return text.substr(before) == last_line(text.substr(0, before));
  }
  static std::size_t count_of(const std::string& path, const nlohmann::json& json, const char* name) {
    const auto& number = json.at(name);
    require(number.is_number_unsigned(), path, ": \"", name, "\" is ", number.type_name(),
            number.is_number() ? " " + number.dump() : "", ", where a count is expected");  // arrays may be too deep
    return number.get<std::size_t>();
  }
  static StateManifest parsed(const std::string& path, bool with_files = true) {
    const std::string text = read_whole(path, most_bytes);
    StateManifest state;
    try {
      const auto json = nlohmann::json::parse(text);
      const std::size_t written_as = count_of(path, json, "format");
      require(written_as == 1 || written_as == format, path, ": has format ", written_as, ", where ", format,
              " is the newest known");
      require(written_as == 1 || has_its_hash(text), path, ": its bytes are not those that were written");
      const std::size_t step = count_of(path, json, "step");
      require(step <= INT64_MAX, path, ": \"step\" is ", step);
      state.step = static_cast<Index>(step);
      if (json.at("loss").is_number()) state.loss = json.at("loss").get<double>();
      json.at("must").get_to(state.must);
      json.at("may").get_to(state.may);
      json.at("frozen").get_to(state.frozen);
      for (const auto& [name, entry] : json.at("files").items())
        if (with_files) check(path, name, count_of(path, entry, "bytes"), entry.at("xxh3_128").get<std::string>());
    } catch (const nlohmann::json::exception& error) {
      fail(path, ": ", std::string(error.what()).substr(0, 300));
    }
    return state;
  }
  static void check(const std::string& path, const std::string& name, std::size_t bytes, const std::string& hash) {
    require(!name.empty() && name.find('/') == std::string::npos && name.find('\0') == std::string::npos &&
                name.front() != '.',
            path, ": names a file \"", name.substr(0, 100), "\"; only files beside it can belong to a state");
    const std::string file = std::filesystem::path(path).replace_filename(name).string();
    const std::size_t size = File(file, O_RDONLY | O_NONBLOCK).size();
    require(size == bytes, file, ": has ", size, " bytes, ", bytes, " were written");
    require(hash_of_file(file) == hash, file, ": its bytes are not those that were written");
  }

  std::string path_;
};

}}}}  // namespace remat::io::detail
