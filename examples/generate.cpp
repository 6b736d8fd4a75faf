// Continues a prompt with a language model from its files, or answers it where the model was made for conversations.
//
//   ./run generate --prompt "What is the capital of France?" [--model FILE.gguf]      (--help lists every flag)
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <remat/core/machine.hpp>
#include <remat/models.hpp>
#include <remat/pretrained.hpp>
#include <remat/remat.hpp>
#include <string>
#include <vector>

#include "run_program.hpp"

namespace {

struct Settings {
  std::string model, prompt, system, adapter;
  int length = 200, top_k = 40, threads = 0, beams = 0;
  double temperature = 0.7, top_p = 1, min_p = 0, repetition_penalty = 1, length_penalty = 1;
  std::vector<std::string> stop;
  std::uint64_t seed = 1;
  bool raw = false, floats = false;
};

void add_options(CLI::App& app, Settings& s) {
  app.add_option("--model", s.model, "GGUF file, or folder with config.json, tokenizer.json and safetensors")
      ->required()
      ->check(CLI::ExistingPath);
  app.add_option("--prompt", s.prompt, "what to answer, or with --raw to continue")->required();
  app.add_option("--system", s.system, "what the model is told before; the model's own words if empty");
  app.add_option("--adapter", s.adapter, "folder of PEFT's or GGUF file with a LoRA adapter of the model")
      ->check(CLI::ExistingPath);
  app.add_flag("--raw", s.raw, "continue the prompt as it is, not as a turn of a conversation");
  app.add_flag("--floats", s.floats,
               "turn all weights into floats first, in the place of reading them as they are stored");
  app.add_option("--length", s.length, "tokens at most")->check(CLI::Range(0, 1 << 30));
  app.add_option("--temperature", s.temperature, "0: always the likeliest token")->check(programs::between(0, 1e6));
  app.add_option("--top-k", s.top_k, "choose among so many; 0: among all")->check(CLI::Range(0, 1 << 30));
  app.add_option("--top-p", s.top_p, "choose among the fewest whose probabilities reach this sum")
      ->check(programs::between(1e-9, 1));
  app.add_option("--min-p", s.min_p, "choose among those at least this part as likely as the likeliest")
      ->check(programs::between(0, 1));
  app.add_option("--repetition-penalty", s.repetition_penalty, "above 1: tokens that were there are less likely")
      ->check(programs::between(1e-3, 1e3));
  app.add_option("--stop", s.stop, "texts at which to end, beside the model's own end");
  app.add_option("--threads", s.threads, "OpenMP threads; 0: the system's choice")->check(programs::threads());
  app.add_option("--seed", s.seed, "of the choices")->check(programs::seed());
  auto* const beams =
      app.add_option("--beams", s.beams, "search for the likeliest text with so many beams; 0: draw one")
          ->check(CLI::Range(0, 1 << 10));
  for (const char* of_draws : {"--temperature", "--top-k", "--top-p", "--min-p", "--repetition-penalty", "--seed"})
    beams->excludes(of_draws);
  beams->excludes("--stop");  // at a token a search can end, at a text it cannot
  app.add_option("--length-penalty", s.length_penalty, "of --beams: above 1 for longer texts, below for shorter ones")
      ->check(programs::between(-10, 10))
      ->needs(beams);
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

remat::text::ChatFormat format_of(const std::string& chat_template) try {
  return remat::text::recognize_chat(chat_template);
} catch (const remat::Error& error) {
  remat::fail(error.what(), " (--raw continues any prompt)");
}

int generate(const Settings& s) {
  remat::require(!s.raw || s.system.empty(), "--system is of conversations, of which a --raw prompt is none");
  if (s.threads > 0) omp_set_num_threads(s.threads);
  auto start = std::chrono::steady_clock::now();
  remat::ParameterRegistry parameters;
  const auto loaded = remat::models::load<float>(
      parameters / "model", s.model,
      {.matrices = s.floats ? remat::io::Matrices::numbers : remat::io::Matrices::as_stored});
  std::fprintf(stderr,
               "%s: %.1f million parameters in %.0f MB of memory and %.0f MB of files, loaded in %.1f s; %d threads, "
               "OMP_WAIT_POLICY %s\n",
               s.model.c_str(), 1e-6 * static_cast<double>(parameters.count()),
               1e-6 * static_cast<double>(parameters.bytes()), 1e-6 * static_cast<double>(parameters.mapped_bytes()),
               seconds_since(start), remat::machine::threads(), remat::machine::wait_policy().c_str());

  if (!s.adapter.empty())
    std::filesystem::is_directory(s.adapter)
        ? remat::io::load_peft(parameters, parameters / "adapter", loaded.model, s.adapter)
        : remat::io::load_gguf_lora(parameters, parameters / "adapter", loaded.model, s.adapter);

  std::vector<std::int32_t> prompt;
  if (s.raw) {
    prompt = loaded.tokenizer.encode(s.prompt);
  } else {
    std::vector<remat::text::ChatMessage> messages;
    if (!s.system.empty()) messages.push_back({"system", s.system});
    messages.push_back({"user", s.prompt});
    prompt = remat::text::encode_chat(loaded.tokenizer, format_of(loaded.chat_template), messages, true);
  }
  remat::require(!prompt.empty(), "--prompt is empty, so there is nothing to continue");
  remat::text::StreamDecoder answer(loaded.tokenizer, {.skip_special_tokens = true});
  double prefill = 0;
  int count = 0;
  start = std::chrono::steady_clock::now();
  const auto end = loaded.tokenizer.special_ids().eos;
  if (s.beams > 0) {
    remat::models::BeamSearchOptions search{.length = s.length, .beams = s.beams, .length_penalty = s.length_penalty};
    if (end) search.stop_tokens = {*end};
    const auto best = remat::models::beam_search(loaded.model, prompt, search).front();
    for (const std::int32_t token : best.tokens) std::cout << answer.push(token);
    std::cout << answer.finish() << std::endl;
    std::fprintf(stderr, "%zu tokens read and %zu written by %d beams in %.2f s, score %.4f\n", prompt.size(),
                 best.tokens.size(), s.beams, seconds_since(start), best.score);
    return 0;
  }
  remat::text::StopStrings stops(s.stop);
  loaded.model.generate(prompt,
                        {.length = s.length,
                         .temperature = s.temperature,
                         .top_k = s.top_k,
                         .seed = s.seed,
                         .top_p = s.top_p,
                         .min_p = s.min_p,
                         .repetition_penalty = s.repetition_penalty},
                        [&](std::int32_t token) {
                          if (count++ == 0) prefill = seconds_since(start);
                          std::cout << stops.push(answer.push(token)) << std::flush;
                          return token != end && !stops.found();
                        });
  std::cout << stops.push(answer.finish()) << stops.finish() << std::endl;
  std::fprintf(stderr, "%zu tokens read in %.2f s, %d written at %.1f a second\n", prompt.size(), prefill, count,
               count > 1 ? (count - 1) / (seconds_since(start) - prefill) : 0.0);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  return programs::run_program(argc, argv, "generate", "Continues a prompt with a language model, or answers it.",
                               Settings{}, add_options, generate);
}
