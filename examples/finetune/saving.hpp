// What a run leaves behind, beside its log.
#pragma once

#include <filesystem>
#include <iostream>
#include <optional>
#include <remat/io.hpp>
#include <remat/pretrained.hpp>
#include <string>

#include "finetune/settings.hpp"
#include "finetune/step.hpp"
#include "text_of.hpp"

namespace finetune {

/// How many steps are behind a run that is resumed, of `steps` then. Model, data and flags must be those that it began
/// with, but for those that change no bit of it.
inline int begin(const Settings& s, const CLI::App& app, programs::SavedRun& run, remat::optim::AdamW& adamw,
                 int& steps) {
  const bool is_folder = std::filesystem::is_directory(s.model);
  return run.begin(app, "adamw", adamw, steps,
                   {.files = {{"text of --data", s.data},
                              {"model", is_folder ? programs::in_folder(s.model, "config.json") : s.model}},
                    .free_flags = {"memory", "policy", "epochs", "minutes", "eval-batches", "questions",
                                   "answer-length", "merge", "export", "skip-bad-lines"}});
}

/// The adapters in two formats, or all weights.
inline void save_trained(const Settings& s, const remat::ParameterRegistry& parameters,
                         const remat::models::Pretrained<float>& loaded,
                         const std::optional<remat::nn::Lora<float>>& lora) {
  if (lora) {
    std::cout << "wrote " << s.out << "/train.jsonl" << std::flush;
    if (!s.dora) {  // llama.cpp knows no magnitudes
      remat::io::save_gguf_lora(*lora, loaded.model, programs::in_folder(s.out, "adapter.gguf"), loaded.architecture);
      std::cout << ", adapter.gguf (for llama.cpp)" << std::flush;
    }
    try {
      remat::io::save_peft(*lora, loaded.model, programs::in_folder(s.out, "adapter"), s.model);
      std::cout << ", adapter (for PEFT)\n";
    } catch (const remat::Error& error) {  // of a family that PEFT calls otherwise: what was learned is not lost
      std::cout << "; none for PEFT: " << error.what() << '\n';
    }
  } else {
    remat::io::save_safetensors(parameters, programs::in_folder(s.out, "model.safetensors"));
    std::cout << "wrote " << s.out << "/train.jsonl, model.safetensors\n";
  }
}

/// A model with its adapters merged; what it takes in memory meanwhile was not promised.
inline void save_merged(const Settings& s, const remat::models::Pretrained<float>& loaded,
                        const remat::nn::Lora<float>& lora) {
  const double deviation = remat::io::save_merged_gguf(remat::io::GgufFile(s.model), lora, loaded.model,
                                                       programs::in_folder(s.out, "merged.gguf"));
  std::cout << programs::text_of("wrote %s/merged.gguf: F16, of floats that are off by %.1e at most\n", s.out.c_str(),
                                 deviation);
}

}  // namespace finetune
