// Decoders that are written are read again as they were, in either format and by each family; what a family cannot say
// is refused before anything is written.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <remat/io/gguf_decoder.hpp>
#include <remat/io/gguf_decoder_save.hpp>
#include <remat/io/hugging_face.hpp>
#include <remat/io/hugging_face_save.hpp>
#include <remat/models/gpt.hpp>
#include <remat/nn/lora.hpp>
#include <string>
#include <vector>

#include "core/expect_error.hpp"
#include "models/golden.hpp"
#include "nn/random_tensor.hpp"

namespace {

using namespace remat;
using remat_test::expect_error;
using remat_test::golden;

/// A folder or file of this test, gone afterwards.
struct Place {
  std::string path;
  explicit Place(const std::string& name)
      : path((std::filesystem::path(testing::TempDir()) / ("remat_saved_" + std::to_string(::getpid()) + "_" + name))
                 .string()) {
    std::filesystem::remove_all(path);
  }
  ~Place() { std::filesystem::remove_all(path); }
  bool has(const std::string& name) const { return std::filesystem::exists(path + "/" + name); }
};

template <class T, class Source>
models::Decoder<T> loaded(const Source& source, const Scope& where, const io::LoadOptions& options = {}) {
  const models::Decoder<T> model(where.without_values(), io::decoder_config(source));
  io::load_weights(source, model, options);
  return model;
}
void expect_equal(const ParameterRegistry& a, const ParameterRegistry& b) {
  const auto left = a.entries(), right = b.entries();
  ASSERT_EQ(left.size(), right.size());
  for (std::size_t i = 0; i < left.size(); ++i) {
    ASSERT_EQ(left[i]->path, right[i]->path);
    const AnyTensor x = left[i]->numbers(), y = right[i]->numbers();
    ASSERT_EQ(x.shape, y.shape);
    EXPECT_EQ(std::memcmp(x.data(), y.data(), x.bytes()), 0) << left[i]->path;
  }
}
/// What is read from `path`, a file or a folder.
template <class T = float>
void expect_read(const ParameterRegistry& parameters, const std::string& path) {
  ParameterRegistry again;
  std::filesystem::is_directory(path) ? (void)loaded<T>(io::HuggingFaceFolder(path), again / "m")
                                      : (void)loaded<T>(io::GgufFile(path), again / "m");
  expect_equal(parameters, again);
}
nlohmann::json config_in(const std::string& folder) {
  std::ifstream in(folder + "/config.json");
  return nlohmann::json::parse(in);
}

class SavedFamily : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Decoders, SavedFamily,
                         testing::Values("llama", "qwen2", "smollm3", "gpt2", "qwen3", "olmo2", "olmo3", "granite",
                                         "gemma2", "gemma3_text", "falcon", "falcon_40b", "falcon_11b", "falcon_rw",
                                         "llama_scaled", "olmo3_yarn"),
                         [](const auto& info) { return std::string(info.param); });

TEST_P(SavedFamily, IsReadAgainFromEitherFormat) {
  const std::string name = GetParam();
  ParameterRegistry parameters;
  const auto model = loaded<float>(io::HuggingFaceFolder(golden(name)), parameters / "m");
  const Place folder(name), file(name + ".gguf");
  io::save_hugging_face(model, folder.path);
  expect_read(parameters, folder.path);
  EXPECT_EQ(config_in(folder.path)["model_type"], config_in(golden(name))["model_type"]);
  EXPECT_TRUE(config_in(folder.path).at("pad_token_id").is_null());  // else transformers has one beyond the vocabulary
  const io::SafetensorsShards written(folder.path + "/model.safetensors"),
      reference(golden(name) + (name == "qwen2" ? "/model.safetensors.index.json" : "/model.safetensors"));
  EXPECT_EQ(written.names(), reference.names());
  if (name == "falcon_rw")
    return expect_error({"layers[0].parallel is false", "a GGUF file of architecture"},
                        [&] { io::save_gguf_model(model, file.path); });
  io::save_gguf_model(model, file.path, {.format = io::BlockFormat::f32});
  expect_read(parameters, file.path);
  // The same bytes as those of the reference, in the same names and layouts.
  const io::GgufFile ours(file.path), theirs(golden(name + ".gguf"));
  ASSERT_EQ(ours.tensors().size(), theirs.tensors().size());
  for (const io::GgufTensor& tensor : theirs.tensors()) {
    const io::GgufTensor& same = ours.at(tensor.name);
    EXPECT_EQ(same.shape, tensor.shape);
    EXPECT_TRUE(std::equal(same.bytes.begin(), same.bytes.end(), tensor.bytes.begin(), tensor.bytes.end()))
        << tensor.name;
  }
}

