// The rates of this machine, measured once and kept in the user's cache folder.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <remat/core/machine_cache.hpp>
#include <remat/plan/cost_model.hpp>
#include <sstream>
#include <string>

namespace remat { inline namespace REMAT_ABI { namespace detail {

template <class = void>
bool read_rates(const std::filesystem::path& file, const std::string& machine, CostModel& model) {
  std::ifstream in;
  if (!open_cache(file, machine, in)) return false;
  CostModel read = model;
  if (!(in >> read.flops_per_second >> read.bytes_per_second)) return false;
  // A damaged file must not make plans absurd.
  if (!(read.flops_per_second > 1e6 && read.flops_per_second < 1e18 && read.bytes_per_second > 1e6 &&
        read.bytes_per_second < 1e16))
    return false;
  model = read;
  return true;
}

template <class = void>
void write_rates(const std::filesystem::path& file, const std::string& machine, const CostModel& model) {
  std::ostringstream text;
  text.precision(17);
  text << model.flops_per_second << ' ' << model.bytes_per_second;
  write_cache(file, machine, text.str());
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
  const std::string machine = machine_line("rates-1");
  const std::filesystem::path file = cache_file(folder, machine);
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
