// One measurement of `./run bench ranks`: steps of a GPT by as many ranks as mpirun started, as a line of JSON.
#include <algorithm>
#include <chrono>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <remat/core/process_memory.hpp>
#include <utility>
#include <vector>

#include "../gpt_training.hpp"
#include "../model_options.hpp"
#include "ranks.hpp"

namespace {

using remat::distributed::Group, remat::distributed::Transport;
using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

/// Another transport, and the time that its calls take, waiting for other ranks included.
class Timed final : public Transport {
 public:
  explicit Timed(Group of) : of_(std::move(of)) {}
  double seconds = 0;
  std::size_t bytes = 0;  // sent

  int rank() const override { return of_.rank(); }
  int size() const override { return of_.size(); }
  void send(std::span<const std::byte> out, int to) override {
    timed(out.size(), [&] { of_.transport().send(out, to); });
  }
  void receive(std::span<std::byte> in, int from) override {
    timed(0, [&] { of_.transport().receive(in, from); });
  }
  void exchange(std::span<const std::byte> out, int to, std::span<std::byte> in, int from) override {
    timed(out.size(), [&] { of_.transport().exchange(out, to, in, from); });
  }
  void broadcast(std::span<std::byte> all, int from) override {
    timed(from == rank() ? all.size() : 0, [&] { of_.transport().broadcast(all, from); });
  }
  std::shared_ptr<Transport> split(int color) override { return of_.transport().split(color); }
  std::shared_ptr<Transport> on_one_machine() override { return of_.transport().on_one_machine(); }
  [[noreturn]] void stop_all(int code) override {
    of_.transport().stop_all(code);
    std::abort();
  }

 private:
  template <class Call>
  void timed(std::size_t sent, Call&& call) {
    const auto start = Clock::now();
    call();
    seconds += seconds_since(start);
    bytes += sent;
  }
  Group of_;
};

struct Settings {
  int layers = 6, dims = 512, heads = 8, context = 512, batch = 16, vocabulary = 8192;
  int micro_batches = 4, steps = 3, threads = 1, zero = 2;
};

void add_options(CLI::App& app, Settings& s) {
  const auto positive = CLI::Range(1, 1 << 30);
  bench::add_model_options(app, s);
  app.add_option("--micro-batches", s.micro_batches, "parts of a batch")->check(positive);
  app.add_option("--steps", s.steps, "that are measured, after one that is not")->check(positive);
  app.add_option("--threads", s.threads, "of each rank")->check(positive);
  app.add_option("--zero", s.zero, "moments (1) or gradients too (2) in shards")->check(CLI::Range(1, 2));
}

int measure(const Settings& s, const Group& all) {
  programs::begin_ranks(all, s.threads);
  programs::check_micro_batches(s.batch, s.micro_batches, all);
  const auto timed = std::make_shared<Timed>(all);
  const Group group(timed);
  remat::ParameterRegistry parameters(1);
  const remat::models::Gpt<float> gpt(parameters / "gpt", {.vocabulary = s.vocabulary,
                                                           .context = s.context,
                                                           .num_layers = s.layers,
                                                           .model_dims = s.dims,
                                                           .num_heads = s.heads,
                                                           .keep_head_gradients = true});
  const auto text = bench::learnable_tokens(static_cast<std::size_t>(2 * s.batch * s.context), s.vocabulary);
  const remat::data::RandomBatches batches(text, s.batch, s.context, 1);
  programs::RankTraining training(group, parameters, {.beta2 = 0.99, .weight_decay = 0.1}, s.zero);
  std::vector<double> seconds, communication;
  std::size_t sent = 0;
  double loss = 0;
  for (int step = 0; step <= s.steps; ++step) {
    const auto batch = batches.at(step);
    group.barrier();
    timed->seconds = 0, timed->bytes = 0;
    const auto start = Clock::now();
    loss = training
               .gradients(s.batch, s.micro_batches, {.seed = 1, .step = step},
                          [&](remat::Tape& tape, remat::Index begin, remat::Index end) {
                            return gpt.loss(tape, batch.rows(begin, end)) * (1.0 / s.micro_batches);
                          })
               .loss;
    training.step(1e-3, remat::optim::clip_scale(training.norm(), 1.0));
    if (step > 0) seconds.push_back(seconds_since(start)), communication.push_back(timed->seconds);
    sent = timed->bytes;
  }
  const auto all_communication = all.gather(std::span<const double>(communication));
  const auto most = [&](double mine) {
    const auto each = all.gather(mine);
    return *std::max_element(each.begin(), each.end());
  };
  const double peak = most(static_cast<double>(remat::machine::process_memory().peak_resident));
  const double moments = most(static_cast<double>(training.optimizer().state_bytes()));
  if (!all.is_first()) return 0;
  std::cout << nlohmann::ordered_json{{"ranks", all.size()},
                                      {"threads", s.threads},
                                      {"parameters", parameters.count()},
                                      {"tokens", s.batch * s.context},
                                      {"loss", loss},
                                      {"seconds", seconds},
                                      {"communication", all_communication},
                                      {"sent_bytes", sent},
                                      {"moment_bytes", moments},
                                      {"peak_bytes", peak}}
            << std::endl;
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  return programs::run_ranks(argc, argv, [&](const Group& group) {
    return programs::run_program(
        argc, argv, "steps_ranks", "Measures steps of a GPT by several ranks.", Settings(), add_options,
        [&](const Settings& s) { return programs::or_stop_all(group, [&] { return measure(s, group); }); });
  });
}