// As they are stored they are written without ever being numbers all at once; of doubles no bit is lost.
TEST_P(SavedFamily, FromStoredMatricesAndOfOtherTypes) {
  const std::string name = GetParam();
  ParameterRegistry stored, doubles;
  const io::LoadOptions as_stored{.matrices = io::Matrices::as_stored};
  const bool has_gguf = name != "falcon_rw";
  const auto model = has_gguf ? loaded<float>(io::GgufFile(golden(name + ".gguf")), stored / "m", as_stored)
                              : loaded<float>(io::HuggingFaceFolder(golden(name)), stored / "m", as_stored);
  const Place folder(name + "_stored"), wide(name + "_wide"), half(name + "_half.gguf");
  io::save_hugging_face(model, folder.path, {.dtype = DType::bfloat16, .shard_bytes = 2000});
  EXPECT_TRUE(folder.has("model.safetensors.index.json"));
  EXPECT_FALSE(folder.has("model.safetensors"));
  ParameterRegistry rounded;
  loaded<float>(io::HuggingFaceFolder(folder.path), rounded / "m");
  if (has_gguf) {
    io::save_gguf_model(model, half.path, {.format = io::BlockFormat::bf16});
    const io::GgufFile halves(half.path);
    for (const io::GgufTensor& entry : halves.tensors())
      EXPECT_EQ(entry.type.name, entry.shape.rank() == 2 && entry.name != "position_embd.weight" ? "BF16" : "F32");
  }
  for (const auto& entry : stored.entries()) {
    const Tensor<float> exact(entry->numbers()), near = rounded.at<float>(entry->path).value();
    for (Index i = 0; i < exact.size(); ++i) EXPECT_NEAR(near[i], exact[i], std::abs(exact[i]) / 256) << entry->path;
  }
  const auto precise = loaded<double>(io::HuggingFaceFolder(golden(name)), doubles / "m");
  std::uint64_t seed = 0;
  for (const auto& entry : doubles.entries()) {
    const Parameter<double> parameter(entry);
    parameter.set_value(remat_test::random_tensor<double>(parameter.shape(), ++seed));
  }
  io::save_hugging_face(precise, wide.path);
  EXPECT_EQ(config_in(wide.path)["torch_dtype"], "float64");
  expect_read<double>(doubles, wide.path);
}

