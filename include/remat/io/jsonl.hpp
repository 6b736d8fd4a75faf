// JSON Lines: a log with one object a line.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <remat/io/file.hpp>
#include <sstream>
#include <string>
#include <system_error>

namespace remat { inline namespace REMAT_ABI { namespace io {

/// Appends lines to a file. Each is in the file when `write` returns, so a run that is killed keeps its log; a machine
/// that loses its power keeps what was there at the last `sync`.
class JsonLines {
 public:
  /// Opens `path`, a regular file or a new one, to append. A last line that a killed run left unfinished is ended
  /// first.
  explicit JsonLines(const std::string& path) : JsonLines(path, 0) {}
  /// The same, with what is there thrown away first. Links and permissions stay.
  static JsonLines from_empty(const std::string& path) { return JsonLines(path, O_TRUNC); }
  /// For a run that goes on from step `from`: of what is there, lines stay whose number under `key` is below `from`.
  static JsonLines before(const std::string& path, const std::string& key, double from) {
    std::error_code failure;
    if (from <= 0 || !std::filesystem::exists(path, failure)) return from_empty(path);
    std::string kept, line;
    for (std::istringstream all(read_whole(path)); std::getline(all, line);) {
      const auto json = nlohmann::json::parse(line, nullptr, false);
      const auto found = json.is_object() ? json.find(key) : json.end();
      if (json.is_object() && found != json.end() && found->is_number() && found->get<double>() < from)
        kept += line + '\n';
    }
    ReplacedFile file(path);
    file.file().write(kept);
    file.commit();
    return JsonLines(path);
  }
  /// One line. Numbers that JSON lacks (NaN, infinities) become null, bytes that are not UTF-8 become U+FFFD.
  void write(const nlohmann::ordered_json& value) const {
    file_.write(value.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + '\n');
  }
  /// Waits until all lines are on the disk.
  void sync() const { file_.sync(); }

 private:
  // Appended to while it grows, so that it cannot be replaced as a whole.
  JsonLines(const std::string& path, int flags) : file_(path, O_RDWR | O_CREAT | O_APPEND | flags) {
    const std::size_t size = file_.size();
    char last = '\n';
    if (size > 0) file_.read(&last, 1, size - 1);
    if (last != '\n') file_.write("\n");
    const std::string folder = path.substr(0, path.rfind('/') + 1);
    File(folder.empty() ? "." : folder, O_RDONLY | O_DIRECTORY).sync();  // the name, where it is new
  }

  File file_;
};

}}}  // namespace remat::io
