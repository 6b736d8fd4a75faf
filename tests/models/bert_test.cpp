// BERT with each of its heads gives the logits, losses and gradients that transformers computes (tests/golden/bert), is
// read and written as transformers does, and recomputes its layers without changing a bit.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <remat/autodiff/report.hpp>
#include <remat/io/pretrained_bert.hpp>
#include <remat/nn/lora.hpp>
#include <remat/policy/phrase_book.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/expect_error.hpp"

namespace {

using namespace remat;
using remat_test::expect_error;

std::string golden(const std::string& head) { return REMAT_SOURCE_DIR "/tests/golden/bert/" + head; }

struct Expected {
  nlohmann::json json;
  explicit Expected(const std::string& head)
      : json(nlohmann::json::parse(std::ifstream(golden(head) + "/expected.json"))) {}

  Shape shape() const {
    const auto axes = json.at("shape").get<std::vector<Index>>();
    return {axes.begin(), axes.end()};
  }
  Tensor<std::int32_t> ids(const char* name, const Shape& shape) const {
    auto values = json.at(name).get<std::vector<std::int32_t>>();
    for (std::int32_t& value : values)
      if (value == -100) value = -1;  // what does not count
    return Tensor<std::int32_t>(shape, std::span<const std::int32_t>(values));
  }
  models::EncoderInput input() const {
    return {.ids = ids("input_ids", shape()),
            .token_types = ids("token_type_ids", shape()),
            .mask = ids("attention_mask", shape())};
  }
  Tensor<std::int32_t> labels(const char* name = "labels") const {
    const auto count = static_cast<Index>(json.at(name).size());
    return ids(name, count == shape().size() ? shape() : Shape{count});
  }
  double loss() const { return json.at("loss"); }
};

// The loss that the golden file is of.
template <class Model>
auto loss_of(const Model& model, Tape& tape, const Expected& e) {
  return model.loss(tape, e.input(), e.labels());
}
template <class T>
Var<Accum<T>> loss_of(const models::PreTraining<T>& model, Tape& tape, const Expected& e) {
  return model.loss(tape, e.input(), e.labels(), e.labels("next_sentence_label"));
}
template <class T>
Var<Accum<T>> loss_of(const models::QuestionAnswering<T>& model, Tape& tape, const Expected& e) {
  const auto places = [&](const char* name) {
    auto values = e.json.at(name).get<std::vector<std::int32_t>>();
    for (std::int32_t& value : values)
      if (value >= e.shape().back()) value = -1;  // behind a text that was cut off
    return Tensor<std::int32_t>({static_cast<Index>(values.size())}, std::span<const std::int32_t>(values));
  };
  return model.loss(tape, e.input(), places("start_positions"), places("end_positions"));
}

template <class T>
std::vector<Var<T>> all_of(const Var<T>& one) {
  return {one};
}
template <class T>
std::vector<Var<T>> all_of(const std::pair<Var<T>, Var<T>>& two) {
  return {two.first, two.second};
}

template <template <class> class M>
struct Head {
  template <class T>
  using Model = M<T>;
};
template <class H>
class Bert : public testing::Test {};
using Heads = testing::Types<Head<models::MaskedLanguageModel>, Head<models::NextSentence>, Head<models::PreTraining>,
                             Head<models::SequenceClassification>, Head<models::TokenClassification>,
                             Head<models::MultipleChoice>, Head<models::QuestionAnswering>>;
TYPED_TEST_SUITE(Bert, Heads);

template <class T>
std::string folder_of(const models::MaskedLanguageModel<T>*) {
  return "MaskedLM";
}
template <class T>
std::string folder_of(const models::NextSentence<T>*) {
  return "NextSentencePrediction";
}
template <class T>
std::string folder_of(const models::PreTraining<T>*) {
  return "PreTraining";
}
template <class T>
std::string folder_of(const models::SequenceClassification<T>*) {
  return "SequenceClassification";
}
template <class T>
std::string folder_of(const models::TokenClassification<T>*) {
  return "TokenClassification";
}
template <class T>
std::string folder_of(const models::MultipleChoice<T>*) {
  return "MultipleChoice";
}
template <class T>
std::string folder_of(const models::QuestionAnswering<T>*) {
  return "QuestionAnswering";
}

template <class Model>
std::string folder_of() {
  return folder_of(static_cast<const Model*>(nullptr));
}

// Padding on the right and on the left, types of both kinds, labels that do not count.
TYPED_TEST(Bert, GivesLogitsLossAndEveryGradientOfTransformers) {
  using Model = typename TypeParam::template Model<double>;
  const std::string folder = folder_of<Model>();
  const Expected expected(folder);
  const ParameterRegistry parameters;
  const Model model = models::load_bert<Model>(parameters / "m", golden(folder), {.dropout = 0});
  Tape look({.mode = Mode::evaluate});
  const auto logits = all_of(model.logits(look, expected.input()));
  ASSERT_EQ(logits.size(), expected.json.at("logits").size());
  for (std::size_t i = 0; i < logits.size(); ++i) {
    const auto values = expected.json.at("logits")[i].get<std::vector<double>>();
    const Tensor<double> ours = logits[i].value();
    ASSERT_EQ(static_cast<std::size_t>(ours.size()), values.size());
    for (Index k = 0; k < ours.size(); ++k) EXPECT_NEAR(ours[k], values[static_cast<std::size_t>(k)], 1e-7) << k;
  }
  Tape tape;
  const auto loss = loss_of(model, tape, expected);
  EXPECT_NEAR(loss.item(), expected.loss(), 1e-9);
  tape.backward(loss);

  const io::SafetensorsFile gradients(golden(folder) + "/gradients.safetensors");
  const io::families::BertWeights<double> weights(model);
  std::size_t count = 0;
  for (const auto* part : {&weights.encoder, &weights.pooler, &weights.head})
    for (const auto& weight : *part) {
      const Tensor<double> wanted = gradients.template read_as<double>(weight.name), ours = weight.parameter.grad();
      const Index outputs = ours.shape().back(), inputs = ours.size() / outputs;
      double error = 0, size = 0;
      for (Index k = 0; k < ours.size(); ++k) {
        const double should = wanted[weight.layout.transposed ? k % outputs * inputs + k / outputs : k];
        error += std::pow(ours[k] - should, 2), size += std::pow(should, 2);
      }
      // A bias of keys moves no probability: its gradient is zero but for rounding.
      EXPECT_LE(std::sqrt(error), 1e-6 * std::sqrt(size) + 1e-9) << weight.name;
      ++count;
    }
  EXPECT_EQ(count, gradients.names().size());
  EXPECT_EQ(count, parameters.entries().size());
}

// What transformers checks of gradient checkpointing are outputs without dropout. Here: the loss and every gradient,
// bit for bit, with dropout, whatever stays of a layer and whichever layers are recomputed.
TYPED_TEST(Bert, RecomputesItsLayersWithoutChangingABit) {
  using Model = typename TypeParam::template Model<float>;
  const std::string folder = folder_of<Model>();
  const Expected expected(folder);
  const ParameterRegistry parameters;
  Model model = models::load_bert<Model>(parameters / "m", golden(folder));
  struct Outcome {
    float loss;
    std::vector<Tensor<float>> gradients;
    std::size_t saved;
    Index replayed;
    bool is_of_layers;
  };
  const auto run = [&] {
    parameters.zero_grad();
    Tape tape({.seed = 3, .step = 1});
    const auto loss = loss_of(model, tape, expected);
    Outcome out{loss.item(), {}, 0, 0, true};
    tape.backward(loss);
    out.saved = tape.stats().saved_bytes, out.replayed = tape.stats().ops_replayed;
    for (const char* op : {"embedding", "add_positions", "tanh", "cross_entropy", "linear_cross_entropy"})
      out.is_of_layers = out.is_of_layers && !tape.stats().replayed_by_op.contains(op);
    for (const auto& entry : parameters.entries()) out.gradients.push_back(Parameter<float>(entry).grad().copy());
    return out;
  };
  const Outcome plain = run();
  EXPECT_EQ(plain.replayed, 0);
  const auto expect_same = [&](const Outcome& other) {
    EXPECT_EQ(other.loss, plain.loss);
    for (std::size_t i = 0; i < plain.gradients.size(); ++i)
      EXPECT_TRUE(same_bits(other.gradients[i], plain.gradients[i])) << parameters.entries()[i]->path;
  };
  model.enable_gradient_checkpointing();
  const Outcome all = run();
  expect_same(all);
  EXPECT_LT(all.saved, plain.saved);
  EXPECT_TRUE(all.is_of_layers) << "embeddings, pooler and head are kept";
  model.enable_gradient_checkpointing({.every_n_layers = 2});
  const Outcome half = run();
  expect_same(half);
  EXPECT_TRUE(half.saved > all.saved && half.saved < plain.saved);
  EXPECT_TRUE(half.replayed > 0 && half.replayed < all.replayed);
  for (const Policy& policy : {policy::dots, offload(policy::dots)}) {
    model.enable_gradient_checkpointing({.policy = policy});
    expect_same(run());
  }
  model.activation_checkpointing_enable(1, true);  // as transformers names it, what layers make on disk
  expect_same(run());
  model.disable_gradient_checkpointing();
  const Outcome again = run();
  expect_same(again);
  EXPECT_EQ(again.saved, plain.saved);
  EXPECT_EQ(again.replayed, 0);
}

// What is written is what was read, and nothing else is needed to read it.
TYPED_TEST(Bert, IsWrittenAsItIsRead) {
  using Model = typename TypeParam::template Model<float>;
  const std::string folder = folder_of<Model>();
  const std::string copy = std::filesystem::temp_directory_path() / ("bert_" + folder + std::to_string(getpid()));
  ParameterRegistry parameters, others;
  const Model model = models::load_bert<Model>(parameters / "m", golden(folder));
  io::save_bert(model, copy);
  models::load_bert<Model>(others / "m", copy);
  const auto entries = parameters.entries(), read = others.entries();
  ASSERT_EQ(entries.size(), read.size());
  for (std::size_t i = 0; i < entries.size(); ++i)
    EXPECT_TRUE(same_bits(Parameter<float>(entries[i]).value(), Parameter<float>(read[i]).value())) << read[i]->path;
  std::filesystem::remove_all(copy);
}

using Classifier = models::SequenceClassification<float>;

// Lengths are the mask of padding behind the tokens; what lies in padding is not seen, whatever it is.
TEST(BertInput, LengthsAndMasksHidePadding) {
  const ParameterRegistry parameters;
  const auto model = models::load_bert<Classifier>(parameters / "m", golden("SequenceClassification"));
  const auto logits = [&](const models::EncoderInput& input) {
    Tape tape({.mode = Mode::evaluate});
    return model.logits(tape, input).value();
  };
  const Tensor<std::int32_t> ids({2, 4}, {1, 2, 3, 4, 5, 6, 7, 8}), other({2, 4}, {1, 2, 9, 9, 5, 6, 7, 8}),
      lengths({2}, {2, 4}), mask({2, 4}, {1, 1, 0, 0, 1, 1, 1, 1});
  const auto by_lengths = logits({.ids = ids, .lengths = lengths}), by_mask = logits({.ids = ids, .mask = mask}),
             changed = logits({.ids = other, .mask = mask}), all = logits({.ids = ids});
  for (Index i = 0; i < by_mask.size(); ++i) {
    EXPECT_NEAR(by_lengths[i], by_mask[i], 1e-5) << i;
    EXPECT_EQ(by_mask[i], changed[i]) << i;
  }
  EXPECT_NE(by_mask[0], all[0]);
  const Tensor<std::int32_t> types({2, 4}, 0);
  EXPECT_TRUE(same_bits(all, logits({.ids = ids, .token_types = types}))) << "types that are left out are 0";
  expect_error({"m/encoder: was given lengths and a mask"},
               [&] { logits({.ids = ids, .lengths = lengths, .mask = mask}); });
  expect_error({"the mask has a value other than 0 and 1"}, [&] { logits({.ids = ids, .mask = ids}); });
  expect_error({"the mask has shape [2]"}, [&] { logits({.ids = ids, .mask = lengths}); });
  expect_error({"token_types have shape [2]"}, [&] { logits({.ids = ids, .token_types = lengths}); });
  expect_error({"ids have shape [2]"}, [&] { logits({.ids = lengths}); });
  expect_error({"positions [0, 10)"}, [&] { logits({.ids = Tensor<std::int32_t>({1, 10}, 1)}); });
}

// Several labels at once, and numbers: the losses by their formulas.
TEST(BertHeads, ClassifyManyLabelsAndRegress) {
  const ParameterRegistry parameters;
  const auto model = models::load_bert<Classifier>(parameters / "m", golden("SequenceClassification"));
  const models::EncoderInput input{.ids = Tensor<std::int32_t>({2, 3}, {1, 2, 3, 4, 5, 6})};
  const Tensor<float> targets({2, 3}, {0, 1, 1, 0, 0, 1});
  Tape tape({.mode = Mode::evaluate});
  const Tensor<float> logits = model.logits(tape, input).value();
  double many = 0, square = 0;
  for (Index i = 0; i < 6; ++i) {
    many += std::log1p(std::exp(static_cast<double>(logits[i]))) - static_cast<double>(targets[i] * logits[i]);
    square += std::pow(static_cast<double>(logits[i] - targets[i]), 2);
  }
  EXPECT_NEAR(model.multi_label_loss(tape, input, targets).item(), many / 6, 1e-5);
  EXPECT_NEAR(model.regression_loss(tape, input, targets).item(), square / 6, 1e-4);
}

// Frozen embeddings leave every other gradient as it is, with checkpointing too: where others lose theirs.
TEST(BertHeads, TrainAboveFrozenEmbeddings) {
  const ParameterRegistry parameters;
  auto model = models::load_bert<Classifier>(parameters / "m", golden("SequenceClassification"));
  const Expected expected("SequenceClassification");
  const auto gradients = [&] {
    parameters.zero_grad();
    Tape tape({.seed = 1, .step = 0});
    tape.backward(loss_of(model, tape, expected));
    std::vector<Tensor<float>> all;
    for (const auto& entry : parameters.entries())
      if (entry->path.find("embedding") == std::string::npos && entry->path.find("positions") == std::string::npos) {
        EXPECT_TRUE(entry->has_grad) << entry->path;
        all.push_back(Parameter<float>(entry).grad().copy());
      }
    return all;
  };
  const auto before = gradients();
  for (const char* pattern : {"*embedding*", "*positions*"}) parameters.freeze(pattern);
  model.enable_gradient_checkpointing();
  const auto after = gradients();
  ASSERT_EQ(before.size(), after.size());
  for (std::size_t i = 0; i < before.size(); ++i) EXPECT_TRUE(same_bits(before[i], after[i])) << i;
}

TEST(BertHeads, RefuseWhatTheyCannotDo) {
  const ParameterRegistry parameters;
  auto model = models::load_bert<models::QuestionAnswering<float>>(parameters / "m", golden("QuestionAnswering"));
  expect_error({"m/encoder: enable_gradient_checkpointing: every_n_layers is 0"},
               [&] { model.enable_gradient_checkpointing({.every_n_layers = 0}); });
  Tape tape;
  const auto x = tape.input(Tensor<float>({1, 2, 8}, 1.0F));
  expect_error({"m/encoder: has no pooler"}, [&] { model.encoder.pooled(x); });
  using Config = models::EncoderConfig;
  const Config good{.vocabulary = 5, .context = 4, .num_layers = 1, .model_dims = 8, .num_heads = 2};
  const auto refuses = [&](Config config, std::initializer_list<std::string_view> words) {
    expect_error(words, [&] { models::Encoder<float>(ParameterRegistry() / "e", config); });
  };
  const models::MultipleChoice<float> choice(parameters / "choice", good);
  expect_error({"choice/encoder: ids of choices have shape [2, 3], [B, C, T] is needed"}, [&] {
    choice.logits(tape, {.ids = Tensor<std::int32_t>({2, 3}, 1)});
  });
  Config c = good;
  c.num_heads = 3;
  refuses(c, {"e/encoder/layer_0", "num_heads 3 does not divide model_dims 8"});
  c = good, c.dropout = 1;
  refuses(c, {"e", "dropout"});
  c = good, c.token_types = 0;
  refuses(c, {"e: vocabulary 5, context 4, token_types 0"});
  c = good, c.norm_epsilon = 0;
  refuses(c, {"e", "norm_epsilon"});
}

// bfloat16 layers over float masters, as everywhere.
TEST(BertHeads, ComputeInBfloat16) {
  const ParameterRegistry parameters;
  const auto folder = golden("MaskedLM");
  auto model = models::load_bert<models::MaskedLanguageModel<bfloat16>>(parameters / "m", folder, {.dropout = 0});
  const Expected expected("MaskedLM");
  Tape tape;
  const auto loss = loss_of(model, tape, expected);
  EXPECT_NEAR(loss.item(), expected.loss(), 0.05 * expected.loss());
  tape.backward(loss);
}

/// A folder that is written for one test.
struct Folder {
  std::string path = std::filesystem::temp_directory_path() / ("bert_folder_" + std::to_string(getpid()));
  nlohmann::json config;
  explicit Folder(const std::string& head)
      : config(nlohmann::json::parse(std::ifstream(golden(head) + "/config.json"))),
        from_(golden(head) + "/model.safetensors") {
    std::filesystem::create_directories(path);
  }
  ~Folder() { std::filesystem::remove_all(path); }
  template <class Rename>
  void write(const Rename& rename, std::vector<io::SafetensorsOutput> more = {}) {
    const io::SafetensorsFile file(from_);
    for (const std::string& name : file.names())
      if (const std::string now = rename(name); !now.empty())
        more.push_back(
            {now, DType::float32, file.info(name).shape, [&file, name] { return file.read<float>(name).any(); }});
    io::save_safetensors(more, path + "/model.safetensors");
    std::ofstream(path + "/config.json") << config;
  }

