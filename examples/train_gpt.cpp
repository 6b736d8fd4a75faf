// Trains a character-level GPT on a text file, then writes weights and a sample.
//
//   train_gpt --data FILE [--steps N] [--remat POLICY] ...      (--help lists every flag)
//   train_gpt --data FILE --preset nanogpt-cpu                  nanoGPT's CPU setting; validation loss about 1.89 nats
#include <iostream>
#include <memory>
#include <remat/data.hpp>
#include <remat/io.hpp>
#include <remat/models.hpp>
#include <remat/remat.hpp>

#include "run_program.hpp"
#include "train_gpt/model.hpp"
#include "train_gpt/pace.hpp"
#include "train_gpt/run_steps.hpp"
#include "train_gpt/saving.hpp"
#include "train_gpt/settings.hpp"
#include "train_gpt/start.hpp"
#include "train_gpt/step.hpp"

namespace {

using train_gpt::Settings;
using train_gpt::Stepper;

remat::models::GptConfig config_of(const Settings& s, remat::Index vocabulary, const remat::Policy& policy) {
  return {.vocabulary = vocabulary,
          .context = s.context,
          .num_layers = s.layers,
          .model_dims = s.dims,
          .num_heads = s.heads,
          .num_kv_heads = s.kv_heads,
          .dropout = s.dropout,
          .bias = s.bias,
          .keep_head_gradients = policy == remat::policy::everything && s.memory == 0,
          .remat = policy,
          .remat_every = s.remat_every};
}

int train(const Settings& given, const CLI::App& app) {
  Settings s = given;
  if (s.threads > 0) omp_set_num_threads(s.threads);
  const remat::Policy policy = remat::policy::parse(s.remat);
  const auto corpus = s.corpus == "bytes" ? remat::data::TextCorpus::read_bytes(s.data)
                                          : remat::data::TextCorpus::read_characters(s.data);
  const std::vector<std::int32_t> prompt =
      s.prompt.empty() ? std::vector{corpus.tokens().front()} : corpus.encode(s.prompt);
  const auto batches = corpus.train_batches(s.batch, s.context, s.seed);
  const auto validation = corpus.validation_batches(s.batch, s.context);
  remat::require(s.batch % s.micro_batches == 0, "--micro-batches ", s.micro_batches, " does not divide --batch ",
                 s.batch);

  remat::ParameterRegistry parameters(s.seed);
  const auto config = config_of(s, corpus.vocabulary_size(), policy);
  const std::unique_ptr<train_gpt::Model> gpt =
      s.dtype == "bf16" ? train_gpt::bfloat16_model(parameters / "gpt", config)
                        : std::make_unique<train_gpt::ModelOf<float>>(parameters / "gpt", config);
  if (s.plan || s.memory > 0) {
    const auto plan = remat::plan(
        [&](remat::Tape& tape) { return gpt->loss(tape, batches.at(0).rows(0, s.batch / s.micro_batches)); });
    if (s.plan) {
      std::cout << plan;
      return 0;
    }
    gpt->set_remat(plan.within(static_cast<std::size_t>(s.memory) << 20));
  }
  programs::make_folder(s.out);
  const double peak_gflops = remat::machine::peak_fma_gflops(remat::machine::threads());
  train_gpt::print_start(s, app, parameters, corpus, peak_gflops);

  remat::optim::AdamW adamw(parameters, {.beta1 = s.beta1, .beta2 = s.beta2, .weight_decay = s.weight_decay});
  programs::SavedRun run(s.states, s.out, parameters, s.memory == 0);
  const int first = train_gpt::begin(s, app, run, adamw);
  const auto log = remat::io::JsonLines::before(programs::in_folder(s.out, "train.jsonl"), "step", first);
  run.keep_log(log);
  Stepper step(s, *gpt, parameters, batches);
  if (first == 0 && app.count("--steps") == 0 && s.preset.empty())
    train_gpt::choose_steps(s, app, step, parameters, validation.size());
  const auto trace = train_gpt::run_steps(s, *gpt, step, adamw, run, first, validation, log, peak_gflops);
  if (!trace) return programs::stopped;
  train_gpt::save(s, parameters, *trace);
  train_gpt::show_and_save_sample(s, corpus.decode(gpt->generate(prompt, s.sample_length, s.temperature, s.seed)));
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  Settings settings;
  // The preset comes first, so that flags beside it win.
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i], next = i + 1 < argc ? argv[i + 1] : "";
    if (flag == "--preset=nanogpt-cpu" || (flag == "--preset" && next == "nanogpt-cpu"))
      train_gpt::apply_nanogpt_cpu(settings);
  }
  return programs::run_program(argc, argv, "train_gpt",
                               "Trains a character-level GPT on a text file and prints a sample.", settings,
                               train_gpt::add_options, train);
}
