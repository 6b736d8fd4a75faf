// Where what was measured of a machine is kept, and what it depends on.
#pragma once

#include <fcntl.h>
#include <sys/file.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <optional>
#include <remat/core/file.hpp>
#include <remat/core/machine.hpp>
#include <string>
#include <system_error>

namespace remat { inline namespace REMAT_ABI { namespace detail {

/// What measurements depend on, in one line that begins with what they are.
template <class = void>
std::string machine_line(const std::string& what) {
  std::string cpu;
  std::ifstream info("/proc/cpuinfo");
  while (std::getline(info, cpu) && cpu.rfind("model name", 0) != 0) {
  }
  return what + "; " + cpu + "; " + machine::isa() + "; compiled for " + machine::compiled_isa() + "; " +
         std::to_string(machine::threads()) + " threads of " + machine::affinity();
}

/// REMAT_CACHE, else XDG_CACHE_HOME/remat, else HOME/.cache/remat; empty: nowhere.
template <class = void>
std::filesystem::path cache_folder() {
  if (const char* own = std::getenv("REMAT_CACHE")) return own;
  if (const char* xdg = std::getenv("XDG_CACHE_HOME"); xdg != nullptr && *xdg != '\0')
    return std::filesystem::path(xdg) / "remat";
  if (const char* home = std::getenv("HOME"); home != nullptr && *home != '\0')
    return std::filesystem::path(home) / ".cache" / "remat";
  return {};
}

/// The file of a machine's line in `folder`.
template <class = void>
std::filesystem::path cache_file(const std::filesystem::path& folder, const std::string& machine) {
  return folder / (machine.substr(0, machine.find('-')) + "-" + std::to_string(std::hash<std::string>{}(machine)));
}

/// What `parse` makes of the text that `folder` keeps for this machine, or else what `measure` gives, whose `text` is
/// kept there if `may_keep`. `parse` gives an empty optional for a damaged text. Processes that start at once wait for
/// the first to measure and go by what it kept. Whatever fails here costs a measurement, as does an empty folder.
template <class Parse, class Measure, class Text>
auto kept_or_measured(const std::filesystem::path& folder, const std::string& machine, Parse&& parse, Measure&& measure,
                      Text&& text, bool may_keep = true) {
  using Value = decltype(measure());
  if (folder.empty()) return measure();
  const std::string path = cache_file(folder, machine).string();
  const auto kept = [&]() -> std::optional<Value> {
    try {
      const std::string all = io::read_whole(path, 4096), first = machine + "\n";
      if (all.compare(0, first.size(), first) == 0)
        return parse(all.substr(first.size(), all.size() - first.size() - 1));
    } catch (const Error&) {
    }
    return std::nullopt;
  };
  if (const auto value = kept()) return *value;
  std::optional<io::File> lock;  // of the folder, until the end of this call
  try {
    std::error_code error;
    std::filesystem::create_directories(folder, error);
    lock.emplace(folder.string(), O_RDONLY | O_DIRECTORY);
    while (::flock(lock->descriptor(), LOCK_EX) != 0 && errno == EINTR) {
    }
    if (const auto value = kept()) return *value;
  } catch (const Error&) {
  }
  const Value value = measure();
  if (!lock || !may_keep) return value;
  try {
    io::ReplacedFile out(path);
    out.file().write(machine + "\n" + text(value) + "\n");
    out.commit();
  } catch (const Error&) {
  }
  return value;
}

}}}  // namespace remat::detail
