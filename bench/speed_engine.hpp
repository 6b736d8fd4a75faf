// What the engine itself costs: ops on one number, where all else is next to nothing.
#pragma once

#include <remat/remat.hpp>
#include <vector>

#include "speed_table.hpp"

namespace bench {

/// Microseconds an op, round by round.
struct EngineReport {
  int ops = 0;
  std::vector<double> record{}, replay{};

  void print() const {
    std::printf("\nengine, a chain of %d ops on one number: recording %.3f, replaying %.3f us an op (medians)\n", ops,
                median(record), median(replay));
  }
  void write(const std::string& folder) const {
    open_csv(folder, "speed_engine.csv", "what,us_per_op")
        << text_of("record,%.4f\nreplay,%.4f\n", median(record), median(replay));
  }
};

/// A chain in a region that keeps nothing, recorded, replayed and differentiated, less the backward of the same chain
/// in no region.
inline EngineReport measure_engine(int ops, int rounds) {
  EngineReport report{.ops = ops};
  const auto backward_seconds = [&](bool in_region, bool counts) {
    remat::Tape tape;
    const auto x = tape.input(remat::Tensor<float>({1}, 1.5F), {.wants_gradient = true});
    const auto chain = [&] {
      remat::Var<float> y = x;
      for (int i = 0; i < ops; ++i) y = sin(y);
      return y;
    };
    remat::Var<float> y;
    const double seconds =
        seconds_of([&] { y = in_region ? tape.checkpoint(remat::policy::nothing, chain) : chain(); });
    if (in_region && counts) report.record.push_back(1e6 * seconds / ops);
    return seconds_of([&] { tape.backward(y); });
  };
  for (int round = 0; round <= rounds; ++round) {  // the first warms up
    const double plain = backward_seconds(false, round > 0), again = backward_seconds(true, round > 0);
    if (round > 0) report.replay.push_back(1e6 * (again - plain) / ops);
  }
  return report;
}

}  // namespace bench
