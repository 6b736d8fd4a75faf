// Layers that share weights by an id, with remat on: 24 transformer layers, 6 attentions. In Praxis, turning remat on
// makes 24 attentions of them (google/praxis#52); here an id is resolved when layers are built, so that remat cannot
// change what there is to train. Trains such a model and its twin that shares nothing on the bytes of a text, and the
// shared one once more without remat: its weights must end as the same bits.
//
//   ./run shared [--layers 24] [--attentions 6] [--remat save_nothing] ...      (--help lists every flag)
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <remat/data.hpp>
#include <remat/remat.hpp>
#include <string>
#include <vector>

#include "run_program.hpp"
#include "text_of.hpp"

namespace {

using programs::mib;
using remat::Index, remat::Parameter, remat::Tape, remat::Var;

struct Settings {
  std::string data, remat = "save_nothing";
  int layers = 24, attentions = 6, dims = 64, heads = 4, context = 64, batch = 8, steps = 50, threads = 0;
  double lr = 3e-3;
  std::uint64_t seed = 1;
};

// The model: everything that one would write for it.
struct Model {
  remat::nn::Embedding<float> embedding;
  Parameter<float> positions;
  remat::nn::StackedTransformer<float> decoder;
  remat::nn::LayerNorm<float> final_norm;

  Model(const remat::Scope& scope, const Settings& s, int attentions, const remat::Policy& remat)
      : embedding(scope / "embedding", {.vocabulary = 256, .model_dims = s.dims, .init = remat::init::normal(0.02)}),
        positions((scope / "positions").parameter<float>("table", {s.context, s.dims}, remat::init::normal(0.02))),
        decoder(scope / "decoder", stack(s, attentions, remat)),
        final_norm(scope / "final_norm", {.model_dims = s.dims}) {}

