// How long a context fits into how much memory, and how fast it trains: plain attention, fused attention with remat,
// the Blockwise Parallel Transformer, and the same with what lies between layers on disk.
//
//   ./run bench long [--layers 4 --dims 256 ...] [--budgets 68,136,272,544] [--contexts 1024,2048] [--full]
//
// Contexts come from plans, which are true to the byte: each step that is run is checked against its own. Writes
//   long.csv        layers, variant, budget_bytes, context (the longest whose step keeps to the budget), peak_bytes and
//                   step_s of it, as planned; 4 layers or --layers, then --deep
//   long_speed.csv  variant, context, rounds, best_s, median_s (a step with AdamW), tokens_per_s (of the median),
//                   times_fused (median over rounds of the time of `fused` over this one's), planned_peak_bytes,
//                   peak_bytes, offloaded_bytes, first_loss
//   long_run.txt    the model on a line, then facts about the run
// and, by bench/plots/long.gp, a picture. Fails when a peak is not as planned or variants disagree about the loss.
#include <cmath>
#include <iostream>

#include "long_training.hpp"
#include "results.hpp"
#include "run_program.hpp"

namespace {

using bench::LongPoint, bench::text_of, bench::mib;

struct Settings {
  long_context::Shape shape;
  std::vector<int> budgets{68, 136, 272, 544, 1088}, contexts{1024, 2048, 4096, 8192}, edges{};
  int deep = 24, limit = 6144, threads = 0;
  double seconds = 40;
  bool full = false;
  std::uint64_t seed = 1;
  std::string out = "bench/out";
};

void add_options(CLI::App& app, Settings& s) {
  const auto positive = CLI::Range(1, 1 << 30);
  const auto not_negative = CLI::Range(0, 1 << 30);
  app.add_option("--layers", s.shape.layers, "transformer layers")->check(positive);
  app.add_option("--dims", s.shape.dims, "model width")->check(positive);
  app.add_option("--heads", s.shape.heads, "attention heads")->check(positive);
  app.add_option("--hidden", s.shape.hidden, "width of the feed-forward layers")->check(positive);
  app.add_option("--query-chunk", s.shape.query_chunk, "queries whose layer is computed at a time")->check(positive);
  app.add_option("--key-chunk", s.shape.key_chunk, "keys to a block of attention; 0: a cache tile")
      ->check(not_negative);
  app.add_option("--ffn-chunk", s.shape.ffn_chunk, "tokens to a piece of feed-forward; 0: a query chunk")
      ->check(not_negative);
  app.add_option("--budgets", s.budgets, "MiB of activations, their gradients and scratch, to plan for")
      ->delimiter(',')
      ->check(positive);
  app.add_option("--deep", s.deep, "layers of a second model that is planned; 0: none")->check(not_negative);
  app.add_option("--contexts", s.contexts, "contexts to time")->delimiter(',')->check(positive);
  app.add_option("--seconds", s.seconds, "for each of them; at least one round of steps is run")
      ->check(CLI::Range(0.0, 1e6));
  app.add_option("--edges", s.edges,
                 "budgets at whose longest contexts steps are run too; the least one if none is given")
      ->delimiter(',')
      ->check(positive);
  app.add_flag("--full", s.full, "contexts 16384 and 32768 and the edge of 544 MiB too: many minutes more");
  app.add_option("--limit", s.limit, "MiB; steps that take more are not run")->check(positive);
  app.add_option("--threads", s.threads, "OpenMP threads; 0: the system's choice")->check(programs::threads());
  app.add_option("--seed", s.seed, "of initial values and batches")->check(programs::seed());
  app.add_option("--out", s.out, "folder for CSV files and pictures");
}

struct Longest {
  int layers = 0;
  std::string variant;
  int budget = 0, context = 0;  // MiB, tokens
  std::size_t peak_bytes = 0;
  double seconds = 0;
};

/// Prints, for each variant, the longest context within each budget.
void plan_longest(const Settings& s, int layers, std::vector<Longest>& rows) {
  std::cout << text_of("\nlongest context, %d layers\n%-10s", layers, "MiB");
  for (const int budget : s.budgets) std::cout << text_of(" %9d", budget);
  std::cout << '\n';
  for (const auto& variant : long_context::variants()) {
    long_context::Shape shape = s.shape;
    shape.layers = layers;
    shape.context = 1024;
    long_context::Planner planner(shape, variant);
    std::cout << text_of("%-10s", variant.name.c_str());
    for (const int budget : s.budgets) {
      Longest row{.layers = layers, .variant = variant.name, .budget = budget};
      row.context = planner.longest(static_cast<std::size_t>(budget) << 20);
      if (row.context > 0) {
        row.peak_bytes = planner.at(row.context).stats.peak_bytes;
        row.seconds = planner.at(row.context).seconds;
      }
      std::cout << text_of(" %9d", row.context) << std::flush;
      rows.push_back(row);
    }
    std::cout << '\n';
  }
}

const LongPoint* find(const std::vector<LongPoint>& points, const std::string& name, int context) {
  const auto at = std::find_if(points.begin(), points.end(), [&](const LongPoint& point) {
    return point.variant.name == name && point.context == context;
  });
  return at == points.end() ? nullptr : &*at;
}

/// The median over rounds of how many times as fast as `fused` a variant was; as text, empty where they ran apart.
std::string times_fused(const std::vector<LongPoint>& points, const LongPoint& point) {
  const LongPoint* fused = find(points, "fused", point.context);
  if (fused == nullptr || fused->seconds.size() != point.seconds.size() || point.alone) return "";
  return text_of("%.4f", bench::ratio(fused->seconds, point.seconds));
}

/// Times the variants of these names at one context and prints what came of it.
void run_context(const Settings& s, int context, const std::vector<std::string>& names,
                 std::vector<LongPoint>& points) {
  long_context::Shape shape = s.shape;
  shape.context = context;
  std::vector<LongPoint> chosen;
  for (const auto& variant : long_context::variants()) {
    if (std::find(names.begin(), names.end(), variant.name) == names.end()) continue;
    if (find(points, variant.name, context) != nullptr) continue;
    LongPoint point{.variant = variant, .context = context, .alone = names.size() == 1};
    point.planned = long_context::Planner(shape, variant).at(context);
    if (mib(point.planned.stats.peak_bytes) <= s.limit) chosen.push_back(std::move(point));
  }
  if (chosen.empty()) return;
  for (LongPoint& point : bench::measured(shape, chosen, s.seconds, s.seed)) points.push_back(std::move(point));
  for (const LongPoint& asked : chosen) {
    const LongPoint& p = *find(points, asked.variant.name, context);
    std::cout << text_of("%8d  %-10s %6zu %9.3f %9.3f %10.0f %8s %11.2f %11.2f%s\n", context, p.variant.name.c_str(),
                         p.seconds.size(), bench::best(p.seconds), bench::median(p.seconds),
                         context / bench::median(p.seconds), times_fused(points, p).c_str(),
                         mib(p.planned.stats.peak_bytes), mib(p.peak_bytes),
                         p.is_as_planned() ? "" : "  NOT AS PLANNED")
              << std::flush;
  }
}

std::vector<LongPoint> run_all(const Settings& s, const std::vector<Longest>& longest) {
  std::cout << "\nmeasured, in turn at each context: a step with AdamW\n"
               " context  variant    rounds    best s  median s   tokens/s  x fused planned MiB    peak MiB\n";
  std::vector<LongPoint> points;
  std::vector<int> contexts = s.contexts;
  if (s.full) contexts.insert(contexts.end(), {16384, 32768});
  for (const int context : contexts) run_context(s, context, {"plain", "fused", "blockwise", "offloaded"}, points);
  std::vector<int> edges = s.edges;
  if (edges.empty()) edges.push_back(*std::min_element(s.budgets.begin(), s.budgets.end()));
  if (s.full) edges.push_back(544);
  for (const Longest& row : longest)
    if (row.layers == s.shape.layers && row.context > 0 &&
        std::find(edges.begin(), edges.end(), row.budget) != edges.end())
      run_context(s, row.context, {row.variant}, points);
  return points;
}

void write(const Settings& s, const std::vector<Longest>& longest, const std::vector<LongPoint>& points) {
  auto plans = bench::open_csv(s.out, "long.csv", "layers,variant,budget_bytes,context,peak_bytes,step_s");
  for (const Longest& row : longest)
    plans << text_of("%d,%s,%zu,%d,%zu,%.3f\n", row.layers, row.variant.c_str(),
                     static_cast<std::size_t>(row.budget) << 20, row.context, row.peak_bytes, row.seconds);
  auto speeds = bench::open_csv(s.out, "long_speed.csv",
                                "variant,context,rounds,best_s,median_s,tokens_per_s,times_fused,planned_peak_bytes,"
                                "peak_bytes,offloaded_bytes,first_loss");
  for (const LongPoint& p : points) {
    const double median = bench::median(p.seconds);
    speeds << text_of("%s,%d,%zu,%.4f,%.4f,%.2f,", p.variant.name.c_str(), p.context, p.seconds.size(),
                      bench::best(p.seconds), median, p.context / median)
           << times_fused(points, p)
           << text_of(",%zu,%zu,%zu,%.7g\n", p.planned.stats.peak_bytes, p.peak_bytes, p.offloaded_bytes, p.first_loss);
  }
}

int compare(const Settings& s) {
  for (const int edge : s.edges)
    remat::require(std::find(s.budgets.begin(), s.budgets.end(), edge) != s.budgets.end(), "--edges: ", edge,
                   " MiB is not among --budgets");
  if (s.threads > 0) omp_set_num_threads(s.threads);
  bench::tell_facts(
      {text_of("GPT over bytes, %d layers of %d dims, %d heads, hidden %d, batch 1, float32, chunks of %d queries",
               s.shape.layers, s.shape.dims, s.shape.heads, s.shape.hidden, s.shape.query_chunk)},
      s.out, "long_run.txt");
  std::vector<Longest> longest;
  plan_longest(s, s.shape.layers, longest);
  if (s.deep > 0 && s.deep != s.shape.layers) plan_longest(s, s.deep, longest);
  const std::vector<LongPoint> points = run_all(s, longest);
  write(s, longest, points);
  bool is_good = true;
  for (const LongPoint& p : points) {
    const LongPoint* fused = find(points, "fused", p.context);
    const bool agrees = fused == nullptr || std::abs(p.first_loss - fused->first_loss) <= 1e-4;
    if (!agrees)
      std::cout << "FAILED: the losses of " << p.variant.name << " and fused differ at " << p.context << '\n';
    if (!p.is_as_planned()) std::cout << "FAILED: the peak of " << p.variant.name << " is not as planned\n";
    is_good = is_good && agrees && p.is_as_planned();
  }
  if (is_good) std::cout << "\npeaks: as planned, to the byte\n";
  std::cout << "wrote " << s.out << "/long.csv, long_speed.csv, long_run.txt" << std::endl;
  return is_good ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  return programs::run_program(argc, argv, "bench_long",
                               "Longest contexts within budgets of memory, and their speed: plain, fused, blockwise, "
                               "offloaded.",
                               Settings(), add_options, compare);
}
