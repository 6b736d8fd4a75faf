// Falcon: attention and feed-forward side by side, layer norms, one projection for query, key and value; the oldest one
// after another, with ALiBi.
#pragma once

#include <cstdint>
#include <map>
#include <remat/io/families/gpt2.hpp>
#include <remat/io/families/llama.hpp>
#include <string>

namespace remat { inline namespace REMAT_ABI { namespace io { namespace families {

/// @cond inside
/// `count` layers like `layer`, to which what all of the kind have is given.
inline models::DecoderConfig falcon_decoder(nn::TransformerLayerConfig layer, Index count, double epsilon) {
  models::DecoderConfig config = gpt2_decoder(layer, count, epsilon);
  config.learned_positions = false;
  return config;
}

/// Fields that do not matter for results are known by name; any other that is not null is refused.
inline models::DecoderConfig falcon_of_folder(const text::detail::JsonPlace& json) {
  constexpr std::int64_t most = std::int64_t{1} << 31;
  const auto size = [&](const char* name) { return json[name].index(most); };
  const auto size_or = [&](const char* name, Index otherwise) { return json.has(name) ? size(name) : otherwise; };
  const auto number = [&](const char* name, double otherwise) {
    return json.has(name) ? json[name].number() : otherwise;
  };
  json.allow_only({"model_type", "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
                   "num_kv_heads", "num_ln_in_parallel_attn", "layer_norm_epsilon", "hidden_dropout",
                   "attention_dropout", "alibi", "new_decoder_architecture", "multi_query", "parallel_attn", "bias",
                   "max_position_embeddings", "rope_theta", "rope_parameters", "rope_scaling", "ffn_hidden_size",
                   "activation", "tie_word_embeddings", "apply_residual_connection_post_layernorm",
                   // no matter of results
                   "architectures", "auto_map", "bos_token_id", "eos_token_id", "pad_token_id", "torch_dtype", "dtype",
                   "transformers_version", "use_cache", "initializer_range", "_name_or_path", "_attn_implementation",
                   "return_dict", "output_hidden_states", "output_attentions"});
  if (json.flag("apply_residual_connection_post_layernorm", false))
    json["apply_residual_connection_post_layernorm"].refuse("is not supported; only false is");
  const bool is_new = json.flag("new_decoder_architecture", false), is_alibi = json.flag("alibi", false);
  const bool is_parallel = json.flag("parallel_attn", true), has_one_key = json.flag("multi_query", true);
  if (is_new && !is_parallel) json["parallel_attn"].refuse("is false, which new_decoder_architecture does not have");
  const Index norms = size_or("num_ln_in_parallel_attn", is_new ? 2 : 1);
  if (norms != 1 && !(is_new && norms == 2))
    json["num_ln_in_parallel_attn"].refuse("is ", norms, "; it may be 1, and with new_decoder_architecture 2");
  const double dropout = number("hidden_dropout", 0), attention_dropout = number("attention_dropout", 0);
  if (!is_parallel && attention_dropout != dropout)
    json["attention_dropout"].refuse("is ", attention_dropout, ", hidden_dropout is ", dropout,
                                     "; branches one after another have one rate here");
  RotaryTable table{number("rope_theta", 10'000)};
  for (const char* name : {"rope_parameters", "rope_scaling"})
    if (json.has(name)) read_rotary(json[name], table);  // the latter wins, as in transformers

  nn::TransformerLayerConfig layer;
  layer.model_dims = size("hidden_size");
  layer.hidden_dims = size_or("ffn_hidden_size", 0);
  layer.num_heads = size("num_attention_heads");
  layer.dropout = dropout;
  const Index kv_heads = size_or("num_kv_heads", layer.num_heads);
  if (!is_new && !has_one_key && kv_heads != layer.num_heads)
    json["num_kv_heads"].refuse("is ", kv_heads, ", not num_attention_heads; set new_decoder_architecture");
  layer.attention = {.num_kv_heads = !is_new && has_one_key ? 1 : kv_heads,
                     .bias = json.flag("bias", false),
                     .dropout = is_alibi ? attention_dropout : 0,  // transformers drops nothing beside rotary
                     .rotary_base = is_alibi ? 0 : table.base,
                     .alibi = is_alibi};
  if (!is_alibi) layer.attention.rotary_scaling = table.scaling;
  if (is_alibi) layer.attention.alibi_form = AlibiForm::bfloat16_key_position;
  layer.ffn.bias = layer.attention.bias;
  layer.ffn.activation = read_activation(json, "activation", "gelu");
  layer.parallel = is_parallel, layer.parallel_one_norm = is_parallel && norms == 1;
  auto config = falcon_decoder(layer, json["num_hidden_layers"].index(10'000), number("layer_norm_epsilon", 1e-5));
  config.vocabulary = size("vocab_size");
  config.context = size_or("max_position_embeddings", 2048);
  config.tied_head = json.flag("tie_word_embeddings", true);
  return config;
}

/// llama.cpp knows those with rotary and parallel branches only; its tensors tell how many norms there are. Its gelu is
/// the one by tanh, a model's the exact one, as here.
inline models::DecoderConfig falcon_of_gguf(const GgufSettings& file) {
  nn::TransformerLayerConfig layer;
  layer.model_dims = file.get<Index>("embedding_length");
  layer.hidden_dims = file.get<Index>("feed_forward_length", 0);
  layer.num_heads = file.get<Index>("attention.head_count");
  layer.attention = {.num_kv_heads = file.get<Index>("attention.head_count_kv", layer.num_heads),
                     .bias = false,
                     .rotary_base = file.get<double>("rope.freq_base", 10'000.0),
                     .rotary_scaling = gguf_rotary_scaling(file)};
  layer.ffn.bias = false;
  layer.parallel = true;
  auto config =
      falcon_decoder(layer, file.index("block_count", 10'000), file.get<double>("attention.layer_norm_epsilon"));
  config.context = file.get<Index>("context_length");
  return config;
}

inline nlohmann::ordered_json falcon_to_folder(const models::DecoderConfig& c) {
  const nn::TransformerLayerConfig& layer = c.layers.front();
  const nn::AttentionConfig& attention = layer.attention;
  const bool has_one_key = attention.num_kv_heads == 1, has_all = attention.num_kv_heads == attention.num_heads;
  const bool two_norms = layer.parallel && !layer.parallel_one_norm;
  const bool is_new = two_norms || (layer.parallel && !has_one_key && !has_all);
  nlohmann::ordered_json json{{"vocab_size", c.vocabulary},
                              {"hidden_size", c.model_dims},
                              {"ffn_hidden_size", layer.ffn.hidden_dims},
                              {"num_hidden_layers", c.layers.size()},
                              {"num_attention_heads", attention.num_heads},
                              {"new_decoder_architecture", is_new},
                              {"multi_query", has_one_key},
                              {"parallel_attn", layer.parallel},
                              {"alibi", attention.alibi},
                              {"bias", attention.bias},
                              {"activation", activation_name(layer.ffn.activation)},
                              {"max_position_embeddings", c.context},
                              {"layer_norm_epsilon", c.norm_epsilon.value_or(1e-5)},
                              {"hidden_dropout", layer.dropout},
                              {"attention_dropout", attention.dropout},
                              {"tie_word_embeddings", c.tied_head}};
  if (is_new) json["num_kv_heads"] = attention.num_kv_heads, json["num_ln_in_parallel_attn"] = two_norms ? 2 : 1;
  if (!attention.alibi) json["rope_theta"] = attention.rotary_base;
  if (attention.rotary_scaling.kind != RotaryScaling::none)
    json["rope_scaling"] = rotary_to_folder(attention.rotary_base, attention.rotary_scaling);
  return json;
}

inline std::map<std::string, GgufContent> falcon_to_gguf(const models::DecoderConfig& c) {
  std::map<std::string, GgufContent> settings = gpt2_to_gguf(c);
  const nn::TransformerLayerConfig& layer = c.layers.front();
  settings["feed_forward_length"] = static_cast<std::uint32_t>(layer.ffn.hidden_dims);
  settings["attention.head_count_kv"] = static_cast<std::uint32_t>(layer.attention.num_kv_heads);
  settings["rope.freq_base"] = static_cast<float>(layer.attention.rotary_base);
  rotary_scaling_to_gguf(layer.attention.rotary_scaling, settings);
  settings["tensor_data_layout"] = std::string("jploski");  // rows of attn_qkv as ours; llama.cpp's name for them
  return settings;
}

inline DecoderFamily falcon() {
  DecoderFamily family{.architecture = "falcon",
                       .model_type = "falcon",
                       .class_name = "FalconForCausalLM",
                       .gguf_names = {.embedding = "token_embd",
                                      .final_norm = "output_norm",
                                      .head = "output",
                                      .layers = "blk.",
                                      .attention_norm = "attn_norm",
                                      .attention_out = "attn_output",
                                      .up = "ffn_up",
                                      .down = "ffn_down",
                                      .qkv = "attn_qkv",
                                      .parallel_attention_norm = "attn_norm_2",
                                      .parallel_ffn_norm = "attn_norm"},
                       .folder_names = {.embedding = "word_embeddings",
                                        .final_norm = "ln_f",
                                        .head = "lm_head",
                                        .layers = "h.",
                                        .attention_norm = "input_layernorm",
                                        .attention_out = "self_attention.dense",
                                        .ffn_norm = "post_attention_layernorm",
                                        .up = "mlp.dense_h_to_4h",
                                        .down = "mlp.dense_4h_to_h",
                                        .qkv = "self_attention.query_key_value",
                                        .parallel_attention_norm = "ln_attn",
                                        .parallel_ffn_norm = "ln_mlp",
                                        .grouped_qkv = true},
                       .prefix = "transformer.",
                       .buffers = {"self_attention.rotary_emb.inv_freq"}};
  family.of_folder = falcon_of_folder, family.of_gguf = falcon_of_gguf;
  family.to_folder = falcon_to_folder, family.to_gguf = falcon_to_gguf;
  return family;
}

/// @endcond

}}}}  // namespace remat::io::families
