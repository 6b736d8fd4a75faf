// What each remat policy costs in time and saves in memory: trains the same GPT under every one of them, step by step
// in turn.
//
//   ./run bench remat [--layers 12 --dims 384 ...] [--policies "everything; names(ffn1) | dots; save_nothing"]
//
// Prints a table, writes CSV files and, by bench/plots/remat.gp, pictures. Fails when any bit of any loss differs.
#include <iostream>
#include <memory>
#include <sstream>

#include "gpt_training.hpp"
#include "model_options.hpp"
#include "remat_report.hpp"

namespace {

struct Settings {
  int layers = 8, dims = 256, heads = 8, context = 256, batch = 4, vocabulary = 256;
  int steps = 12, repeat = 1, budgets = 8, remat_every = 1, threads = 0;
  double dropout = 0.1;
  std::uint64_t seed = 1;
  std::string out = "bench/out";
  std::string policies =
      "everything; save_dot_except_logits; save_dot_with_no_batch_dim; save_dot_except_logits_ffn1; save_qkv_out_proj; "
      "save_context; save_out_proj; save_nothing";
};

void add_options(CLI::App& app, Settings& s) {
  const auto positive = CLI::Range(1, 1 << 30);
  bench::add_model_options(app, s);
  app.add_option("--dropout", s.dropout, "probability of dropping")->check(CLI::Range(0.0, 0.999999));
  app.add_option("--remat-every", s.remat_every, "layers to a checkpoint region")->check(positive);
  app.add_option("--policies", s.policies,
                 "policies, separated by semicolons; times are compared with the first one's");
  app.add_option("--budgets", s.budgets, "plans within so many budgets, from the least possible to the largest useful")
      ->check(CLI::Range(0, 64));
  app.add_option("--steps", s.steps, "steps to time; one more comes first to warm up")->check(positive);
  app.add_option("--repeat", s.repeat, "trainings, each from the beginning")->check(positive);
  app.add_option("--threads", s.threads, "OpenMP threads; 0: the system's choice")->check(programs::threads());
  app.add_option("--seed", s.seed, "of initial values, tokens and dropout")->check(programs::seed());
  app.add_option("--out", s.out, "folder for CSV files and pictures");
}

std::string trimmed(const std::string& text) {
  const std::size_t begin = text.find_first_not_of(" \t\n"), end = text.find_last_not_of(" \t\n");
  return begin == std::string::npos ? "" : text.substr(begin, end - begin + 1);
}

// The written policies, then what `plan.within` chooses for budgets in equal steps from the least to the largest one
// that still changes something.
std::vector<bench::Variant> variants_of(const Settings& s, const remat::Plan& plan) {
  std::vector<bench::Variant> variants;
  std::istringstream words(s.policies);
  for (std::string word; std::getline(words, word, ';');)
    if (word = trimmed(word); !word.empty()) variants.push_back({word, plan.under(remat::policy::parse(word)), {}});
  remat::require(!variants.empty(), "--policies names no policy; write one or more, separated by semicolons");

  const auto least = static_cast<double>(plan.frontier().front().stats.peak_bytes);
  const auto most = static_cast<double>(plan.frontier().back().stats.peak_bytes);
  std::size_t before = 0;
  for (int i = 0; i < s.budgets; ++i) {
    const double share = s.budgets == 1 ? 0.5 : static_cast<double>(i) / (s.budgets - 1);
    const auto bytes = static_cast<std::size_t>(least + share * (most - least));
    const remat::PlannedPolicy planned = plan.under(plan.within(bytes));
    if (planned.stats.peak_bytes == before) continue;  // the same plan as for the budget before
    before = planned.stats.peak_bytes;
    variants.push_back({bench::text_of("within(%.2f MiB)", bench::mib(bytes)), planned, bytes});
  }
  return variants;
}

std::vector<std::string> facts_of(const Settings& s, const remat::models::GptConfig& config) {
  remat::ParameterRegistry parameters(s.seed);
  const remat::models::Gpt<float> gpt(parameters / "gpt", config);
  return {
      bench::text_of("GPT, %d layers of %d dims, %d heads, context %d, batch %d, vocabulary %d", s.layers, s.dims,
                     s.heads, s.context, s.batch, s.vocabulary),
      bench::text_of("parameters    %lld, dropout %g", static_cast<long long>(parameters.count()), s.dropout),
      bench::text_of(
          "steps         %d in each of %d training(s), after one to warm up; forward and backward, without optimizer",
          s.steps, s.repeat)};
}

// A B C, C B A, A B C, ...: a drift of the machine favours nobody.
void train_in_turn(const Settings& s, const remat::models::GptConfig& config, bench::Report& report) {
  const auto count_of_tokens = static_cast<std::size_t>(std::max(1 << 16, 2 * s.context));
  const std::vector<std::int32_t> tokens = bench::learnable_tokens(count_of_tokens, s.vocabulary, s.seed);
  const remat::data::RandomBatches batches(tokens, s.batch, s.context, s.seed);
  const std::size_t count = report.variants.size();
  report.outcomes.resize(count);
  for (int run = 0; run < s.repeat; ++run) {
    std::vector<std::unique_ptr<bench::GptTraining<float>>> trainings;
    for (const bench::Variant& variant : report.variants) {
      remat::models::GptConfig own = config;
      own.remat = variant.planned.policy;
      trainings.push_back(std::make_unique<bench::GptTraining<float>>(own, s.seed));
    }
    for (int step = 0; step <= s.steps; ++step) {
      const remat::data::Batch batch = batches.at(step);
      for (std::size_t turn = 0; turn < count; ++turn) {
        const std::size_t i = step % 2 == 0 ? turn : count - 1 - turn;
        bench::train(*trainings[i], batch, step == 0, report.outcomes[i]);
      }
      std::cerr << (isatty(STDERR_FILENO) ? "\r" : "") << "training " << run + 1 << '/' << s.repeat << ", step " << step
                << '/' << s.steps << (isatty(STDERR_FILENO) ? " " : "\n") << std::flush;
    }
  }
  if (isatty(STDERR_FILENO)) std::cerr << '\n';
}

int compare(const Settings& s) {
  if (s.threads > 0) omp_set_num_threads(s.threads);
  const remat::models::GptConfig config{.vocabulary = s.vocabulary,
                                        .context = s.context,
                                        .num_layers = s.layers,
                                        .model_dims = s.dims,
                                        .num_heads = s.heads,
                                        .dropout = s.dropout,
                                        .remat_every = s.remat_every};
  bench::tell_facts(facts_of(s, config), s.out, "remat_run.txt");
  bench::Report report{.trainings = s.repeat};
  {
    remat::ParameterRegistry parameters(s.seed);
    const remat::models::Gpt<float> gpt(parameters / "gpt", config);
    const remat::Tensor<std::int32_t> ids({s.batch, s.context}, 0);
    const remat::Plan plan = remat::plan([&](remat::Tape& tape) {
      return gpt.loss(tape, remat::data::Batch{ids, ids});
    });
    report.variants = variants_of(s, plan);
  }
  train_in_turn(s, config, report);
  report.print();
  report.write(s.out);
  if (const std::size_t count = report.differing(); count > 0) {
    std::cout << "\nFAILED: the losses of " << count << " policies differ from those of " << report.variants[0].name
              << '\n';
    return 1;
  }
  std::cout << "\nlosses of all steps and policies: equal, bit for bit (lossy ones apart)\nwrote " << s.out
            << "/remat.csv, remat_loss.csv, remat_timeline.csv" << std::endl;
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  return programs::run_program(argc, argv, "bench_remat", "Compares remat policies on a GPT: time against memory.",
                               Settings(), add_options, compare);
}
