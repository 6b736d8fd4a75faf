// One projection for query, key and value against three, at Falcon's shapes; rotary beside attention and inside it; and
// adapters of the whole projection and of its parts.
//
//   ./run bench falcon [--tokens 1,8,64,512,2048] [--rounds 5] [--whole] [--sections products,memory,rotary,lora]
//
// What is compared is measured in turn, round by round; ratios are medians over rounds. Writes
//   falcon_products.csv  forward, gradient of x and gradient of w: ms of one product and of three, by tokens
//   falcon_memory.csv    what backward of an attention layer holds at most, fused and apart, by the plan of its step
//   falcon_rotary.csv    queries and keys turned beside attention and inside it: ms, bytes moved, peak
//   falcon_lora.csv      adapters of the whole, of q, k and v, of q and v: ms, values trained, bytes kept
//   falcon_run.txt       facts about the run
// and, by bench/plots/falcon.gp, a picture of the products.
#include <iostream>

#include "falcon_layers.hpp"
#include "falcon_products.hpp"
#include "run_program.hpp"

namespace {

struct Settings {
  std::vector<int> tokens{1, 8, 64, 512, 2048};
  std::vector<std::string> sections{"products", "memory", "rotary", "lora"};
  int rounds = 5, threads = 0, rank = 8, layer_tokens = 512;
  bool whole = false;
  std::string out = "bench/out";
};

void add_options(CLI::App& app, Settings& s) {
  const auto positive = CLI::Range(1, 1 << 20);
  app.add_option("--tokens", s.tokens, "rows of the products")->delimiter(',')->check(positive);
  app.add_option("--layer-tokens", s.layer_tokens, "length of the sequence of memory, rotary and lora")
      ->check(positive);
  app.add_option("--rank", s.rank, "of the adapters")->check(CLI::Range(1, 64));
  app.add_flag("--whole", s.whole, "40b as it is, in the place of half its heads: 0.3 GB a matrix");
  app.add_option("--sections", s.sections, "what to measure")
      ->delimiter(',')
      ->check(CLI::IsMember({"products", "memory", "rotary", "lora"}));
  app.add_option("--rounds", s.rounds, "measurements of everything")->check(positive);
  app.add_option("--threads", s.threads, "OpenMP threads; 0: the system's choice")->check(programs::threads());
  app.add_option("--out", s.out, "folder for CSV files and pictures");
}

int measure(const Settings& s) {
  if (s.threads > 0) omp_set_num_threads(s.threads);
  bench::tell_facts({bench::text_of("Falcon's projections, float32, %d rounds", s.rounds)}, s.out, "falcon_run.txt");
  std::vector<bench::FalconShape> shapes{
      {"rw-1b", 2048, 32, 32}, {"7b", 4544, 71, 1}, {"40b, half its heads", 4096, 64, 4}};
  if (s.whole) shapes.back() = {"40b", 8192, 128, 8};
  const auto wants = [&](const char* section) {
    return std::find(s.sections.begin(), s.sections.end(), section) != s.sections.end();
  };
  if (wants("products")) bench::finish(bench::measure_products(shapes, s.tokens, s.rounds), s.out);
  if (wants("memory")) bench::finish(bench::plan_memory(shapes, s.layer_tokens), s.out);
  if (wants("rotary")) bench::finish(bench::measure_rotary(shapes, s.layer_tokens, s.rounds), s.out);
  if (wants("lora")) bench::finish(bench::measure_lora(shapes, s.layer_tokens, s.rank, s.rounds), s.out);
  std::cout << "\nwrote " << s.out << "/falcon_*.csv" << std::endl;
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  return programs::run_program(argc, argv, "bench_falcon",
                               "Compares fused and separate projections at Falcon's shapes.", Settings(), add_options,
                               measure);
}
