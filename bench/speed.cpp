// Where the time of our own step goes, and how far each part is from what the machine can do.
//
//   ./run bench speed [--layers 6 --dims 512 ...] [--sections step,kernels,engine,scaling] [--rounds 7]
//
// What is compared is measured in turn, round by round: ratios are medians over rounds. Writes
//   speed_step.csv     the step by class of op: runs, ms, flops, bytes, share of the FMA peak; clipping and AdamW
//   speed_gemm.csv     its products by shape, alone, with the backend of this build
//   speed_whole.csv    ms, share of the FMA peak, the step over its products alone, speedup over one thread
//   speed_kernels.csv  attention against the FMA peak, memory-bound kernels against memory's bandwidth
//   speed_engine.csv   what recording and replaying an op costs beside its work
//   speed_scaling.csv  time and arithmetic of a token against length, layers and width, with fitted exponents
//   speed_run.txt      facts about the run, the model first
// and, by bench/plots/speed.gp, pictures. Flops count what a step needs, nothing twice, of attention what is visible.
#include <iostream>

#include "model_options.hpp"
#include "speed_engine.hpp"
#include "speed_kernels.hpp"
#include "speed_scaling.hpp"
#include "speed_step.hpp"

namespace {

struct Settings {
  int layers = 6, dims = 512, heads = 8, context = 512, batch = 4, vocabulary = 8192;
  int rounds = 7, threads = 0, size = 16 << 20, scaling_tokens = 4096;
  bool tied = false;
  std::string dtype = "float32", remat = "everything", out = "bench/out";
  std::vector<int> lengths{512, 2048};
  std::vector<std::string> sections{"step", "kernels", "engine", "scaling"};
};

void add_options(CLI::App& app, Settings& s) {
  const auto positive = CLI::Range(1, 1 << 30);
  bench::add_model_options(app, s);
  app.add_flag("--tied", s.tied, "the head is the transposed embedding");
  app.add_option("--dtype", s.dtype, "of step and scaling; peak and kernels are of float32")
      ->check(CLI::IsMember({"float32", "bfloat16"}));
  app.add_option("--remat", s.remat, "remat policy of the step");
  app.add_option("--lengths", s.lengths, "of attention alone")->delimiter(',')->check(positive);
  app.add_option("--size", s.size, "elements of the arrays of memory-bound kernels; no cache should hold them")
      ->check(positive);
  app.add_option("--scaling-tokens", s.scaling_tokens, "tokens of a step, and the longest length, of the scaling")
      ->check(CLI::Range(128, 1 << 20));
  app.add_option("--sections", s.sections, "what to measure")
      ->delimiter(',')
      ->check(CLI::IsMember({"step", "kernels", "engine", "scaling"}));
  app.add_option("--rounds", s.rounds, "measurements of everything")->check(positive);
  app.add_option("--threads", s.threads, "OpenMP threads; 0: the system's choice")->check(programs::threads());
  app.add_option("--out", s.out, "folder for CSV files and pictures");
}

template <class T>
void measure(const Settings& s) {
  if (s.threads > 0) omp_set_num_threads(s.threads);
  const int threads = remat::machine::threads();
  bench::tell_facts(
      {bench::text_of("GPT, %d layers of %d dims, %d heads, context %d, batch %d, vocabulary %d, %s head", s.layers,
                      s.dims, s.heads, s.context, s.batch, s.vocabulary, s.tied ? "tied" : "untied"),
       "computes in   " + s.dtype, "remat         " + remat::policy::to_string(remat::policy::parse(s.remat))},
      s.out, "speed_run.txt");
  const auto wants = [&](const char* section) {
    return std::find(s.sections.begin(), s.sections.end(), section) != s.sections.end();
  };
  const remat::models::GptConfig config{.vocabulary = s.vocabulary,
                                        .context = s.context,
                                        .num_layers = s.layers,
                                        .model_dims = s.dims,
                                        .num_heads = s.heads,
                                        .tied_head = s.tied,
                                        .keep_head_gradients = s.remat == "everything",
                                        .remat = remat::policy::parse(s.remat)};
  if (wants("step")) bench::finish(bench::measure_step<T>(config, s.batch, threads, s.rounds), s.out);
  if (wants("kernels")) bench::finish(bench::measure_kernels(s.lengths, 8, s.size, threads, s.rounds), s.out);
  if (wants("engine")) bench::finish(bench::measure_engine(10000, s.rounds), s.out);
  if (wants("scaling")) bench::finish(bench::measure_scaling<T>(s.scaling_tokens, threads, s.rounds), s.out);
  std::cout << "\nwrote " << s.out << "/speed_*.csv" << std::endl;
}

}  // namespace

int main(int argc, char** argv) {
  return programs::run_program(argc, argv, "bench_speed",
                               "Measures our own training step, part by part, against the machine.", Settings(),
                               add_options, [](const Settings& s) {
                                 s.dtype == "bfloat16" ? measure<remat::bfloat16>(s) : measure<float>(s);
                                 return 0;
                               });
}
