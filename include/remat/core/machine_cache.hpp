// Where what was measured of a machine is kept, and what it depends on.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
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

/// The line, then `text`. Whatever fails here costs the next process a measurement.
template <class = void>
void write_cache(const std::filesystem::path& file, const std::string& machine, const std::string& text) {
  std::error_code error;
  std::filesystem::create_directories(file.parent_path(), error);
  try {
    io::ReplacedFile out(file.string());
    out.file().write(machine + "\n" + text + "\n");
    out.commit();
  } catch (const Error&) {
  }
}

/// The file behind its first line, if that is the machine's.
template <class = void>
bool open_cache(const std::filesystem::path& file, const std::string& machine, std::ifstream& in) {
  in.open(file);
  std::string line;
  return std::getline(in, line) && line == machine;
}

}}}  // namespace remat::detail
