// Fine-tunes a BERT to tell which of several texts a passage is from.
//
//   ./run classify [--model FOLDER] [--texts FILE FILE ...] [--minutes 3]      (--help lists every flag)
#include <algorithm>
#include <chrono>
#include <filesystem>
#include <iomanip>
#include <iostream>
#include <remat/data/held_out.hpp>
#include <remat/data/shuffled.hpp>
#include <remat/io.hpp>
#include <remat/io/pretrained_bert.hpp>
#include <remat/models.hpp>
#include <remat/remat.hpp>
#include <remat/text/tokenizer_json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "ranks.hpp"
#include "run_program.hpp"
#include "saved_run.hpp"
#include "text_of.hpp"

namespace {

using programs::text_of;
using remat::Index, remat::Tape;
using remat::distributed::Group;
using Model = remat::models::SequenceClassification<float>;

struct Settings {
  std::string model, out = "classified";
  std::vector<std::string> texts;
  int batch = 32, micro_batches = 1, length = 64, steps = 0, threads = 0, checkpointing = 0;
  double minutes = 3, lr = 1e-4, dropout = 0.1, held_out = 0.2;
  std::uint64_t seed = 1;
  programs::StateSettings states{};
};

void add_options(CLI::App& app, Settings& s) {
  const auto not_negative = CLI::Range(0, 1 << 30);
  const auto fraction = programs::between(0, 0.999999);
  app.add_option("--model", s.model, "folder with config.json, tokenizer.json and model.safetensors of a BERT")
      ->required()
      ->check(CLI::ExistingDirectory);
  app.add_option("--texts", s.texts, "files, a class each: passages between lines of %, or else between empty lines")
      ->required()
      ->check(CLI::ExistingFile);
  app.add_option("--batch", s.batch, "passages of a step")->check(CLI::Range(1, 1 << 20));
  app.add_option("--micro-batches", s.micro_batches, "parts of a batch, one after another or by several ranks")
      ->check(CLI::Range(1, 1 << 20));
  app.add_option("--length", s.length, "tokens of a passage at most")->check(CLI::Range(3, 1 << 20));
  app.add_option("--steps", s.steps, "optimizer steps; 0: by --minutes")->check(not_negative);
  app.add_option("--minutes", s.minutes, "time of training where --steps is not given, 3 epochs at most")
      ->check(programs::between(1e-12, 1e12));
  app.add_option("--lr", s.lr, "highest learning rate")->check(programs::between(1e-12, 1e12));
  app.add_option("--dropout", s.dropout, "everywhere")->check(fraction);
  app.add_option("--held-out", s.held_out, "part of the passages that is not learned but evaluated")
      ->check(programs::between(1e-9, 0.999999));
  app.add_option("--checkpointing", s.checkpointing, "recompute each n-th layer in backward; 0: none")
      ->check(not_negative);
  app.add_option("--threads", s.threads, "OpenMP threads; 0: the system's choice")->check(programs::threads());
  app.add_option("--seed", s.seed, "of the split, batches, dropout and the head")->check(programs::seed());
  app.add_option("--out", s.out, "folder for the model, and states to resume from");
  programs::add_state_options(app, s.states);
}

/// The passages of all texts as tokens, each with the number of its text.
struct Passages {
  std::vector<std::vector<std::int32_t>> ids;
  std::vector<std::int32_t> labels;
  std::vector<std::string> names;  // of the texts
};

Passages read_passages(const Settings& s, const remat::text::Tokenizer& tokenizer) {
  Passages all;
  for (const std::string& path : s.texts) {
    const std::string text = remat::text::detail::read_text_file(path);
    const bool by_percent = text.find("\n%\n") != std::string::npos;
    const auto label = static_cast<std::int32_t>(all.names.size());
    std::string passage, line;
    const auto add = [&] {
      if (std::count_if(passage.begin(), passage.end(), [](char c) { return c != ' ' && c != '\n'; }) >= 20) {
        auto ids = tokenizer.encode(passage);
        const auto most = static_cast<std::size_t>(s.length);
        if (ids.size() > most) ids[most - 1] = ids.back(), ids.resize(most);  // it ends as a whole one does
        all.ids.push_back(std::move(ids)), all.labels.push_back(label);
      }
      passage.clear();
    };
    for (std::istringstream lines(text); std::getline(lines, line);)
      if (by_percent ? line == "%" : line.empty())
        add();
      else
        passage += line + "\n";
    add();
    all.names.push_back(std::filesystem::path(path).stem().string());
    remat::require(!all.labels.empty() && all.labels.back() == label, path, ": holds no passage of 20 letters");
  }
  remat::require(all.names.size() >= 2, "--texts: one text is no choice; give two or more");
  return all;
}

/// Some of the passages, padded to the longest of them.
struct Batch {
  remat::models::EncoderInput input;
  remat::Tensor<std::int32_t> labels;

