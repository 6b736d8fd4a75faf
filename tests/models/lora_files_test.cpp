// Adapters of every architecture go to PEFT's folders and to GGUF and come back; what does not fit is one clear error.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <initializer_list>
#include <map>
#include <remat/io/gguf_lora.hpp>
#include <remat/io/hugging_face.hpp>
#include <remat/io/merged_gguf.hpp>
#include <remat/io/peft.hpp>
#include <string>
#include <string_view>
#include <tuple>
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

TEST(GgufLora, GoesToAFileAndBackForEachArchitecture) {
  for (const auto& [name, architecture] :
       {std::tuple{"llama", "llama"}, {"llama", "qwen2"}, {"qwen2", "qwen2"}, {"qwen2", "llama"}}) {
    ParameterRegistry parameters;
    const auto model = base_in<float>(parameters, name);
    const nn::Lora<float> lora(parameters, parameters / "l", {.rank = 2, .alpha = 3, .rank_stabilized = true});
    std::uint64_t seed = 0;
    for (const auto& part : lora.parts()) part.up.set_value(remat_test::random_tensor<float>(part.up.shape(), ++seed));
    const Tensor<float> before = logits_of(model);
    const Place place("file.gguf");
    io::save_gguf_lora(lora, model, place.path, architecture);
    const io::GgufFile file(place.path);
    EXPECT_EQ(file.get<std::string>("general.type"), "adapter");
    EXPECT_EQ(file.at("blk.1.ffn_gate.weight.lora_a").shape, Shape({2, 16}));
    EXPECT_EQ(file.at("blk.1.ffn_gate.weight.lora_b").shape, Shape({24, 2}));
    ParameterRegistry others;
    const auto second = base_in<float>(others, name);
    const nn::Lora<float> read = io::load_gguf_lora(others, others / "l", second, place.path);
    EXPECT_NEAR(read.scale(), lora.scale(), 1e-6);
    EXPECT_LT(farthest(logits_of(second), before), 1e-4);
    // Only architecture llama has another order of rows, and only of query and key.
    const auto rows = [&](const char* tensor, const char* layer) {
      return farthest(file.read<float>(tensor),
                      io::detail::turned_for_file(
                          parameters.at<float>("l/m/decoder/layer_0/" + std::string(layer) + "/up").value()));
    };
    const bool is_llama = std::string(architecture) == "llama";
    EXPECT_EQ(rows("blk.0.attn_q.weight.lora_b", "attention/query") > 0, is_llama);
    EXPECT_EQ(rows("blk.0.attn_k.weight.lora_b", "attention/key") > 0, is_llama);
    EXPECT_EQ(rows("blk.0.attn_v.weight.lora_b", "attention/value"), 0);
  }
}

// Of GPT-2 one projection makes query, key and value, and transformers has its matrices the other way round.
TEST(LoraFiles, HoldAdaptersOfGpt2) {
  ParameterRegistry parameters, others, third;
  const auto model = base_in<float>(parameters, "gpt2"), second = base_in<float>(others, "gpt2"),
             again = base_in<float>(third, "gpt2");
  const nn::Lora<float> lora = io::load_peft(parameters, parameters / "l", model, golden("lora_gpt2"));
  const io::SafetensorsFile expected(golden("lora_gpt2.safetensors"));
  Tape look({.mode = Mode::evaluate});
  EXPECT_LT(farthest(model.logits(look, expected.read<std::int32_t>("ids")).value(), expected.read<float>("logits")),
            1e-5);
  const Place file("gpt2.gguf"), folder("gpt2");
  io::save_gguf_lora(lora, model, file.path, "gpt2");
  const io::GgufFile gguf(file.path);
  EXPECT_EQ(gguf.at("blk.1.attn_qkv.weight.lora_b").shape, Shape({24, 3}));
  EXPECT_EQ(io::load_gguf_lora(others, others / "l", second, file.path).parts().size(), 4U);
  EXPECT_LT(farthest(logits_of(second), logits_of(model)), 1e-5);
  io::save_peft(lora, model, folder.path);
  std::ifstream in(folder.path + "/adapter_config.json");
  EXPECT_EQ(nlohmann::json::parse(in)["fan_in_fan_out"], true);
  EXPECT_EQ(io::load_peft(third, third / "l", again, folder.path).parts().size(), 4U);
  EXPECT_EQ(farthest(logits_of(again), logits_of(model)), 0);
}

