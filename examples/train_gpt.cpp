// Trains a character-level GPT on a text file, then writes weights and a sample.
//
//   train_gpt --data FILE [--steps N] [--remat POLICY] ...      (--help lists every flag)
//   train_gpt --data FILE --preset nanogpt-cpu                  nanoGPT's CPU setting; validation loss about 1.89 nats
#include <cmath>
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

int train(const Settings& given, const CLI::App& app, const Group& group) {
  Settings s = given;
  const std::string ranks = programs::begin_ranks(group, s.threads);
  const remat::Policy policy = remat::policy::parse(s.remat);
  const auto corpus = s.corpus == "bytes" ? remat::data::TextCorpus::read_bytes(s.data)
                                          : remat::data::TextCorpus::read_characters(s.data);
  const std::vector<std::int32_t> prompt =
      s.prompt.empty() ? std::vector{corpus.tokens().front()} : corpus.encode(s.prompt);
  if (app.count("--micro-batches") == 0) s.micro_batches = programs::micro_batches_of(s.batch, group);
  programs::check_micro_batches(s.batch, s.micro_batches, group);

  remat::ParameterRegistry parameters(s.seed);
  const auto config = config_of(s, corpus.vocabulary_size(), policy);
  const std::unique_ptr<train_gpt::Model> gpt =
      s.dtype == "bf16" ? train_gpt::bfloat16_model(parameters / "gpt", config)
                        : std::make_unique<train_gpt::ModelOf<float>>(parameters / "gpt", config);
  const auto batches = corpus.train_batches(s.batch, s.context, s.seed);
  const auto validation = corpus.validation_batches(s.batch, s.context);
  const auto plan = [&] {
    return remat::plan(
        [&](remat::Tape& tape) { return gpt->loss(tape, batches.at(0).rows(0, s.batch / s.micro_batches)); });
  };
  const auto waiting = [&] {
    return remat::distributed::GradientSum(parameters, group).waiting_bytes(s.micro_batches);
  };
  const auto keep_to_memory = [&] {
    if (s.memory == 0) return;
    const std::size_t memory = static_cast<std::size_t>(s.memory) << 20;
    remat::require(waiting() < memory, "--memory ", s.memory, " MiB: gradients that wait for those of others of ",
                   s.micro_batches, " micro-batches take ", std::lround(programs::mib(waiting())),
                   "; give more, or fewer --micro-batches");
    gpt->set_remat(remat::distributed::agree_on_policy(group, [&] { return plan().within(memory - waiting()); }));
  };
  if (s.plan) {
    if (!group.is_first()) return 0;
    std::cout << plan();
    if (waiting() > 0)
      std::cout << "beside each: " << waiting() / 1024
                << " KiB of gradients that wait for those of other micro-batches\n";
    return 0;
  }
  keep_to_memory();
  if (group.is_first()) programs::make_folder(s.out);
  const double peak_gflops = group.sum(remat::machine::peak_fma_gflops(remat::machine::threads()));
  train_gpt::print_start(s, app, parameters, corpus, peak_gflops, ranks);

  programs::RankTraining training(group, parameters,
                                  {.beta1 = s.beta1, .beta2 = s.beta2, .weight_decay = s.weight_decay}, s.zero);
  programs::SavedRun run(s.states, s.out, parameters, s.memory == 0, group);
  const int micro_batches = s.micro_batches, first = train_gpt::begin(s, app, run, training.optimizer());
  programs::check_micro_batches(s.batch, s.micro_batches, group);
  if (s.micro_batches != micro_batches) keep_to_memory();  // the run began with another number
  remat::distributed::require_equal(group, parameters);
  const auto log = programs::open_log(group, s.out, first);
  run.keep_log(log);
  Stepper step(s, *gpt, batches, training);
  if (first == 0 && app.count("--steps") == 0 && s.preset.empty())
    train_gpt::choose_steps(s, app, step, parameters, validation.size(), group);
  const auto trace = train_gpt::run_steps(s, *gpt, step, run, first, validation, log.get(), peak_gflops, group);
  std::cout << training.communication();
  if (!trace) return programs::stopped;
  if (!group.is_first()) return 0;
  train_gpt::save(s, parameters, *trace);
  train_gpt::show_and_save_sample(s, corpus.decode(gpt->generate(prompt, s.sample_length, s.temperature, s.seed)));
  return 0;
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
