// How many steps a training has when nobody said so.
#pragma once

#include <algorithm>
#include <iostream>
#include <remat/distributed.hpp>
#include <remat/io/progress.hpp>
#include <remat/remat.hpp>

#include "text_of.hpp"
#include "train_gpt/step.hpp"

namespace train_gpt {

inline constexpr double default_seconds = 100;

/// Sets the number of steps by the time of a few that are taken for practice: their gradients are thrown away, so that
/// the training is the very one that `--steps` with this number gives. Warm-up and evaluation follow where no flag
/// says.
inline void choose_steps(Settings& s, const CLI::App& app, Stepper& step, const remat::ParameterRegistry& parameters,
                         remat::Index validation_batches, const remat::distributed::Group& group) {
  const double seconds = programs::median_of_ranks(
      group,
      [&] {
        step(0, false);
        parameters.zero_grad();
      },
      5, 2);
  // The last evaluation sees the whole split; a batch takes a third of a step there, forward alone.
  const double evaluation = std::min(default_seconds / 2, static_cast<double>(validation_batches) * seconds / 3);
  const int most = s.steps;
  s.steps = static_cast<int>(remat::io::steps_within(default_seconds - evaluation, seconds, 16, most));
  if (app.count("--warmup") == 0) s.warmup = std::min(s.warmup, s.steps / 4);
  if (app.count("--eval-every") == 0) s.eval_every = std::min(s.eval_every, s.steps / 3 + 1);
  if (app.count("--eval-batches") == 0) s.eval_batches = std::min(s.eval_batches, s.steps / 20 + 1);
  std::cout << programs::text_of(
                   "%d steps of about %.0f ms, %s; --steps N sets another number (with --warmup %d this one again)\n",
                   s.steps, 1e3 * seconds,
                   s.steps == most ? "the most that are taken unasked" : "as many as this machine does in about 100 s",
                   s.warmup)
            << std::endl;
}

}  // namespace train_gpt