// What PEFT has as rank 4 with B in blocks is here query and value of rank 2 each, rows of B in the file's order.
TEST(LoraFiles, HoldAdaptersOfPartsOfAFusedProjection) {
  const io::SafetensorsFile theirs(golden("lora_falcon/adapter_model.safetensors"));
  const Place place("falcon");
  std::filesystem::copy(golden("lora_falcon"), place.path);
  const auto write = [&](const std::string& pieces) {
    std::vector<io::SafetensorsOutput> tensors;
    for (const std::string& name : theirs.names())
      tensors.push_back(
          {name, DType::float32, theirs.info(name).shape, [value = theirs.read<float>(name)] { return value.any(); }});
    std::map<std::string, std::string> metadata{{"format", "pt"}};
    for (const char* layer : {"0", "1"})
      metadata[std::string("parts of transformer.h.") + layer + ".self_attention.query_key_value"] = pieces;
    io::save_safetensors(std::move(tensors), place.path + "/adapter_model.safetensors", metadata);
  };
  const auto refused = [&](const std::string& pieces, std::initializer_list<std::string_view> words) {
    write(pieces);
    ParameterRegistry own;
    const auto base = base_in<float>(own, "falcon_40b");
    expect_error(words, [&] { io::load_peft(own, own / "l", base, place.path); });
  };
  refused("key value", {"query_key_value", "said to be of parts", "not zero between them"});
  refused("value query", {"query_key_value", "the part \"query\"", "or not there"});
  refused("query keys", {"the part \"keys\""});
  refused("", {"alpha_pattern", "another factor"});
  write("query value");
  const GoldenStep step("lora_falcon", "falcon_40b", place.path);
  const auto& lora = step.lora;
  EXPECT_EQ(lora.config().rank, 2);
  EXPECT_EQ(lora.config().alpha, 3);
  ASSERT_EQ(lora.parts().size(), 4U);
  int compared = 0;
  for (const auto& part : lora.parts()) {
    if (part.pieces.empty()) continue;
    EXPECT_EQ(part.pieces, (std::vector<MatrixPart>{{"query", 0, 16}, {"value", 24, 32}}));
    const std::string before = "transformer.h." + part.layer.substr(16, 1) + ".self_attention.query_key_value.lora_";
    step.expect_gradient(io::detail::turned_for_file(part.down.grad()), before + "A.weight");
    const Tensor<float> by_b = step.gradient(before + "B.weight");
    const Tensor<double> by_up = part.up.grad();
    const kernels::RowOrder order{0, 4, 2};
    for (Index r = 0; r < 2; ++r)
      for (Index j = 0; j < 24; ++j) {
        const Index row = order.stored(j < 16 ? j : j + 8, 32), rank = j < 16 ? r : r + 2;
        EXPECT_NEAR(by_up.data()[r * 24 + j], by_b.data()[row * 4 + rank], 1e-6);
      }
    ++compared;
  }
  EXPECT_EQ(compared, 2);

  const Place written("falcon_again"), file("falcon.gguf");
  io::save_peft(lora, step.model, written.path);
  expect_same_adapters(written.path, golden("lora_falcon"));
  std::ifstream in(written.path + "/adapter_config.json");
  const auto config = nlohmann::json::parse(in);
  EXPECT_EQ(config["r"], 2);
  EXPECT_EQ(config["lora_alpha"], 3);
  EXPECT_EQ(config["rank_pattern"]["transformer.h.1.self_attention.query_key_value"], 4);
  EXPECT_EQ(config["alpha_pattern"]["transformer.h.1.self_attention.query_key_value"], 6);
  EXPECT_EQ(config["rank_pattern"].size(), 2U);
  // llama.cpp divides one alpha by the rank of each tensor, so that b is stored doubled.
  io::save_gguf_lora(lora, step.model, file.path, "falcon");
  const io::GgufFile gguf(file.path);
  EXPECT_EQ(gguf.get<float>("adapter.lora.alpha"), 3);
  const Tensor<float> b = gguf.read<float>("blk.0.attn_qkv.weight.lora_b");
  EXPECT_EQ(b.shape(), Shape({32, 4}));
  EXPECT_EQ(b.data()[0], 2 * static_cast<float>(lora.parts()[1].up.value().data()[0]));
  EXPECT_EQ(b.data()[16 * 4], 0);
  const auto from = [&](const char* what, const std::string& path) {
    ParameterRegistry own;
    const auto base = base_in<double>(own, "falcon_40b");
    const nn::Lora<double> read = std::string(what) == "peft" ? io::load_peft(own, own / "l", base, path)
                                                              : io::load_gguf_lora(own, own / "l", base, path);
    EXPECT_EQ(read.parts()[1].pieces.size(), 2U);
    EXPECT_EQ(farthest(logits_of(base), logits_of(step.model)), 0) << what;
  };
  from("peft", written.path);
  from("gguf", file.path);
}