  Batch rows(Index begin, Index end) const {
    return {{.ids = input.ids.slice(begin, end), .lengths = input.lengths.slice(begin, end)}, labels.slice(begin, end)};
  }
};
Batch batch_of(const Passages& all, const std::vector<Index>& which) {
  const auto rows = static_cast<Index>(which.size());
  std::vector<std::int32_t> lengths, labels;
  for (const Index i : which) {
    lengths.push_back(static_cast<std::int32_t>(all.ids[static_cast<std::size_t>(i)].size()));
    labels.push_back(all.labels[static_cast<std::size_t>(i)]);
  }
  const Index longest = *std::max_element(lengths.begin(), lengths.end());
  std::vector<std::int32_t> ids(static_cast<std::size_t>(rows * longest), 0);
  for (std::size_t r = 0; r < which.size(); ++r)
    std::copy(all.ids[static_cast<std::size_t>(which[r])].begin(), all.ids[static_cast<std::size_t>(which[r])].end(),
              ids.begin() + static_cast<std::ptrdiff_t>(r) * longest);
  return {{.ids = {{rows, longest}, ids}, .lengths = {{rows}, lengths}}, {{rows}, labels}};
}
/// The batch of a step: every passage once an epoch, each epoch in another order.
Batch batch_at(const Passages& all, const std::vector<Index>& train, const Settings& s, Index step) {
  const auto count = static_cast<Index>(train.size());
  std::vector<Index> which;
  for (Index n = step * s.batch; n < (step + 1) * s.batch; ++n) {
    const remat::RandomStream order{s.seed, static_cast<std::uint32_t>(n / count), 0xFFFFFFFE};
    which.push_back(train[static_cast<std::size_t>(remat::data::detail::shuffled(n % count, count, order))]);
  }
  return batch_of(all, which);
}

/// [is][was told] of passages.
using Confusion = std::vector<std::vector<Index>>;
Confusion confusion_of(const Model& model, const Passages& all, const std::vector<Index>& which, const Group& group) {
  const auto count = static_cast<Index>(which.size());
  const std::size_t classes = all.names.size();
  const auto sums = programs::summed_by_ranks(group, (count + 63) / 64, classes * classes, [&](Index i) {
    const auto begin = which.begin() + i * 64;
    const Batch batch = batch_of(all, {begin, begin + std::min<Index>(64, count - i * 64)});
    Tape tape({.mode = remat::Mode::evaluate});
    const auto told = argmax(model.logits(tape, batch.input), 1).value();
    std::vector<double> counts(classes * classes);
    for (Index r = 0; r < told.size(); ++r)
      ++counts[static_cast<std::size_t>(batch.labels[r]) * classes + static_cast<std::size_t>(told[r])];
    return counts;
  });
  Confusion table(classes, std::vector<Index>(classes));
  for (std::size_t i = 0; i < sums.size(); ++i) table[i / classes][i % classes] = static_cast<Index>(sums[i]);
  return table;
}
double accuracy_of(const Confusion& table) {
  Index right = 0, all = 0;
  for (std::size_t i = 0; i < table.size(); ++i)
    for (std::size_t j = 0; j < table.size(); ++j) all += table[i][j], right += i == j ? table[i][j] : 0;
  return static_cast<double>(right) / static_cast<double>(all);
}
void print(const Confusion& table, const std::vector<std::string>& names) {
  std::cout << "\n  is \\ was told ";
  for (const auto& name : names) std::cout << std::setw(13) << name.substr(0, 12);
  for (std::size_t i = 0; i < names.size(); ++i) {
    std::cout << "\n  " << std::left << std::setw(14) << names[i].substr(0, 13) << std::right;
    for (const Index count : table[i]) std::cout << std::setw(13) << count;
  }
  std::cout << "\n\n";
}

int classify(const Settings& given, const CLI::App& app, const Group& group) {
  Settings s = given;
  const std::string ranks = programs::begin_ranks(group, s.threads);
  if (app.count("--micro-batches") == 0) s.micro_batches = programs::micro_batches_of(s.batch, group);
  programs::check_micro_batches(s.batch, s.micro_batches, group);
  const auto tokenizer = remat::text::load_tokenizer(s.model + "/tokenizer.json");
  const Passages all = read_passages(s, tokenizer);
  const auto split = remat::data::split_held_out(static_cast<Index>(all.ids.size()), s.held_out, s.seed);
  remat::ParameterRegistry parameters(s.seed);
  Model model = remat::models::load_bert<Model>(
      parameters / "bert", s.model,
      {.new_head = true, .classes = static_cast<Index>(all.names.size()), .dropout = s.dropout});
  for (const auto& ids : all.ids)
    remat::require(static_cast<Index>(ids.size()) <= model.encoder.config.context, "--length ", s.length,
                   " lets a passage of ", ids.size(), " tokens be, where the model knows ",
                   model.encoder.config.context, " positions");
  if (s.checkpointing > 0) model.enable_gradient_checkpointing({.every_n_layers = s.checkpointing});
  std::cout << text_of("%s: %.1f million parameters; %zu passages of %zu texts to learn, %zu held out\n",
                       s.model.c_str(), 1e-6 * static_cast<double>(parameters.count()), split.train.size(),
                       all.names.size(), split.held_out.size());
  if (group.size() > 1) std::cout << "ranks: " << ranks << '\n';
  remat::distributed::require_equal(group, parameters);
  const double before = accuracy_of(confusion_of(model, all, split.held_out, group));
  std::cout << text_of("held-out accuracy before: %.1f%%\n", 100 * before) << std::flush;

  programs::RankTraining training(group, parameters, {});
  const auto gradients = [&](Index step) {
    const Batch batch = batch_at(all, split.train, s, step);
    const double share = 1.0 / s.micro_batches;
    return training.gradients(s.batch, s.micro_batches, {.seed = s.seed, .step = step},
                              [&](Tape& tape, Index begin, Index end) {
                                const Batch part = batch.rows(begin, end);
                                return model.loss(tape, part.input, part.labels) * share;
                              });
  };
  programs::SavedRun run(s.states, s.out, parameters, true, group);
  programs::RunFacts facts{.files = {{"model", s.model + "/config.json"}}, .free_flags = {"minutes", "checkpointing"}};
  for (const std::string& path : s.texts) facts.files["text " + path] = path;
  int steps = s.steps;
  run.keep_number("micro_batches", s.micro_batches, true);
  const int first = run.begin(app, "adamw", training.optimizer(), steps, facts);
  programs::check_micro_batches(s.batch, s.micro_batches, group);
  if (first == 0 && steps == 0) {
    const auto epoch = (static_cast<Index>(split.train.size()) + s.batch - 1) / s.batch;
    const double seconds = programs::median_of_ranks(
        group, [&] { gradients(0), parameters.zero_grad(); }, 3, 1);
    steps = static_cast<int>(remat::io::steps_within(60 * s.minutes, seconds, 10, 3 * epoch));
    std::cout << text_of("%d steps of about %.2f s; --steps or --minutes say otherwise\n", steps, seconds);
  }
  const remat::optim::WarmupCosine schedule{.peak = s.lr, .minimum = 0, .warmup = steps / 10, .steps = steps};
  {
    remat::io::ProgressLine progress(steps);
    for (int step = first; step < steps; ++step) {
      const double loss = gradients(step).loss;
      training.step(schedule(step), remat::optim::clip_scale(training.norm(), 1));
      progress.show(step, text_of("step %d/%d  loss %.4f  lr %.1e", step + 1, steps, loss, schedule(step)));
      if (run.is_stopped(step + 1, steps, [&](const std::string& text) { progress.note(text); }))
        return programs::stopped;
    }
  }
  std::cout << training.communication();
  const Confusion table = confusion_of(model, all, split.held_out, group);
  if (!group.is_first()) return 0;
  print(table, all.names);
  std::cout << text_of("held-out accuracy %.1f%% -> %.1f%%\n", 100 * before, 100 * accuracy_of(table));
  remat::io::save_bert(model, s.out + "/model");
  std::filesystem::copy_file(s.model + "/tokenizer.json", s.out + "/model/tokenizer.json",
                             std::filesystem::copy_options::overwrite_existing);
  std::cout << "wrote " << s.out << "/model, which transformers opens\n";
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  return programs::run_ranks(argc, argv, [&](const Group& group) {
    return programs::run_program(argc, argv, "classify",
                                 "Fine-tunes a BERT to tell which of several texts a passage is from.", Settings{},
                                 add_options, [&](const Settings& s, const CLI::App& app) {
                                   return programs::or_stop_all(group, [&] { return classify(s, app, group); });
                                 });
  });
}
