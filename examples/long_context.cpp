// Trains a GPT on the bytes of a text at a context that plain attention could not hold: shows what plain, fused,
// blockwise and offloaded training would take, then trains the first of them that fits into the memory given.
//
//   ./run long [--context 8192] [--memory 128] [--variant blockwise] ...      (--help lists every flag)
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <iostream>
#include <remat/data.hpp>
#include <remat/io.hpp>

#include "long_variants.hpp"
#include "ranks.hpp"
#include "run_program.hpp"
#include "saved_run.hpp"
#include "text_of.hpp"

namespace {

using programs::mib;
using remat::distributed::Group;

struct Settings {
  long_context::Shape shape;
  std::string data, variant = "auto", offload_directory, out = "long";
  int steps = 20, batch = 1, memory = 128, threads = 0;
  double lr = 1e-3;
  std::uint64_t seed = 1;
  programs::StateSettings states{};
};

void add_options(CLI::App& app, Settings& s) {
  const auto positive = CLI::Range(1, 1 << 30);
  const auto not_negative = CLI::Range(0, 1 << 30);
  app.add_option("--data", s.data, "text file, whose bytes are learnt")->required()->check(CLI::ExistingFile);
  app.add_option("--context", s.shape.context, "bytes of a sequence")->check(positive);
  app.add_option("--batch", s.batch, "sequences of a step, one after another or by several ranks; unasked one a rank")
      ->check(positive);
  app.add_option("--memory", s.memory, "MiB of activations, their gradients and scratch at most")->check(positive);
  app.add_option("--variant", s.variant, "which to train; auto: the first that fits")
      ->check(CLI::IsMember({"auto", "plain", "fused", "blockwise", "offloaded"}));
  app.add_option("--steps", s.steps, "optimizer steps")->check(positive);
  app.add_option("--layers", s.shape.layers, "transformer layers")->check(positive);
  app.add_option("--dims", s.shape.dims, "model width")->check(positive);
  app.add_option("--heads", s.shape.heads, "attention heads")->check(positive);
  app.add_option("--hidden", s.shape.hidden, "width of the feed-forward layers")->check(positive);
  app.add_option("--query-chunk", s.shape.query_chunk, "queries whose layer is computed at a time")->check(positive);
  app.add_option("--key-chunk", s.shape.key_chunk, "keys to a block of attention; 0: a cache tile")
      ->check(not_negative);
  app.add_option("--ffn-chunk", s.shape.ffn_chunk, "tokens to a piece of feed-forward; 0: a query chunk")
      ->check(not_negative);
  app.add_option("--lr", s.lr, "learning rate")->check(programs::between(1e-12, 1e12));
  app.add_option("--offload-directory", s.offload_directory, "for `offloaded`; the system's temporary folder if empty");
  app.add_option("--threads", s.threads, "OpenMP threads; 0: the system's choice")->check(programs::threads());
  app.add_option("--seed", s.seed, "of initial values and batches")->check(programs::seed());
  app.add_option("--out", s.out, "folder for train.jsonl, and states to resume from");
  programs::add_state_options(app, s.states);
}

// Prints what each variant would take; returns the one to train.
long_context::Variant chosen(const Settings& s) {
  const auto variants = long_context::variants();
  const long_context::Variant* choice = nullptr;
  std::printf("%-10s %12s %12s %10s\n", "variant", "peak MiB", "held MiB", "s a step");
  for (const auto& variant : variants) {
    const remat::PlannedPolicy plan = long_context::Planner(s.shape, variant).at(s.shape.context);
    const double peak = mib(plan.stats.peak_bytes);
    const bool fits = peak <= s.memory;
    std::printf("%-10s %12.1f %12.1f %10.2f  %s%s\n", variant.name.c_str(), peak, mib(plan.stats.saved_bytes),
                plan.seconds, variant.what.c_str(), fits ? "" : " (too large)");
    remat::require(fits || s.variant != variant.name, "--variant ", variant.name, " takes ", std::lround(peak),
                   " MiB, --memory is ", s.memory);
    if (choice == nullptr && (s.variant == "auto" ? fits : s.variant == variant.name)) choice = &variant;
  }
  remat::require(choice != nullptr, "--memory: none of the variants keeps a step within ", s.memory,
                 " MiB; give more, or a smaller --context");
  return *choice;
}

int train(const Settings& given, const CLI::App& app, const Group& group) {
  Settings s = given;
  const std::string ranks = programs::begin_ranks(group, s.threads);
  if (app.count("--batch") == 0) s.batch = group.size();
  remat::require(s.batch >= group.size(), "--batch ", s.batch, " leaves some of ", group.size(),
                 " ranks nothing to do");
  const auto corpus = remat::data::TextCorpus::read_bytes(s.data);
  const auto batches = corpus.train_batches(s.batch, s.shape.context, s.seed);
  std::printf(
      "GPT over bytes: %d layers of %d dims, %d heads, context %d; %d threads, OMP_WAIT_POLICY %s, %s, GEMM %s\n\n",
      s.shape.layers, s.shape.dims, s.shape.heads, s.shape.context, remat::machine::threads(),
      remat::machine::wait_policy().c_str(), remat::machine::isa().c_str(), remat::kernels::gemm_backend());
  if (group.size() > 1) std::printf("ranks: %s; %d sequences a step\n\n", ranks.c_str(), s.batch);
  // The first rank plans, for all.
  const std::string name = group.broadcast(group.is_first() ? chosen(s).name : std::string());
  const auto variants = long_context::variants();
  const long_context::Variant variant =
      *std::find_if(variants.begin(), variants.end(), [&](const auto& each) { return each.name == name; });

  remat::ParameterRegistry parameters(s.seed);
  const remat::models::Gpt<float> gpt(parameters / "gpt", long_context::config_of(s.shape, variant));
  remat::distributed::require_equal(group, parameters);
  programs::RankTraining training(group, parameters, {});
  const double weights = programs::mib(parameters.bytes());  // there are no gradients yet
  std::printf("\ntraining: %s; beside its peak, %.1f million parameters with gradients and AdamW take %.0f MiB\n",
              variant.name.c_str(), 1e-6 * static_cast<double>(parameters.count()),
              weights * (2 + 2.0 / group.size()) + programs::mib(training.sum().waiting_bytes(s.batch)));
  if (group.is_first()) programs::make_folder(s.out);
  programs::SavedRun run(s.states, s.out, parameters, false, group);  // a copy is not within --memory
  int steps = s.steps;
  const int first = run.begin(app, "adamw", training.optimizer(), steps,
                              {.files = {{"text of --data", s.data}},
                               .values = {{"the number of sequences", std::to_string(s.batch)},
                                          {"the variant", variant.name}},  // they sum in other orders
                               .free_flags = {"memory", "variant", "offload-directory", "batch"}});
  const auto log = programs::open_log(group, s.out, first);
  run.keep_log(log);
  remat::io::StepTimes step_times;
  for (int step = first; step < steps; ++step) {
    const auto start = std::chrono::steady_clock::now();
    const auto batch = batches.at(step);
    const auto result =
        training.gradients(s.batch, s.batch, {.seed = s.seed, .step = step, .offload_directory = s.offload_directory},
                           [&](remat::Tape& tape, remat::Index begin, remat::Index end) {
                             return gpt.loss(tape, batch.rows(begin, end)) * (1.0 / s.batch);
                           });
    const double loss = result.loss;
    double norm = 0;
    try {
      norm = training.norm();
      remat::require(std::isfinite(loss), "the loss is not finite; lower --lr");
    } catch (const remat::Error& error) {  // the step that one will look at: it has no other line
      std::printf("step %d/%d  loss %.4f  stopped\n", step + 1, steps, loss);
      std::fflush(stdout);
      remat::fail("step ", step + 1, ": ", error.what());
    }
    training.step(s.lr, remat::optim::clip_scale(norm, 1.0));
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    std::printf("step %d/%d  loss %.4f  %.2f s  %.0f tokens/s  peak %.1f MiB  offloaded %.1f MiB  resident %.0f MiB\n",
                step + 1, steps, loss, seconds, double(s.batch) * s.shape.context / seconds, mib(result.peak_bytes),
                mib(result.offloaded_bytes), mib(remat::machine::resident_bytes()));
    if (const std::string advice = step_times.advice(seconds); !advice.empty()) std::printf("%s\n", advice.c_str());
    std::fflush(stdout);
    if (log) log->write({{"step", step}, {"loss", loss}, {"grad_norm", norm}, {"ms", 1e3 * seconds}});
    if (run.is_stopped(step + 1, steps, [](const std::string& text) { std::printf("%s\n", text.c_str()); }))
      return programs::stopped;
  }
  std::cout << training.communication();
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  return programs::run_ranks(argc, argv, [&](const Group& group) {
    return programs::run_program(
        argc, argv, "long_context",
        "Trains a GPT on the bytes of a text, at a context that plain attention could not hold.", Settings(),
        add_options, [&](const Settings& s, const CLI::App& app) {
          return programs::or_stop_all(group, [&] { return train(s, app, group); });
        });
  });
}
