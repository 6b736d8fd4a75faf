// What one sees before the first step.
#pragma once

#include <iomanip>
#include <iostream>
#include <remat/data.hpp>
#include <remat/remat.hpp>
#include <string>

#include "machine_facts.hpp"
#include "text_of.hpp"
#include "train_gpt/settings.hpp"

namespace train_gpt {

/// All settings, the size of the model and of the text, and what the machine can do.
inline void print_start(const Settings& s, const CLI::App& app, const remat::ParameterRegistry& parameters,
                        const remat::data::TextCorpus& corpus, double peak_gflops, const std::string& ranks) {
  const auto row = [](const std::string& name, const auto& value) {
    std::cout << "  " << std::left << std::setw(18) << name << value << '\n' << std::right;
  };
  std::cout << "remat " << remat::version() << '\n';
  for (const CLI::Option* option : app.get_options()) {
    const std::string name = option->get_single_name();
    if (name == "help" || name == "prompt" || name == "bias" || name == "plan") continue;
    row(name, option->count() > 0 ? option->as<std::string>() : option->get_default_str());
  }
  row("ranks", ranks);
  row("parameters", programs::text_of("%lld in %zu tensors", static_cast<long long>(parameters.count()),
                                      parameters.entries().size()));
  row("tokens", programs::text_of("%zu to train on, %zu to validate, vocabulary %lld", corpus.train_tokens().size(),
                                  corpus.validation_tokens().size(), static_cast<long long>(corpus.vocabulary_size())));
  for (const auto& [name, value] : programs::machine_facts(peak_gflops)) row(name, value);
  row("policy", s.memory > 0 ? "planned, at most " + std::to_string(s.memory) + " MiB of activations"
                             : remat::policy::to_string(remat::policy::parse(s.remat)));
  std::cout << std::endl;
}

}  // namespace train_gpt
