// Adapts a language model from its files to instruction data, within a memory that is promised before the first step.
//
//   ./run finetune [--model FILE.gguf] [--data FILE.jsonl] [--memory MIB]      (--help lists every flag)
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <iomanip>
#include <iostream>
#include <memory>
#include <optional>
#include <remat/core/process_memory.hpp>
#include <remat/io.hpp>
#include <remat/plan/within_memory.hpp>
#include <remat/pretrained.hpp>
#include <string>
#include <vector>

#include "finetune/export.hpp"
#include "finetune/model.hpp"
#include "finetune/questions.hpp"
#include "finetune/saving.hpp"
#include "finetune/settings.hpp"
#include "finetune/step.hpp"
#include "machine_facts.hpp"
#include "ranks.hpp"
#include "text_of.hpp"

namespace {

using namespace finetune;
using programs::mib, programs::text_of;
using remat::Index;
using remat::distributed::Group;
using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

void row(const std::string& name, const std::string& value) {
  std::cout << "  " << std::left << std::setw(14) << name << value << '\n' << std::right;
}

remat::io::Matrices matrices_of(const Settings& s) {
  if (s.full || s.base == "floats") return remat::io::Matrices::numbers;
  if (s.base == "int8") return remat::io::Matrices::int8;
  return s.base == "nf4" ? remat::io::Matrices::nf4 : remat::io::Matrices::as_stored;
}

/// How steps are made: within the memory that was promised, or by the policy that was named.
struct Steps {
  Index parts = 1;
  std::optional<remat::StepWithinMemory> plan{};
  bool in_backward = false;  // weights are updated, and gradients are not clipped
};
/// Ranks make the same parts of a batch under one policy, each within the memory that was promised.
Steps plan_steps(const Settings& s, const CLI::App& app, const Group& group, Model& model,
                 const remat::ParameterRegistry& parameters, const Batch& batch) {
  const Index asked = s.micro_batches > 0 ? s.micro_batches
                      : group.size() > 1  ? programs::micro_batches_of(s.batch, group)
                                          : 0;
  if (asked > 0) programs::check_micro_batches(s.batch, static_cast<int>(asked), group);
  if (s.memory == 0) {
    if (!s.policy.empty()) model.set_remat(remat::policy::parse(s.policy));
    return {std::max<Index>(1, asked)};
  }
  const auto plan_of = [&](const remat::StepCut& cut) {
    model.set_chunks(cut.head_chunk, cut.ffn_chunk);
    return remat::plan(
        [&](remat::Tape& tape) { return share_of_loss(model, tape, batch.rows(0, cut.rows), batch.target_count()); });
  };
  model.set_remat(remat::policy::nothing);  // a region to each layer, of which the plan decides
  const std::size_t cast = s.dtype == "bf16" ? 2 : 0;
  remat::MemorySearch how{.state_bytes = 12 + cast, .may_be_lossy = s.lossy, .parts = asked};
  how.head_chunks = {16}, how.ffn_chunks = {64};
  // Gradients wait for others in the tree of micro-batches.
  how.waiting_bytes = [&](Index parts) {
    return 4 * static_cast<std::size_t>(remat::distributed::waiting_gradients(parts, group.size()));
  };
  if (s.full && group.size() == 1 && (app.count("--clip") == 0 || s.clip == 0)) how.in_backward_bytes = 8 + cast;
  // The first rank searches, for the one that holds most by now.
  const std::size_t memory = static_cast<std::size_t>(s.memory) << 20;
  const auto held = group.gather(static_cast<std::uint64_t>(remat::machine::process_memory().anonymous));
  how.more_bytes = *std::max_element(held.begin(), held.end()) - held.front();
  remat::StepWithinMemory chosen;
  const remat::Policy policy = remat::distributed::agree_on_policy(group, [&] {
    chosen = remat::plan_within_memory(memory, parameters, s.batch, plan_of, how);
    return chosen.policy.policy;
  });
  chosen.policy.policy = policy;
  for (Index* const number : {&chosen.parts, &chosen.cut.rows, &chosen.cut.head_chunk, &chosen.cut.ffn_chunk})
    *number = group.broadcast(*number);
  if (!group.is_first()) remat::hold_within(memory);
  model.set_chunks(chosen.cut.head_chunk, chosen.cut.ffn_chunk);
  model.set_remat(chosen.policy.policy);
  return {chosen.parts, chosen, chosen.in_backward};
}

/// What was chosen beside the policy, each with a comma behind it.
std::string choices(const Settings& s, const remat::StepWithinMemory& plan) {
  std::string all;
  const auto add = [&](bool is_so, const std::string& text) { all += is_so ? text + ", " : ""; };
  add(true, text_of("%lld part%s of %lld rows", static_cast<long long>(plan.parts), plan.parts > 1 ? "s" : "",
                    static_cast<long long>(s.batch / plan.parts)));
  add(plan.cut.head_chunk > 0, "the head by " + std::to_string(plan.cut.head_chunk) + " tokens");
  add(plan.cut.ffn_chunk > 0, "feed-forward by " + std::to_string(plan.cut.ffn_chunk) + " tokens");
  const std::size_t offloaded = plan.policy.stats.offloaded_bytes;
  add(offloaded > 0, text_of("%.0f MiB on disk", mib(offloaded)));
  add(plan.is_lossy(), "what is kept is rounded and gradients are near, not equal");
  add(plan.in_backward, std::string("updates in backward") + (s.clip > 0 ? " without clipping" : ""));
  return all;
}

void print_memory(const Settings& s, const Steps& steps) {
  if (!steps.plan) return;
  const remat::StepWithinMemory& plan = *steps.plan;
  row("promised", text_of("%d MiB beside mapped files: %.0f for weights, optimizer and all else, %.0f for a step",
                          s.memory, mib(plan.standing), mib(plan.budget)));
  row("chosen", choices(s, plan) + text_of("%s: %.0f MiB, about %.1f s a step",
                                           remat::policy::to_string(plan.policy.policy).substr(0, 60).c_str(),
                                           mib(plan.policy.stats.peak_bytes), plan.policy.seconds));
}

/// How many steps, by what the flags say or by the time that a few take; these change nothing.
int choose_steps(const Settings& s, const Group& group, programs::RankTraining& training, const Model& model,
                 const remat::ParameterRegistry& parameters, const remat::data::InstructionBatches& batches,
                 const Steps& how) {
  if (s.steps > 0) return s.steps;
  const auto epoch = static_cast<int>(batches.steps_per_epoch());
  if (s.epochs > 0) {
    const std::int64_t all = std::int64_t{s.epochs} * epoch;
    remat::require(all <= 1 << 30, "--epochs ", s.epochs, " of ", epoch, " steps are more than ", 1 << 30, " steps");
    return static_cast<int>(all);
  }
  const double seconds = programs::median_of_ranks(
      group,
      [&] {
        const auto drop = [](remat::ParameterEntry& entry) { entry.drop_grad(); };
        forward_backward(training, model, batches.at(0), 0, how.parts, s.seed,
                         how.in_backward ? remat::GradientHook(drop) : remat::GradientHook());
        parameters.zero_grad();
      },
      1, 1);
  const auto steps = static_cast<int>(remat::io::steps_within(60 * s.minutes, seconds, 10, epoch));
  std::cout << text_of("%d steps of about %.1f s: %s; --steps, --epochs or --minutes say otherwise\n", steps, seconds,
                       steps == epoch ? "all data once" : text_of("about %g minutes", s.minutes).c_str());
  return steps;
}

int finetune_model(const Settings& s, const CLI::App& app, const Group& group) {
  const std::string ranks = programs::begin_ranks(group, s.threads);
  remat::require(s.memory == 0 || s.policy.empty(), "--policy ", s.policy,
                 " is chosen by the plan where --memory is given; with --memory 0 it counts");
  remat::require(!s.merge || (!s.full && !std::filesystem::is_directory(s.model)),
                 "--merge writes a GGUF model with adapters merged: give a GGUF file, and no --full");
  if (s.full) {
    programs::refuse_flags(app, {"--dora", "--lora", "--rank", "--alpha", "--rank-stabilized", "--dropout"},
                           "is of adapters, of which --full has none");
    programs::refuse_flags(app, {"--base"}, "is of matrices that are not trained, of which --full has none");
  }
  remat::require(s.dtype == "float32" || s.full, "--dtype ", s.dtype,
                 " is of --full; adapters are trained beside activations in float32");
  remat::require(!s.lossy || s.memory > 0,
                 "--lossy is what --memory may choose; with --memory 0 write --policy "
                 "\"lossy::int8(...)\"");
  programs::make_folder(s.out);

  auto start = Clock::now();
  remat::ParameterRegistry parameters(s.seed);
  const std::unique_ptr<Model> loaded =
      s.dtype == "bf16" ? bfloat16_model(parameters / "model", s.model)
                        : std::make_unique<ModelOf<float>>(parameters / "model", s.model, matrices_of(s));
  Model& model = *loaded;
  const remat::text::Tokenizer& tokenizer = model.tokenizer();
  const double load_seconds = seconds_since(start);
  remat::require(model.context() == 0 || s.context <= model.context(), "--context ", s.context,
                 " is above the model's ", model.context());
  std::optional<remat::nn::Lora<float>> lora;
  if (!s.full)
    lora.emplace(parameters, parameters / "adapter",
                 remat::nn::LoraConfig{.targets = s.lora,
                                       .rank = s.rank,
                                       .alpha = s.alpha,
                                       .rank_stabilized = s.rank_stabilized,
                                       .dropout = s.dropout,
                                       .dora = s.dora});

  start = Clock::now();
  std::optional<remat::text::ChatFormat> format;  // a model without a template learned none: texts are as they are
  if (!model.chat_template().empty()) format = remat::text::recognize_chat(model.chat_template());
  const auto read_data = [&] {
    return remat::io::cached_instructions(
        programs::in_folder(s.out, "tokens.cache"), s.data, tokenizer,
        {.chat = format, .context = static_cast<std::size_t>(s.context), .skip_bad_lines = s.skip_bad_lines});
  };
  // The first rank writes what the others read.
  std::optional<decltype(read_data())> read;
  if (group.is_first()) read.emplace(read_data());
  group.barrier();
  if (!group.is_first()) read.emplace(read_data());
  const auto& data = *read;
  const remat::data::TokenSamples samples = data.samples();
  const auto split = remat::data::split_held_out(samples.size(), s.held_out, s.seed);
  const remat::data::InstructionBatchesConfig cut{
      .batch = s.batch, .length = s.context, .seed = s.seed, .is_packed = !s.no_packing, .name = s.data};
  const remat::data::InstructionBatches batches(samples, split.train, cut);
  const remat::data::SequentialInstructionBatches held_out(samples, split.held_out, cut);
  const double data_seconds = seconds_since(start);
  if (!s.exported.empty()) {
    remat::require(lora.has_value(), "--export writes adapters, of which --full has none");
    if (!group.is_first()) return 0;
    write_export(s, of_floats(model).model, *lora, batches, held_out);
    std::cout << "wrote " << s.exported << "/batches.safetensors, adapter\n";
    return 0;
  }

  std::cout << "remat " << remat::version() << '\n';
  row("model", text_of("%s, %.1f million parameters, read in %.1f s", s.model.c_str(),
                       1e-6 * static_cast<double>(parameters.count()), load_seconds));
  row("trained", text_of("%lld values in %s", static_cast<long long>(parameters.trainable_count()),
                         lora ? text_of("%zu adapters of rank %d%s", lora->parts().size(), s.rank,
                                        s.dora ? ", and magnitudes" : "")
                                    .c_str()
                         : s.dtype == "bf16" ? "all weights, which layers read as bfloat16"
                                             : "all weights"));
  const auto& counts = data.counts();
  row("data",
      text_of("%lld samples, %lld tokens, %lld to be learned; %lld cut, %lld without an answer, %lld malformed; "
              "read in %.1f s",
              static_cast<long long>(counts.samples), static_cast<long long>(counts.tokens),
              static_cast<long long>(counts.targets), static_cast<long long>(counts.cut),
              static_cast<long long>(counts.skipped), static_cast<long long>(counts.bad), data_seconds));
  row("batches",
      text_of("%d x %d tokens, %.0f%% of them data, %lld steps an epoch; %zu samples held out", s.batch, s.context,
              100 * batches.fill(), static_cast<long long>(batches.steps_per_epoch()), split.held_out.size()));
  if (group.size() > 1) row("ranks", ranks);
  for (const auto& [name, value] : programs::machine_facts(remat::machine::peak_fma_gflops(remat::machine::threads())))
    row(name, value);
  const Steps how = plan_steps(s, app, group, model, parameters, batches.at(0));
  print_memory(s, how);
  std::cout << std::endl;

  const std::vector<Question> questions = questions_of(tokenizer, samples, split.held_out, s.questions);
  remat::distributed::require_equal(group, parameters);
  const double before = held_out_loss(model, held_out, s.eval_batches, group);
  std::vector<std::string> first_answers;
  if (group.is_first())
    for (const Question& question : questions)
      first_answers.push_back(answer_of(model, tokenizer, question, s.answer_length));
  std::cout << text_of("held-out loss before: %.4f\n", before);

  // Every rank has all gradients, which the watch looks at.
  programs::RankTraining training(group, parameters, {.weight_decay = s.full ? 0.01 : 0}, 1);
  remat::optim::GradientWatch watch(parameters);
  programs::SavedRun run(s.states, s.out, parameters, s.memory == 0, group);  // a copy is not in the promise
  run.may_differ("parts of a batch", std::to_string(how.parts));
  if (how.plan) {
    run.may_differ("tokens of a piece of head and feed-forward",
                   text_of("%lld, %lld", static_cast<long long>(how.plan->cut.head_chunk),
                           static_cast<long long>(how.plan->cut.ffn_chunk)));
    run.may_differ("rounding of what is kept", how.plan->is_lossy() ? "some" : "none");
  }
  const double clip = how.in_backward ? 0 : s.clip;
  int steps = 0;
  const int first = begin(s, app, run, training.optimizer(), steps, clip);
  const auto log = programs::open_log(group, s.out, first == 0 ? 0 : first + 1);
  run.keep_log(log);
  if (first == 0) {
    steps = choose_steps(s, group, training, model, parameters, batches, how);
    if (log) log->write({{"step", 0}, {"held_out_loss", before}});
  }
  // A short run warms up for less, unless --warmup says how long.
  const int warmup = app.count("--warmup") > 0 ? s.warmup : std::min(s.warmup, steps / 4);
  const remat::optim::WarmupCosine schedule{.peak = s.lr, .minimum = s.lr / 10, .warmup = warmup, .steps = steps};
  {
    remat::io::ProgressLine progress(steps);
    for (int step = first; step < steps; ++step) {
      start = Clock::now();
      const double lr = schedule(step);
      const remat::GradientHook update = how.in_backward ? watch.in_backward(training.in_backward(lr)) : nullptr;
      const auto result = forward_backward(training, model, batches.at(step), step, how.parts, s.seed, update);
      watch.check();
      const double norm = how.in_backward ? std::nan("") : training.norm();
      if (!how.in_backward) training.step(lr, clip > 0 ? remat::optim::clip_scale(norm, clip) : 1);
      const double seconds = seconds_since(start);
      const auto memory = remat::machine::process_memory();
      if (log)
        log->write({{"step", step + 1},
                    {"loss", result.loss},
                    {"lr", lr},
                    {"grad_norm", norm},
                    {"ms", 1e3 * seconds},
                    {"tokens_per_s", double(s.batch) * s.context / seconds},
                    {"activation_bytes", result.peak_bytes},
                    {"anonymous_bytes", memory.anonymous},
                    {"peak_resident_bytes", memory.peak_resident}});
      progress.show(
          step, text_of("step %d/%d  loss %.4f  lr %.1e  %s  %.1f s  %.0f tok/s  %.0f MiB held", step + 1, steps,
                        result.loss, lr, how.in_backward ? "not clipped" : text_of("norm %.2f", norm).c_str(), seconds,
                        double(s.batch) * s.context / seconds, mib(memory.anonymous)));
      if (run.is_stopped(step + 1, steps, [&](const std::string& text) { progress.note(text); }))
        return programs::stopped;
    }
  }

  std::cout << training.communication();
  const double after = held_out_loss(model, held_out, s.eval_batches, group);
  if (!group.is_first()) return 0;
  log->write({{"step", steps}, {"held_out_loss", after}});
  std::cout << text_of("held-out loss %.4f -> %.4f\n\n", before, after);
  for (std::size_t i = 0; i < questions.size(); ++i)
    std::cout << questions[i].asked << "\n  before:    " << first_answers[i]
              << "\n  after:     " << answer_of(model, tokenizer, questions[i], s.answer_length)
              << "\n  the data:  " << questions[i].answer << "\n\n";

  save_trained(s, parameters, model, lora);
  const auto memory = remat::machine::process_memory();
  std::cout << text_of(
      "peak resident memory %.0f MiB, %.0f MiB now without files; files of %.0f MiB are mapped%s\n",
      mib(memory.peak_resident), mib(memory.anonymous), mib(memory.mapped_files),
      s.memory == 0 ? "" : text_of("; promised: %d + %.0f", s.memory, mib(memory.mapped_files)).c_str());
  if (s.merge) save_merged(s, of_floats(model), *lora);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  return programs::run_ranks(argc, argv, [&](const Group& group) {
    return programs::run_program(argc, argv, "finetune",
                                 "Adapts a language model to instruction data within a memory that was promised.",
                                 Settings{}, add_options, [&](const Settings& s, const CLI::App& app) {
                                   return programs::or_stop_all(group, [&] { return finetune_model(s, app, group); });
                                 });
  });
}