  static remat::nn::StackedTransformerConfig stack(const Settings& s, int attentions, const remat::Policy& remat) {
    const remat::nn::TransformerLayerConfig layer{.model_dims = s.dims, .num_heads = s.heads};
    remat::nn::StackedTransformerConfig config{.layers{static_cast<std::size_t>(s.layers), layer}, .remat = remat};
    for (int i = 0; i < s.layers && attentions > 0; ++i)
      config.layers[static_cast<std::size_t>(i)].attention.shared_weight_id =
          "shared_attn_" + std::to_string(i % attentions);
    return config;
  }
  Var<float> loss(Tape& tape, const remat::data::Batch& batch) const {
    const Var<float> x = add_positions(embedding(tape.input(batch.inputs)), positions);
    return linear_cross_entropy<float>(final_norm(decoder(x)), embedding.table, {}, tape.input(batch.targets),
                                       {.transposed = true});
  }
};

struct Outcome {
  remat::ParameterRegistry parameters;
  double loss = 0, validation = 0, seconds = 0;
  std::size_t peak = 0, state = 0;
};

Outcome train(const Settings& s, const remat::data::TextCorpus& corpus, const char* name, int attentions,
              const remat::Policy& remat) {
  Outcome out{remat::ParameterRegistry(s.seed)};
  const Model model(out.parameters / "lm", s, attentions, remat);
  if (attentions > 0 && remat != remat::policy::everything)
    for (const auto& [id, users] : out.parameters.shared_ids())
      std::printf("%s: %zu layers, the first %s\n", id.c_str(), users.size(), users.front().c_str());
  remat::optim::AdamW adamw(out.parameters, {.weight_decay = 0.1});
  const remat::optim::WarmupCosine rate{
      .peak = s.lr, .minimum = s.lr / 10, .warmup = std::min<Index>(10, s.steps / 4), .steps = s.steps};
  const auto batches = corpus.train_batches(s.batch, s.context, s.seed);
  const auto start = std::chrono::steady_clock::now();
  for (int step = 0; step < s.steps; ++step) {
    Tape tape({.seed = s.seed, .step = step});
    const Var<float> loss = model.loss(tape, batches.at(step));
    tape.backward(loss);
    out.loss = static_cast<double>(loss.item()), out.peak = std::max<std::size_t>(out.peak, tape.stats().peak_bytes);
    adamw.step(rate(step), remat::optim::clip_scale(remat::optim::global_norm(out.parameters), 1.0));
    if (step % 20 == 0 || step + 1 == s.steps)
      std::printf("%-22s step %d/%d  loss %.4f\n", name, step + 1, s.steps, out.loss), std::fflush(stdout);
  }
  out.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  out.state = adamw.state_bytes();
  const auto held_out = corpus.validation_batches(s.batch, s.context);
  const Index count = std::min<Index>(8, held_out.size());
  for (Index i = 0; i < count; ++i) {
    Tape tape({.mode = remat::Mode::evaluate});
    out.validation += static_cast<double>(model.loss(tape, held_out.at(i)).item()) / static_cast<double>(count);
  }
  return out;
}

// The first parameter that differs in name, shape or any bit; empty where none does.
std::string difference(const remat::ParameterRegistry& a, const remat::ParameterRegistry& b) {
  const auto some = a.entries(), others = b.entries();
  if (some.size() != others.size()) return "the number of parameters";
  for (std::size_t i = 0; i < some.size(); ++i)
    if (some[i]->path != others[i]->path ||
        !same_bits(Parameter<float>(some[i]).value(), Parameter<float>(others[i]).value()))
      return some[i]->path;
  return {};
}

int compare(const Settings& s) {
  if (s.threads > 0) omp_set_num_threads(s.threads);
  const remat::Policy remat = remat::policy::parse(s.remat), off = remat::policy::everything;
  remat::require(remat != off, "--remat ", s.remat, " is no remat, which this compares with; try save_nothing");
  const auto corpus = remat::data::TextCorpus::read_bytes(s.data);
  std::printf("%d layers of %d dims, %d heads, context %d, batch %d; remat: %s\n", s.layers, s.dims, s.heads, s.context,
              s.batch, s.remat.c_str());
  const Outcome shared = train(s, corpus, "shared, remat", s.attentions, remat);
  const Outcome twin = train(s, corpus, "not shared, remat", 0, remat);
  const Outcome plain = train(s, corpus, "shared, without remat", s.attentions, off);

  std::printf("\n%-22s %12s %15s %13s %9s %11s %9s\n", "", "parameters", "with training", "activations", "loss",
              "validation", "seconds");
  const auto line = [&](const char* name, const Outcome& o) {
    std::printf("%-22s %12td %11.2f MiB %9.2f MiB %9.4f %11.4f %9.1f\n", name, o.parameters.count(),
                mib(o.parameters.bytes() + o.state), mib(o.peak), o.loss, o.validation, o.seconds);
  };
  line("shared, remat", shared), line("not shared, remat", twin), line("shared, without remat", plain);
  const std::string where = difference(shared.parameters, plain.parameters);
  remat::require(where.empty(), "remat has changed ", where);
  std::printf("remat on and off: the same %zu tensors, and after %d steps the same bits in each\n",
              shared.parameters.entries().size(), s.steps);
  return 0;
}

void add_options(CLI::App& app, Settings& s) {
  const auto positive = CLI::Range(1, 1 << 30);
  app.add_option("--data", s.data, "text file, whose bytes are learnt")->required()->check(CLI::ExistingFile);
  app.add_option("--layers", s.layers, "transformer layers")->check(positive);
  app.add_option("--attentions", s.attentions, "sets of attention weights, which layers take in turn")->check(positive);
  app.add_option("--remat", s.remat, "remat policy: \"save_nothing\", \"dots & !batched\", ...");
  app.add_option("--dims", s.dims, "model width")->check(positive);
  app.add_option("--heads", s.heads, "attention heads")->check(positive);
  app.add_option("--context", s.context, "bytes of a sequence")->check(positive);
  app.add_option("--batch", s.batch, "sequences of a step")->check(positive);
  app.add_option("--steps", s.steps, "optimizer steps of each of three runs")->check(positive);
  app.add_option("--lr", s.lr, "highest learning rate")->check(programs::between(1e-12, 1e12));
  app.add_option("--threads", s.threads, "OpenMP threads; 0: the system's choice")->check(programs::threads());
  app.add_option("--seed", s.seed, "of initial values and batches")->check(programs::seed());
}

}  // namespace

int main(int argc, char** argv) {
  return programs::run_program(argc, argv, "shared_layers",
                               "Trains layers that share attention weights, with remat and without.", Settings(),
                               add_options, compare);
}
