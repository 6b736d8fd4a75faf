// The rates of this machine, measured once and kept in the user's cache folder.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <remat/core/file.hpp>
#include <remat/plan/cost_model.hpp>
#include <sstream>
#include <string>
#include <system_error>

namespace remat { inline namespace REMAT_ABI { namespace detail {

/// What the rates depend on, in one line.
template <class = void>
std::string machine_line() {
  std::string cpu;
  std::ifstream info("/proc/cpuinfo");
  while (std::getline(info, cpu) && cpu.rfind("model name", 0) != 0) {
  }
  return "remat-rates-1; " + cpu + "; " + machine::isa() + "; compiled for " + machine::compiled_isa() + "; " +
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

template <class = void>
bool read_rates(const std::filesystem::path& file, const std::string& machine, CostModel& model) {
  std::ifstream in(file);
  std::string line;
  if (!std::getline(in, line) || line != machine) return false;
  CostModel read = model;
  if (!(in >> read.flops_per_second >> read.bytes_per_second)) return false;
  // A damaged file must not make plans absurd.
  if (!(read.flops_per_second > 1e6 && read.flops_per_second < 1e18 && read.bytes_per_second > 1e6 &&
        read.bytes_per_second < 1e16))
    return false;
  model = read;
  return true;
}

/// Whatever fails here costs the next process 0.1 s.
template <class = void>
void write_rates(const std::filesystem::path& file, const std::string& machine, const CostModel& model) {
  std::error_code error;
  std::filesystem::create_directories(file.parent_path(), error);
  std::ostringstream text;
  text.precision(17);
  text << machine << '\n' << model.flops_per_second << ' ' << model.bytes_per_second << '\n';
  try {
    io::ReplacedFile out(file.string());
    out.file().write(text.str());
    out.commit();
  } catch (const Error&) {
  }
}

/// Rates measured while others compute are better than none, but not to be kept.
template <class = void>
bool is_machine_quiet() {
  double load = 0;
  return getloadavg(&load, 1) != 1 || load <= omp_get_num_procs();
}

/// From the cache in `folder`, or measured and put there; an empty folder: always measured.
template <class = void>
CostModel calibrated(const std::filesystem::path& folder, bool may_write = true) {
  const std::string machine = machine_line();
  const std::filesystem::path file = folder / ("rates-" + std::to_string(std::hash<std::string>{}(machine)));
  CostModel model;
  if (!folder.empty() && read_rates(file, machine, model)) return model;
  model = CostModel::measured();
  if (!folder.empty() && may_write) write_rates(file, machine, model);
  return model;
}

}}}  // namespace remat::detail

namespace remat { inline namespace REMAT_ABI {

inline const CostModel& CostModel::of_this_machine() {
  static const CostModel model = detail::calibrated(detail::cache_folder(), detail::is_machine_quiet());
  return model;
}

}}  // namespace remat
