// Training within a budget of bytes: the step is planned without being computed, and the step then keeps the promise.
#include <iostream>
#include <remat/data.hpp>
#include <remat/models.hpp>
#include <remat/remat.hpp>
#include <string>

int main() {
  std::string text;
  for (int i = 0; i < 100; ++i) text += "to be, or not to be: that is the question. ";
  const auto corpus = remat::data::TextCorpus::from_string(text);
  const auto batches = corpus.train_batches(/*batch=*/4, /*length=*/64, /*seed=*/1);

  remat::ParameterRegistry parameters(/*seed=*/1);
  remat::models::Gpt<float> gpt(parameters / "gpt", {.vocabulary = static_cast<int>(corpus.vocabulary_size()),
                                                     .context = 64,
                                                     .num_layers = 3,
                                                     .model_dims = 48,
                                                     .num_heads = 4});
  const auto loss = [&](remat::Tape& tape) { return gpt.loss(tape, batches.at(0)); };

  // Every policy of the phrase book: what it would hold, replay and take.
  const remat::Plan plan = remat::plan(loss);
  std::cout << plan << '\n';

  // As it is written the step keeps everything. Half way to the least possible:
  const std::size_t most = plan.rows().front().stats.peak_bytes, least = plan.frontier().front().stats.peak_bytes;
  const std::size_t budget = least + (most - least) / 2;
  gpt.set_remat(plan.within(budget));
  const std::size_t promised = remat::planned_step(loss).stats.peak_bytes;

  remat::Tape tape({.seed = 1, .step = 0});
  tape.backward(loss(tape));
  const std::size_t measured = tape.stats().peak_bytes;
  std::cout << "as written " << most << " B, least " << least << " B, budget " << budget << " B\n"
            << "promised " << promised << " B, measured " << measured << " B\n"
            << gpt.decoder.remat << '\n';
  return measured == promised && measured <= budget ? 0 : 1;
}
