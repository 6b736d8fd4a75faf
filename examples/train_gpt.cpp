// Trains a character-level GPT on a text file, then writes weights and a sample.
//
//   train_gpt --data FILE [--steps N] [--remat POLICY] ...      (--help lists every flag)
//   train_gpt --data FILE --preset nanogpt-cpu                  nanoGPT's CPU setting; validation loss about 1.89 nats
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <memory>
#include <remat/data.hpp>
#include <remat/io.hpp>
#include <remat/models.hpp>
#include <remat/remat.hpp>

#include "run_program.hpp"
#include "text_of.hpp"
#include "train_gpt/model.hpp"

namespace {

using programs::between;
using programs::text_of;

struct Settings {
  std::string data, corpus = "characters", dtype = "float32", out = "out", preset, trace,
                    remat = "save_dot_except_logits", prompt;
  int steps = 1200, layers = 4, dims = 192, heads = 6, kv_heads = 0, context = 128, batch = 16, micro_batches = 1;
  int warmup = 100, eval_every = 200, eval_batches = 20, remat_every = 1, threads = 0, sample_length = 600, memory = 0;
  double lr = 2e-3, min_lr = 2e-4, beta1 = 0.9, beta2 = 0.99, weight_decay = 0.1, clip = 1, dropout = 0;
  double temperature = 0.8;
  bool bias = false, plan = false;
  std::uint64_t seed = 1337;
};

// nanoGPT's CPU setting (config/train_shakespeare_char.py with the overrides of its README).
void apply_nanogpt_cpu(Settings& s) {
  s.layers = 4, s.heads = 4, s.dims = 128, s.context = 64, s.batch = 12, s.steps = 2000;
  s.lr = 1e-3, s.min_lr = 1e-4, s.warmup = 100, s.beta2 = 0.99, s.clip = 1, s.weight_decay = 0.1;
  s.bias = false, s.dropout = 0, s.eval_every = 250, s.remat = "everything";
}

void add_options(CLI::App& app, Settings& s) {
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
  app.add_option("--steps", s.steps, "optimizer steps")->check(positive);
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
  app.add_option("--seed", s.seed, "of initial values, batches, dropout and the sample")->check(between(0, 0x1p64));
  app.add_option("--remat", s.remat, "remat policy: \"nothing\", \"dots & !batched\", \"save_out_proj\", ...");
  app.add_option("--remat-every", s.remat_every, "layers to a checkpoint region")->check(positive);
  app.add_option("--memory", s.memory, "MiB of activations at most: the fastest policy within it; 0: --remat decides")
      ->check(not_negative);
  app.add_flag("--plan", s.plan, "print what a step would take under every policy, and exit");
  app.add_option("--eval-every", s.eval_every, "steps between validation losses")->check(positive);
  app.add_option("--eval-batches", s.eval_batches, "batches of a validation loss; the last one sees the whole split")
      ->check(positive);
  app.add_option("--sample-length", s.sample_length, "characters to generate")->check(not_negative);
  app.add_option("--temperature", s.temperature, "of the sample; 0: always the likeliest")->check(between(0, 100));
  app.add_option("--prompt", s.prompt, "beginning of the sample; without it the first character of the text");
  app.add_option("--threads", s.threads, "OpenMP threads; 0: the system's choice")->check(not_negative);
  app.add_option("--trace", s.trace, "file for a time line of the last step, for ui.perfetto.dev");
  app.add_option("--out", s.out, "folder for train.jsonl, model.safetensors, sample.txt");
  // CLI11 itself would list the values of an unknown flag as well.
  app.allow_extras()->callback([&app] {
    const auto extras = app.remaining();
    if (extras.empty()) return;
    const auto flag = std::find_if(extras.begin(), extras.end(), [](const auto& text) { return text[0] == '-'; });
    throw CLI::ParseError("there is no flag " + (flag == extras.end() ? extras.front() : *flag),
                          CLI::ExitCodes::ExtrasError);
  });
}

// Mean loss over the first `most` batches, each weighted by its number of predicted tokens.
double validation_loss(const train_gpt::Model& gpt, const remat::data::SequentialBatches& batches, remat::Index most) {
  double total = 0, tokens = 0;
  for (remat::Index i = 0; i < std::min(most, batches.size()); ++i) {
    const remat::data::Batch batch = batches.at(i);
    remat::Tape tape({.mode = remat::Mode::evaluate});
    total += static_cast<double>(gpt.loss(tape, batch).item()) * static_cast<double>(batch.targets.size());
    tokens += static_cast<double>(batch.targets.size());
  }
  return total / tokens;
}

void print_start(const Settings& s, const CLI::App& app, const remat::ParameterRegistry& parameters,
                 const remat::data::TextCorpus& corpus, double peak_gflops) {
  const auto row = [](const std::string& name, const auto& value) {
    std::cout << "  " << std::left << std::setw(18) << name << value << '\n' << std::right;
  };
  std::cout << "remat " << remat::version() << '\n';
  for (const CLI::Option* option : app.get_options()) {
    const std::string name = option->get_single_name();
    if (name == "help" || name == "prompt" || name == "bias" || name == "plan") continue;
    row(name, option->count() > 0 ? option->as<std::string>() : option->get_default_str());
  }
  row("parameters",
      text_of("%lld in %zu tensors", static_cast<long long>(parameters.count()), parameters.entries().size()));
  row("tokens", text_of("%zu to train on, %zu to validate, vocabulary %lld", corpus.train_tokens().size(),
                        corpus.validation_tokens().size(), static_cast<long long>(corpus.vocabulary_size())));
  row("threads", text_of("%d of ", remat::machine::threads()) + remat::machine::affinity() + ", OMP_WAIT_POLICY " +
                     remat::machine::wait_policy());
  row("instructions", remat::machine::isa() + ", compiled for " + remat::machine::compiled_isa());
  row("FMA peak", text_of("%.0f GFLOP/s float32", peak_gflops));
  row("GEMM", remat::kernels::gemm_backend());
  row("policy", s.memory > 0 ? "planned, at most " + std::to_string(s.memory) + " MiB of activations"
                             : remat::policy::to_string(remat::policy::parse(s.remat)));
  std::cout << std::endl;
}

int train(const Settings& s, const CLI::App& app) {
  using Clock = std::chrono::steady_clock;
  namespace fs = std::filesystem;
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
  const int rows = s.batch / s.micro_batches;

  remat::ParameterRegistry parameters(s.seed);
  const remat::models::GptConfig config{.vocabulary = static_cast<int>(corpus.vocabulary_size()),
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
  const std::unique_ptr<train_gpt::Model> gpt =
      s.dtype == "bf16" ? train_gpt::bfloat16_model(parameters / "gpt", config)
                        : std::make_unique<train_gpt::ModelOf<float>>(parameters / "gpt", config);
  if (s.plan || s.memory > 0) {
    const auto plan = remat::plan([&](remat::Tape& tape) { return gpt->loss(tape, batches.at(0).rows(0, rows)); });
    if (s.plan) {
      std::cout << plan;
      return 0;
    }
    gpt->set_remat(plan.within(static_cast<std::size_t>(s.memory) << 20));
  }
  remat::optim::AdamW adamw(parameters, {.beta1 = s.beta1, .beta2 = s.beta2, .weight_decay = s.weight_decay});
  remat::optim::GlobalNorm global_norm(parameters);
  const remat::optim::WarmupCosine schedule{
      .peak = s.lr, .minimum = std::min(s.min_lr, s.lr), .warmup = std::min(s.warmup, s.steps - 1), .steps = s.steps};

  std::error_code failure;
  fs::create_directories(s.out, failure);
  remat::require(!failure, "--out: folder ", s.out, " cannot be made: ", failure.message());
  const auto log = remat::io::JsonLines::from_empty((fs::path(s.out) / "train.jsonl").string());
  const double peak_gflops = remat::machine::peak_fma_gflops(remat::machine::threads());
  print_start(s, app, parameters, corpus, peak_gflops);

  std::vector<remat::TraceSlice> trace;
  remat::io::ProgressLine progress(s.steps, 50);
  remat::io::StepTimes step_times;
  for (int step = 0; step < s.steps; ++step) {
    const auto start = Clock::now();
    const double lr = schedule(step);
    const auto batch = batches.at(step);
    std::size_t peak_bytes = 0;
    double loss = 0, flops = 0;
    for (int i = 0; i < s.micro_batches; ++i) {
      // Gradients add up to those of the whole batch: each part draws the masks that its rows have there.
      const auto part = batch.rows(i * rows, (i + 1) * rows);
      remat::Tape tape({.seed = s.seed,
                        .step = step,
                        .first_row = i * rows,
                        .rows = rows,
                        .trace = !s.trace.empty() && step + 1 == s.steps});
      const auto share = gpt->loss(tape, part) * (1.0 / s.micro_batches);
      tape.backward(share, i + 1 == s.micro_batches ? global_norm.in_backward() : remat::GradientHook());
      loss += static_cast<double>(share.item());
      const remat::TapeStats stats = tape.stats();
      peak_bytes = std::max(peak_bytes, stats.peak_bytes);
      // Model flops: what a step needs without remat, so that recomputing does not count as progress.
      flops += stats.forward_flops + stats.backward_flops - stats.replay_flops;
      trace = tape.trace();
    }
    double norm = 0;
    try {
      norm = global_norm.value();
      remat::require(std::isfinite(loss), "the loss is not finite; lower --lr");
    } catch (const remat::Error& error) {  // the step that one will look at: it has no other line
      log.write({{"step", step}, {"loss", loss}, {"lr", lr}, {"error", error.what()}});
      progress.note(text_of("step %d/%d  loss %.4f  lr %.2e  stopped", step + 1, s.steps, loss, lr));
      remat::fail("step ", step + 1, ": ", error.what());
    }
    adamw.step(lr, remat::optim::clip_scale(norm, s.clip));
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();

    const double mfu = flops / seconds / (peak_gflops * 1e9), tokens = double(s.batch) * s.context / seconds;
    nlohmann::ordered_json line{{"step", step},
                                {"loss", loss},
                                {"lr", lr},
                                {"grad_norm", norm},
                                {"ms", 1e3 * seconds},
                                {"tokens_per_s", tokens},
                                {"mfu", mfu},
                                {"activation_bytes", peak_bytes},
                                {"rss_bytes", remat::machine::resident_bytes()}};
    progress.show(step, text_of("step %d/%d  loss %.4f  lr %.2e  norm %.2f  %.1f ms  %.0f tok/s  %.0f%% of peak  "
                                "activations %s",
                                step + 1, s.steps, loss, lr, norm, 1e3 * seconds, tokens, 100 * mfu,
                                remat::io::readable_bytes(static_cast<double>(peak_bytes)).c_str()));
    const bool is_last = step + 1 == s.steps;
    if (is_last || (step + 1) % s.eval_every == 0) {
      const double value = validation_loss(*gpt, validation, is_last ? validation.size() : s.eval_batches);
      line["val_loss"] = value;
      progress.note(text_of("step %d  validation loss %.4f%s", step + 1, value,
                            is_last ? " over the whole validation split" : ""));
    }
    log.write(line);
    if (const std::string advice = step_times.advice(seconds); !advice.empty()) progress.note(advice);
  }
  progress.finish();

  const std::string weights = (fs::path(s.out) / "model.safetensors").string();
  remat::io::save_safetensors(parameters, weights);
  if (!s.trace.empty()) remat::io::save_trace(trace, s.trace);  // after the weights: a bad path must not cost them
  const auto sample = corpus.decode(gpt->generate(prompt, s.sample_length, s.temperature, s.seed));
  remat::io::ReplacedFile sample_file((fs::path(s.out) / "sample.txt").string());
  sample_file.file().write(sample + "\n");
  sample_file.commit();
  std::cout << "\n--- sample ---\n"
            << sample << "\n--------------\n"
            << "wrote " << s.out << "/train.jsonl, model.safetensors, sample.txt" << std::endl;
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  Settings settings;
  // The preset comes first, so that flags beside it win.
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i], next = i + 1 < argc ? argv[i + 1] : "";
    if (flag == "--preset=nanogpt-cpu" || (flag == "--preset" && next == "nanogpt-cpu")) apply_nanogpt_cpu(settings);
  }
  return programs::run_program(argc, argv, "train_gpt",
                               "Trains a character-level GPT on a text file and prints a sample.", settings,
                               add_options, train);
}
