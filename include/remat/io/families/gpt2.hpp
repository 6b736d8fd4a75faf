// GPT-2: learned positions, layer norms, one projection for query, key and value, biases everywhere.
#pragma once

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <map>
#include <remat/io/decoder_family.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace io { namespace families {

/// @cond inside
/// Activations by the names of transformers, those that are written first.
inline constexpr std::pair<std::string_view, Activation> gpt2_activations[] = {
    {"gelu_new", Activation::gelu_tanh}, {"gelu", Activation::gelu},
    {"relu", Activation::relu},          {"silu", Activation::silu},
    {"relu2", Activation::squared_relu}, {"gelu_pytorch_tanh", Activation::gelu_tanh},
    {"swish", Activation::silu}};

inline Activation read_activation(const text::detail::JsonPlace& json, const char* field, const char* otherwise) {
  const std::string name = json.text(field, otherwise);
  const auto* const found = std::find_if(std::begin(gpt2_activations), std::end(gpt2_activations),
                                         [&](const auto& each) { return each.first == name; });
  if (found == std::end(gpt2_activations)) json[field].refuse("is \"", name, "\", which is not supported");
  return found->second;
}
inline std::string_view activation_name(Activation activation) {
  for (const auto& [name, kind] : gpt2_activations)
    if (kind == activation) return name;
  return {};
}

/// `count` layers like `layer`, which has model_dims, hidden_dims, num_heads and an activation.
inline models::DecoderConfig gpt2_decoder(nn::TransformerLayerConfig layer, Index count, double epsilon) {
  layer.norm_epsilon = epsilon;
  layer.attention.combined_qkv = true;
  layer.attention.init = layer.attention.out_init = layer.ffn.init = layer.ffn.out_init = init::zeros();
  models::DecoderConfig config{.model_dims = layer.model_dims, .learned_positions = true};
  config.layers.assign(static_cast<std::size_t>(count), layer);
  config.norm = nn::NormKind::layer_norm, config.norm_epsilon = epsilon;
  config.init_deviation = 0;
  return config;
}

