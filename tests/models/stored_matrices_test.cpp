// A model whose matrices stay in its file, or are quantized when it is read, gives what the numbers give, takes no
// memory for them, and says what cannot be kept so.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <remat/io/gguf_decoder.hpp>
#include <remat/io/gguf_save.hpp>
#include <remat/io/hugging_face.hpp>
#include <remat/nn/lora.hpp>
#include <remat/optim/adamw.hpp>
#include <string>
#include <vector>

#include "core/expect_error.hpp"
#include "models/golden.hpp"

namespace {

using namespace remat;
using remat_test::expect_error;
using remat_test::golden;

template <class T, class Source>
models::Decoder<T> loaded(const Source& source, const Scope& where, io::Matrices how) {
  const models::Decoder<T> model(where.without_values(), io::decoder_config(source));
  io::load_weights(source, model, {.matrices = how});
  return model;
}
Tensor<std::int32_t> some_ids() { return {{2, 5}, {3, 1, 4, 1, 5, 9, 2, 6, 5, 3}}; }

template <class T>
Tensor<T> logits_of(const models::Decoder<T>& model) {
  Tape tape({.mode = Mode::evaluate});
  return model.logits(tape, some_ids()).value();
}
template <class T>
double farthest(const Tensor<T>& a, const Tensor<T>& b) {
  double most = 0;
  for (Index i = 0; i < a.size(); ++i) most = std::max<double>(most, std::abs(a.data()[i] - b.data()[i]));
  return most;
}

TEST(StoredMatrices, InTheFileTheyGiveTheLogitsOfTheNumbers) {
  for (const std::string name : {"llama", "qwen2", "smollm3", "gpt2"}) {
    for (const bool is_folder : {false, true}) {
      ParameterRegistry numbers, stored;
      const auto both = [&](const auto& source) {
        const auto a = loaded<double>(source, numbers / "m", io::Matrices::numbers),
                   b = loaded<double>(source, stored / "m", io::Matrices::as_stored);
        EXPECT_LT(farthest(logits_of(b), logits_of(a)), 1e-12) << name << is_folder;
      };
      is_folder ? both(io::HuggingFaceFolder(golden(name))) : both(io::GgufFile(golden(name + ".gguf")));
      EXPECT_EQ(stored.count(), numbers.count());
      EXPECT_EQ(numbers.mapped_bytes(), 0U);
      const auto entries = stored.entries(), expected = numbers.entries();
      std::size_t mapped = 0, rest = 0;
      for (std::size_t i = 0; i < entries.size(); ++i) {
        // Learned positions are added, which no op does to a matrix as it is stored.
        const bool is_kept = entries[i]->value.shape.rank() == 2 && entries[i]->path != "m/positions/table";
        EXPECT_EQ(entries[i]->is_frozen, is_kept) << entries[i]->path;
        EXPECT_EQ(farthest(Tensor<double>(entries[i]->numbers()), Tensor<double>(expected[i]->numbers())), 0);
        (is_kept ? mapped : rest) += static_cast<std::size_t>(entries[i]->value.size()) * (is_kept ? 4 : 8);
      }
      EXPECT_EQ(stored.bytes(), rest);           // norms and biases, as doubles
      EXPECT_EQ(stored.mapped_bytes(), mapped);  // the files hold floats
    }
  }
}

TEST(StoredMatrices, QuantizedWhenReadTheyAreNear) {
  const io::GgufFile file(golden("llama.gguf"));
  ParameterRegistry numbers, int8, nf4;
  const Tensor<float> exact = logits_of(loaded<float>(file, numbers / "m", io::Matrices::numbers));
  const Tensor<float> bytes = logits_of(loaded<float>(file, int8 / "m", io::Matrices::int8));
  const Tensor<float> fours = logits_of(loaded<float>(file, nf4 / "m", io::Matrices::nf4));
  const double error8 = farthest(bytes, exact), error4 = farthest(fours, exact);
  double size = 0;
  for (Index i = 0; i < exact.size(); ++i) size = std::max<double>(size, std::abs(exact.data()[i]));
  EXPECT_GT(error8, 0);
  EXPECT_GT(error4, error8);
  EXPECT_LT(error8, 0.05 * size);
  EXPECT_LT(error4, 0.5 * size);
  EXPECT_EQ(int8.at<float>("m/decoder/layer_0/ffn/ffn1/w").entry()->matrix->format(), "INT8");
  EXPECT_EQ(nf4.at<float>("m/decoder/layer_0/ffn/ffn1/w").entry()->matrix->format(), "NF4");
  EXPECT_EQ(nf4.at<float>("m/embedding/table").entry()->matrix->format(), "F32");  // as stored
}

// Those of GPT-2 lie the other way round in a folder.
TEST(StoredMatrices, OfGpt2TheyAreQuantizedTooButNotItsTables) {
  const io::HuggingFaceFolder folder(golden("gpt2"));
  ParameterRegistry numbers, int8;
  const Tensor<float> exact = logits_of(loaded<float>(folder, numbers / "m", io::Matrices::numbers));
  const double error = farthest(logits_of(loaded<float>(folder, int8 / "m", io::Matrices::int8)), exact);
  EXPECT_GT(error, 0);
  EXPECT_LT(error, 0.1);
  for (const auto& entry : int8.entries()) {
    if (!entry->matrix) continue;
    EXPECT_EQ(entry->matrix->format(), entry->path == "m/embedding/table" ? "F32" : "INT8") << entry->path;
  }
}

// Rows of query and key lie in another order in GGUF files of architecture llama; blocks must follow them.
TEST(StoredMatrices, BlocksOfAQuantizedFileAreThoseOfItsNumbers) {
  const std::string path = (std::filesystem::path(testing::TempDir()) / "remat_stored_blocks.gguf").string();
  for (const auto format : {kernels::BlockFormat::q8_0, kernels::BlockFormat::f16, kernels::BlockFormat::bf16}) {
    const std::map<std::string, io::GgufContent> metadata{
        {"general.architecture", std::string("llama")},   {"llama.attention.layer_norm_rms_epsilon", 1e-5F},
        {"llama.embedding_length", std::uint32_t{64}},    {"llama.feed_forward_length", std::uint32_t{96}},
        {"llama.attention.head_count", std::uint32_t{4}}, {"llama.attention.head_count_kv", std::uint32_t{2}},
        {"llama.block_count", std::uint32_t{1}},          {"llama.context_length", std::uint32_t{32}}};
    std::vector<io::GgufOutput> tensors;
    const RandomStream stream{.seed = 7};
    std::uint64_t at = 0;
    const auto add = [&](const std::string& name, const Shape& shape) {
      Tensor<float> value(shape);
      for (float& v : value.write()) v = static_cast<float>(0.2 * stream.normal(at++));
      tensors.emplace_back(name, value, shape.rank() == 2 ? format : kernels::BlockFormat::f32);
    };
    add("token_embd.weight", {23, 64});
    add("output_norm.weight", {64});
    for (const auto& [name, shape] : std::map<std::string, Shape>{{"attn_norm", {64}},
                                                                  {"attn_q", {64, 64}},
                                                                  {"attn_k", {32, 64}},
                                                                  {"attn_v", {32, 64}},
                                                                  {"attn_output", {64, 64}},
                                                                  {"ffn_norm", {64}},
                                                                  {"ffn_gate", {96, 64}},
                                                                  {"ffn_up", {96, 64}},
                                                                  {"ffn_down", {64, 96}}})
      add("blk.0." + name + ".weight", shape);
    io::save_gguf(tensors, path, metadata);
    const io::GgufFile file(path);
    ParameterRegistry numbers, stored;
    const auto a = loaded<float>(file, numbers / "m", io::Matrices::numbers),
               b = loaded<float>(file, stored / "m", io::Matrices::as_stored);
    EXPECT_LT(farthest(logits_of(b), logits_of(a)), 1e-4);
    const auto entries = stored.entries(), expected = numbers.entries();
    for (std::size_t i = 0; i < entries.size(); ++i)
      EXPECT_EQ(farthest(Tensor<float>(entries[i]->numbers()), Tensor<float>(expected[i]->numbers())), 0)
          << entries[i]->path;
  }
  std::filesystem::remove(path);
}

// The file may go while the model is in use: it stays mapped.
TEST(StoredMatrices, AdaptersAreTrainedBesideAFileThatIsGone) {
  const std::filesystem::path copy = std::filesystem::path(testing::TempDir()) / "remat_stored_gone.gguf";
  std::filesystem::copy_file(golden("llama.gguf"), copy, std::filesystem::copy_options::overwrite_existing);
  ParameterRegistry parameters(1);
  const auto model = loaded<float>(io::GgufFile(copy.string()), parameters / "m", io::Matrices::as_stored);
  std::filesystem::remove(copy);
  const nn::Lora<float> lora(parameters, parameters / "lora", {.rank = 2});
  const Tensor<std::int32_t> targets({2, 5}, {1, 4, 1, 5, 9, 2, 6, 5, 3, 5});
  optim::AdamW adamw(parameters);
  float first = 0, last = 0;
  for (int step = 0; step < 8; ++step) {
    Tape tape({.step = step});
    const Var<float> loss = model.loss(tape, some_ids(), targets);
    last = loss.item();
    if (step == 0) first = last;
    tape.backward(loss);
    adamw.step(1e-2);
  }
  EXPECT_LT(last, first);
  for (const auto& entry : parameters.entries())
    EXPECT_EQ(entry->is_frozen, entry->path.find("lora/") == std::string::npos) << entry->path;
}

}  // namespace
