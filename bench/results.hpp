// Statistics over rounds, facts about a run, files.
#pragma once

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <string>
#include <utility>
#include <vector>

#include "machine_facts.hpp"

namespace bench {

using programs::mib, programs::text_of;

inline double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}
inline double best(const std::vector<double>& values) { return *std::min_element(values.begin(), values.end()); }

/// The median over rounds of a[i] / b[i]: what others do to the machine in a round hits both.
inline double ratio(const std::vector<double>& a, const std::vector<double>& b) {
  std::vector<double> ratios;
  for (std::size_t round = 0; round < a.size(); ++round) ratios.push_back(a[round] / b[round]);
  return median(std::move(ratios));
}

/// A file that throws when it cannot be written.
inline std::ofstream open_file(const std::filesystem::path& folder, const char* name) {
  std::filesystem::create_directories(folder);
  std::ofstream file(folder / name);
  file.exceptions(std::ios::failbit | std::ios::badbit);
  return file;
}
/// One of rows.
inline std::ofstream open_csv(const std::filesystem::path& folder, const char* name, const char* columns) {
  std::ofstream file = open_file(folder, name);
  file << columns << '\n';
  return file;
}

/// Prints and writes lines about the run, the first of which is a title for pictures, and what the machine is.
inline void tell_facts(std::vector<std::string> facts, const std::filesystem::path& folder, const char* name) {
  for (const auto& [fact, value] : programs::machine_facts(remat::machine::peak_fma_gflops(remat::machine::threads())))
    facts.push_back(text_of("%-13s ", fact.c_str()) + value);
  auto file = open_file(folder, name);
  for (const std::string& fact : facts) {
    std::cout << fact << '\n';
    file << fact << '\n';
  }
  std::cout << std::flush;
}

/// Prints a part of a benchmark as soon as it is measured, and writes its files into `folder`.
template <class Report>
void finish(const Report& report, const std::string& folder) {
  report.print();
  std::fflush(stdout);
  report.write(folder);
}

}  // namespace bench
