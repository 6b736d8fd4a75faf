// A model with its tokenizer goes to a folder or a GGUF file like that which it came from, and is loaded again.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <remat/io/pretrained.hpp>
#include <remat/models/gpt.hpp>
#include <string>
#include <text/golden_tokenizers.hpp>
#include <vector>

#include "core/expect_error.hpp"

namespace {

using namespace remat;
using remat_test::expect_error;

class SavePretrained : public testing::Test {
 protected:
  SavePretrained() {
    std::filesystem::remove_all(place);
    std::filesystem::create_directories(place);
  }
  ~SavePretrained() override { std::filesystem::remove_all(place); }
  std::string at(const std::string& name) const { return (place / name).string(); }

  /// Loaded from `from` and saved to `to`, what is loaded from there is the same.
  void goes_around(const std::string& from, const std::string& to, const models::SaveOptions& options) const {
    ParameterRegistry first, second;
    const auto model = models::load<float>(first / "m", from);
    models::save(model, to, options);
    const auto again = models::load<float>(second / "m", to);
    EXPECT_EQ(again.architecture, model.architecture);
    EXPECT_EQ(again.tokenizer.encode("one of them"), model.tokenizer.encode("one of them"));
    EXPECT_EQ(again.chat_template, model.chat_template);
    for (const auto& entry : first.entries()) {
      const Tensor<float> a(entry->value), b = second.at<float>(entry->path).value();
      EXPECT_TRUE(std::equal(a.begin(), a.end(), b.begin(), b.end())) << entry->path;
    }
  }

  const std::filesystem::path place = std::filesystem::path(testing::TempDir()) / "remat_save_pretrained";
};

TEST_F(SavePretrained, GoesAroundInEitherFormat) {
  const std::string tokenizer = remat_test::golden_folder + "gpt2.json";
  const auto json = nlohmann::json::parse(text::detail::read_text_file(tokenizer));
  const auto& vocabulary = json["model"]["vocab"];
  std::vector<std::string> tokens(vocabulary.size()), merges;
  for (const auto& [token, id] : vocabulary.items()) tokens[id.get<std::size_t>()] = token;
  for (const auto& merge : json["model"]["merges"])
    merges.push_back(merge.is_array() ? merge[0].get<std::string>() + " " + merge[1].get<std::string>()
                                      : merge.get<std::string>());
  ParameterRegistry parameters(5);
  models::GptConfig config{.context = 8, .num_layers = 1, .model_dims = 8, .num_heads = 2};
  config.vocabulary = static_cast<Index>(tokens.size());
  config.activation = Activation::gelu_tanh;
  const models::Gpt<float> gpt(parameters / "m", config);

  io::save_hugging_face<float>(gpt, at("folder"));
  std::filesystem::copy(tokenizer, at("folder/tokenizer.json"));
  io::detail::write_file(at("folder/tokenizer_config.json"), "{\"chat_template\": \"{{ messages }}\"}");
  goes_around(at("folder"), at("again"), {.shard_bytes = 3000});
  EXPECT_TRUE(std::filesystem::exists(at("again/model.safetensors.index.json")));

  ParameterRegistry fewer;
  config.vocabulary -= 1;
  io::save_hugging_face<float>(models::Gpt<float>(fewer / "m", config), at("fewer"));
  std::filesystem::copy(tokenizer, at("fewer/tokenizer.json"));
  expect_error({at("fewer") + ": the tokenizer has " + std::to_string(tokens.size()) + " tokens, the embedding " +
                std::to_string(tokens.size() - 1) + " rows"},
               [&] { models::load<float>(ParameterRegistry() / "m", at("fewer")); });

  io::save_gguf_model<float>(gpt, at("weights.gguf"), {.format = io::BlockFormat::f32});
  const io::GgufFile weights(at("weights.gguf"));
  std::vector<io::GgufOutput> tensors;
  for (const io::GgufTensor& tensor : weights.tensors()) tensors.emplace_back(tensor);
  std::map<std::string, io::GgufContent> metadata;
  for (const io::GgufEntry& entry : weights.metadata()) metadata.emplace(std::string(entry.key), entry.value);
  metadata["tokenizer.ggml.model"] = std::string("gpt2");
  metadata["tokenizer.ggml.pre"] = std::string("gpt-2");
  metadata["tokenizer.ggml.tokens"] = tokens;
  metadata["tokenizer.ggml.merges"] = merges;
  metadata["tokenizer.ggml.token_type"] = std::vector<std::int32_t>(tokens.size(), 1);
  metadata["tokenizer.ggml.bos_token_id"] = metadata["tokenizer.ggml.eos_token_id"] = std::uint32_t{0};
  metadata["tokenizer.chat_template"] = std::string("{{ messages }}");
  io::save_gguf(tensors, at("model.gguf"), metadata);
  goes_around(at("model.gguf"), at("again.gguf"), {.format = io::BlockFormat::f32});

  ParameterRegistry other;
  const auto model = models::load<float>(other / "m", at("model.gguf"));
  expect_error({"elsewhere", "the tokenizer of", "a GGUF file, can be written to another GGUF file only",
                "io::save_hugging_face"},
               [&] { models::save(model, at("elsewhere")); });
}

}  // namespace
