// Batches and first adapters for another program, so that it can be compared on the very same.
#pragma once

#include <filesystem>
#include <remat/data.hpp>
#include <remat/io.hpp>
#include <remat/pretrained.hpp>
#include <string>
#include <vector>

#include "finetune/settings.hpp"
#include "finetune/step.hpp"

namespace finetune {

/// `batches.safetensors` in the folder of --export: inputs, targets and segments of --steps batches one below the
/// other, and `held_out_` before the same names; `adapter` beside it.
inline void write_export(const Settings& s, const remat::models::Decoder<float>& model,
                         const remat::nn::Lora<float>& lora, const remat::data::InstructionBatches& batches,
                         const remat::data::SequentialInstructionBatches& held_out) {
  remat::require(s.steps > 0, "--export writes the batches of --steps; give their number");
  std::vector<remat::io::SafetensorsOutput> tensors;
  const auto add = [&](const std::string& before, const std::vector<Batch>& all) {
    const auto put = [&](const char* name, remat::Tensor<std::int32_t> Batch::*part) {
      std::vector<std::int32_t> ids;
      for (const Batch& batch : all) {
        const remat::Tensor<std::int32_t>& rows = batch.*part;
        ids.insert(ids.end(), rows.data(), rows.data() + rows.size());
      }
      const remat::Tensor<std::int32_t> whole({static_cast<remat::Index>(ids.size()) / s.context, s.context},
                                              std::span<const std::int32_t>(ids));
      tensors.push_back({before + name, remat::DType::int32, whole.shape(), [whole] { return whole.any(); }});
    };
    put("inputs", &Batch::inputs), put("targets", &Batch::targets), put("segments", &Batch::segments);
  };
  std::vector<Batch> train, evaluation;
  for (int step = 0; step < s.steps; ++step) train.push_back(batches.at(step));
  for (remat::Index i = 0; i < std::min<remat::Index>(s.eval_batches, held_out.size()); ++i)
    evaluation.push_back(held_out.at(i));
  add("", train);
  add("held_out_", evaluation);
  remat::io::save_peft(lora, model, s.exported + "/adapter", s.model);
  remat::io::save_safetensors(tensors, s.exported + "/batches.safetensors");
}

}  // namespace finetune
