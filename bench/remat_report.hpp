// What a comparison of policies found: a table to read, files for other programs.
#pragma once

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "remat_trainer.hpp"
#include "results.hpp"

namespace bench {

struct Report {
  std::vector<Variant> variants{};
  std::vector<Outcome> outcomes{};
  int trainings = 1;  // as many as `losses` hold one after another

  void print() const {
    std::size_t width = 6;
    for (const Variant& variant : variants) width = std::max(width, variant.name.size());
    std::printf("\n%-*s %9s %9s %6s %9s %9s %9s %9s %8s %9s %9s\n", int(width), "", "best", "median", "times",
                "planned", "peak", "planned", "held", "replayed", "replayed", "last");
    std::printf("%-*s %9s %9s %6s %9s %9s %9s %9s %8s %9s %9s\n", int(width), "policy", "ms", "ms", "first", "ms",
                "MiB", "MiB", "MiB", "ops", "GFLOP", "loss");
    for (std::size_t i = 0; i < variants.size(); ++i) {
      const Outcome& o = outcomes[i];
      const remat::PlannedPolicy& planned = variants[i].planned;
      std::printf("%-*s %9.1f %9.1f %6.3f %9.1f %9.2f %9.2f %9.2f %8lld %9.2f %9.6f\n", int(width),
                  variants[i].name.c_str(), best(o.ms), median(o.ms), ratio(o.ms, outcomes[0].ms),
                  1e3 * planned.seconds, mib(o.peak_bytes), mib(planned.stats.peak_bytes), mib(o.stats.saved_bytes),
                  static_cast<long long>(o.stats.ops_replayed), o.stats.replay_flops * 1e-9,
                  static_cast<double>(o.losses.back()));
    }
  }

  /// How many policies that are not lossy had another loss than the first one had in its first training, in any step.
  std::size_t differing() const {
    const std::size_t steps = steps_of_training();
    return static_cast<std::size_t>(std::count_if(outcomes.begin(), outcomes.end(), [&](const Outcome& o) {
      if (remat::policy::is_lossy(variants[static_cast<std::size_t>(&o - outcomes.data())].planned.policy))
        return false;
      for (std::size_t i = 0; i < o.losses.size(); ++i)
        if (!(o.losses[i] == outcomes[0].losses[i % steps])) return true;
      return false;
    }));
  }

  /// remat.csv (a row a policy), remat_loss.csv (a row a step), remat_timeline.csv (live bytes by class of each
  /// policy's fastest step) and remat_policies.txt (a name a line, for programs that cannot read quotes).
  void write(const std::filesystem::path& folder) const {
    auto names = open_file(folder, "remat_policies.txt");
    for (const Variant& variant : variants) names << variant.name << '\n';

    auto rows =
        open_csv(folder, "remat.csv",
                 "variant,policy,budget_bytes,best_ms,median_ms,times_first,planned_ms,peak_bytes,planned_peak_bytes,"
                 "held_bytes,replay_flops,replayed_ops,last_loss");
    auto points =
        open_csv(folder, "remat_timeline.csv",
                 "variant,ms,live_bytes,saved,replayed,activation_gradients,workspace,parameters,parameter_gradients,"
                 "optimizer");
    auto losses = open_file(folder, "remat_loss.csv");
    losses << "step";
    for (std::size_t i = 0; i < variants.size(); ++i) {
      const auto& [name, planned, budget] = variants[i];
      const Outcome& o = outcomes[i];
      rows << i << ',' << quoted(name) << ',' << (budget ? std::to_string(*budget) : "")
           << text_of(",%.3f,%.3f,%.4f,%.3f", best(o.ms), median(o.ms), ratio(o.ms, outcomes[0].ms),
                      1e3 * planned.seconds)
           << text_of(",%zu,%zu,%zu,%.0f,%lld,%.9g\n", o.peak_bytes, planned.stats.peak_bytes, o.stats.saved_bytes,
                      o.stats.replay_flops, static_cast<long long>(o.stats.ops_replayed),
                      static_cast<double>(o.losses.back()));
      for (const remat::MemorySample& p : o.timeline)
        points << i
               << text_of(",%.3f,%zu,%zu,%zu,%zu,%zu,%zu,%zu,%zu\n", 1e3 * p.seconds, p.total(), p.bytes[0], p.bytes[1],
                          p.bytes[2], p.bytes[3], o.lasting.parameters, o.lasting.gradients, o.lasting.optimizer);
      losses << ',' << quoted(name);
    }
    for (std::size_t step = 0; step < steps_of_training(); ++step) {
      losses << '\n' << step;
      for (const Outcome& o : outcomes) losses << text_of(",%.9g", static_cast<double>(o.losses[step]));
    }
    losses << '\n';
  }

 private:
  std::size_t steps_of_training() const { return outcomes[0].losses.size() / static_cast<std::size_t>(trainings); }

  static std::string quoted(const std::string& text) {
    std::string out = "\"";
    for (const char c : text) out += c == '"' ? std::string(2, c) : std::string(1, c);
    return out + '"';
  }
};

}  // namespace bench
