// What the sections of `./run bench speed` share: times of repeated work, rates.
#pragma once

#include <chrono>
#include <string>
#include <utility>
#include <vector>

#include "results.hpp"

namespace bench {

/// Seconds that `work()` takes.
template <class Work>
double seconds_of(Work&& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// Something timed once a round; `flops` and `bytes` are of one round.
struct Timed {
  std::string name{};
  double flops = 0, bytes = 0;
  std::vector<double> seconds{};

  /// Work over time, round by round in shares of `peak` (work a second), and then the median: what others do to the
  /// machine in a round hits both.
  double share(double work, const std::vector<double>& peak) const {
    std::vector<double> shares;
    for (std::size_t round = 0; round < seconds.size(); ++round) shares.push_back(work / seconds[round] / peak[round]);
    return median(std::move(shares));
  }
};

}  // namespace bench
