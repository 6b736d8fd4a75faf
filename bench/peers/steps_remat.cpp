// Our side of `./run bench peers`: one GPT, stepped on request. It speaks as steps.py says, and to the line `peak` it
// answers with the machine's float multiply-add rate at this moment.
#include <algorithm>
#include <chrono>
#include <fstream>
#include <iostream>
#include <string>
#include <vector>

#include "../gpt_training.hpp"
#include "run_program.hpp"

namespace {

struct Settings {
  int layers = 0, dims = 0, heads = 0, context = 0, batch = 0, vocabulary = 0, threads = 0, ffn_chunk = 0;
  bool untied = false, bias = false, attention = false;
  std::string tokens, dtype = "float32", policy = "everything";
};

std::vector<std::int32_t> read_tokens(const Settings& s) {
  std::ifstream file(s.tokens, std::ios::binary | std::ios::ate);
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(std::max<std::streamoff>(0, file.tellg())) / 4);
  file.seekg(0).read(reinterpret_cast<char*>(tokens.data()), static_cast<std::streamsize>(4 * tokens.size()));
  remat::require(file.good() && tokens.size() > static_cast<std::size_t>(s.batch) * s.context, "--tokens: ", s.tokens,
                 " does not hold a batch");
  return tokens;
}

// The i-th part of the tokens, and round again, as steps.py cuts them.
remat::data::Batch batch_of(const Settings& s, const std::vector<std::int32_t>& tokens, std::size_t step) {
  const std::size_t size = static_cast<std::size_t>(s.batch) * s.context;
  const std::size_t begin = step % ((tokens.size() - 1) / size) * size;
  const auto part = [&](std::size_t at) {
    return remat::Tensor<std::int32_t>({s.batch, s.context}, std::span(tokens).subspan(at, size));
  };
  return {part(begin), part(begin + 1)};
}

/// Answers until the input ends. `step()` returns its loss.
template <class Step>
void serve(const Settings& s, remat::Index parameters, const Step& step) {
  using Clock = std::chrono::steady_clock;
  std::cout << "{\"parameters\": " << parameters << ", \"gemm\": \"" << remat::kernels::gemm_backend() << "\"}"
            << std::endl;
  for (std::string line; std::getline(std::cin, line);) {
    if (line == "peak") {
      std::cout << "{\"gflops\": " << remat::machine::peak_fma_gflops(s.threads) << '}' << std::endl;
      continue;
    }
    std::string times;
    double loss = 0;
    for (int i = 0, steps = std::stoi(line); i < steps; ++i) {
      const auto start = Clock::now();
      loss = step();
      const double ms = std::chrono::duration<double, std::milli>(Clock::now() - start).count();
      times.append(i > 0 ? ", " : "").append(std::to_string(ms));
    }
    std::cout << "{\"ms\": [" << times << "], \"loss\": " << loss << '}' << std::endl;
  }
}

template <class T>
void train(const Settings& s) {
  const std::vector<std::int32_t> tokens = read_tokens(s);
  const auto policy = remat::policy::parse(s.policy);
  bench::GptTraining<T> training({.vocabulary = s.vocabulary,
                                  .context = s.context,
                                  .num_layers = s.layers,
                                  .model_dims = s.dims,
                                  .num_heads = s.heads,
                                  .bias = s.bias,
                                  .tied_head = !s.untied,
                                  .keep_head_gradients = true,  // the head is no layer: peers keep its logits, too
                                  .remat = policy,
                                  .blockwise = {.ffn_chunk = s.ffn_chunk, .policy = policy}});
  std::size_t done = 0;
  serve(s, training.parameters().count(), [&] { return training.step(batch_of(s, tokens, done++)).loss; });
}

// Forward and backward of attention alone, on what steps.py calls `queries_keys_values`.
template <class T>
void attend(const Settings& s) {
  remat::Tensor<T> values({s.batch, s.context, 3 * s.dims});
  std::uint32_t i = 0;
  for (T& value : values.write()) value = static_cast<T>(static_cast<float>(i++ * 2654435761U >> 8 & 1023U) / 512 - 1);
  const remat::Tensor<T> qkv = values;  // nobody writes to this one, so that tapes share it
  serve(s, 0, [&] {
    remat::Tape tape;
    const auto x = tape.input(qkv, {.wants_gradient = true});
    const auto loss = remat::sum(remat::attention_qkv(x, s.heads, s.heads, {.causal = true}));
    tape.backward(loss);
    return static_cast<double>(loss.item());
  });
}

template <class T>
void run(const Settings& s) {
  s.attention ? attend<T>(s) : train<T>(s);
}

void add_options(CLI::App& app, Settings& s) {
  const auto positive = CLI::Range(1, 1 << 30);
  app.add_option("--layers", s.layers)->required()->check(positive);
  app.add_option("--dims", s.dims)->required()->check(positive);
  app.add_option("--heads", s.heads)->required()->check(positive);
  app.add_option("--context", s.context)->required()->check(positive);
  app.add_option("--batch", s.batch)->required()->check(positive);
  app.add_option("--vocabulary", s.vocabulary)->required()->check(positive);
  app.add_option("--threads", s.threads)->required()->check(positive);
  app.add_option("--tokens", s.tokens, "file of int32")->required()->check(CLI::ExistingFile);
  app.add_option("--dtype", s.dtype, "to compute in")->check(CLI::IsMember({"float32", "bfloat16"}));
  app.add_flag("--untied", s.untied, "a head of its own, not the token embedding");
  app.add_flag("--bias", s.bias, "biases in linear layers and norms");
  app.add_option("--policy", s.policy, "what layers keep until backward");
  app.add_option("--ffn-chunk", s.ffn_chunk, "tokens of a feed-forward at a time; 0: all")
      ->check(CLI::NonNegativeNumber);
  app.add_flag("--attention", s.attention, "causal attention alone, of [batch, context, heads, dims / heads]");
}

}  // namespace

int main(int argc, char** argv) {
  return programs::run_program(argc, argv, "steps_remat",
                               "Steps of a GPT on request, to compare with the other programs of this folder.",
                               Settings(), add_options, [](const Settings& s) {
                                 omp_set_num_threads(s.threads);
                                 s.dtype == "bfloat16" ? run<remat::bfloat16>(s) : run<float>(s);
                                 return 0;
                               });
}
