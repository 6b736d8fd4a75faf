// Llama and its kind: rotary attention with separate projections, gated feed-forwards, RMS norms.
#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <map>
#include <remat/io/families/rotary.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace io { namespace families {

/// @cond inside
/// What sets one of the kind apart.
struct LlamaKind {
  std::string_view model_type;  // of a folder
  bool qkv_bias = false;        // query, key and value have biases, and no other linear has
  bool tied_head = false;       // where config.json does not say
  double rotary_base = 10'000;  // likewise
  Index head_dims = 0;          // likewise; 0: hidden_size over the number of heads
  nn::QueryKeyNorm query_key_norm = nn::QueryKeyNorm::none;
  nn::NormPlacement norm_placement = nn::NormPlacement::pre;
};
inline constexpr LlamaKind llama_kinds[] = {
    {"llama"},
    {"mistral"},
    {"qwen2", true},
    {"smollm3", false, true, 2'000'000},
    {"qwen3", false, false, 10'000, 128, nn::QueryKeyNorm::each_head},
    {"olmo2", false, false, 10'000, 0, nn::QueryKeyNorm::whole_projection, nn::NormPlacement::branch_output},
    {"olmo3", false, false, 500'000, 0, nn::QueryKeyNorm::whole_projection, nn::NormPlacement::branch_output},
    {"granite"}};
inline const LlamaKind& llama_kind(std::string_view model_type) {
  for (const LlamaKind& kind : llama_kinds)
    if (kind.model_type == model_type) return kind;
  fail(model_type, ": is no kind of Llama that is known here");
}

/// `count` layers like `layer`, to which gated feed-forwards and RMS norms are given.
inline models::DecoderConfig llama_decoder(nn::TransformerLayerConfig layer, Index count, double epsilon) {
  layer.norm = nn::NormKind::rms_norm;
  layer.norm_epsilon = epsilon;
  layer.attention.init = layer.attention.out_init = init::zeros();
  layer.ffn = {
      .activation = Activation::silu, .gated = true, .bias = false, .init = init::zeros(), .out_init = init::zeros()};
  models::DecoderConfig config{.model_dims = layer.model_dims};
  config.layers.assign(static_cast<std::size_t>(count), layer);
  config.norm_epsilon = epsilon;
  config.init_deviation = 0;
  return config;
}
/// The width of heads in a GGUF file, or 0 where it does not say.
inline Index gguf_head_dims(const GgufSettings& file) {
  const auto head_dims = file.get<Index>("attention.key_length", 0);
  if (file.get<Index>("attention.value_length", head_dims) != head_dims)
    file.refuse("attention.value_length", "differs from attention.key_length, which is not supported");
  return head_dims;
}
/// Turns nothing by position in this layer (SmolLM3, after Yang et al. 2025).
inline void without_rotary(nn::TransformerLayerConfig& layer) {
  layer.attention.rotary_base = 0, layer.attention.rotary_dims = 0, layer.attention.rotary_scaling = {};
}

/// With this rotary table. Fields that do not matter for results are known by name; any other that is not null and not
/// in `more` is refused, but for windows by layer.
inline models::DecoderConfig llama_of_folder(const text::detail::JsonPlace& json, const RotaryTable& table,
                                             std::initializer_list<const char*> more) {
  constexpr std::int64_t most = std::int64_t{1} << 31;
  const LlamaKind& kind = llama_kind(json["model_type"].text());
  const bool is_llama = kind.model_type == "llama" || kind.model_type == "granite",
             is_mistral = kind.model_type == "mistral", is_smollm3 = kind.model_type == "smollm3";
  const auto size = [&](const char* name) { return json[name].index(most); };
  const auto size_or = [&](const char* name, Index otherwise) { return json.has(name) ? size(name) : otherwise; };
  json.allow_only(
      {"model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
       "num_key_value_heads", "head_dim", "rms_norm_eps", "rope_theta", "rope_parameters", "rope_scaling",
       "tie_word_embeddings", "attention_bias", "mlp_bias", "hidden_act", "max_position_embeddings", "sliding_window",
       "use_sliding_window", "max_window_layers", "layer_types", "attention_dropout", "rope_interleaved",
       "no_rope_layers", "no_rope_layer_interval",
       // no matter of results
       "architectures", "bos_token_id", "eos_token_id", "pad_token_id", "torch_dtype", "dtype", "transformers_version",
       "use_cache", "initializer_range", "pretraining_tp", "_name_or_path", "is_llama_config", "transformers.js_config",
       "_attn_implementation", "return_dict", "output_hidden_states", "output_attentions"},
      more);
  const auto only = [&](const char* name, bool is_so, const char* rule) {
    if (!is_so) json[name].refuse("is not supported; only ", rule, " is");
  };
  only("hidden_act", json.text("hidden_act", "silu") == "silu", "\"silu\"");
  only("mlp_bias", !json.flag("mlp_bias", false), "false");
  only("rope_interleaved", !json.flag("rope_interleaved", false), "false");
  only("use_sliding_window", !json.flag("use_sliding_window", false), "false");
  only("sliding_window", !is_llama || !json.has("sliding_window"), "null");
  for (const char* name : {"no_rope_layers", "no_rope_layer_interval"})
    only(name, is_smollm3 || !json.has(name), "null");

  nn::TransformerLayerConfig layer;
  layer.model_dims = size("hidden_size");
  layer.hidden_dims = size("intermediate_size");
  layer.num_heads = size("num_attention_heads");
  if (!is_llama) json["num_key_value_heads"];  // transformers would take a number of its own
  const bool bias = kind.qkv_bias || json.flag("attention_bias", false);
  layer.attention = {.num_kv_heads = size_or("num_key_value_heads", layer.num_heads),
                     .head_dims = size_or("head_dim", kind.head_dims),
                     .bias = bias,
                     .out_bias = bias && !kind.qkv_bias,
                     .dropout = json.has("attention_dropout") ? json["attention_dropout"].number() : 0,
                     .window = is_mistral && !json["sliding_window"].is_null() ? size("sliding_window") : 0,
                     .rotary_base = table.base,
                     .rotary_scaling = table.scaling,
                     .query_key_norm = kind.query_key_norm};
  layer.norm_placement = kind.norm_placement;
  auto config = llama_decoder(layer, json["num_hidden_layers"].index(10'000), json["rms_norm_eps"].number());
  config.vocabulary = size("vocab_size");
  config.context = size("max_position_embeddings");
  config.tied_head = json.flag("tie_word_embeddings", kind.tied_head);
  const bool is_list = json.has("no_rope_layers");  // 1: rotary, 0: none
  const Index interval = size_or("no_rope_layer_interval", 4);
  only("no_rope_layer_interval", is_list || interval > 0, "a number above 0");
  for (std::size_t i = 0; is_smollm3 && i < config.layers.size(); ++i)
    if (is_list ? json["no_rope_layers"][i].index(2) == 0 : (static_cast<Index>(i) + 1) % interval == 0)
      without_rotary(config.layers[i]);
  return config;
}
/// The same of a kind that has one rotary table and one kind of layer.
inline models::DecoderConfig llama_of_folder(const text::detail::JsonPlace& json,
                                             std::initializer_list<const char*> more) {
  RotaryTable table{json.has("rope_theta") ? json["rope_theta"].number()
                                           : llama_kind(json["model_type"].text()).rotary_base};
  for (const char* name : {"rope_parameters", "rope_scaling"})
    if (json.has(name)) read_rotary(json[name], table);  // the latter wins, as in transformers
  models::DecoderConfig config = llama_of_folder(json, table, more);
  if (json.has("layer_types"))
    json["layer_types"].each([](const auto& each) {
      if (each.text() != "full_attention")
        each.refuse("is \"", each.text(), "\"; only \"full_attention\" is supported");
    });
  return config;
}

inline models::DecoderConfig llama_of_gguf(const GgufSettings& file) {
  const LlamaKind& kind = llama_kind(file.architecture());
  nn::TransformerLayerConfig layer;
  layer.model_dims = file.get<Index>("embedding_length");
  layer.hidden_dims = file.get<Index>("feed_forward_length");
  layer.num_heads = file.get<Index>("attention.head_count");
  layer.attention = {.num_kv_heads = file.get<Index>("attention.head_count_kv", layer.num_heads),
                     .head_dims = gguf_head_dims(file),
                     .bias = kind.qkv_bias,
                     .out_bias = false,
                     .window = file.get<Index>("attention.sliding_window", 0),
                     .rotary_base = file.get<double>("rope.freq_base", 10000.0),
                     .rotary_dims = file.get<Index>("rope.dimension_count", 0),
                     .rotary_scaling = gguf_rotary_scaling(file),
                     .query_key_norm = kind.query_key_norm};
  layer.norm_placement = kind.norm_placement;
  auto config =
      llama_decoder(layer, file.index("block_count", 10'000), file.get<double>("attention.layer_norm_rms_epsilon"));
  config.context = file.get<Index>("context_length");
  // No key says so: llama.cpp knows it by the architecture.
  if (file.architecture() == "smollm3")
    for (std::size_t i = 3; i < config.layers.size(); i += 4) without_rotary(config.layers[i]);
  return config;
}

/// That of the first layer that has one: they differ in nothing else.
inline RotaryTable llama_rotary(const models::DecoderConfig& c) {
  for (const auto& layer : c.layers)
    if (layer.attention.rotary_base != 0) return {layer.attention.rotary_base, layer.attention.rotary_scaling};
  return {};
}

inline nlohmann::ordered_json llama_to_folder(const models::DecoderConfig& c) {
  const nn::TransformerLayerConfig& layer = c.layers.front();
  const RotaryTable table = llama_rotary(c);
  nlohmann::ordered_json json{{"vocab_size", c.vocabulary},
                              {"hidden_size", c.model_dims},
                              {"intermediate_size", layer.ffn.hidden_dims},
                              {"num_hidden_layers", c.layers.size()},
                              {"num_attention_heads", layer.attention.num_heads},
                              {"num_key_value_heads", layer.attention.num_kv_heads},
                              {"head_dim", layer.attention.head_dims},
                              {"hidden_act", "silu"},
                              {"max_position_embeddings", c.context},
                              {"rms_norm_eps", c.norm_epsilon.value_or(1e-6)},
                              {"rope_theta", table.base},
                              {"attention_dropout", layer.attention.dropout},
                              {"tie_word_embeddings", c.tied_head}};
  if (table.scaling.kind != RotaryScaling::none) json["rope_scaling"] = rotary_to_folder(table.base, table.scaling);
  return json;
}
inline nlohmann::ordered_json llama_to_folder_with_biases(const models::DecoderConfig& c) {
  nlohmann::ordered_json json = llama_to_folder(c);
  json["attention_bias"] = c.layers.front().attention.bias;
  json["mlp_bias"] = false;
  return json;
}
inline nlohmann::ordered_json mistral_to_folder(const models::DecoderConfig& c) {
  nlohmann::ordered_json json = llama_to_folder(c);
  const Index window = c.layers.front().attention.window;
  json["sliding_window"] = window != 0 ? nlohmann::ordered_json(window) : nlohmann::ordered_json();
  return json;
}
inline nlohmann::ordered_json qwen2_to_folder(const models::DecoderConfig& c) {
  nlohmann::ordered_json json = llama_to_folder(c);
  json["use_sliding_window"] = false;
  return json;
}
inline nlohmann::ordered_json qwen3_to_folder(const models::DecoderConfig& c) {
  nlohmann::ordered_json json = qwen2_to_folder(c);
  json["attention_bias"] = c.layers.front().attention.bias;
  return json;
}
inline nlohmann::ordered_json smollm3_to_folder(const models::DecoderConfig& c) {
  nlohmann::ordered_json json = llama_to_folder_with_biases(c);
  json["use_sliding_window"] = false;
  for (const auto& layer : c.layers) json["no_rope_layers"].push_back(layer.attention.rotary_base != 0 ? 1 : 0);
  return json;
}

inline std::map<std::string, GgufContent> llama_to_gguf(const models::DecoderConfig& c) {
  const nn::TransformerLayerConfig& layer = c.layers.front();
  const nn::AttentionConfig& attention = layer.attention;
  const auto size = [](auto number) { return static_cast<std::uint32_t>(number); };
  std::map<std::string, GgufContent> settings{
      {"vocab_size", size(c.vocabulary)},
      {"context_length", size(c.context)},
      {"embedding_length", size(c.model_dims)},
      {"block_count", size(c.layers.size())},
      {"feed_forward_length", size(layer.ffn.hidden_dims)},
      {"attention.head_count", size(attention.num_heads)},
      {"attention.head_count_kv", size(attention.num_kv_heads)},
      {"attention.layer_norm_rms_epsilon", static_cast<float>(c.norm_epsilon.value_or(1e-6))},
      {"attention.key_length", size(attention.head_dims)},
      {"attention.value_length", size(attention.head_dims)},
      {"rope.freq_base", static_cast<float>(llama_rotary(c).base)},
      {"rope.dimension_count", size(attention.rotary_dims != 0 ? attention.rotary_dims : attention.head_dims)}};
  if (attention.window != 0) settings["attention.sliding_window"] = size(attention.window);
  rotary_scaling_to_gguf(llama_rotary(c).scaling, settings);
  return settings;
}

/// One of the kind.
inline DecoderFamily llama_family(std::string_view architecture, std::string_view type, std::string_view class_name,
                                  bool paired_turns,
                                  nlohmann::ordered_json (*to_folder)(const models::DecoderConfig&)) {
  DecoderFamily made{.architecture = architecture,
                     .model_type = type,
                     .class_name = class_name,
                     .gguf_names = gguf_names(),
                     .folder_names = hugging_face_names(""),
                     .prefix = "model.",
                     .buffers = {"self_attn.rotary_emb.inv_freq"}};  // tables that old versions stored
  made.gguf_names.paired_turns = paired_turns;
  if (architecture == "llama") made.gguf_names.rotary_factors = "rope_freqs";
  made.gguf_names.query_norm = "attn_q_norm", made.gguf_names.key_norm = "attn_k_norm";
  made.folder_names.query_norm = "self_attn.q_norm", made.folder_names.key_norm = "self_attn.k_norm";
  made.of_folder = [](const text::detail::JsonPlace& json) { return llama_of_folder(json, {}); };
  made.of_gguf = llama_of_gguf;
  made.to_folder = to_folder, made.to_gguf = llama_to_gguf;
  return made;
}
/// Those without a file of their own.
inline std::vector<DecoderFamily> llamas() {
  const auto family = llama_family;
  return {family("llama", "llama", "LlamaForCausalLM", true, llama_to_folder_with_biases),
          family("llama", "mistral", "MistralForCausalLM", true, mistral_to_folder),
          family("qwen2", "qwen2", "Qwen2ForCausalLM", false, qwen2_to_folder),
          family("smollm3", "smollm3", "SmolLM3ForCausalLM", true, smollm3_to_folder),
          family("qwen3", "qwen3", "Qwen3ForCausalLM", false, qwen3_to_folder)};
}

/// @endcond

}}}}  // namespace remat::io::families
