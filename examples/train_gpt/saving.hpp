// What a training leaves behind, beside its log.
#pragma once

#include <iostream>
#include <remat/io.hpp>
#include <string>
#include <vector>

#include "train_gpt/settings.hpp"

namespace train_gpt {

/// How many steps are behind a run that is resumed. Its flags must be those that it began with, but for those that
/// change no bit of it; the schedule is that of its beginning.
template <class Optimizer>
int begin(Settings& s, const CLI::App& app, programs::SavedRun& run, Optimizer& adamw) {
  run.keep_number("warmup", s.warmup);
  run.keep_number("micro_batches", s.micro_batches, true);
  return run.begin(app, "adamw", adamw, s.steps,
                   {.files = {{"text of --data", s.data}},
                    .free_flags = {"plan", "remat", "remat-every", "memory", "trace", "prompt", "sample-length",
                                   "temperature", "eval-every", "eval-batches", "preset", "warmup", "zero"}});
}

/// Weights first: a bad path of the trace must not cost them.
inline void save(const Settings& s, const remat::ParameterRegistry& parameters,
                 const std::vector<remat::TraceSlice>& trace) {
  remat::io::save_safetensors(parameters, programs::in_folder(s.out, "model.safetensors"));
  if (!s.trace.empty()) remat::io::save_trace(trace, s.trace);
}

inline void show_and_save_sample(const Settings& s, const std::string& sample) {
  remat::io::ReplacedFile file(programs::in_folder(s.out, "sample.txt"));
  file.file().write(sample + "\n");
  file.commit();
  std::cout << "\n--- sample ---\n"
            << sample << "\n--------------\n"
            << "wrote " << s.out << "/train.jsonl, model.safetensors, sample.txt" << std::endl;
}

}  // namespace train_gpt