// A fused projection of ours whose format has three: each part is one, and an adapter of the whole is three.
TEST(LoraFiles, HoldPartsOfAFusedProjectionApartWhereTheFormatHasThemApart) {
  for (const bool is_whole : {false, true}) {
    const auto fused_in = [](ParameterRegistry& parameters) {
      auto config = io::decoder_config(io::HuggingFaceFolder(golden("llama")));
      for (auto& layer : config.layers) layer.attention.combined_qkv = true;
      config.init_deviation = 0.5;
      return models::Decoder<float>(parameters / "m", config);
    };
    ParameterRegistry parameters(3);
    const auto model = fused_in(parameters);
    std::uint64_t seed = 0;
    for (const auto& entry : parameters.entries())
      if (entry->value.shape.rank() == 2)
        Parameter<float>(entry).set_value(remat_test::random_tensor<float>(entry->value.shape, ++seed));
    const std::vector<std::string> targets = is_whole
                                                 ? std::vector<std::string>{"*/attention/qkv"}
                                                 : std::vector<std::string>{"*/attention/query", "*/attention/key"};
    const nn::Lora<float> lora(parameters, parameters / "l", {.targets = targets, .rank = 2, .alpha = 3});
    for (const auto& part : lora.parts()) part.up.set_value(remat_test::random_tensor<float>(part.up.shape(), ++seed));
    const Place folder("apart"), file("apart.gguf");
    io::save_peft(lora, model, folder.path);
    io::save_gguf_lora(lora, model, file.path, "llama");
    EXPECT_EQ(io::SafetensorsFile(folder.path + "/adapter_model.safetensors").names().size(), is_whole ? 12U : 8U);
    const io::GgufFile gguf(file.path);
    EXPECT_EQ(gguf.at("blk.0.attn_k.weight.lora_a").shape, Shape({2, 16}));
    const ParameterRegistry copy(parameters);  // of the base, before it is merged
    lora.merge();
    const Tensor<float> merged = logits_of(model);
    for (const char* what : {"peft", "gguf"}) {
      ParameterRegistry own(3);
      const auto base = fused_in(own);
      for (const auto& entry : own.entries()) Parameter<float>(entry).set_value(copy.at<float>(entry->path).value());
      const nn::Lora<float> read = std::string(what) == "peft" ? io::load_peft(own, own / "l", base, folder.path)
                                                               : io::load_gguf_lora(own, own / "l", base, file.path);
      EXPECT_EQ(read.parts()[0].pieces.size(), is_whole ? 3U : 2U);
      EXPECT_LT(farthest(logits_of(base), merged), 2e-3) << what;
    }
  }
}

// Files of adapters, and the base's with its matrices replaced, do not hold what is trained beside them.
TEST(LoraFiles, RefuseToLoseWhatIsTrainedBeside) {
  ParameterRegistry parameters;
  const auto model = base_in<float>(parameters);
  const Place place("beside");
  const nn::Lora<float> others(parameters, parameters / "others", {.targets = {"*/attention/query"}, .rank = 1}),
      lora(parameters, parameters / "l", {.targets = {"*/ffn/*"}, .rank = 1});
  others.activate();
  EXPECT_EQ(lora.trained_beside(), std::vector<std::string>{});
  io::save_peft(lora, model, place.path);
  parameters.unfreeze("m/final_norm/*");
  EXPECT_EQ(lora.trained_beside(), std::vector<std::string>{"m/final_norm/scale"});
  expect_error({place.path, "m/final_norm/scale is trained beside the adapters"},
               [&] { io::save_peft(lora, model, place.path); });
  expect_error({"m/final_norm/scale"}, [&] { io::save_gguf_lora(lora, model, place.path + "/x.gguf", "llama"); });
  expect_error({"m/final_norm/scale"},
               [&] { io::save_merged_gguf(io::GgufFile(golden("llama.gguf")), lora, model, place.path + "/x.gguf"); });
}

