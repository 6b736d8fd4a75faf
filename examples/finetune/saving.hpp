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
/// with, but for those that change no bit of it; `clip` is the largest norm, 0 where gradients are not clipped.
inline int begin(const Settings& s, const CLI::App& app, programs::SavedRun& run,
                 remat::distributed::ShardedAdamW& adamw, int& steps, double clip) {
  const bool is_folder = std::filesystem::is_directory(s.model);
  return run.begin(app, "adamw", adamw, steps,
                   {.files = {{"text of --data", s.data},
                              {"model", is_folder ? programs::in_folder(s.model, "config.json") : s.model}},
                    .values = {{"clipping", clip > 0 ? "yes" : "none, updates are made in backward or --clip is 0"}},
                    .free_flags = {"memory", "policy", "epochs", "minutes", "eval-batches", "questions",
                                   "answer-length", "merge", "export", "skip-bad-lines"}});
}

/// All weights, as the model's own format has them.
inline void save_all(const Settings& s, const remat::ParameterRegistry& parameters, const Model& model) {
  const std::string name = std::filesystem::is_directory(s.model) ? "model" : "model.gguf";
  try {
    model.save(programs::in_folder(s.out, name));
    std::cout << "wrote " << s.out << "/train.jsonl, " << name << '\n';
  } catch (const remat::Error& error) {  // what was learned is not lost
    remat::io::save_safetensors(parameters, programs::in_folder(s.out, "weights.safetensors"));
    std::cout << "wrote " << s.out << "/train.jsonl, weights.safetensors; no " << name << ": " << error.what() << '\n';
  }
}

/// The adapters in two formats, or all weights.
inline void save_trained(const Settings& s, const remat::ParameterRegistry& parameters, const Model& model,
                         const std::optional<remat::nn::Lora<float>>& lora) {
  if (lora) {
    const auto& loaded = of_floats(model);
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
    save_all(s, parameters, model);
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
