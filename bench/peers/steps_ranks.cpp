// One measurement of `./run bench ranks`: steps of a GPT by as many ranks as mpirun started, in data parallel or with
// one sequence that they share, as a line of JSON.
#include <algorithm>
#include <chrono>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <remat/core/process_memory.hpp>
#include <span>
#include <string>
#include <vector>

#include "../gpt_training.hpp"
#include "../model_options.hpp"
#include "ranks.hpp"

namespace {

using remat::distributed::Group;
using Clock = std::chrono::steady_clock;

struct Settings {
  int layers = 6, dims = 512, heads = 8, context = 512, batch = 16, vocabulary = 8192;
  int micro_batches = 4, steps = 3, threads = 1, zero = 2;
  std::size_t fit = 0;
  bool is_tied = false, is_ring = false;
  std::string policy = "everything";
};

void add_options(CLI::App& app, Settings& s) {
  const auto positive = CLI::Range(1, 1 << 30);
  bench::add_model_options(app, s);
  app.add_option("--micro-batches", s.micro_batches, "parts of a batch")->check(positive);
  app.add_option("--steps", s.steps, "that are measured, after one that is not")->check(positive);
  app.add_option("--threads", s.threads, "of each rank")->check(positive);
  app.add_option("--zero", s.zero, "moments (1) or gradients too (2) in shards")->check(CLI::Range(1, 2));
  app.add_flag("--tied", s.is_tied, "the head is the token embedding");
  app.add_flag("--ring", s.is_ring, "one sequence, of `context` tokens a rank, that all ranks share");
  app.add_option("--policy", s.policy, "what layers keep until backward");
  app.add_option("--fit", s.fit, "with --ring, bytes of a rank: says which context fits, by plans");
}

remat::models::GptConfig config_of(const Settings& s, remat::Index context) {
  return {.vocabulary = s.vocabulary,
          .context = context,
          .num_layers = s.layers,
          .model_dims = s.dims,
          .num_heads = s.heads,
          .tied_head = s.is_tied,
          .keep_head_gradients = !s.is_ring,  // long sequences have long logits
          .remat = remat::policy::parse(s.policy)};
}

double most_of(const Group& group, double mine) {
  const auto each = group.gather(mine);
  return *std::max_element(each.begin(), each.end());
}

/// Medians of steps, one of which is not counted: `step(i)` returns what it took.
template <class Step>
nlohmann::ordered_json timed_steps(const Group& group, const Settings& s, Step&& step) {
  std::vector<double> seconds, communication, waited;
  std::size_t sent = 0;
  for (int i = 0; i <= s.steps; ++i) {
    group.barrier();
    const std::size_t before = group.transfers().bytes;
    const programs::StepSeconds took = step(i);
    sent = group.transfers().bytes - before;
    if (i == 0) continue;
    seconds.push_back(took.all), communication.push_back(took.communication), waited.push_back(took.waited);
  }
  return {{"ranks", group.size()},
          {"threads", s.threads},
          {"seconds", seconds},
          {"communication", group.gather(std::span<const double>(communication))},
          {"waited", group.gather(std::span<const double>(waited))},
          {"sent_bytes", sent},
          {"peak_bytes", most_of(group, static_cast<double>(remat::machine::process_memory().peak_resident))}};
}

/// Data parallel: micro-batches of a batch.
nlohmann::ordered_json measure(const Settings& s, const Group& group) {
  programs::check_micro_batches(s.batch, s.micro_batches, group);
  remat::ParameterRegistry parameters(1);
  const remat::models::Gpt<float> gpt(parameters / "gpt", config_of(s, s.context));
  const auto text = bench::learnable_tokens(static_cast<std::size_t>(2 * s.batch * s.context), s.vocabulary);
  const remat::data::RandomBatches batches(text, s.batch, s.context, 1);
  programs::RankTraining training(group, parameters, {.beta2 = 0.99, .weight_decay = 0.1}, s.zero);
  double loss = 0;
  auto all = timed_steps(group, s, [&](int step) {
    const auto batch = batches.at(step);
    loss = training
               .gradients(s.batch, s.micro_batches, {.seed = 1, .step = step},
                          [&](remat::Tape& tape, remat::Index begin, remat::Index end) {
                            return gpt.loss(tape, batch.rows(begin, end)) * (1.0 / s.micro_batches);
                          })
               .loss;
    training.step(1e-3, remat::optim::clip_scale(training.norm(), 1.0));
    return training.seconds();
  });
  all.update({{"parameters", parameters.count()},
              {"tokens", s.batch * s.context},
              {"loss", loss},
              {"overlaps", group.size() > 1 && programs::overlaps()},
              {"moment_bytes", most_of(group, static_cast<double>(training.optimizer().state_bytes()))}});
  return all;
}

/// Context parallel: forward and backward of one long sequence, and what its activations take on a rank.
nlohmann::ordered_json measure_ring(const Settings& s, const Group& group) {
  const remat::distributed::ContextParallel context(group);
  const remat::Index tokens = s.context * remat::Index{group.size()};
  remat::ParameterRegistry parameters(1);
  const remat::models::Gpt<float> gpt(parameters / "gpt", config_of(s, tokens));
  const auto text = bench::learnable_tokens(static_cast<std::size_t>(2 * tokens + 2), s.vocabulary);
  const remat::data::RandomBatches batches(text, 1, tokens, 1);
  double loss = 0;
  std::size_t peak = 0;
  auto all = timed_steps(context.group(), s, [&](int step) {
    const auto part = context.part(batches.at(step));
    const double share = context.token_share(part.targets);
    const auto before = context.group().transfers();
    const auto start = Clock::now();
    remat::Tape tape({.seed = 1, .step = step, .ring = context.ring()});
    const auto mine = gpt.loss(tape, part) * share;
    tape.backward(mine);
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    const double communication = context.group().transfers().seconds - before.seconds;
    loss = group.sum(static_cast<double>(mine.item()));
    peak = tape.stats().peak_bytes;
    parameters.zero_grad();
    return programs::StepSeconds{seconds, communication, communication};
  });
  all.update({{"parameters", parameters.count()},
              {"tokens", tokens},
              {"loss", loss},
              {"activation_bytes", most_of(group, static_cast<double>(peak))}});
  return all;
}

/// The longest context, in steps of 64 tokens a rank, whose forward and backward keep to `s.fit` bytes of activations
/// on each rank.
nlohmann::ordered_json fit_ring(const Settings& s, const Group& group) {
  const remat::distributed::ContextParallel context(group);
  const auto peak = [&](remat::Index part) {
    const remat::Index tokens = part * group.size();
    remat::ParameterRegistry parameters(1);
    const remat::models::Gpt<float> gpt(parameters / "gpt", config_of(s, tokens));
    const remat::Tensor<std::int32_t> ids({1, part}, 0);
    const auto made = remat::plan([&](remat::Tape& tape) {
      tape.set_ring(context.ring());
      return gpt.loss(tape, remat::data::Batch{ids, ids});
    });
    return most_of(group, static_cast<double>(made.under(gpt.config.remat).stats.peak_bytes));
  };
  const remat::Index unit = 64;
  remat::Index low = 0, high = 1;  // in units: the first fits, the second does not
  while (peak(high * unit) <= static_cast<double>(s.fit)) low = high, high *= 2;
  while (high - low > 1) {
    const remat::Index middle = low + (high - low) / 2;
    (peak(middle * unit) <= static_cast<double>(s.fit) ? low : high) = middle;
  }
  return {{"ranks", group.size()}, {"fits", low * unit * group.size()}};
}

int run(const Settings& s, const Group& group) {
  programs::begin_ranks(group, s.threads);
  const auto all = s.fit > 0 ? fit_ring(s, group) : s.is_ring ? measure_ring(s, group) : measure(s, group);
  if (group.is_first()) std::cout << all << std::endl;
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  return programs::run_ranks(argc, argv, [&](const Group& group) {
    return programs::run_program(
        argc, argv, "steps_ranks", "Measures steps of a GPT by several ranks.", Settings(), add_options,
        [&](const Settings& s) { return programs::or_stop_all(group, [&] { return run(s, group); }); });
  });
}