TEST(LoraFiles, WhatDoesNotFitIsRefused) {
  ParameterRegistry parameters;
  const auto model = base_in<float>(parameters);
  const Place place("bad");
  std::filesystem::copy(golden("lora"), place.path);
  std::ifstream in(golden("lora/adapter_config.json"));
  const auto config = nlohmann::json::parse(in);
  const auto load = [&](const std::function<void(nlohmann::json&)>& change) {
    auto changed = config;
    change(changed);
    std::ofstream(place.path + "/adapter_config.json") << changed;
    ParameterRegistry own;
    const auto base = base_in<float>(own);
    return io::load_peft(own, own / "l", base, place.path).parts().size();
  };
  EXPECT_EQ(load([](auto&) {}), 10U);
  expect_error({"the magnitudes of", "use_dora"}, [&] { load([](auto& c) { c["use_dora"] = true; }); });
  expect_error({"bias", "only \"none\""}, [&] { load([](auto& c) { c["bias"] = "all"; }); });
  expect_error({"rank_pattern gives model.layers.0.self_attn.q_proj a rank of 2", "has 3"}, [&] {
    load([](auto& c) { c["rank_pattern"] = {{"q_proj", 2}}; });
  });
  expect_error({"alpha_pattern gives", "q_proj another factor"}, [&] {
    load([](auto& c) { c["alpha_pattern"] = {{"q_proj", 2}}; });
  });
  // Which PEFT would take for other modules than a name; of two names it takes the first in the file.
  expect_error({"alpha_pattern", "q_proj|k_proj", "regular expression"}, [&] {
    load([](auto& c) { c["alpha_pattern"] = {{"q_proj|k_proj", 2}}; });
  });
  expect_error({"rank_pattern", "regular expression"}, [&] {
    load([](auto& c) { c["rank_pattern"] = {{"^model.layers.0.self_attn.q_proj", 3}}; });
  });
  expect_error({"alpha_pattern gives model.layers.0.self_attn.q_proj both"}, [&] {
    load([](auto& c) { c["alpha_pattern"] = {{"q_proj", 5}, {"self_attn.q_proj", 7}}; });
  });
  // Beside the base as it is, these adapters are of another model.
  for (const char* how : {"pissa", "pissa_niter_4", "olora", "corda", "loftq"})
    expect_error({"init_lora_weights", "leaves the base's weights as they are"},
                 [&] { load([&](auto& c) { c["init_lora_weights"] = how; }); });
  EXPECT_EQ(load([](auto& c) { c["init_lora_weights"] = "gaussian"; }), 10U);
  expect_error({"arrow_config", "null"}, [&] { load([](auto& c) { c["arrow_config"] = {{"top_k", 2}}; }); });
  expect_error({"modules_to_save", "null"}, [&] { load([](auto& c) { c["modules_to_save"] = {"lm_head"}; }); });
  expect_error({"peft_type", "\"LORA\""}, [&] { load([](auto& c) { c["peft_type"] = "LOHA"; }); });
  expect_error({"lacks the field \"lora_alpha\""}, [&] { load([](auto& c) { c.erase("lora_alpha"); }); });
  expect_error({"lora_alpha"}, [&] { load([](auto& c) { c["lora_alpha"] = "5"; }); });

  const auto with = [&](const std::vector<std::pair<std::string, Shape>>& tensors) {
    std::vector<io::SafetensorsOutput> all;
    for (const auto& [name, shape] : tensors)
      all.push_back({name, DType::float32, shape, [shape = shape] { return Tensor<float>(shape, 1.0F).any(); }});
    io::save_safetensors(all, place.path + "/adapter_model.safetensors");
    return load([](auto&) {});
  };
  const std::string q = "base_model.model.model.layers.0.self_attn.q_proj";
  EXPECT_EQ(with({{q + ".lora_A.weight", {2, 16}}, {q + ".lora_B.weight", {16, 2}}}), 1U);
  expect_error({"holds no adapter"}, [&] { with({}); });
  expect_error({"q_proj", "one half is missing"}, [&] { with({{q + ".lora_A.weight", {2, 16}}}); });
  expect_error({"no half of an adapter"}, [&] { with({{q + ".weight", {2, 16}}}); });
  expect_error({"q_proj is [2, 15] and [16, 2]", "[2, 16]"}, [&] {
    with({{q + ".lora_A.weight", {2, 15}}, {q + ".lora_B.weight", {16, 2}}});
  });
  expect_error({"lm_head", "one half is missing"}, [&] {
    with({{"base_model.model.lm_head.lora_A.weight", {2, 16}}});
  });
  expect_error({"has shape [2, 16, 1]", "a matrix is needed"}, [&] { with({{q + ".lora_A.weight", {2, 16, 1}}}); });
  expect_error({"no half of an adapter of that layer"}, [&] { with({{q + ".lora_embedding_A", {2, 16}}}); });
  const std::string far = "base_model.model.model.layers.7.self_attn.q_proj";
  expect_error({"layers.7.self_attn.q_proj", "does not have", "model.layers."}, [&] {
    with({{far + ".lora_A.weight", {2, 16}}, {far + ".lora_B.weight", {16, 2}}});
  });

  expect_error({"llama.gguf", "is no LoRA adapter"},
               [&] { io::load_gguf_lora(parameters, parameters / "g", model, golden("llama.gguf")); });
  const nn::Lora<float> lora(parameters, parameters / "l", {.rank = 1});
  const std::string other = place.path + "/x.gguf";
  expect_error({"architecture \"mamba\""}, [&] { io::save_gguf_lora(lora, model, other, "mamba"); });
  expect_error({"no name for it"}, [&] { io::save_gguf_lora(lora, model, other, "gpt2"); });
  const std::string under = place.path + "/adapter_config.json/x";
  expect_error({under + ": cannot be made"}, [&] { io::save_peft(lora, model, under); });
  expect_error({"the base model's name is not valid UTF-8"},
               [&] { io::save_peft(lora, model, place.path + "/named", "\xFF"); });

  const auto of_gguf = [&](const std::vector<io::GgufOutput>& tensors, const std::vector<std::string>& parts = {}) {
    std::map<std::string, io::GgufContent> metadata{{"general.architecture", "llama"},
                                                    {"general.type", "adapter"},
                                                    {"adapter.type", "lora"},
                                                    {"adapter.lora.alpha", 1.0F}};
    if (!parts.empty()) metadata[io::detail::gguf_lora_parts] = parts;
    io::save_gguf(tensors, other, metadata);
    ParameterRegistry own;
    const auto base = base_in<float>(own);
    return io::load_gguf_lora(own, own / "g", base, other).parts().size();
  };
  const io::GgufOutput a{"blk.0.attn_q.weight.lora_a", Tensor<float>({2, 16}, 1.0F)},
      b{"blk.0.attn_q.weight.lora_b", Tensor<float>({16, 2}, 1.0F)};
  EXPECT_EQ(of_gguf({a, b}), 1U);
  expect_error({other, "\"blk.0.attn_q.weight.lora_a\" of shape [32] is no half of an adapter"}, [&] {
    of_gguf({{a.name(), Tensor<float>({32}, 1.0F)}, b});
  });
  expect_error({other, "\"blk.0.attn_q.weight\"", "no half of an adapter"}, [&] {
    of_gguf({{"blk.0.attn_q.weight", Tensor<float>({2, 16}, 1.0F)}});
  });
  expect_error({other, "\"blk.0.attn_q\" one half is missing"}, [&] { of_gguf({b}); });
  expect_error({"remat.lora.parts names \"blk.9.attn_q/key\""}, [&] { of_gguf({a, b}, {"blk.9.attn_q/key"}); });
  expect_error({"remat.lora.parts names \"blk.0.attn_q/\""}, [&] { of_gguf({a, b}, {"blk.0.attn_q/"}); });
}

}  // namespace
