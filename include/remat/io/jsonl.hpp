// JSON Lines: a log with one object a line.
#pragma once

#include <nlohmann/json.hpp>
#include <remat/io/file.hpp>
#include <string>

namespace remat { inline namespace REMAT_ABI { namespace io {

/// Appends lines to a file. Each is in the file when `write` returns, so a run that is killed keeps its log.
class JsonLines {
 public:
  /// Opens `path`, a regular file or a new one, to append. A last line that a killed run left unfinished is ended
  /// first.
  explicit JsonLines(const std::string& path) : JsonLines(path, 0) {}
  /// The same, with what is there thrown away first. Links and permissions stay.
  static JsonLines from_empty(const std::string& path) { return JsonLines(path, O_TRUNC); }
  /// One line. Numbers that JSON lacks (NaN, infinities) become null, bytes that are not UTF-8 become U+FFFD.
  void write(const nlohmann::ordered_json& value) const {
    file_.write(value.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + '\n');
  }

 private:
  // Appended to while it grows, so that it cannot be replaced as a whole.
  JsonLines(const std::string& path, int flags) : file_(path, O_RDWR | O_CREAT | O_APPEND | flags) {
    const std::size_t size = file_.size();
    char last = '\n';
    if (size > 0) file_.read(&last, 1, size - 1);
    if (last != '\n') file_.write("\n");
  }

  File file_;
};

}}}  // namespace remat::io
