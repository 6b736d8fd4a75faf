// The flags of a GPT that benchmarks share.
#pragma once

#include "run_program.hpp"

namespace bench {

/// Sizes of model and batch, whose defaults are what `settings` holds.
template <class Settings>
void add_model_options(CLI::App& app, Settings& settings) {
  const auto positive = CLI::Range(1, 1 << 30);
  app.add_option("--layers", settings.layers, "transformer layers")->check(positive);
  app.add_option("--dims", settings.dims, "model width")->check(positive);
  app.add_option("--heads", settings.heads, "attention heads")->check(positive);
  app.add_option("--context", settings.context, "tokens of a sequence")->check(positive);
  app.add_option("--batch", settings.batch, "sequences of a step")->check(positive);
  app.add_option("--vocabulary", settings.vocabulary, "different tokens")->check(positive);
}

}  // namespace bench
