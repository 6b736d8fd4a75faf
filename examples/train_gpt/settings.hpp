// What the flags of the trainer say.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>

#include "run_program.hpp"
#include "saved_run.hpp"

namespace train_gpt {

using programs::between;

struct Settings {
  std::string data, corpus = "characters", dtype = "float32", out = "out", preset, trace,
                    remat = "save_dot_except_logits", prompt;
  int steps = 1200, layers = 4, dims = 192, heads = 6, kv_heads = 0, context = 128, batch = 16, micro_batches = 1;
  int warmup = 100, eval_every = 200, eval_batches = 20, remat_every = 1, threads = 0, sample_length = 600, memory = 0,
      zero = 2;
  double lr = 2e-3, min_lr = 2e-4, beta1 = 0.9, beta2 = 0.99, weight_decay = 0.1, clip = 1, dropout = 0;
  double temperature = 0.8;
  bool bias = false, plan = false;
  std::uint64_t seed = 1337;
  programs::StateSettings states{};
};

// nanoGPT's CPU setting (config/train_shakespeare_char.py with the overrides of its README).
inline void apply_nanogpt_cpu(Settings& s) {
  s.layers = 4, s.heads = 4, s.dims = 128, s.context = 64, s.batch = 12, s.steps = 2000;
  s.lr = 1e-3, s.min_lr = 1e-4, s.warmup = 100, s.beta2 = 0.99, s.clip = 1, s.weight_decay = 0.1;
  s.bias = false, s.dropout = 0, s.eval_every = 250, s.remat = "everything";
}

inline void add_options(CLI::App& app, Settings& s) {
  const auto positive = CLI::Range(1, 1 << 30);
  const auto not_negative = CLI::Range(0, 1 << 30);
  const auto fraction = between(0, 0.999999);
  const auto above_zero = between(1e-12, 1e12);
  app.add_option("--data", s.data, "text file to learn")->required()->check(CLI::ExistingFile);
  app.add_option("--corpus", s.corpus, "tokens of the text")->check(CLI::IsMember({"characters", "bytes"}));
  app.add_option("--preset", s.preset, "settings as a start; other flags override them")
      ->check(CLI::IsMember({"nanogpt-cpu"}));
  app.add_option("--dtype", s.dtype, "of activations; bf16 keeps float parameters, sums and statistics")
      ->check(CLI::IsMember({"float32", "bf16"}));
  app.add_option("--steps", s.steps,
                 "optimizer steps; without this flag as many as take about 100 s here, and no more than")
      ->check(positive);
  app.add_option("--layers", s.layers, "transformer layers")->check(positive);
  app.add_option("--dims", s.dims, "model width")->check(positive);
  app.add_option("--heads", s.heads, "query heads")->check(positive);
  app.add_option("--kv-heads", s.kv_heads, "key/value heads; 0: as many as query heads")->check(not_negative);
  app.add_option("--context", s.context, "tokens of a sequence")->check(positive);
  app.add_option("--batch", s.batch, "sequences of a step")->check(positive);
  app.add_option("--micro-batches", s.micro_batches, "parts of a batch, one after another: memory of a part alone")
      ->check(positive);
  app.add_option("--lr", s.lr, "highest learning rate")->check(above_zero);
  app.add_option("--min-lr", s.min_lr, "last learning rate")->check(between(0, 1e12));
  app.add_option("--warmup", s.warmup, "steps of linear warmup")->check(not_negative);
  app.add_option("--beta1", s.beta1, "AdamW")->check(fraction);
  app.add_option("--beta2", s.beta2, "AdamW")->check(fraction);
  app.add_option("--weight-decay", s.weight_decay, "AdamW, matrices only")->check(between(0, 1e12));
  app.add_option("--clip", s.clip, "largest gradient norm")->check(above_zero);
  app.add_option("--dropout", s.dropout, "probability of dropping")->check(fraction);
  app.add_flag("--bias,!--no-bias", s.bias, "biases in linear layers and norms");
  app.add_option("--seed", s.seed, "of initial values, batches, dropout and the sample")->check(programs::seed());
  app.add_option("--remat", s.remat, "remat policy: \"nothing\", \"dots & !batched\", \"save_out_proj\", ...");
  app.add_option("--remat-every", s.remat_every, "layers to a checkpoint region")->check(positive);
  app.add_option(
         "--memory", s.memory,
         "MiB of activations, and of gradients that wait for those of other micro-batches, at most: the fastest "
         "policy within it; 0: --remat decides")
      ->check(not_negative);
  app.add_option("--zero", s.zero, "of several ranks, each keeps its shard of the moments (1), and of gradients (2)")
      ->check(CLI::Range(1, 2));
  app.add_flag("--plan", s.plan, "print what a step would take under every policy, and exit");
  app.add_option("--eval-every", s.eval_every, "steps between validation losses")->check(positive);
  app.add_option("--eval-batches", s.eval_batches, "batches of a validation loss; the last one sees the whole split")
      ->check(positive);
  app.add_option("--sample-length", s.sample_length, "characters to generate")->check(not_negative);
  app.add_option("--temperature", s.temperature, "of the sample; 0: always the likeliest")->check(between(0, 100));
  app.add_option("--prompt", s.prompt, "beginning of the sample; without it the first character of the text");
  app.add_option("--threads", s.threads, "OpenMP threads; 0: the system's choice")->check(programs::threads());
  app.add_option("--trace", s.trace, "file for a time line of the last step, for ui.perfetto.dev");
  app.add_option("--out", s.out, "folder for train.jsonl, model.safetensors, sample.txt, and states to resume from");
  programs::add_state_options(app, s.states);
  // CLI11 itself would list the values of an unknown flag as well.
  app.allow_extras()->callback([&app] {
    const auto extras = app.remaining();
    if (extras.empty()) return;
    const auto flag = std::find_if(extras.begin(), extras.end(), [](const auto& text) { return text[0] == '-'; });
    throw CLI::ParseError("there is no flag " + (flag == extras.end() ? extras.front() : *flag),
                          CLI::ExitCodes::ExtrasError);
  });
}

}  // namespace train_gpt
