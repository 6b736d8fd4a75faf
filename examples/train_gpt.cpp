// Trains a character-level GPT on a text file, then writes weights and a sample.
//
//   train_gpt --data FILE [--steps N] [--remat POLICY] ...      (--help lists every flag)
//   train_gpt --data FILE --preset nanogpt-cpu                  nanoGPT's CPU setting; validation loss about 1.89 nats
#include <algorithm>
#include <iostream>
#include <memory>
#include <remat/data.hpp>
#include <remat/distributed.hpp>
#include <remat/io.hpp>
#include <remat/models.hpp>
#include <remat/remat.hpp>

#include "ranks.hpp"
#include "run_program.hpp"
#include "train_gpt/model.hpp"
#include "train_gpt/pace.hpp"
#include "train_gpt/run_steps.hpp"
#include "train_gpt/saving.hpp"
#include "train_gpt/settings.hpp"
#include "train_gpt/start.hpp"
#include "train_gpt/step.hpp"

namespace {

using remat::distributed::Group;
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

/// Ranks work on parts of the batch: without the flag as many as divide it and leave no rank without one, at least 4,
/// so that up to 4 ranks cut it alike.
void choose_micro_batches(Settings& s, const CLI::App& app, const Group& group) {
  if (group.size() > 1 && app.count("--micro-batches") == 0) {
    s.micro_batches = std::min(s.batch, std::max(4, group.size()));
    while (s.batch % s.micro_batches != 0) ++s.micro_batches;
    std::cout << s.micro_batches << " micro-batches, for " << group.size() << " ranks; --micro-batches "
              << s.micro_batches << " gives the same bits on any number of them\n";
  }
}
void check_micro_batches(const Settings& s, const Group& group) {
  remat::require(s.batch % s.micro_batches == 0, "--micro-batches ", s.micro_batches, " does not divide --batch ",
                 s.batch);
  remat::require(s.micro_batches >= group.size(), "--micro-batches ", s.micro_batches, " leave some of ", group.size(),
                 " ranks nothing to do");
}

/// What follows when the optimizer is made.
template <class Optimizer>
int train(Settings& s, const CLI::App& app, const Group& group, const std::string& ranks,
          const remat::ParameterRegistry& parameters, train_gpt::Model& gpt, const remat::data::TextCorpus& corpus,
          const std::vector<std::int32_t>& prompt, Optimizer& adamw) {
  const auto batches = corpus.train_batches(s.batch, s.context, s.seed);
  const auto validation = corpus.validation_batches(s.batch, s.context);
  const auto plan = [&] {
    return remat::plan(
        [&](remat::Tape& tape) { return gpt.loss(tape, batches.at(0).rows(0, s.batch / s.micro_batches)); });
  };
  const auto keep_to_memory = [&] {
    if (s.memory > 0) gpt.set_remat(plan().within(static_cast<std::size_t>(s.memory) << 20));
  };
  if (s.plan) {
    std::cout << plan();
    return 0;
  }
  keep_to_memory();
  if (group.is_first()) programs::make_folder(s.out);
  const double peak_gflops = group.sum(remat::machine::peak_fma_gflops(remat::machine::threads()));
  train_gpt::print_start(s, app, parameters, corpus, peak_gflops, ranks);

  programs::SavedRun run(s.states, s.out, parameters, s.memory == 0, group);
  const int micro_batches = s.micro_batches, first = train_gpt::begin(s, app, run, adamw);
  check_micro_batches(s, group);
  if (s.micro_batches != micro_batches) keep_to_memory();  // the run began with another number
  remat::distributed::require_equal(group, parameters);
  std::unique_ptr<const remat::io::JsonLines> log;
  if (group.is_first()) {
    log.reset(new const auto(remat::io::JsonLines::before(programs::in_folder(s.out, "train.jsonl"), "step", first)));
    run.keep_log(*log);
  }
  Stepper step(s, gpt, parameters, batches, group);
  if (first == 0 && app.count("--steps") == 0 && s.preset.empty())
    train_gpt::choose_steps(s, app, step, parameters, validation.size(), group);
  const auto trace = train_gpt::run_steps(s, gpt, step, adamw, run, first, validation, log.get(), peak_gflops, group);
  if (!trace) return programs::stopped;
  if (!group.is_first()) return 0;
  train_gpt::save(s, parameters, *trace);
  train_gpt::show_and_save_sample(s, corpus.decode(gpt.generate(prompt, s.sample_length, s.temperature, s.seed)));
  return 0;
}

int train(const Settings& given, const CLI::App& app, const Group& group) {
  Settings s = given;
  const std::string ranks = programs::begin_ranks(group, s.threads);
  const remat::Policy policy = remat::policy::parse(s.remat);
  const auto corpus = s.corpus == "bytes" ? remat::data::TextCorpus::read_bytes(s.data)
                                          : remat::data::TextCorpus::read_characters(s.data);
  const std::vector<std::int32_t> prompt =
      s.prompt.empty() ? std::vector{corpus.tokens().front()} : corpus.encode(s.prompt);
  choose_micro_batches(s, app, group);
  check_micro_batches(s, group);

  remat::ParameterRegistry parameters(s.seed);
  const auto config = config_of(s, corpus.vocabulary_size(), policy);
  const std::unique_ptr<train_gpt::Model> gpt =
      s.dtype == "bf16" ? train_gpt::bfloat16_model(parameters / "gpt", config)
                        : std::make_unique<train_gpt::ModelOf<float>>(parameters / "gpt", config);
  const remat::optim::AdamWConfig adamw{.beta1 = s.beta1, .beta2 = s.beta2, .weight_decay = s.weight_decay};
  if (group.size() == 1) {
    remat::optim::AdamW whole(parameters, adamw);
    return train(s, app, group, ranks, parameters, *gpt, corpus, prompt, whole);
  }
  remat::distributed::ShardedAdamW shard(group, parameters, adamw);
  return train(s, app, group, ranks, parameters, *gpt, corpus, prompt, shard);
}

}  // namespace

int main(int argc, char** argv) {
  return programs::run_ranks(argc, argv, [&](const Group& group) {
    Settings settings;
    // The preset comes first, so that flags beside it win.
    for (int i = 1; i < argc; ++i) {
      const std::string flag = argv[i], next = i + 1 < argc ? argv[i + 1] : "";
      if (flag == "--preset=nanogpt-cpu" || (flag == "--preset" && next == "nanogpt-cpu"))
        train_gpt::apply_nanogpt_cpu(settings);
    }
    return programs::run_program(argc, argv, "train_gpt",
                                 "Trains a character-level GPT on a text file and prints a sample.", settings,
                                 train_gpt::add_options, [&](const Settings& s, const CLI::App& app) {
                                   return programs::or_stop_all(group, [&] { return train(s, app, group); });
                                 });
  });
}
