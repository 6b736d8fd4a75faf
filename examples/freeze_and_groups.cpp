// Adapting what is trained already: most parameters frozen, the others in groups with a rate and a decay of their own.
//
// A small GPT learns one text, then another with its embeddings and first layer frozen.
#include <iostream>
#include <remat/data.hpp>
#include <remat/models.hpp>
#include <remat/remat.hpp>
#include <string>

namespace {

std::string repeated(const std::string& words) {
  std::string text;
  for (int i = 0; i < 200; ++i) text += words;
  return text;
}

}  // namespace

int main() {
  const auto corpus = remat::data::TextCorpus::from_string(repeated("to be, or not to be. ") + repeated("be not to. "));
  const auto tokens = corpus.train_tokens();
  const remat::data::RandomBatches first(tokens.first(4000), 8, 16, /*seed=*/1), second(tokens.last(1800), 8, 16, 1);

  remat::ParameterRegistry parameters(/*seed=*/1);
  const remat::models::Gpt<float> gpt(
      parameters / "gpt",
      {.vocabulary = corpus.vocabulary_size(), .context = 16, .num_layers = 2, .model_dims = 32, .num_heads = 2});
  const auto train = [&](const remat::data::RandomBatches& batches, remat::optim::AdamW& adamw, int steps) {
    double loss = 0, flops = 0;
    for (int step = 0; step < steps; ++step) {
      remat::Tape tape({.seed = 1, .step = step});
      const auto mean = gpt.loss(tape, batches.at(step));
      tape.backward(mean);
      loss = static_cast<double>(mean.item()), flops = tape.stats().backward_flops;
      adamw.step(3e-3);
    }
    std::cout << "loss " << loss << ", " << flops / 1e6 << " MFLOP in backward\n";
    return std::pair{loss, flops};
  };
  remat::optim::AdamW whole(parameters, {.weight_decay = 0.1});
  const auto before = train(first, whole, 100);

  // A pattern names paths; `*` is any run of characters. One that fits nothing is an error that lists near paths.
  parameters.freeze("gpt/embedding*");
  parameters.freeze("*/layer_0/*");
  remat::optim::AdamW partial(parameters, {.weight_decay = 0.1,
                                           .groups = {{.parameters = "*norm*", .weight_decay = 0},
                                                      {.parameters = "*/attention/*", .learning_rate_scale = 0.5}}});
  const auto kept = parameters.at<float>("gpt/embedding/table").value();
  const auto after = train(second, partial, 100);
  std::cout << parameters;

  // The frozen table is what it was, no product was computed for its gradient, and there is no state for it.
  const bool is_same = same_bits(kept, parameters.at<float>("gpt/embedding/table").value());
  const bool is_less = partial.state_bytes() < whole.state_bytes() && after.second < before.second;
  return is_same && is_less && after.first < 1 ? 0 : 1;
}
