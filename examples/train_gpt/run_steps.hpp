// The training loop.
#pragma once

#include <algorithm>
#include <chrono>
#include <optional>
#include <remat/data.hpp>
#include <remat/distributed.hpp>
#include <remat/io.hpp>
#include <remat/remat.hpp>
#include <string>
#include <vector>

#include "saved_run.hpp"
#include "text_of.hpp"
#include "train_gpt/evaluation.hpp"
#include "train_gpt/step.hpp"

namespace train_gpt {

/// The steps from `first` on, each with its line in train.jsonl and on the screen. Returns the trace of the last one;
/// nothing when the run was told to stop. The first rank has the log and the screen.
inline std::optional<std::vector<remat::TraceSlice>> run_steps(const Settings& s, const Model& gpt,
                                                               Stepper& forward_backward, programs::SavedRun& run,
                                                               int first,
                                                               const remat::data::SequentialBatches& validation,
                                                               const remat::io::JsonLines* log, double peak_gflops,
                                                               const remat::distributed::Group& group) {
  using Clock = std::chrono::steady_clock;
  const remat::optim::WarmupCosine schedule{
      .peak = s.lr, .minimum = std::min(s.min_lr, s.lr), .warmup = std::min(s.warmup, s.steps - 1), .steps = s.steps};
  RankStep result;
  std::optional<remat::io::ProgressLine> progress;
  if (group.is_first()) progress.emplace(s.steps);
  const auto note = [&](const std::string& text) {
    if (progress) progress->note(text);
  };
  remat::io::StepTimes step_times;
  for (int step = first; step < s.steps; ++step) {
    const auto start = Clock::now();
    const double lr = schedule(step);
    const bool is_last = step + 1 == s.steps;
    result = forward_backward(step, !s.trace.empty() && is_last);
    double norm = 0;
    try {
      norm = forward_backward.norm(result);
    } catch (const remat::Error& error) {  // the step that one will look at: it has no other line
      if (log) log->write({{"step", step}, {"loss", result.loss}, {"lr", lr}, {"error", error.what()}});
      note(programs::text_of("step %d/%d  loss %.4f  lr %.2e  stopped", step + 1, s.steps, result.loss, lr));
      remat::fail("step ", step + 1, ": ", error.what());
    }
    forward_backward.update(lr, remat::optim::clip_scale(norm, s.clip));
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();

    const double mfu = result.flops / seconds / (peak_gflops * 1e9), tokens = double(s.batch) * s.context / seconds;
    nlohmann::ordered_json line{{"step", step},
                                {"loss", result.loss},
                                {"lr", lr},
                                {"grad_norm", norm},
                                {"ms", 1e3 * seconds},
                                {"tokens_per_s", tokens},
                                {"mfu", mfu},
                                {"activation_bytes", result.peak_bytes},
                                {"rss_bytes", remat::machine::resident_bytes()}};
    if (progress)
      progress->show(
          step, programs::text_of("step %d/%d  loss %.4f  lr %.2e  norm %.2f  %.1f ms  %.0f tok/s  %.0f%% of peak  "
                                  "activations %s",
                                  step + 1, s.steps, result.loss, lr, norm, 1e3 * seconds, tokens, 100 * mfu,
                                  remat::io::readable_bytes(static_cast<double>(result.peak_bytes)).c_str()));
    std::optional<double> held_out;
    if (is_last || (step + 1) % s.eval_every == 0) {
      const double value = validation_loss(gpt, validation, is_last ? validation.size() : s.eval_batches, group);
      line["val_loss"] = value;
      held_out = value;
      note(programs::text_of("step %d  validation loss %.4f%s", step + 1, value,
                             is_last ? " over the whole validation split" : ""));
    }
    if (log) log->write(line);
    if (const std::string advice = step_times.advice(seconds); !advice.empty()) note(advice);
    if (run.is_stopped(step + 1, s.steps, note, held_out)) return {};
  }
  return result.trace;
}

}  // namespace train_gpt
