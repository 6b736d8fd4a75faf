// SmolLM2-135M in its 4-bit file learns by adapters within a memory that is promised for the whole process, and every
// adapter learns.
#include <gtest/gtest.h>

#include <filesystem>
#include <remat/models.hpp>
#include <remat/pretrained.hpp>
#include <remat/remat.hpp>
#include <string>
#include <vector>

namespace {

using namespace remat;

constexpr Index rows = 4, length = 512;

Tensor<std::int32_t> text_ids(const text::Tokenizer& tokenizer, Index count, std::size_t shift) {
  std::vector<std::int32_t> ids = tokenizer.encode(
      "Rematerialization trades time for memory: a training step forgets most of what its forward pass computed, and "
      "computes it again when the backward pass asks for it. ");
  std::vector<std::int32_t> all;
  for (std::size_t i = 0; i < static_cast<std::size_t>(count * length); ++i)
    all.push_back(ids[(i + shift) % ids.size()]);
  return {{count, length}, std::span<const std::int32_t>(all)};
}

// Four sequences of 512 tokens, 2,442,240 values trained: 400 MiB beside the mapped file. Answers before the first step
// take caches of keys and values, whose blocks a step cannot use again.
TEST(SmolLm2Adapters, TheWholeProcessKeepsToItsMemory) {
  machine::share_malloc_arena();
  constexpr std::size_t promised = std::size_t{400} << 20;
  ParameterRegistry parameters(1);
  auto smollm = models::load<float>(parameters / "smollm", REMAT_SMOLLM2, {.matrices = io::Matrices::as_stored});
  const nn::Lora<float> lora(parameters, parameters / "lora", {});
  EXPECT_EQ(lora.parts().size(), 210U);
  EXPECT_EQ(parameters.trainable_count(), 2'442'240);
  EXPECT_GT(parameters.mapped_bytes(), 90'000'000U);
  smollm.model.set_remat(policy::nothing);
  const auto part = [&](Tape& tape, Index count) {
    return smollm.model.loss(tape, text_ids(smollm.tokenizer, count, 0), text_ids(smollm.tokenizer, count, 1));
  };
  const StepWithinMemory step = plan_within_memory(
      promised, parameters, rows, [&](Index count) { return plan([&](Tape& tape) { return part(tape, count); }); });
  smollm.model.set_remat(step.policy.policy);
  for (const char* question : {"The capital of France is", "A byte has", "The opposite of large is"})
    EXPECT_FALSE(smollm.model.generate(smollm.tokenizer.encode(question), {.length = 60, .temperature = 0}).empty());
  optim::AdamW adamw(parameters, {.weight_decay = 0});
  optim::GradientWatch watch(parameters);
  std::vector<float> losses;
  for (int i = 0; i < 3; ++i) {  // peaks grow after the first step
    float loss = 0;
    for (Index p = 0; p < step.parts; ++p) {
      const Index count = rows / step.parts;
      Tape tape({.step = i, .first_row = p * count, .rows = count});
      const auto share = part(tape, count) * (1.0 / static_cast<double>(step.parts));
      tape.backward(share);
      loss += share.item();
      EXPECT_EQ(tape.stats().peak_bytes, step.policy.stats.peak_bytes);
    }
    watch.check();
    adamw.step(1e-3);
    losses.push_back(loss);
  }
  EXPECT_LT(losses[2], losses[0]);
  const machine::ProcessMemory memory = machine::process_memory();
  EXPECT_LE(memory.peak_resident, promised + memory.mapped_files);
  EXPECT_LE(memory.anonymous, promised);
}

// An adapter is what it was in files for others.
TEST(SmolLm2Adapters, GoToFilesAndBack) {
  ParameterRegistry parameters(1);
  auto smollm = models::load<float>(parameters / "smollm", REMAT_SMOLLM2, {.matrices = io::Matrices::as_stored});
  const nn::Lora<float> lora(parameters, parameters / "lora", {.rank = 2});
  const RandomStream stream{.seed = 3};
  std::uint64_t at = 0;
  for (const auto& each : lora.parts()) {
    Tensor<float> up(each.up.shape());
    for (float& v : up.write()) v = static_cast<float>(0.01 * stream.normal(at++));
    each.up.set_value(up);
  }
  const auto answer = [&] {
    return smollm.model.generate(smollm.tokenizer.encode("The capital of France is"), {.length = 12, .temperature = 0});
  };
  const auto adapted = answer();
  const std::string file = testing::TempDir() + "remat_smollm2_adapter.gguf",
                    folder = testing::TempDir() + "remat_smollm2_adapter";
  io::save_gguf_lora(lora, smollm.model, file, smollm.architecture);
  io::save_peft(lora, smollm.model, folder);
  lora.deactivate();
  const auto base = answer();
  EXPECT_NE(adapted, base);
  const auto from_file = io::load_gguf_lora(parameters, parameters / "file", smollm.model, file);
  EXPECT_EQ(answer(), adapted);
  from_file.deactivate();
  EXPECT_EQ(answer(), base);
  const auto from_folder = io::load_peft(parameters, parameters / "folder", smollm.model, folder);
  EXPECT_EQ(answer(), adapted);
  std::filesystem::remove(file);
  std::filesystem::remove_all(folder);
}

}  // namespace