 private:
  std::string from_;
};

// Files of before 2020: norms of gamma and beta, an encoder without "bert.", a buffer of positions, tied weights twice.
// A model that was refused has left nothing behind, so that the next attempt finds its place free.
TEST(BertHeads, LeaveNothingWhereTheyWereRefused) {
  ParameterRegistry parameters;
  const models::EncoderConfig config{
      .vocabulary = 11, .context = 7, .num_layers = 1, .model_dims = 8, .num_heads = 2, .hidden_dims = 12};
  expect_error({"m/head"}, [&] { Classifier(parameters / "m", config, 0); });
  expect_error({"m", "dropout"}, [&] { models::MultipleChoice<float>(parameters / "m", config, 1.5); });
  EXPECT_TRUE(parameters.entries().empty());
  EXPECT_EQ(Classifier(parameters / "m", config, 2).head.w.shape()[1], 2);
}

TEST(BertFiles, AreReadUnderTheirOldNames) {
  ParameterRegistry parameters, others;
  const auto model = models::load_bert<models::MaskedLanguageModel<float>>(parameters / "m", golden("MaskedLM"));
  Folder folder("MaskedLM");
  const auto old = [](const std::string& name) {
    std::string now = name.starts_with("bert.") ? name.substr(5) : name;
    for (const auto& [end, was] :
         {std::pair{"LayerNorm.weight", "LayerNorm.gamma"}, {"LayerNorm.bias", "LayerNorm.beta"}})
      if (now.ends_with(end)) now = now.substr(0, now.size() - std::string(end).size()) + was;
    return now;
  };
  const auto table = model.encoder.embedding.table.value(), bias = model.head.bias.value();
  const Tensor<std::int64_t> buffer({1, 9}, 0);
  folder.write(old, {{"embeddings.position_ids", DType::int64, {1, 9}, [&] { return buffer.any(); }},
                     {"cls.predictions.decoder.weight", DType::float32, table.shape(), [&] { return table.any(); }},
                     {"cls.predictions.decoder.bias", DType::float32, bias.shape(), [&] { return bias.any(); }},
                     {"cls.seq_relationship.bias", DType::float32, bias.shape(), [&] { return bias.any(); }}});
  models::load_bert<models::MaskedLanguageModel<float>>(others / "m", folder.path);
  const auto entries = parameters.entries(), read = others.entries();
  for (std::size_t i = 0; i < entries.size(); ++i)
    EXPECT_TRUE(same_bits(Parameter<float>(entries[i]).value(), Parameter<float>(read[i]).value())) << read[i]->path;
  // The bias under its other name alone; a decoder that is not the embedding is refused.
  folder.write([&](const std::string& name) {
    return name == "cls.predictions.bias" ? "cls.predictions.decoder.bias" : old(name);
  });
  ParameterRegistry again, wrong;
  const auto third = models::load_bert<models::MaskedLanguageModel<float>>(again / "m", folder.path);
  EXPECT_TRUE(same_bits(third.head.bias.value(), bias));
  const Tensor<float> ones(table.shape(), 1.0F);
  folder.write(old, {{"cls.predictions.decoder.weight", DType::float32, table.shape(), [&] { return ones.any(); }}});
  expect_error({"cls.predictions.decoder.weight is said to be m/encoder/embedding/table again"},
               [&] { models::load_bert<models::MaskedLanguageModel<float>>(wrong / "m", folder.path); });
}

// A head that the folder lacks is an error by name, unless a new one is wanted; then the encoder is read all the same.
TEST(BertFiles, GetNewHeadsWhereTheyAreAskedFor) {
  ParameterRegistry parameters, others;
  const auto folder = golden("MaskedLM");  // without a pooler, too
  expect_error({"classifier.weight is missing, m/head/w needs it", "bert.pooler.dense.weight is missing"},
               [&] { models::load_bert<Classifier>(parameters / "m", folder); });
  const auto model = models::load_bert<Classifier>(others / "m", folder, {.new_head = true, .classes = 5});
  EXPECT_EQ(model.head.w.shape(), (Shape{8, 5}));
  ParameterRegistry third;
  const auto masked = models::load_bert<models::MaskedLanguageModel<float>>(third / "m", folder);
  EXPECT_TRUE(same_bits(model.encoder.embedding.table.value(), masked.encoder.embedding.table.value()));
  ParameterRegistry fourth;  // the encoder alone
  const auto encoder = models::load_bert<models::Encoder<float>>(fourth / "e", golden("NextSentencePrediction"));
  EXPECT_TRUE(encoder.pooler.has_value());
}

// Nothing is written where something would be lost, or where there can be no folder.
TEST(BertFiles, AreWrittenWholeOrNotAtAll) {
  using Model = models::MaskedLanguageModel<float>;
  ParameterRegistry parameters;
  const Model model = models::load_bert<Model>(parameters / "m", golden(folder_of<Model>()));
  const std::string file = std::filesystem::temp_directory_path() / ("bert_file" + std::to_string(getpid()));
  std::ofstream(file) << "bytes";
  expect_error({file + ": weights of int32 are not written"}, [&] { io::save_bert(model, file, DType::int32); });
  expect_error({file + ": cannot be made"}, [&] { io::save_bert(model, file); });
  const nn::Lora<float> lora(parameters, parameters / "l", {.targets = {"*/value"}, .rank = 1});
  expect_error({file + ": m/encoder/", "value/w has an adapter", "Lora::merge"}, [&] { io::save_bert(model, file); });
  std::filesystem::remove(file);
}

// What would be computed otherwise than transformers does is refused by name.
TEST(BertFiles, WithUnknownSettingsAreRefused) {
  ParameterRegistry parameters;
  Folder folder("MaskedLM");
  const auto refuses = [&](const char* name, const nlohmann::json& value, const std::string& what) {
    const nlohmann::json before = folder.config;
    folder.config[name] = value;
    folder.write([](const std::string& n) { return n; });
    expect_error({"config.json", name, what},
                 [&] { models::load_bert<models::MaskedLanguageModel<float>>(parameters / "m", folder.path); });
    folder.config = before;
  };
  refuses("model_type", "roberta", "not \"bert\"");
  refuses("tie_word_embeddings", false, "only true");
  refuses("position_embedding_type", "relative_key", "only \"absolute\"");
  refuses("hidden_act", "mish", "mish");
  refuses("new_field", 1, "not supported");
  folder.config["add_cross_attention"] = true;
  folder.write([](const std::string& n) { return n; });
  expect_error({"m/encoder: cross_attention is of decoders"},
               [&] { models::load_bert<models::MaskedLanguageModel<float>>(parameters / "m", folder.path); });
}

}  // namespace
