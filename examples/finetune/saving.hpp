// What a run leaves behind, beside its log.
#pragma once

#include <filesystem>
#include <iostream>
#include <optional>
#include <remat/io.hpp>
#include <remat/pretrained.hpp>
#include <string>
#include <system_error>

#include "finetune/settings.hpp"
#include "finetune/step.hpp"
#include "text_of.hpp"

namespace finetune {

/// How many steps are behind a run that is resumed, of `steps` then. Model, data and flags must be those that it began
/// with, but for those that change no bit of it.
inline int begin(const Settings& s, const CLI::App& app, programs::SavedRun& run, remat::optim::AdamW& adamw,
                 int& steps) {
  run.states().add("adamw", adamw);
  run.keep_number("steps", steps);
  run.must_be_file("text of --data", s.data);
  const auto folder = std::filesystem::path(s.model) / "config.json";
  run.must_be_file("model", std::filesystem::is_directory(s.model) ? folder.string() : s.model);
  run.must_be_flags(app, {"memory", "policy", "steps", "epochs", "minutes", "eval-batches", "questions",
                          "answer-length", "merge", "export", "skip-bad-lines"});
  return run.begin();
}

inline std::string in_folder(const Settings& s, const char* file) {
  return (std::filesystem::path(s.out) / file).string();
}

inline void make_folder(const Settings& s) {
  std::error_code failure;
  std::filesystem::create_directories(s.out, failure);
  remat::require(!failure, "--out: folder ", s.out, " cannot be made: ", failure.message());
}

/// The adapters in two formats, or all weights.
inline void save_trained(const Settings& s, const remat::ParameterRegistry& parameters,
                         const remat::models::Pretrained<float>& loaded,
                         const std::optional<remat::nn::Lora<float>>& lora) {
  if (lora) {
    remat::io::save_gguf_lora(*lora, loaded.model, in_folder(s, "adapter.gguf"), loaded.architecture);
    std::cout << "wrote " << s.out << "/train.jsonl, adapter.gguf (for llama.cpp)" << std::flush;
    try {
      remat::io::save_peft(*lora, loaded.model, in_folder(s, "adapter"), s.model);
      std::cout << ", adapter (for PEFT)\n";
    } catch (const remat::Error& error) {  // of a family that PEFT calls otherwise: what was learned is not lost
      std::cout << "; none for PEFT: " << error.what() << '\n';
    }
  } else {
    remat::io::save_safetensors(parameters, in_folder(s, "model.safetensors"));
    std::cout << "wrote " << s.out << "/train.jsonl, model.safetensors\n";
  }
}

/// A model with its adapters merged; what it takes in memory meanwhile was not promised.
inline void save_merged(const Settings& s, const remat::models::Pretrained<float>& loaded,
                        const remat::nn::Lora<float>& lora) {
  const double deviation =
      remat::io::save_merged_gguf(remat::io::GgufFile(s.model), lora, loaded.model, in_folder(s, "merged.gguf"));
  std::cout << programs::text_of("wrote %s/merged.gguf: F16, of floats that are off by %.1e at most\n", s.out.c_str(),
                                 deviation);
}

}  // namespace finetune