// A folder that had shards has none that readers would take for the model once it is written in one file, and the
// other way round; the tokenizer and the special tokens come along.
TEST(SavedFolder, HoldsNothingOfWhatWasThere) {
  ParameterRegistry parameters;
  const auto model = loaded<float>(io::HuggingFaceFolder(golden("qwen2")), parameters / "m");
  const Place from("from"), to("to");
  std::filesystem::copy(golden("qwen2"), from.path);
  std::ofstream(from.path + "/tokenizer.json") << "{}";
  auto config = config_in(from.path);
  config["eos_token_id"] = {3, 4};
  std::ofstream(from.path + "/config.json") << config;
  for (const std::size_t shard_bytes : {std::size_t{0}, std::size_t{4000}, std::size_t{0}}) {
    io::save_hugging_face(model, to.path, {.shard_bytes = shard_bytes, .like = from.path});
    EXPECT_EQ(to.has("model.safetensors"), shard_bytes == 0);
    EXPECT_EQ(to.has("model.safetensors.index.json"), shard_bytes != 0);
    EXPECT_TRUE(to.has("tokenizer.json"));
    EXPECT_EQ(config_in(to.path)["eos_token_id"], config["eos_token_id"]);
    expect_read(parameters, to.path);
  }
  io::save_hugging_face(model, to.path, {.like = to.path});  // in its place
  expect_read(parameters, to.path);
  const std::string index = to.path + "/model.safetensors.index.json", under = to.path + "/config.json/x";
  expect_error({to.path + ": weights of int32 are not written"},
               [&] { io::save_hugging_face(model, to.path, {.dtype = DType::int32}); });
  expect_error({under + ": cannot be made"}, [&] { io::save_hugging_face(model, under); });
  expect_read(parameters, to.path);
  std::filesystem::create_directories(index + "/x");
  expect_error({index + ": cannot be removed", "take it for the model"},
               [&] { io::save_hugging_face(model, to.path); });
  std::ofstream(from.path + "/config.json") << "{";
  expect_error({from.path + "/config.json: ", "not valid JSON"},
               [&] { io::save_hugging_face(model, to.path, {.like = from.path}); });
}

