// Adapters that PEFT made compute here what they compute there, in values and gradients, and ours go to its folders and
// come back.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <remat/io/gguf_lora.hpp>
#include <remat/io/merged_gguf.hpp>
#include <remat/io/peft.hpp>
#include <string>
#include <vector>

#include "core/expect_error.hpp"
#include "models/golden_adapters.hpp"
#include "nn/random_tensor.hpp"

namespace {

using namespace remat;
using remat_test::base_in;
using remat_test::expect_error;
using remat_test::expect_same_adapters;
using remat_test::farthest;
using remat_test::golden;
using remat_test::GoldenStep;
using remat_test::logits_of;
using remat_test::Place;

TEST(Peft, AdaptersGiveItsLogitsLossAndGradients) {
  const GoldenStep step("lora");
  EXPECT_EQ(step.lora.parts().size(), 10U);
  EXPECT_EQ(step.lora.config().rank, 3);
  EXPECT_NEAR(step.lora.scale(), 5 / std::sqrt(3.0), 1e-12);
  step.expect_gradients();
}

TEST(Peft, WhatWasReadIsWrittenAgain) {
  ParameterRegistry parameters;
  const auto model = base_in<float>(parameters);
  const nn::Lora<float> lora = io::load_peft(parameters, parameters / "lora", model, golden("lora"));
  const Place place("peft");
  io::save_peft(lora, model, place.path, "llama");
  expect_same_adapters(place.path, golden("lora"));
  std::ifstream in(place.path + "/adapter_config.json");
  const auto config = nlohmann::json::parse(in);
  EXPECT_EQ(config["r"], 3);
  EXPECT_EQ(config["lora_alpha"], 5);
  EXPECT_EQ(config["use_rslora"], true);
  auto targets = config["target_modules"].get<std::vector<std::string>>();
  std::sort(targets.begin(), targets.end());
  EXPECT_EQ(targets, (std::vector<std::string>{"down_proj", "gate_proj", "k_proj", "o_proj", "q_proj"}));
}

// Layers that are adapted in part are named one by one.
TEST(Peft, TargetsAreThoseThatAreAdapted) {
  ParameterRegistry parameters;
  const auto model = base_in<float>(parameters);
  const nn::Lora<float> lora(parameters, parameters / "l", {.targets = {"*/value", "*layer_1/ffn/ffn2"}, .rank = 1});
  const Place place("targets");
  io::save_peft(lora, model, place.path);
  std::ifstream in(place.path + "/adapter_config.json");
  EXPECT_EQ(nlohmann::json::parse(in)["target_modules"],
            (std::vector<std::string>{"v_proj", "model.layers.1.mlp.down_proj"}));
}

// Of a tied model: PEFT adapts the rows that are looked up and leaves the head.
TEST(Peft, AdaptersOfEmbeddingsGiveItsLogitsLossAndGradients) {
  const GoldenStep step("lora_embedding");
  const auto& lora = step.lora;
  ASSERT_EQ(lora.parts().size(), 3U);
  const auto& part =
      *std::find_if(lora.parts().begin(), lora.parts().end(), [](const auto& p) { return p.is_of_rows; });
  step.expect_gradient(io::detail::turned_for_file(part.down.grad()), "model.embed_tokens.lora_embedding_A");
  step.expect_gradient(io::detail::turned_for_file(part.up.grad()), "model.embed_tokens.lora_embedding_B");
  const Place place("embedding"), file("embedding.gguf");
  io::save_peft(lora, step.model, place.path, "llama");
  const io::SafetensorsFile ours(place.path + "/adapter_model.safetensors"),
      theirs(golden("lora_embedding/adapter_model.safetensors"));
  for (const std::string& name : ours.names())
    EXPECT_EQ(farthest(ours.read<float>(name), theirs.read<float>(name)), 0) << name;
  EXPECT_EQ(ours.names().size(), 6U);
  std::ifstream in(place.path + "/adapter_config.json");
  EXPECT_EQ(nlohmann::json::parse(in)["target_modules"], (std::vector<std::string>{"embed_tokens", "v_proj"}));
  expect_error({"m/embedding is adapted", "no name for it"},
               [&] { io::save_gguf_lora(lora, step.model, file.path, "llama"); });
  ParameterRegistry floats;
  const auto base = base_in<float>(floats);
  const nn::Lora<float> tuned = io::load_peft(floats, floats / "l", base, golden("lora_embedding"));
  expect_error({file.path + ": m/embedding is adapted", "no name for it"},
               [&] { io::save_merged_gguf(io::GgufFile(golden("llama.gguf")), tuned, base, file.path); });
  // The file holds the table that it was trained beside.
  ParameterRegistry others;
  const auto other = base_in<double>(others);
  Tensor<double> table = other.embedding.table.value();
  table.write()[3] += 1;
  other.embedding.table.set_value(table);
  expect_error({"base_layer.weight", "another table", "m/embedding/table"},
               [&] { io::load_peft(others, others / "l", other, golden("lora_embedding")); });
}

// Of a head of its own, and of one that is tied, which PEFT adapts without the rows that are looked up.
TEST(Peft, AdaptersOfHeadsGiveItsLogitsLossAndGradients) {
  for (const auto& [name, base] : {std::pair{"lora_head", "qwen2"}, {"lora_tied_head", "llama"}}) {
    const GoldenStep step(name, base);
    ASSERT_EQ(step.lora.parts().size(), 3U);
    const auto& part = *std::find_if(step.lora.parts().begin(), step.lora.parts().end(),
                                     [](const auto& each) { return each.is_of_head; });
    step.expect_gradient(io::detail::turned_for_file(part.down.grad()), "lm_head.lora_A.weight");
    step.expect_gradient(io::detail::turned_for_file(part.up.grad()), "lm_head.lora_B.weight");
    const Place place("head"), file("head.gguf");
    io::save_peft(step.lora, step.model, place.path, base);
    const io::SafetensorsFile ours(place.path + "/adapter_model.safetensors"),
        theirs(golden(std::string(name) + "/adapter_model.safetensors"));
    for (const std::string& tensor : ours.names())
      EXPECT_EQ(farthest(ours.read<float>(tensor), theirs.read<float>(tensor)), 0) << tensor;
    EXPECT_EQ(ours.names().size(), 6U);  // theirs also has the head that it was trained beside
    std::ifstream in(place.path + "/adapter_config.json");
    EXPECT_EQ(nlohmann::json::parse(in)["target_modules"], (std::vector<std::string>{"lm_head", "v_proj"}));
    if (step.model.head) {
      io::save_gguf_lora(step.lora, step.model, file.path, "qwen2");
      ParameterRegistry others;
      const auto again = base_in<double>(others, base);
      const io::GgufFile gguf(file.path);
      EXPECT_EQ(gguf.at("output.weight.lora_b").shape, Shape({19, 2}));
      (void)io::load_gguf_lora(others, others / "l", again, file.path);
      EXPECT_LT(farthest(logits_of(again), logits_of(step.model)), 1e-5);
    } else {
      expect_error({"head.gguf: the head, which is tied to m/embedding", "as PEFT has them"},
                   [&] { io::save_gguf_lora(step.lora, step.model, file.path, "llama"); });
    }
  }
}

// PEFT names layers as the model's class of transformers does, and none of Llama's kind is without gates.
TEST(Peft, HasNoNamesForALlamaWithoutGates) {
  auto config = io::decoder_config(io::HuggingFaceFolder(golden("llama")));
  for (auto& layer : config.layers) layer.ffn.gated = false;
  ParameterRegistry parameters;
  const models::Decoder<float> model(parameters / "m", config);
  const nn::Lora<float> lora(parameters, parameters / "l", {.targets = {"*/value"}, .rank = 1});
  const Place place("gateless");
  expect_error({"layer_0 has no gate", "PEFT has no names"}, [&] { io::save_peft(lora, model, place.path); });
}

TEST(Dora, AdaptersOfPeftGiveItsLogitsLossAndGradients) {
  const GoldenStep step("dora");
  EXPECT_EQ(step.lora.parts().size(), 6U);
  EXPECT_TRUE(step.lora.config().dora);
  step.expect_gradients();
  const Place place("dora"), file("dora.gguf");
  io::save_peft(step.lora, step.model, place.path, "llama");
  expect_same_adapters(place.path, golden("dora"));
  std::ifstream in(place.path + "/adapter_config.json");
  EXPECT_EQ(nlohmann::json::parse(in)["use_dora"], true);
  expect_error({"dora.gguf", "no magnitudes", "DoRA"},
               [&] { io::save_gguf_lora(step.lora, step.model, file.path, "llama"); });
}

// Of parts of a module PEFT has magnitudes for all of it: those of other columns are their lengths.
TEST(Dora, OfPartsGoesToAFolderAndBack) {
  ParameterRegistry parameters;
  const auto model = base_in<float>(parameters, "falcon_40b");
  const nn::Lora<float> lora(parameters, parameters / "l",
                             {.targets = {"*/attention/key", "*/attention/out"}, .rank = 2, .dora = true});
  std::uint64_t seed = 0;
  for (const auto& part : lora.parts()) {
    part.up.set_value(remat_test::random_tensor<float>(part.up.shape(), ++seed));
    part.magnitude.set_value(remat_test::random_tensor<float>(part.magnitude.shape(), ++seed));
  }
  const Place place("dora_parts");
  io::save_peft(lora, model, place.path);
  const auto read = [&](bool changed) {
    ParameterRegistry own;
    const auto base = base_in<float>(own, "falcon_40b");
    if (changed) {
      const auto w = own.at<float>("m/decoder/layer_0/attention/qkv/w");
      Tensor<float> other = w.value();
      for (float& value : other.write()) value *= 1.1F;
      w.set_value(other);
    }
    (void)io::load_peft(own, own / "l", base, place.path);
    return farthest(logits_of(base), logits_of(model));
  };
  EXPECT_EQ(read(false), 0);
  expect_error({"query_key_value", "other magnitudes are not those of the matrix"}, [&] { read(true); });
}

}  // namespace
