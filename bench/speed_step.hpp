// A step by class of op, beside its own products alone, the FMA peak, and the same step on one thread.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "gpt_training.hpp"
#include "speed_products.hpp"

namespace bench {

/// All runs of one op in one phase of a step.
struct OpClass {
  int runs = 0;
  Timed timed{};
};
/// By op and phase: "forward", "replay" or "backward".
using OpClasses = std::map<std::pair<std::string, std::string>, OpClass>;

/// Adds the times of a traced step, and sets what its ops compute and move. A replay counts what the op's forward in
/// that layer did on average.
inline void add_step(const remat::Tape& tape, OpClasses& classes) {
  const remat::Program& program = tape.program();
  struct Forward {
    double flops = 0, bytes = 0, nodes = 0;
  };
  std::map<std::pair<std::string, std::string>, Forward> forwards;  // by op and layer
  for (auto& [key, each] : classes) each.runs = 0, each.timed.flops = each.timed.bytes = 0;
  for (const remat::Node& node : program.nodes) {
    Forward& f = forwards[{node.op->name(), program.paths[static_cast<std::size_t>(node.path)]}];
    f.flops += node.cost.flops, f.bytes += node.moved_bytes, ++f.nodes;
    Timed& forward = classes[{node.op->name(), "forward"}].timed;
    forward.flops += node.cost.flops, forward.bytes += node.moved_bytes;
    if (!node.live) continue;
    Timed& backward = classes[{node.op->name(), "backward"}].timed;
    backward.flops += node.cost.backward_flops, backward.bytes += 2 * node.moved_bytes;
  }
  std::map<std::pair<std::string, std::string>, double> seconds;
  for (const remat::TraceSlice& slice : tape.trace()) {
    OpClass& each = classes[{slice.name, slice.category}];
    ++each.runs;
    seconds[{slice.name, slice.category}] += slice.end - slice.start;
    if (slice.category != "replay") continue;
    const Forward& f = forwards[{slice.name, slice.layer_path}];
    each.timed.flops += f.flops / f.nodes, each.timed.bytes += f.bytes / f.nodes;
  }
  for (auto& [key, each] : classes) each.timed.seconds.push_back(seconds[key]);
}

/// What the rounds of one model came to.
struct StepReport {
  remat::models::GptConfig config{};
  int batch = 0, threads = 0;
  OpClasses classes{};
  std::vector<Product> products{};
  Timed step{}, traced{}, update{}, products_alone{}, one_thread{};
  std::vector<double> peak{};  // FMA, flop/s, of each round
  double recorded_flops = 0;   // of all ops, what is computed twice included

  void print() const {
    std::printf(
        "\nstep: best %.1f, median %.1f ms, %.0f tokens/s, %.1f GFLOP, %.1f %% of the FMA peak (median %.0f GFLOP/s)\n",
        1e3 * best(step.seconds), 1e3 * median(step.seconds), batch * config.context / median(step.seconds),
        step.flops * 1e-9, 100 * step.share(step.flops, peak), 1e-9 * median(peak));
    std::printf("its products alone: median %.1f ms; the step takes %.3f times that\n",
                1e3 * median(products_alone.seconds), ratio(step.seconds, products_alone.seconds));
    if (threads > 1)
      std::printf("one thread: median %.1f ms; %d threads are %.3f times as fast\n", 1e3 * median(one_thread.seconds),
                  threads, ratio(one_thread.seconds, step.seconds));
    std::printf("\n%-24s %-9s %5s %9s %7s %9s %9s %8s %8s\n", "op", "phase", "runs", "ms", "% step", "GFLOP", "GFLOP/s",
                "% peak", "GB/s");
    for_each_row([&](const std::string& op, const std::string& phase, int runs, const Timed& t) {
      const double time = median(t.seconds);
      std::printf("%-24s %-9s %5d %9.2f %7.1f", op.c_str(), phase.c_str(), runs, 1e3 * time,
                  100 * ratio(t.seconds, traced.seconds));
      if (t.flops > 0)
        std::printf(" %9.2f %9.1f %8.1f", t.flops * 1e-9, t.flops / time * 1e-9, 100 * t.share(t.flops, peak));
      else if (t.bytes > 0)
        std::printf(" %28s %8.1f", "", t.bytes / time * 1e-9);
      std::printf("\n");
    });
    std::printf("\n%-5s %7s %7s %7s %6s %9s %12s %12s %8s\n", "GEMM", "m", "n", "k", "count", "ms", "best GFLOP/s",
                "median", "% peak");
    for (const Product& p : products)
      std::printf("%-5s %7lld %7lld %7lld %6d %9.2f %12.1f %12.1f %8.1f\n", p.timed.name.c_str(),
                  static_cast<long long>(p.shape.m), static_cast<long long>(p.shape.n),
                  static_cast<long long>(p.shape.k), p.count, 1e3 * median(p.timed.seconds),
                  p.timed.flops / best(p.timed.seconds) * 1e-9, p.timed.flops / median(p.timed.seconds) * 1e-9,
                  100 * p.timed.share(p.timed.flops, peak));
    std::printf(
        "(n, t: as it lies, transposed; f: into floats; +: added to what is there; together %.0f %% of the flops that "
        "run)\n",
        100 * products_alone.flops / recorded_flops);
  }