TEST(SavedGguf, TakesOverWhatTheBaseSaysOfItsTokenizer) {
  const Place base("base.gguf"), file("like_base.gguf");
  const io::GgufFile source(golden("llama.gguf"));
  std::vector<io::GgufOutput> tensors;
  for (const io::GgufTensor& tensor : source.tensors()) tensors.emplace_back(tensor);
  std::map<std::string, io::GgufContent> metadata;
  for (const io::GgufEntry& entry : source.metadata()) metadata.emplace(std::string(entry.key), entry.value);
  metadata["tokenizer.ggml.tokens"] = std::vector<std::string>{"a", "b"};
  metadata["general.file_type"] = std::uint32_t{2};
  metadata["split.count"] = std::uint16_t{3};
  metadata["llama.rope.freq_base"] = 501.0F;
  io::save_gguf(tensors, base.path, metadata);
  ParameterRegistry parameters;
  const io::GgufFile opened(base.path);
  const auto model = loaded<float>(opened, parameters / "m");
  io::save_gguf_model(model, file.path, {.format = io::BlockFormat::f32, .base = &opened});
  const io::GgufFile again(file.path);
  EXPECT_EQ(again.get<std::vector<std::string>>("tokenizer.ggml.tokens"), (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(again.get<int>("general.file_type"), 0);
  EXPECT_EQ(again.find("split.count"), nullptr);
  EXPECT_EQ(again.get<float>("llama.rope.freq_base"), 501.0F);
  EXPECT_EQ(again.get<Index>("llama.attention.head_count_kv"), 2);
  expect_read(parameters, file.path);
}

// A model of our own goes to GPT-2's files.
TEST(SavedGpt, IsOneOfTransformers) {
  ParameterRegistry parameters(3), again;
  models::GptConfig config{.vocabulary = 11, .context = 8, .num_layers = 2, .model_dims = 12, .num_heads = 3};
  const models::Gpt<float> gpt(parameters / "m", config);
  const Place folder("gpt"), file("gpt.gguf");
  io::save_hugging_face<float>(gpt, folder.path);
  EXPECT_EQ(config_in(folder.path)["activation_function"], "gelu");
  const Tensor<std::int32_t> ids({1, 4}, {3, 1, 4, 1});
  const auto read = loaded<float>(io::HuggingFaceFolder(folder.path), again / "m");
  Tape tape({.mode = Mode::evaluate});
  const Tensor<float> a = gpt.logits(tape, ids).value(), b = read.logits(tape, ids).value();
  EXPECT_TRUE(std::equal(a.begin(), a.end(), b.begin(), b.end()));
  expect_error({"gpt.gguf: layers[0].ffn.activation is gelu", "architecture gpt2 cannot say", "gelu_tanh"},
               [&] { io::save_gguf_model<float>(gpt, file.path); });
  EXPECT_FALSE(std::filesystem::exists(file.path));
}

// Behind what is said of settings: a part without a name is never left out of a file.
TEST(SavedDecoders, PartsThatAFormatHasNoNameForAreNamed) {
  const models::DecoderConfig config = io::decoder_config(io::HuggingFaceFolder(golden("gpt2")));
  ParameterRegistry parameters;
  const models::Decoder<float> model(parameters / "m", config);
  expect_error({"m/positions", "the format of the file has no name for it"},
               [&] { io::named_weights(model, io::hugging_face_names("model.")); });
  expect_error({"gpt2: is no kind of Llama"}, [] { io::families::llama_kind("gpt2"); });
}

TEST(SavedDecoders, WhatAFamilyCannotSayIsNamed) {
  const models::DecoderConfig llama = io::decoder_config(io::HuggingFaceFolder(golden("llama"))),
                              smollm3 = io::decoder_config(io::HuggingFaceFolder(golden("smollm3")));
  const Place folder("no"), file("no.gguf");
  const auto refused = [&](models::DecoderConfig config, auto change, const char* type,
                           std::initializer_list<std::string_view> parts, bool is_gguf = false) {
    change(config);
    ParameterRegistry parameters;
    const models::Decoder<float> model(parameters / "m", config);
    expect_error(parts, [&] {
      is_gguf ? io::save_gguf_model(model, file.path, {.architecture = type})
              : io::save_hugging_face(model, folder.path, {.model_type = type});
    });
    EXPECT_FALSE(std::filesystem::exists(is_gguf ? file.path : folder.path));
  };
  const auto as_is = [](auto&) {};
  refused(llama, [](auto& c) { c.layers[1].attention.soft_cap = 30; }, "",
          {"layers[1].attention.soft_cap is 30", "folder of model_type llama cannot say", "read as 0"});
  refused(llama, [](auto& c) { c.layers[1].attention.window = 3; }, "", {"layers[1].attention.window is 3"});
  refused(llama, [](auto& c) { c.layers[0].attention.scale = 1; }, "", {"layers[0].attention.scale is 1"});
  refused(llama, [](auto& c) { c.layers[0].hidden_dims = 32; }, "", {"layers[1].hidden_dims is 24", "32"});
  refused(llama, [](auto& c) { c.layers[0].attention.rotary_dims = 2; }, "", {"layers[0].attention.rotary_dims is 2"});
  refused(llama, [](auto& c) { c.layers[0].ffn.activation = Activation::gelu; }, "", {"layers[0].ffn.activation"});
  refused(llama, [](auto& c) { c.norm_epsilon = 1e-3; }, "", {"layers[0].norm_epsilon is 1e-05", "0.001"});
  refused(llama, [](auto& c) { c.norm = nn::NormKind::layer_norm; }, "", {"norm is layer_norm", "rms_norm"});
  refused(llama, [](auto& c) { c.layers[0].attention.combined_qkv = true; }, "", {"combined_qkv is true"});
  refused(llama, as_is, "qwen2", {"layers[0].attention.bias is false", "qwen2", "true"});
  refused(llama, as_is, "gpt2", {"learned_positions is false", "gpt2"});
  refused(llama, as_is, "bloom",
          {"\"bloom\" is no family", "llama, mistral, qwen2, smollm3, qwen3, olmo2, olmo3, granite, gpt2"});
  refused(llama, as_is, "falcon", {"norm is rms_norm", "falcon", "layer_norm"});
  refused(llama,
          [](auto& c) {
            c.layers[1].attention.rotary_scaling = {RotaryScaling::linear, 2};
          },
          "", {"layers[1].attention.rotary_scaling.kind is linear", "none"});
  refused(llama,
          [](auto& c) {
            c.layers[1].attention.rotary_scaling = {RotaryScaling::yarn, 2};
          },
          "", {"layers[1].attention.rotary_scaling.kind is yarn", "none"});
  const auto yarn = [](auto& c, double beta_slow) {
    for (auto& layer : c.layers) layer.attention.rotary_scaling = {RotaryScaling::yarn, 2, 1, 4, 8};
    c.layers[1].attention.rotary_scaling.beta_slow = beta_slow;
  };
  refused(llama, [&](auto& c) { yarn(c, 0.5); }, "", {"layers[1].attention.rotary_scaling.beta_slow is 0.5", "1"});
  refused(llama,
          [&](auto& c) {
            yarn(c, 1);
            c.layers[1].attention.rotary_scaling.attention_factor = 3;
          },
          "", {"layers[1].attention.rotary_scaling.attention_factor is 3"});
  const auto gguf_of = [&](models::DecoderConfig config, auto change, const char* architecture) {
    for (auto& layer : config.layers) change(layer.attention);
    ParameterRegistry parameters;
    const models::Decoder<float> model(parameters / "m", config);
    io::save_gguf_model(model, file.path, {.architecture = architecture});
    const auto read = io::decoder_config(io::GgufFile(file.path)).layers[1].attention.rotary_scaling;
    std::filesystem::remove(file.path);
    return read;
  };
  // Tables that a tensor or YaRN's settings say are written, those that neither says are refused by name.
  const auto each = gguf_of(
      llama,
      [](auto& c) {
        c.rotary_scaling = {RotaryScaling::longrope};
        c.rotary_scaling.factors = {1.5, 3}, c.rotary_scaling.attention_factor = 1;
      },
      "llama");
  EXPECT_EQ(each.factors, (std::vector<double>{1.5, 3}));
  const auto turned = gguf_of(
      llama,
      [](auto& c) {
        c.rotary_scaling = {RotaryScaling::yarn, 8, 1, 4, 4};
        c.rotary_scaling.attention_factor = 1.25;
      },
      "llama");
  EXPECT_EQ(turned.kind, RotaryScaling::yarn);
  EXPECT_NEAR(ops::rotary_amplitude(turned), 1.25, 1e-6);
  const auto scaled = [](auto kind) {
    return [kind](auto& c) {
      for (auto& layer : c.layers) layer.attention.rotary_scaling = {kind, 8, 1, 4, 4};
    };
  };
  refused(
      llama,
      [&](auto& c) {
        scaled(RotaryScaling::yarn)(c);
        for (auto& layer : c.layers) layer.attention.rotary_scaling.truncate = false;
      },
      "llama", {"layers[0].attention.rotary_scaling.truncate is false"}, true);
  refused(
      llama,
      [&](auto& c) {
        scaled(RotaryScaling::longrope)(c);
        for (auto& layer : c.layers) layer.attention.rotary_scaling.factors = {1, 2};
      },
      "llama", {"layers[0].attention.rotary_scaling.kind is longrope", "none"}, true);
  refused(io::decoder_config(io::HuggingFaceFolder(golden("qwen2"))), scaled(RotaryScaling::llama3), "qwen2",
          {"layers[0].attention.rotary_scaling.kind is llama3", "a GGUF file of architecture qwen2"}, true);
  const auto granite = io::decoder_config(io::HuggingFaceFolder(golden("granite"))),
             gemma2 = io::decoder_config(io::HuggingFaceFolder(golden("gemma2"))),
             olmo3 = io::decoder_config(io::HuggingFaceFolder(golden("olmo3")));
  refused(granite, [](auto& c) { c.layers[1].residual_multiplier = 2; }, "",
          {"layers[1].residual_multiplier is 2", "granite", "0.22"});
  refused(granite, [](auto& c) { c.logit_soft_cap = 5; }, "", {"logit_soft_cap is 5", "granite"});
  refused(granite, as_is, "mistral", {"embedding_multiplier is 3", "mistral"});
  refused(gemma2, [](auto& c) { c.layers[1].attention.soft_cap = 5; }, "", {"layers[1].attention.soft_cap is 5", "2"});
  refused(
      gemma2, [](auto& c) { c.logit_soft_cap = 0; }, "gemma2", {"gemma2.final_logit_softcapping is 0, not above 0"},
      true);
  refused(
      olmo3, [](auto& c) { c.layers[0].attention.window = 0; }, "olmo2",
      {"layers[1].attention.window is 4", "read as 0"}, true);
  refused(llama, [](auto& c) { c.layers[0].attention_norm = false; }, "", {"layers[0].attention_norm is false"});
  refused(llama, [](auto& c) { c.layers[1].routed = nn::RoutedFeedForwardConfig{.num_experts = 2}; }, "",
          {"layers[1].routed is true"});
  refused(llama, [](auto& c) { c.layers[1].attention.sinks = true; }, "", {"layers[1].attention.sinks is true"});
  refused(llama, [](auto& c) { c.layers[1].attention.output_gate = true; }, "", {"attention.output_gate is true"});
  refused(llama, [](auto& c) { c.layers[1].attention.relative_buckets = 8; }, "",
          {"layers[1].attention.relative_buckets is 8", "read as 0"});
  refused(llama, [](auto& c) { c.layers[1].attention.value_head_dims = 3; }, "", {"attention.value_head_dims is 3"});
  refused(llama, [](auto& c) { c.layers[1].attention.rotary_interleaved = true; }, "",
          {"layers[1].attention.rotary_interleaved is true"});
  refused(llama, [](auto& c) { c.layers[1].parallel = true; }, "", {"layers[1].parallel is true", "false"});
  refused(smollm3, as_is, "llama", {"layers[3].attention.rotary_base is 0", "500"});
  refused(
      smollm3, [](auto& c) { c.layers[1] = c.layers[3]; }, "smollm3",
      {"layers[1].attention.rotary_base is 0", "a GGUF file of architecture smollm3"}, true);
  const auto gemma3 = io::decoder_config(io::HuggingFaceFolder(golden("gemma3_text")));
  refused(llama, [](auto& c) { c.embedding_multiplier = 2; }, "llama", {"embedding_multiplier is 2", "read as 1"});
  refused(llama, [](auto& c) { c.logit_multiplier = 2; }, "llama", {"logit_multiplier is 2", "read as 1"});
  refused(llama, [](auto& c) { c.logit_soft_cap = 30; }, "", {"logit_soft_cap is 30", "read as 0"});
  refused(llama, [](auto& c) { c.layers[1].residual_multiplier = 2; }, "",
          {"layers[1].residual_multiplier is 2", "read as 1"});
  refused(llama, [](auto& c) { c.layers[1].attention.query_key_norm = nn::QueryKeyNorm::each_head; }, "",
          {"layers[1].attention.query_key_norm is each_head", "none"});
  refused(llama, [](auto& c) { c.layers[1].norm_scale = nn::NormScale::one_plus_weight; }, "",
          {"layers[1].norm_scale is one_plus_weight"});
  refused(gemma3, as_is, "llama", {"embedding_multiplier is 2.82"});
  refused(gemma3, [](auto& c) { c.layers[1].norm_placement = nn::NormPlacement::branch_output; }, "",
          {"layers[1].norm_placement is branch_output", "sandwich"});
  refused(
      gemma3, [](auto& c) { c.layers[1].attention.window = 0; }, "gemma3", {"layers[3].attention.window is 4", "0"},
      true);
  refused(llama, [](auto& c) { c.layers.clear(); }, "", {"has no layers"});

  ParameterRegistry parameters;
  const models::Decoder<float> model(parameters / "m", llama);
  const nn::Lora<float> lora(parameters, parameters / "l", {.targets = {"*/value"}, .rank = 1});
  expect_error({"layer_0/attention/value/w has an adapter"}, [&] { io::save_hugging_face(model, folder.path); });
  lora.merge();
  io::save_hugging_face(model, folder.path);
}

}  // namespace
