// Decoders from GGUF files and from folders of transformers give the logits, the loss and the gradients that
// transformers computes (tests/golden), and refuse tensors that do not fit.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <remat/io/gguf_decoder.hpp>
#include <remat/io/hugging_face.hpp>
#include <string>
#include <tuple>
#include <vector>

#include "core/expect_error.hpp"
#include "models/config_folder.hpp"
#include "models/golden.hpp"

namespace {

using namespace remat;
using remat_test::ConfigFolder;
using remat_test::expect_error;
using remat_test::golden;

enum class From { gguf, folder };
class Family : public testing::TestWithParam<std::tuple<const char*, From>> {};
const auto name_of = [](const auto& info) {
  const bool is_gguf = std::get<1>(info.param) == From::gguf;
  return std::string(std::get<0>(info.param)) + (is_gguf ? "FromGguf" : "FromFolder");
};
INSTANTIATE_TEST_SUITE_P(Decoders, Family,
                         testing::Combine(testing::Values("llama", "qwen2", "smollm3", "gpt2", "qwen3", "olmo2",
                                                          "olmo3", "granite", "gemma2", "gemma3_text", "falcon",
                                                          "falcon_40b", "falcon_11b", "llama_scaled", "olmo3_yarn"),
                                          testing::Values(From::gguf, From::folder)),
                         name_of);
INSTANTIATE_TEST_SUITE_P(DecoderOfFoldersOnly, Family,
                         testing::Combine(testing::Values("falcon_rw"), testing::Values(From::folder)), name_of);

template <class Source>
models::Decoder<double> loaded(const Source& source, const Scope& where) {
  const models::Decoder<double> model(where, io::decoder_config(source));
  io::load_weights(source, model);
  return model;
}

TEST_P(Family, GivesLogitsLossAndEveryGradientOfTransformers) {
  const auto [name, from] = GetParam();
  const io::GgufFile file(golden(std::string(name) + ".gguf"));
  const std::string gradients = golden(std::string(name) + "_gradients");
  ParameterRegistry parameters, expected;
  const models::Decoder<double> model = from == From::gguf
                                            ? loaded(file, parameters / "m")
                                            : loaded(io::HuggingFaceFolder(golden(name)), parameters / "m");
  if (std::filesystem::is_directory(gradients))
    loaded(io::HuggingFaceFolder(gradients), expected / "m");
  else
    loaded(io::GgufFile(gradients + ".gguf"), expected / "m");

  const auto ids = file.get<std::vector<std::int32_t>>("expected.ids");
  const Index batch = 2, length = static_cast<Index>(ids.size()) / batch;
  std::vector<std::int32_t> targets(ids.size(), -1);  // of what follows nothing is known
  for (std::size_t i = 0; i + 1 < ids.size(); ++i)
    if ((i + 1) % static_cast<std::size_t>(length) != 0) targets[i] = ids[i + 1];
  const auto tensor = [&](const std::vector<std::int32_t>& of) {
    return Tensor<std::int32_t>({batch, length}, std::span<const std::int32_t>(of));
  };
  Tape look({.mode = Mode::evaluate});
  const Tensor<double> logits = model.logits(look, tensor(ids)).value();
  const auto expected_logits = file.get<std::vector<double>>("expected.logits");
  ASSERT_EQ(static_cast<std::size_t>(logits.size()), expected_logits.size());
  for (Index i = 0; i < logits.size(); ++i)
    EXPECT_NEAR(logits[i], expected_logits[static_cast<std::size_t>(i)], 1e-5) << "logit " << i;

  Tape tape;
  const Var<double> loss = model.loss(tape, tensor(ids), tensor(targets));
  EXPECT_NEAR(loss.item(), file.get<std::vector<double>>("expected.loss")[0], 1e-6);
  tape.backward(loss);
  const auto entries = parameters.entries(), wanted = expected.entries();
  ASSERT_EQ(entries.size(), wanted.size());
  for (std::size_t i = 0; i < entries.size(); ++i) {
    ASSERT_EQ(entries[i]->path, wanted[i]->path);
    const Tensor<double> is(entries[i]->grad_or_zeros()), should(wanted[i]->value);
    double error = 0, size = 0;
    for (Index k = 0; k < is.size(); ++k) error += std::pow(is[k] - should[k], 2), size += std::pow(should[k], 2);
    EXPECT_LE(std::sqrt(error), 1e-5 * std::sqrt(size)) << entries[i]->path;
    EXPECT_GT(size, 0) << entries[i]->path;
  }
}

// Token by token with a cache, behind a prompt of three.
TEST_P(Family, GivesTokenByTokenWhatItGivesAtOnce) {
  const auto [name, from] = GetParam();
  const io::GgufFile file(golden(std::string(name) + ".gguf"));
  ParameterRegistry parameters;
  const models::Decoder<double> model = from == From::gguf
                                            ? loaded(file, parameters / "m")
                                            : loaded(io::HuggingFaceFolder(golden(name)), parameters / "m");
  const auto ids = file.get<std::vector<std::int32_t>>("expected.ids");
  const Index length = static_cast<Index>(ids.size()) / 2;
  const auto part = [&](Index begin, Index end) {
    return Tensor<std::int32_t>({1, end - begin}, std::span(ids).subspan(static_cast<std::size_t>(begin),
                                                                         static_cast<std::size_t>(end - begin)));
  };
  Tape whole({.mode = Mode::evaluate});
  const Tensor<double> expected = model.logits(whole, part(0, length)).value();
  nn::KeyValueCache<double> cache(length);
  for (Index begin = 0, end = 3; end <= length; begin = end, ++end) {
    Tape tape({.mode = Mode::evaluate});
    const Tensor<double> logits = model.next_logits(tape, part(begin, end), cache).value();
    for (Index v = 0; v < logits.size(); ++v) EXPECT_NEAR(logits[v], expected(0, end - 1, v), 1e-11) << "token " << end;
  }
}

// What a file lacks, or has beyond the model, is told at once, and nothing is half loaded.
TEST(GgufDecoderFiles, AllTensorsThatDoNotFitAreListed) {
  const io::GgufFile llama(golden("llama.gguf")), qwen2(golden("qwen2.gguf"));
  ParameterRegistry parameters;
  models::DecoderConfig config = io::decoder_config(llama);
  config.layers.pop_back();
  config.model_dims = 0;
  config.model_dims = config.layers[0].model_dims;
  config.layers[0].hidden_dims = 8;
  config.tied_head = false;
  const models::Decoder<float> model(parameters / "m", config);
  expect_error({"llama.gguf", "output.weight is missing, m/head/w needs it",
                "blk.0.ffn_up.weight has shape [24, 16], m/decoder/layer_0/ffn/ffn1/w needs [8, 16]",
                "\"blk.1.attn_q.weight\" belongs to no parameter"},
               [&] { io::load_weights(llama, model); });
  for (const auto& entry : parameters.entries())
    if (entry->path.find("norm") == std::string::npos) {
      const Tensor<float> value(entry->value);
      for (Index i = 0; i < value.size(); ++i) ASSERT_EQ(value[i], 0) << entry->path;
    }
  EXPECT_EQ(io::decoder_config(qwen2).layers[1].attention.bias, true);
  EXPECT_EQ(io::decoder_config(qwen2).layers[1].attention.out_bias, false);
}

// Files may hold the head of a tied model again: it must be the embedding.
TEST(HuggingFaceWeights, ATiedHeadThatIsStoredIsCompared) {
  const std::filesystem::path folder = std::filesystem::path(testing::TempDir()) / "remat_hugging_face_tied";
  std::filesystem::remove_all(folder);
  std::filesystem::copy(golden("llama"), folder);
  const auto read = [&] {
    std::ifstream in(folder / "model.safetensors", std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(in), {});
  };
  const std::string original = read();
  std::uint64_t length = 0;
  std::memcpy(&length, original.data(), sizeof length);
  auto header = nlohmann::json::parse(original.substr(8, length));
  const std::string data = original.substr(8 + length);
  const auto embedding = header["model.embed_tokens.weight"]["data_offsets"].get<std::vector<std::size_t>>();
  std::string head = data.substr(embedding[0], embedding[1] - embedding[0]);
  header["lm_head.weight"] = header["model.embed_tokens.weight"];
  header["lm_head.weight"]["data_offsets"] = {data.size(), data.size() + head.size()};
  const auto load = [&] {
    const std::string text = header.dump();
    const std::uint64_t size = text.size();
    std::ofstream out(folder / "model.safetensors", std::ios::binary);
    out.write(reinterpret_cast<const char*>(&size), sizeof size) << text << data << head;
    out.close();
    ParameterRegistry parameters;
    loaded(io::HuggingFaceFolder(folder.string()), parameters / "m");
    return parameters.count();
  };
  EXPECT_GT(load(), 0);
  head[5] = static_cast<char>(head[5] ^ 1);
  expect_error({"lm_head.weight is said to be m/embedding/table again, but holds other values"}, load);
  std::filesystem::remove_all(folder);
}

// Rows of query, key and value lie by groups of heads in a folder: in our order as numbers, and as they are stored.
TEST(HuggingFaceWeights, FalconsMatricesAreReadInOurOrderWhereTheyLie) {
  for (const char* name : {"falcon", "falcon_40b", "falcon_rw"}) {
    const io::HuggingFaceFolder folder(golden(name));
    ParameterRegistry numbers, stored;
    loaded(folder, numbers / "m");
    const models::Decoder<double> model(stored / "m", io::decoder_config(folder));
    io::load_weights(folder, model, {.matrices = io::Matrices::as_stored});
    for (const auto& entry : numbers.entries()) {
      const Tensor<double> a(entry->numbers()), b(stored.at<double>(entry->path).entry()->numbers());
      EXPECT_TRUE(same_bits(a, b)) << entry->path;
    }
  }
}

// The first files of GPT-2 have no "transformer." before the names, and hold the causal masks.
TEST(HuggingFaceWeights, Gpt2IsReadWithoutPrefixAndWithMasks) {
  const ConfigFolder folder("gpt2");
  std::vector<io::SafetensorsOutput> tensors;
  const io::SafetensorsFile file(golden("gpt2/model.safetensors"));
  for (const std::string& name : file.names()) {
    ASSERT_EQ(name.rfind("transformer.", 0), 0U);
    tensors.push_back({name.substr(12), DType::float32, file.info(name).shape,
                       [&file, name] { return file.read<float>(name).any(); }});
  }
  const Shape square{1, 1, 16, 16};
  tensors.push_back({"h.0.attn.bias", DType::float32, square, [&] { return Tensor<float>(square, 1.0F).any(); }});
  tensors.push_back({"h.1.attn.masked_bias", DType::float32, {}, [] { return Tensor<float>(Shape{}, -1e4F).any(); }});
  const std::string path = (folder.path / "model.safetensors").string();
  io::save_safetensors(tensors, path);
  ParameterRegistry with, without;
  loaded(io::HuggingFaceFolder(golden("gpt2")), with / "m");
  loaded(io::HuggingFaceFolder(folder.path.string()), without / "m");
  for (const auto& entry : with.entries()) {
    const Tensor<double> a(entry->value), b = without.at<double>(entry->path).value();
    EXPECT_TRUE(std::equal(a.begin(), a.end(), b.begin(), b.end())) << entry->path;
  }
}

}  // namespace