  void write(const std::string& folder) const {
    auto ops =
        open_csv(folder, "speed_step.csv", "op,phase,runs,best_ms,median_ms,share_of_step,flops,bytes,share_of_peak");
    for_each_row([&](const std::string& op, const std::string& phase, int runs, const Timed& t) {
      ops << op << ',' << phase
          << text_of(",%d,%.4f,%.4f,%.5f,%.0f,%.0f,%.5f\n", runs, 1e3 * best(t.seconds), 1e3 * median(t.seconds),
                     ratio(t.seconds, traced.seconds), t.flops, t.bytes, t.share(t.flops, peak));
    });
    auto gemms = open_csv(folder, "speed_gemm.csv", "backend,form,m,n,k,count,best_gflops,median_gflops,share_of_peak");
    for (const Product& p : products)
      gemms << remat::kernels::gemm_backend() << ',' << p.timed.name
            << text_of(",%lld,%lld,%lld,%d,%.2f,%.2f,%.4f\n", static_cast<long long>(p.shape.m),
                       static_cast<long long>(p.shape.n), static_cast<long long>(p.shape.k), p.count,
                       p.timed.flops / best(p.timed.seconds) * 1e-9, p.timed.flops / median(p.timed.seconds) * 1e-9,
                       p.timed.share(p.timed.flops, peak));
    auto whole = open_csv(folder, "speed_whole.csv", "what,value");
    whole << text_of("step_best_ms,%.3f\nstep_median_ms,%.3f\nfma_peak_gflops,%.1f\n", 1e3 * best(step.seconds),
                     1e3 * median(step.seconds), 1e-9 * median(peak))
          << text_of("share_of_peak,%.4f\nstep_over_its_products,%.4f\n", step.share(step.flops, peak),
                     ratio(step.seconds, products_alone.seconds));
    if (threads > 1)
      whole << text_of("threads,%d\nspeedup_over_one_thread,%.4f\n", threads, ratio(one_thread.seconds, step.seconds));
  }

 private:
  /// The classes, clipping with AdamW, and what no op accounts for, the longest first.
  template <class Row>
  void for_each_row(Row&& row) const {
    struct Entry {
      std::string op{}, phase{};
      OpClass of{};
    };
    std::vector<Entry> entries{{"clipping and adamw", "update", {1, update}}};
    for (const auto& [key, of] : classes) entries.push_back({key.first, key.second, of});
    Timed rest{.seconds = traced.seconds};
    for (const Entry& entry : entries)
      for (std::size_t round = 0; round < rest.seconds.size(); ++round)
        rest.seconds[round] -= entry.of.timed.seconds[round];
    entries.push_back({"engine and the rest", "", {1, rest}});
    std::sort(entries.begin(), entries.end(),
              [](const Entry& a, const Entry& b) { return median(a.of.timed.seconds) > median(b.of.timed.seconds); });
    for (const Entry& entry : entries)
      if (entry.of.runs > 0) row(entry.op, entry.phase, entry.of.runs, entry.of.timed);
  }
};

/// `rounds` times a step, a traced step, its products alone, a step on one thread and the FMA peak, one after another.
template <class T>
StepReport measure_step(const remat::models::GptConfig& config, int batch, int threads, int rounds) {
  StepReport report{.config = config, .batch = batch, .threads = threads};
  const auto tokens = learnable_tokens(static_cast<std::size_t>(8 * batch * config.context + 1), config.vocabulary);
  const remat::data::RandomBatches batches(tokens, batch, config.context, 1);
  GptTraining<T> training(config);
  report.step.flops = model_flops(config, double(batch) * config.context, config.context);
  report.update.bytes = 8.0 * sizeof(float) * static_cast<double>(training.parameters().count());
  const auto note_program = [&](const remat::Tape& tape, const Step&) {
    report.products = products_of<T>(tape.program());
    report.recorded_flops = tape.stats().forward_flops + tape.stats().backward_flops;
  };
  training.step(batches.at(0), {}, note_program);  // warms up, too
  for (const Product& product : report.products) report.products_alone.flops += product.timed.flops, product.run();

  for (int round = 1; round <= rounds; ++round) {
    const remat::data::Batch data = batches.at(round);
    report.step.seconds.push_back(training.step(data).seconds);
    double alone = 0;
    for (Product& product : report.products) {
      product.timed.seconds.push_back(seconds_of([&] { product.run(); }));
      alone += product.timed.seconds.back();
    }
    report.products_alone.seconds.push_back(alone);
    report.peak.push_back(1e9 * remat::machine::peak_fma_gflops(threads));
    const Step traced = training.step(data, {.trace = true},
                                      [&](const remat::Tape& tape, const Step&) { add_step(tape, report.classes); });
    report.traced.seconds.push_back(traced.seconds);
    report.update.seconds.push_back(traced.update_seconds);
    if (threads == 1) continue;
    omp_set_num_threads(1);
    report.one_thread.seconds.push_back(training.step(data).seconds);
    omp_set_num_threads(threads);
  }
  return report;
}

}  // namespace bench