/// Fields that do not matter for results are known by name; any other that is not null is refused.
inline models::DecoderConfig gpt2_of_folder(const text::detail::JsonPlace& json) {
  constexpr std::int64_t most = std::int64_t{1} << 31;
  json.allow_only({"model_type", "vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "n_inner",
                   "activation_function", "resid_pdrop", "embd_pdrop", "attn_pdrop", "layer_norm_epsilon",
                   "scale_attn_weights", "tie_word_embeddings", "scale_attn_by_inverse_layer_idx",
                   "reorder_and_upcast_attn", "add_cross_attention",
                   // no matter of results
                   "n_ctx", "architectures", "bos_token_id", "eos_token_id", "pad_token_id", "torch_dtype", "dtype",
                   "transformers_version", "use_cache", "initializer_range", "_name_or_path", "summary_type",
                   "summary_use_proj", "summary_activation", "summary_proj_to_labels", "summary_first_dropout",
                   "task_specific_params", "gradient_checkpointing", "id2label", "label2id", "_num_labels",
                   "_attn_implementation", "return_dict", "output_hidden_states", "output_attentions"});
  for (const char* name : {"scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn", "add_cross_attention"})
    if (json.flag(name, false)) json[name].refuse("is not supported; only false is");
  const auto rate = [&](const char* name) { return json.has(name) ? json[name].number() : 0.1; };
  nn::TransformerLayerConfig layer;
  layer.model_dims = json["n_embd"].index(most);
  layer.hidden_dims = json.has("n_inner") ? json["n_inner"].index(most) : 0;
  layer.num_heads = json["n_head"].index(most);
  layer.dropout = rate("resid_pdrop");
  layer.attention.dropout = rate("attn_pdrop");
  if (!json.flag("scale_attn_weights", true)) layer.attention.scale = 1;
  layer.ffn.activation = read_activation(json, "activation_function", "gelu_new");
  auto config = gpt2_decoder(layer, json["n_layer"].index(10'000), json["layer_norm_epsilon"].number());
  config.vocabulary = json["vocab_size"].index(most);
  config.context = json["n_positions"].index(most);
  config.dropout = rate("embd_pdrop");
  config.tied_head = json.flag("tie_word_embeddings", true);
  return config;
}

inline models::DecoderConfig gpt2_of_gguf(const GgufSettings& file) {
  nn::TransformerLayerConfig layer;
  layer.model_dims = file.get<Index>("embedding_length");
  layer.hidden_dims = file.get<Index>("feed_forward_length");
  layer.num_heads = file.get<Index>("attention.head_count");
  if (file.get<Index>("attention.head_count_kv", layer.num_heads) != layer.num_heads)
    file.refuse("attention.head_count_kv", "differs from attention.head_count, which GPT-2 does not have");
  layer.ffn.activation = Activation::gelu_tanh;
  auto config =
      gpt2_decoder(layer, file.index("block_count", 10'000), file.get<double>("attention.layer_norm_epsilon"));
  config.context = file.get<Index>("context_length");
  return config;
}

inline nlohmann::ordered_json gpt2_to_folder(const models::DecoderConfig& c) {
  const nn::TransformerLayerConfig& layer = c.layers.front();
  return {{"vocab_size", c.vocabulary},
          {"n_positions", c.context},
          {"n_ctx", c.context},
          {"n_embd", c.model_dims},
          {"n_layer", c.layers.size()},
          {"n_head", layer.attention.num_heads},
          {"n_inner", layer.ffn.hidden_dims},
          {"activation_function", activation_name(layer.ffn.activation)},
          {"resid_pdrop", layer.dropout},
          {"embd_pdrop", c.dropout},
          {"attn_pdrop", layer.attention.dropout},
          {"layer_norm_epsilon", c.norm_epsilon.value_or(1e-5)},
          {"scale_attn_weights", layer.attention.scale.value_or(0) != 1},
          {"tie_word_embeddings", c.tied_head}};
}

inline std::map<std::string, GgufContent> gpt2_to_gguf(const models::DecoderConfig& c) {
  const nn::TransformerLayerConfig& layer = c.layers.front();
  const auto size = [](auto number) { return static_cast<std::uint32_t>(number); };
  return {{"context_length", size(c.context)},
          {"embedding_length", size(c.model_dims)},
          {"block_count", size(c.layers.size())},
          {"feed_forward_length", size(layer.ffn.hidden_dims)},
          {"attention.head_count", size(layer.attention.num_heads)},
          {"attention.layer_norm_epsilon", static_cast<float>(c.norm_epsilon.value_or(1e-5))}};
}

inline DecoderFamily gpt2() {
  DecoderFamily family{.architecture = "gpt2",
                       .model_type = "gpt2",
                       .class_name = "GPT2LMHeadModel",
                       .gguf_names = {.embedding = "token_embd",
                                      .final_norm = "output_norm",
                                      .head = "output",
                                      .layers = "blk.",
                                      .attention_norm = "attn_norm",
                                      .attention_out = "attn_output",
                                      .ffn_norm = "ffn_norm",
                                      .up = "ffn_up",
                                      .down = "ffn_down",
                                      .positions = "position_embd",
                                      .qkv = "attn_qkv"},
                       .folder_names = {.embedding = "wte",
                                        .final_norm = "ln_f",
                                        .head = "lm_head",
                                        .layers = "h.",
                                        .attention_norm = "ln_1",
                                        .attention_out = "attn.c_proj",
                                        .ffn_norm = "ln_2",
                                        .up = "mlp.c_fc",
                                        .down = "mlp.c_proj",
                                        .positions = "wpe",
                                        .qkv = "attn.c_attn",
                                        .transposed = false},
                       .prefix = "transformer.",
                       .buffers = {"attn.bias", "attn.masked_bias"}};  // masks
  family.of_folder = gpt2_of_folder, family.of_gguf = gpt2_of_gguf;
  family.to_folder = gpt2_to_folder, family.to_gguf = gpt2_to_gguf;
  return family;
}

/// @endcond

}}}}  // namespace remat::io::families
