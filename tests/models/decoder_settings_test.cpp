// What folders' configs and GGUF files' metadata say of a decoder is what its config then says, or an error that names
// it.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <remat/io/gguf_decoder.hpp>
#include <remat/io/gguf_save.hpp>
#include <remat/io/hugging_face.hpp>
#include <string>
#include <vector>

#include "core/expect_error.hpp"
#include "models/config_folder.hpp"
#include "models/golden.hpp"

namespace {

using namespace remat;
using remat_test::ConfigFolder;
using remat_test::expect_error;
using remat_test::golden;
using remat_test::missing;

// A field of config.json that is not known to change nothing is refused, and so is one that is missing or of another
// type.
TEST(HuggingFaceConfig, WhatChangesResultsIsNeverPassedOver) {
  const ConfigFolder llama("llama");
  const auto refused = [&](const char* field, const nlohmann::json& value,
                           std::initializer_list<std::string_view> parts) { llama.refuses(field, value, parts); };
  refused("model_type", "gpt_neox",
          {"config.json: model_type is \"gpt_neox\"",
           "llama, mistral, qwen2, smollm3, qwen3, olmo2, olmo3, granite, gpt2, gemma2, gemma3_text, falcon"});
  refused("hidden_size", missing, {"lacks the field \"hidden_size\""});
  refused("rms_norm_eps", "small", {"rms_norm_eps", "a number is expected"});
  refused("num_hidden_layers", -1, {"num_hidden_layers is -1, not in [0, 10000)"});
  refused("num_hidden_layers", 1000000000, {"num_hidden_layers"});
  refused("hidden_act", "gelu", {"hidden_act", "only \"silu\" is"});
  refused("mlp_bias", true, {"mlp_bias"});
  refused("logit_scale", 0.5, {"has the field \"logit_scale\", which is not supported"});
  refused("rope_scaling", {{"rope_type", "llama3"}, {"factor", 32.0}},
          {"rope_scaling lacks the field \"low_freq_factor\""});
  refused("rope_scaling", {{"rope_type", "default"}, {"factor", 32.0}}, {"rope_scaling", "\"factor\""});
  refused("rope_scaling", {{"type", "linear"}, {"factor", 2.0}, {"low_freq_factor", 1.0}}, {"\"low_freq_factor\""});
  EXPECT_EQ(llama.with("rope_scaling", {{"type", "linear"}, {"factor", 2.0}}).layers[1].attention.rotary_scaling.factor,
            2);
  nlohmann::json said{{"type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 8}};
  const auto yarn = [&] { return llama.with("rope_scaling", said).layers[1].attention.rotary_scaling; };
  EXPECT_EQ(yarn().kind, RotaryScaling::yarn);
  EXPECT_EQ(yarn().original_context, 8);
  EXPECT_EQ(yarn().beta_fast, 32);
  EXPECT_TRUE(yarn().truncate);
  EXPECT_FALSE(yarn().attention_factor.has_value());
  said["beta_fast"] = 16, said["beta_slow"] = 2, said["truncate"] = false, said["attention_factor"] = 0.9;
  EXPECT_EQ(yarn().beta_fast, 16);
  EXPECT_EQ(yarn().beta_slow, 2);
  EXPECT_FALSE(yarn().truncate);
  EXPECT_EQ(yarn().attention_factor, 0.9);
  refused("rope_parameters", {{"rope_type", "dynamic"}}, {"rope_parameters/rope_type is \"dynamic\""});
  refused("rope_parameters", {{"rope_type", "yarn"}, {"factor", 2.0}},
          {"rope_parameters lacks the field \"original_max_position_embeddings\""});
  refused("rope_parameters",
          {{"rope_type", "yarn"}, {"factor", 2.0}, {"original_max_position_embeddings", 8}, {"mscale", 1.0}},
          {"rope_parameters has the field \"mscale\""});
  refused("layer_types", {"sliding_attention", "full_attention"}, {"layer_types[0] is \"sliding_attention\""});
  refused("quantization_config", {{"bits", 4}}, {"quantization_config"});
  refused("sliding_window", 4, {"sliding_window", "only null"});
  refused("no_rope_layers", {1, 0}, {"no_rope_layers", "only null"});
  std::ofstream(llama.path / "config.json") << "{";
  expect_error({"config.json: is not valid JSON"}, [&] { io::HuggingFaceFolder{llama.path.string()}; });
}

// Mistral and Qwen 2 have no number of key/value heads and no window of their own accord that we could know.
TEST(HuggingFaceConfig, MistralSaysItsWindow) {
  const ConfigFolder folder("llama");
  nlohmann::json mistral = folder.original;
  mistral["model_type"] = "mistral";
  expect_error({"lacks the field \"sliding_window\""}, [&] { folder.read(mistral); });
  mistral["sliding_window"] = 5;
  EXPECT_EQ(folder.read(mistral).layers[1].attention.window, 5);
  mistral["sliding_window"] = nullptr;
  EXPECT_EQ(folder.read(mistral).layers[1].attention.window, 0);
  mistral.erase("num_key_value_heads");
  expect_error({"lacks the field \"num_key_value_heads\""}, [&] { folder.read(mistral); });
}

TEST(HuggingFaceConfig, SmolLm3SaysWhichLayersTurnNothing) {
  const ConfigFolder folder("smollm3");
  const auto bases = [](const models::DecoderConfig& config) {
    std::vector<double> all;
    for (const auto& layer : config.layers) all.push_back(layer.attention.rotary_base);
    return all;
  };
  EXPECT_EQ(bases(folder.read(folder.original)), (std::vector<double>{500, 500, 500, 0}));
  EXPECT_EQ(bases(folder.with("no_rope_layers", {0, 1, 1, 0, 1})), (std::vector<double>{0, 500, 500, 0}));
  EXPECT_EQ(bases(folder.with("no_rope_layers", missing)), (std::vector<double>{500, 500, 500, 0}));
  nlohmann::json every_other = folder.original;
  every_other.erase("no_rope_layers"), every_other["no_rope_layer_interval"] = 2;
  EXPECT_EQ(bases(folder.read(every_other)), (std::vector<double>{500, 0, 500, 0}));
  every_other["no_rope_layer_interval"] = 0;
  expect_error({"no_rope_layer_interval", "above 0"}, [&] { folder.read(every_other); });
  EXPECT_EQ(bases(folder.with("rope_parameters", missing))[0], 2e6);
  EXPECT_TRUE(folder.with("tie_word_embeddings", missing).tied_head);  // a default of SmolLM3's alone
  folder.refuses("no_rope_layers", {1, 0}, {"no_rope_layers", "a longer array"});
  folder.refuses("no_rope_layers", {1, 1, 1, 2}, {"no_rope_layers[3] is 2"});
  folder.refuses("use_sliding_window", true, {"use_sliding_window", "only false"});
}

std::vector<Index> windows(const models::DecoderConfig& config) {
  std::vector<Index> all;
  for (const auto& layer : config.layers) all.push_back(layer.attention.window);
  return all;
}

// Folders of before transformers 5 say bases and pattern by other names.
TEST(HuggingFaceConfig, Gemma3SaysWhatEachLayerSees) {
  const ConfigFolder folder("gemma3_text");
  const models::DecoderConfig as_is = folder.read(folder.original);
  EXPECT_EQ(windows(as_is), (std::vector<Index>{4, 4, 4, 4, 4, 0}));
  EXPECT_EQ(as_is.layers[4].attention.rotary_base, 100);
  EXPECT_EQ(as_is.layers[5].attention.rotary_base, 500);
  EXPECT_EQ(as_is.embedding_multiplier, static_cast<float>(std::sqrt(8.0)));
  nlohmann::json old = folder.original;
  old.erase("rope_parameters"), old.erase("layer_types"), old.erase("_sliding_window_pattern");
  old["rope_theta"] = 7.0, old["rope_local_base_freq"] = 3.0, old["sliding_window_pattern"] = 2;
  EXPECT_EQ(windows(folder.read(old)), (std::vector<Index>{4, 0, 4, 0, 4, 0}));
  EXPECT_EQ(folder.read(old).layers[1].attention.rotary_base, 7);
  EXPECT_EQ(folder.read(old).layers[2].attention.rotary_base, 3);
  old["sliding_window_pattern"] = 0;
  expect_error({"sliding_window_pattern", "above 0"}, [&] { folder.read(old); });
  folder.refuses("final_logit_softcapping", 30.0, {"final_logit_softcapping", "not supported"});
  folder.refuses("attn_logit_softcapping", 50.0, {"attn_logit_softcapping", "not supported"});
  folder.refuses("use_bidirectional_attention", true, {"use_bidirectional_attention", "only false"});
  folder.refuses("hidden_activation", "relu", {"hidden_activation", "gelu_pytorch_tanh"});
  folder.refuses("layer_types", {"a", "b", "c", "d", "e", "f"}, {"layer_types[0] is \"a\""});
  folder.refuses("query_pre_attn_scalar", missing, {"lacks the field \"query_pre_attn_scalar\""});
}

TEST(HuggingFaceConfig, Gemma2SaysItsCapsAndWindows) {
  const ConfigFolder folder("gemma2");
  const models::DecoderConfig as_is = folder.read(folder.original);
  EXPECT_EQ(windows(as_is), (std::vector<Index>{4, 0, 4}));
  EXPECT_EQ(as_is.layers[1].attention.soft_cap, 2);
  EXPECT_EQ(as_is.logit_soft_cap, 3);
  EXPECT_EQ(windows(folder.with("layer_types", missing)), (std::vector<Index>{4, 0, 4}));
  EXPECT_EQ(folder.with("final_logit_softcapping", missing).logit_soft_cap, 30);  // as in transformers
  EXPECT_EQ(folder.with("final_logit_softcapping", nullptr).logit_soft_cap, 0);
  EXPECT_EQ(folder.with("attn_logit_softcapping", missing).layers[0].attention.soft_cap, 50);
  EXPECT_EQ(folder.with("attn_logit_softcapping", nullptr).layers[0].attention.soft_cap, 0);
  EXPECT_EQ(folder.with("hidden_act", "gelu").layers[0].ffn.activation, Activation::gelu_tanh);  // nobody reads it
  folder.refuses("attn_logit_softcapping", -1.0, {"attn_logit_softcapping is -1"});
  folder.refuses("layer_types", {"full_attention", "b", "c"}, {"layer_types[1] is \"b\""});
  folder.refuses("sliding_window_pattern", 2, {"sliding_window_pattern", "not supported"});
  folder.refuses("hidden_activation", "gelu", {"hidden_activation", "gelu_pytorch_tanh"});
}

TEST(HuggingFaceConfig, GraniteSaysItsMultipliers) {
  const ConfigFolder folder("granite");
  const models::DecoderConfig as_is = folder.read(folder.original);
  EXPECT_EQ(as_is.embedding_multiplier, 3);
  EXPECT_EQ(as_is.logit_multiplier, 1 / 6.0);
  EXPECT_EQ(as_is.layers[1].residual_multiplier, 0.22);
  EXPECT_EQ(as_is.layers[1].attention.scale, 0.3);
  EXPECT_EQ(folder.with("attention_multiplier", missing).layers[0].attention.scale, 1);  // no root of the head's width
  EXPECT_EQ(folder.with("logits_scaling", missing).logit_multiplier, 1);
  folder.refuses("logits_scaling", 0, {"logits_scaling is 0, not above 0"});
  folder.refuses("residual_multiplier", -1, {"residual_multiplier is -1"});
  folder.refuses("logit_scale", 2, {"logit_scale", "not supported"});
  folder.refuses("sliding_window", 4, {"sliding_window", "only null"});
}

// Folders of before transformers 5 have one base, and a scaling that is of layers without a window.
TEST(HuggingFaceConfig, Olmo3SaysWhatEachLayerSees) {
  const ConfigFolder folder("olmo3_yarn");
  const models::DecoderConfig as_is = folder.read(folder.original);
  EXPECT_EQ(as_is.layers[2].attention.window, 4);
  EXPECT_EQ(as_is.layers[2].attention.rotary_scaling.kind, RotaryScaling::none);
  EXPECT_EQ(as_is.layers[3].attention.window, 0);
  EXPECT_EQ(as_is.layers[3].attention.rotary_scaling.kind, RotaryScaling::yarn);
  nlohmann::json old = folder.original;
  old["rope_scaling"] = old["rope_parameters"]["full_attention"], old["rope_scaling"].erase("rope_theta");
  old.erase("rope_parameters"), old.erase("layer_types");
  old["rope_theta"] = 7.0;
  for (const auto& layer : folder.read(old).layers) {
    EXPECT_EQ(layer.attention.rotary_base, 7);
    EXPECT_EQ(layer.attention.rotary_scaling.attention_factor.value_or(1), layer.attention.window == 0 ? 1.2 : 1);
  }
  old.erase("rope_theta");
  EXPECT_EQ(folder.read(old).layers[0].attention.rotary_base, 500'000);
  EXPECT_EQ(folder.with("layer_types", {"full_attention", "sliding_attention", "full_attention", "full_attention"})
                .layers[1]
                .attention.window,
            4);
  folder.refuses("layer_types", {"full_attention", "sliding_attention"}, {"layer_types", "a longer array"});
  folder.refuses("rope_scaling",
                 {{"rope_type", "yarn"}, {"factor", 2.0}, {"original_max_position_embeddings", 8}, {"truncate", false}},
                 {"rope_scaling/truncate is false; only true"});
  folder.refuses("rope_parameters", {{"rope_type", "default"}}, {"rope_parameters has the field \"rope_type\""});
  folder.refuses("sliding_window", missing, {"lacks the field \"sliding_window\""});
}

/// The golden GGUF file of `family` with some metadata another and `more` tensors, read and gone.
models::DecoderConfig with_metadata(const std::string& family, const std::map<std::string, io::GgufContent>& changes,
                                    const std::vector<io::GgufOutput>& more = {}) {
  const std::string path =
      (std::filesystem::path(testing::TempDir()) / ("remat_metadata_" + std::to_string(::getpid()) + ".gguf")).string();
  const io::GgufFile source(golden(family + ".gguf"));
  std::vector<io::GgufOutput> tensors;
  for (const io::GgufTensor& tensor : source.tensors()) tensors.emplace_back(tensor);
  tensors.insert(tensors.end(), more.begin(), more.end());
  std::map<std::string, io::GgufContent> metadata;
  for (const io::GgufEntry& entry : source.metadata()) metadata.emplace(std::string(entry.key), entry.value);
  for (const auto& [key, value] : changes) metadata.insert_or_assign(key, value);
  struct Gone {
    const std::string& path;
    ~Gone() { std::filesystem::remove(path); }
  } gone{path};
  io::save_gguf(tensors, path, metadata);
  return io::decoder_config(io::GgufFile(path));
}

TEST(GgufDecoderFiles, SayWindowsByAPeriodOrLayerByLayer) {
  const std::string pattern = "olmo2.attention.sliding_window_pattern";
  EXPECT_EQ(windows(with_metadata("olmo3", {})), (std::vector<Index>{4, 4, 4, 0}));
  EXPECT_EQ(windows(with_metadata("olmo3", {{pattern, std::uint32_t{2}}})), (std::vector<Index>{4, 0, 4, 0}));
  EXPECT_EQ(windows(with_metadata("olmo3", {{pattern, std::vector<bool>{false, true, true, false}}})),
            (std::vector<Index>{0, 4, 4, 0}));
  EXPECT_EQ(windows(with_metadata("olmo3", {{"olmo2.attention.sliding_window", std::uint32_t{0}}})),
            (std::vector<Index>{0, 0, 0, 0}));
  expect_error({"olmo2.attention.sliding_window_pattern has 2 elements for 4 layers"}, [&] {
    with_metadata("olmo3", {{pattern, std::vector<bool>{false, true}}});
  });
  expect_error({"olmo2.attention.sliding_window_pattern must be above 0"}, [&] {
    with_metadata("olmo3", {{pattern, std::uint32_t{0}}});
  });
  EXPECT_EQ(windows(with_metadata("gemma2", {{"gemma2.attention.sliding_window_pattern", std::uint32_t{3}}})),
            (std::vector<Index>{4, 4, 0}));
}

// What llama.cpp computes of YaRN's settings, and an error where a file says what that would pass over.
TEST(GgufDecoderFiles, SayYarnAsLlamaCppTakesIt) {
  const auto yarn = [](std::map<std::string, io::GgufContent> more, const std::string& architecture = "llama") {
    std::map<std::string, io::GgufContent> settings{{architecture + ".rope.scaling.type", std::string("yarn")},
                                                    {architecture + ".rope.scaling.factor", 4.0F}};
    for (const auto& [name, value] : more) settings[architecture + ".rope.scaling." + name] = value;
    const std::string family = architecture == "gemma3" ? "gemma3_text" : architecture;
    return with_metadata(family, settings).layers[1].attention.rotary_scaling;
  };
  const RotaryScalingOptions plain = yarn({});
  EXPECT_EQ(plain.kind, RotaryScaling::yarn);
  EXPECT_EQ(plain.factor, 4);
  EXPECT_EQ(plain.original_context, 16);  // the file's context, where nothing else is said
  EXPECT_TRUE(plain.beta_fast == 32 && plain.beta_slow == 1 && plain.truncate && !plain.attention_factor);
  const RotaryScalingOptions all = yarn({{"original_context_length", std::uint32_t{8}},
                                         {"yarn_beta_fast", 16.0F},
                                         {"yarn_beta_slow", 2.0F},
                                         {"yarn_ext_factor", -1.0F},
                                         {"attn_factor", 0.5F}},
                                        "qwen2");
  EXPECT_TRUE(all.original_context == 8 && all.beta_fast == 16 && all.beta_slow == 2);
  EXPECT_NEAR(*all.attention_factor, 0.5 * (1 + 0.1 * std::log(4.0)), 1e-12);
  EXPECT_FALSE(yarn({{"yarn_attn_factor", 1.1386294F}}).attention_factor);  // says the same
  expect_error({"llama.rope.scaling.yarn_attn_factor is 1.25", "passes over"}, [&] {
    yarn({{"yarn_attn_factor", 1.25F}});
  });
  expect_error({"llama.rope.scaling.yarn_ext_factor is 0.5; only 1"}, [&] { yarn({{"yarn_ext_factor", 0.5F}}); });
  expect_error({"llama.rope.scaling.yarn_log_multiplier is set"}, [&] { yarn({{"yarn_log_multiplier", 0.1F}}); });
  expect_error({"gemma3.rope.scaling.type is \"yarn\"; \"none\" and \"linear\""}, [&] { yarn({}, "gemma3"); });
  expect_error({"llama.rope.scaling.type is \"longrope\"; \"none\", \"linear\" and \"yarn\""}, [] {
    with_metadata("llama", {{"llama.rope.scaling.type", std::string("longrope")}});
  });
}

// Llama 3.1's table is known again by its numbers; any other is taken pair by pair.
TEST(GgufDecoderFiles, DivideFrequenciesByATensor) {
  const auto read = [](const std::vector<float>& factors, const std::map<std::string, io::GgufContent>& changes = {},
                       const std::string& family = "llama") {
    const Tensor<float> values({static_cast<Index>(factors.size())}, std::span<const float>(factors));
    return with_metadata(family, changes, {{"rope_freqs.weight", values}}).layers[1].attention.rotary_scaling;
  };
  EXPECT_EQ(read({1, 1}).kind, RotaryScaling::none);
  const RotaryScalingOptions each = read({3, 2});
  EXPECT_EQ(each.kind, RotaryScaling::longrope);
  EXPECT_EQ(each.factors, (std::vector<double>{3, 2}));
  EXPECT_EQ(ops::rotary_amplitude(each), 1);
  const io::GgufFile scaled(golden("llama_scaled.gguf"));
  const RotaryScalingOptions llama3 = io::decoder_config(scaled).layers[1].attention.rotary_scaling;
  EXPECT_EQ(llama3.kind, RotaryScaling::llama3);
  EXPECT_TRUE(llama3.factor == 32 && llama3.original_context == 64 && llama3.low_frequency_factor == 1 &&
              llama3.high_frequency_factor == 4);
  // As Llama 3.2 has it: 32 pairs, of which five lie between.
  nn::AttentionConfig attention{.model_dims = 64, .num_heads = 1, .head_dims = 64, .rotary_base = 500'000};
  attention.rotary_scaling = {RotaryScaling::llama3, 32, 1, 4, 8192};
  const RotaryScalingOptions again = io::detail::rotary_scaling_of(attention, io::detail::rotary_factors_of(attention));
  EXPECT_TRUE(again.kind == RotaryScaling::llama3 && again.original_context == 8192 && again.factor == 32);
  expect_error({"rope_freqs.weight has 3 factors, there are 2 pairs"}, [&] { read({1, 2, 3}); });
  expect_error({"rope_freqs.weight has 1 factors, there are 2 pairs"}, [&] { read({1}); });
  expect_error({"rope_freqs.weight has factors that are not above 0"}, [&] { read({1, 0}); });
  expect_error({"rope_freqs.weight divides frequencies that rope.scaling lowers, too"}, [&] {
    read({1, 2}, {{"llama.rope.scaling.type", std::string("linear")}, {"llama.rope.scaling.factor", 2.0F}});
  });
}

TEST(GgufDecoderFiles, SayMultipliersAndSoftCaps) {
  const models::DecoderConfig granite = with_metadata(
      "granite", {{"granite.residual_scale", 0.0F}, {"granite.attention.scale", 0.0F}, {"granite.logit_scale", 8.0F}});
  EXPECT_EQ(granite.layers[0].residual_multiplier, 1);  // 0 is none, as in llama.cpp
  EXPECT_FALSE(granite.layers[0].attention.scale.has_value());
  EXPECT_EQ(granite.logit_multiplier, 0.125);
  EXPECT_EQ(granite.embedding_multiplier, 3);
  expect_error({"granite.logit_scale is 0, not above 0"}, [] {
    with_metadata("granite", {{"granite.logit_scale", 0.0F}});
  });
  expect_error({"granite.embedding_scale is -1"}, [] {
    with_metadata("granite", {{"granite.embedding_scale", -1.0F}});
  });
  expect_error({"granite.rope.scaling.finetuned is false"}, [] {
    with_metadata("granite", {{"granite.rope.scaling.finetuned", false}});
  });
  expect_error({"llama.residual_scale is set, which changes results"}, [] {
    with_metadata("llama", {{"llama.residual_scale", 0.5F}});
  });
  EXPECT_EQ(with_metadata("gemma2", {{"gemma2.final_logit_softcapping", 20.0F}}).logit_soft_cap, 20);
  expect_error({"gemma2.attn_logit_softcapping is 0, not above 0"}, [] {
    with_metadata("gemma2", {{"gemma2.attn_logit_softcapping", 0.0F}});
  });
  expect_error({"gemma3.attn_logit_softcapping is set, which changes results"}, [] {
    with_metadata("gemma3_text", {{"gemma3.attn_logit_softcapping", 50.0F}});
  });
}

TEST(GgufDecoderFiles, NameWhatIsMissingOrOfAnotherType) {
  const std::string path = testing::TempDir() + "remat_settings_" + std::to_string(::getpid()) + ".gguf";
  const auto refused = [&](std::map<std::string, io::GgufContent> metadata, std::string_view what) {
    io::save_gguf({}, path, std::move(metadata));
    expect_error({path, what}, [&] { (void)io::decoder_config(io::GgufFile(path)); });
    std::filesystem::remove(path);
  };
  refused({{"general.architecture", std::string("mamba")}}, "is of architecture \"mamba\", those that are read are ");
  refused({{"general.architecture", std::string("llama")}}, "has no metadata \"llama.");
  std::map<std::string, io::GgufContent> texts{{"general.architecture", std::string("llama")}};
  for (const char* name : {"block_count", "embedding_length", "attention.head_count", "feed_forward_length",
                           "context_length", "vocab_size"})
    texts["llama." + std::string(name)] = std::string("many");
  refused(texts, "is string, not a number");
}

TEST(HuggingFaceConfig, FalconSaysHowItsBranchesAndHeadsLie) {
  const ConfigFolder seven("falcon"), forty("falcon_40b"), rw("falcon_rw");
  const auto layer_of = [](const models::DecoderConfig& config) { return config.layers[0]; };
  EXPECT_EQ(layer_of(seven.read(seven.original)).attention.num_kv_heads, 1);
  EXPECT_TRUE(layer_of(seven.read(seven.original)).parallel_one_norm);
  EXPECT_EQ(layer_of(seven.with("multi_query", false)).attention.num_kv_heads, 4);
  EXPECT_FALSE(layer_of(seven.with("parallel_attn", false)).parallel);
  EXPECT_EQ(layer_of(forty.read(forty.original)).attention.num_kv_heads, 2);
  EXPECT_FALSE(layer_of(forty.with("num_ln_in_parallel_attn", missing)).parallel_one_norm);
  EXPECT_EQ(layer_of(forty.with("attention_dropout", 0.3)).attention.dropout, 0);  // transformers forgets it there
  EXPECT_EQ(layer_of(rw.read(rw.original)).attention.rotary_base, 0);
  seven.refuses("num_ln_in_parallel_attn", 2, {"num_ln_in_parallel_attn is 2"});
  forty.refuses("num_ln_in_parallel_attn", 3, {"num_ln_in_parallel_attn is 3"});
  forty.refuses("parallel_attn", false, {"parallel_attn is false", "new_decoder_architecture"});
  rw.refuses("num_kv_heads", 2, {"num_kv_heads is 2", "new_decoder_architecture"});
  rw.refuses("hidden_dropout", 0.5, {"attention_dropout is 0, hidden_dropout is 0.5"});
  rw.refuses("activation", "mish", {"activation is \"mish\""});
  rw.refuses("apply_residual_connection_post_layernorm", true, {"apply_residual", "only false"});
}

TEST(HuggingFaceConfig, Qwen3HasHeadsOf128WhereItDoesNotSay) {
  const ConfigFolder folder("qwen3");
  EXPECT_EQ(folder.read(folder.original).layers[0].attention.head_dims, 4);
  EXPECT_EQ(folder.with("head_dim", missing).layers[0].attention.head_dims, 128);
  EXPECT_EQ(folder.with("attention_bias", true).layers[0].attention.out_bias, true);
  folder.refuses("use_sliding_window", true, {"use_sliding_window", "only false"});
}

TEST(HuggingFaceConfig, OfGpt2WhatIsNotSupportedIsRefused) {
  const ConfigFolder folder("gpt2");
  for (const char* field : {"scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn", "add_cross_attention"})
    folder.refuses(field, true, {field, "only false"});
  folder.refuses("activation_function", "mish", {"activation_function is \"mish\""});
  folder.refuses("rotary_dim", 4, {"has the field \"rotary_dim\""});
  folder.refuses("n_positions", missing, {"lacks the field \"n_positions\""});
  EXPECT_EQ(folder.with("activation_function", "gelu").layers[0].ffn.activation, Activation::gelu);
  EXPECT_EQ(folder.with("scale_attn_weights", false).layers[0].attention.scale, 1);
  EXPECT_EQ(folder.with("n_inner", missing).layers[0].hidden_dims, 0);  // four times the width
  const models::DecoderConfig dropped = folder.with("resid_pdrop", missing);
  EXPECT_EQ(dropped.layers[0].dropout, 0.1);  // a default of transformers
  EXPECT_EQ(dropped.layers[0].attention.dropout, 0);
}

}  // namespace
