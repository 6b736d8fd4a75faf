// What a training leaves behind, beside its log.
#pragma once

#include <filesystem>
#include <iostream>
#include <remat/io.hpp>
#include <remat/optim/adamw.hpp>
#include <string>
#include <system_error>
#include <vector>

#include "train_gpt/settings.hpp"

namespace train_gpt {

inline std::string in_folder(const Settings& s, const char* file) {
  return (std::filesystem::path(s.out) / file).string();
}

inline void make_folder(const Settings& s) {
  std::error_code failure;
  std::filesystem::create_directories(s.out, failure);
  remat::require(!failure, "--out: folder ", s.out, " cannot be made: ", failure.message());
}

/// How many steps are behind a run that is resumed. Its flags must be those that it began with, but for those that
/// change no bit of it; the schedule is that of its beginning.
inline int begin(Settings& s, const CLI::App& app, programs::SavedRun& run, remat::optim::AdamW& adamw) {
  run.states().add("adamw", adamw);
  run.keep_number("warmup", s.warmup);
  run.must_be_file("text of --data", s.data);
  run.must_be_flags(app, {"plan", "remat", "remat-every", "memory", "trace", "prompt", "sample-length", "temperature",
                          "eval-every", "eval-batches", "preset", "steps", "warmup"});
  const int asked = app.count("--steps") > 0 ? s.steps : 0;
  run.keep_number("steps", s.steps);
  const int first = run.begin();
  remat::require(asked == 0 || asked == s.steps, "--steps ", asked, " is not that of the run, which has ", s.steps,
                 " and a schedule of them; leave it out to resume");
  return first;
}

/// Weights first: a bad path of the trace must not cost them.
inline void save(const Settings& s, const remat::ParameterRegistry& parameters,
                 const std::vector<remat::TraceSlice>& trace) {
  remat::io::save_safetensors(parameters, in_folder(s, "model.safetensors"));
  if (!s.trace.empty()) remat::io::save_trace(trace, s.trace);
}

inline void show_and_save_sample(const Settings& s, const std::string& sample) {
  remat::io::ReplacedFile file(in_folder(s, "sample.txt"));
  file.file().write(sample + "\n");
  file.commit();
  std::cout << "\n--- sample ---\n"
            << sample << "\n--------------\n"
            << "wrote " << s.out << "/train.jsonl, model.safetensors, sample.txt" << std::endl;
}

}  // namespace train_gpt
