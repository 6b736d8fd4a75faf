// How long a step will take on this machine: contractions go by flops, all else by bytes moved.
#pragma once

#include <remat/autodiff/program.hpp>

namespace remat { inline namespace REMAT_ABI {

/// Rates that predict a step's time. Flops alone mislead: most ops of a transformer are bound by memory.
struct CostModel {
  double flops_per_second = 1e11;  // of the products of layers
  double bytes_per_second = 1e10;  // of everything else
  double seconds_per_op = 2e-6;    // recording, threads starting and joining
  double batched_factor = 2;       // small products between softmaxes take that many times as long as those of layers
  double offload_bytes_per_second = 5e8;  // written to the offload file, or read from it

  /// The time of so many flops, `batched_flops` among them, bytes moved and ops run.
  double seconds(double flops, double batched_flops, double bytes, double ops) const {
    return (flops + (batched_factor - 1) * batched_flops) / flops_per_second + bytes / bytes_per_second +
           ops * seconds_per_op;
  }
  /// One more forward of a node.
  double seconds(const Node& node) const {
    return seconds(node.cost.flops, node.cost.batched ? node.cost.flops : 0, node.moved_bytes, 1);
  }
  /// The time of a step.
  double seconds(const TapeStats& stats) const {
    // Each recorded op runs forward and, mostly, backward. What is written away is read once.
    return seconds(stats.forward_flops + stats.backward_flops, stats.batched_flops, stats.moved_bytes,
                   static_cast<double>(2 * stats.ops_recorded + stats.ops_replayed)) +
           2 * static_cast<double>(stats.offloaded_bytes) / offload_bytes_per_second;
  }
  /// Measured once on a machine and kept in the user's cache folder (REMAT_CACHE, if set, or the system's), for plans
  /// that do not change from run to run; an empty REMAT_CACHE measures anew in each process.
  template <class = void>
  static const CostModel& of_this_machine();
  /// Takes about 0.3 s; in plan/calibration.hpp.
  template <class = void>
  static CostModel measured();
};

}}  // namespace remat
