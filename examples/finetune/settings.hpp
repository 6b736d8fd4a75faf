// What the flags of the finetuner say.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "run_program.hpp"
#include "saved_run.hpp"

namespace finetune {

struct Settings {
  std::string model, data, out = "finetuned", policy, base = "as-stored", dtype = "float32", exported;
  std::vector<std::string> lora{"*/attention/*", "*/ffn/*"};
  int memory = 400, rank = 8, context = 512, batch = 4, micro_batches = 0, steps = 0, epochs = 0, warmup = 10,
      threads = 0;
  int eval_batches = 6, questions = 3, answer_length = 60;
  double alpha = 16, dropout = 0, lr = 5e-4, clip = 1, held_out = 0.05, minutes = 8;
  bool full = false, rank_stabilized = false, skip_bad_lines = false, no_packing = false, merge = false, dora = false,
       lossy = false;
  std::uint64_t seed = 1;
  programs::StateSettings states{};
};

inline void add_options(CLI::App& app, Settings& s) {
  const auto positive = CLI::Range(1, 1 << 30);
  const auto not_negative = CLI::Range(0, 1 << 30);
  const auto above_zero = programs::between(1e-12, 1e12);
  const auto fraction = programs::between(0, 0.999999);
  app.add_option("--model", s.model, "GGUF file, or folder with config.json, tokenizer.json and safetensors")
      ->required()
      ->check(CLI::ExistingPath);
  app.add_option("--data", s.data, "JSON Lines: {\"messages\"}, {\"prompt\", \"completion\"} or {\"text\"}")
      ->required()
      ->check(CLI::ExistingFile);
  app.add_option("--memory", s.memory,
                 "MiB that the process may hold beside mapped files; the step is planned to keep it. 0: any, and "
                 "--policy decides")
      ->check(not_negative);
  app.add_option("--lora", s.lora, "patterns over the paths of linears that get an adapter, * any run of characters");
  app.add_option("--rank", s.rank, "of the adapters");
  app.add_option("--alpha", s.alpha, "adapters are scaled by alpha / rank")->check(above_zero);
  app.add_flag("--rank-stabilized", s.rank_stabilized, "by alpha / sqrt(rank)");
  app.add_option("--dropout", s.dropout, "on what adapters read")->check(fraction);
  app.add_flag("--dora", s.dora, "adapters that train the length of each column apart (Liu et al. 2024)");
  app.add_flag("--full", s.full, "train all weights, as floats, in the place of adapters");
  app.add_option("--dtype", s.dtype, "of activations, with --full; bf16 keeps float weights, sums and statistics")
      ->check(CLI::IsMember({"float32", "bf16"}));
  app.add_flag("--lossy", s.lossy,
               "what --memory keeps may be rounded to 16 or 8 bits, so that gradients are near, not equal");
  app.add_option("--base", s.base, "how matrices that are not trained are kept: in their file, or quantized anew")
      ->check(CLI::IsMember({"as-stored", "int8", "nf4", "floats"}));
  app.add_option("--policy", s.policy, "with --memory 0: the remat policy; without it nothing is recomputed");
  app.add_option("--context", s.context, "tokens of a row")->check(positive);
  app.add_option("--batch", s.batch, "rows of a step")->check(positive);
  app.add_option("--micro-batches", s.micro_batches,
                 "parts of a batch, one after another; 0: as the plan for --memory has it, by several ranks at least 4")
      ->check(not_negative);
  app.add_flag("--no-packing", s.no_packing, "one sample to a row");
  app.add_flag("--skip-bad-lines", s.skip_bad_lines, "count malformed lines of --data and go on");
  app.add_option("--steps", s.steps, "optimizer steps; 0: by --epochs or --minutes")->check(not_negative);
  app.add_option("--epochs", s.epochs, "times that all data is seen; 0: by --minutes")->check(not_negative);
  app.add_option("--minutes", s.minutes,
                 "time of training where neither --steps nor --epochs is given, one epoch at most")
      ->check(above_zero);
  app.add_option("--lr", s.lr, "highest learning rate")->check(above_zero);
  app.add_option("--warmup", s.warmup, "steps of linear warmup")->check(not_negative);
  app.add_option("--clip", s.clip,
                 "largest gradient norm; 0: any. With --full, where nothing else fits into --memory and this flag is "
                 "not given, weights are updated in backward and not clipped")
      ->check(programs::between(0, 1e12));
  app.add_option("--held-out", s.held_out, "part of the data that is not learned but evaluated")
      ->check(programs::between(1e-9, 0.999999));
  app.add_option("--eval-batches", s.eval_batches, "batches of the held-out loss")->check(positive);
  app.add_option("--questions", s.questions, "held-out questions that are answered before and after")
      ->check(not_negative);
  programs::add_state_options(app, s.states);
  app.add_option("--answer-length", s.answer_length, "tokens of an answer at most")->check(positive);
  app.add_flag("--merge", s.merge, "also write the model with its adapters merged, as floats");
  app.add_option("--threads", s.threads, "OpenMP threads; 0: the system's choice")->check(programs::threads());
  app.add_option("--seed", s.seed, "of adapters, batches, dropout and the held-out part")->check(programs::seed());
  app.add_option("--export", s.exported,
                 "folder for the batches of --steps and of the held-out loss, and for the adapters as they begin; then "
                 "stop: for comparisons with other programs");
  app.add_option("--out", s.out, "folder for train.jsonl and what was learned");
}

}  // namespace finetune
