// The weights of a decoder under the names of a file format.
#pragma once

#include <optional>
#include <remat/io/model_weights.hpp>
#include <remat/models/decoder.hpp>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace io {

/// What a format calls the tensors of a decoder, without ".weight" and ".bias".
struct DecoderNames {
  std::string embedding{}, final_norm{}, head{};  // of the model
  std::string layers{};                           // before the number of a layer: "model.layers."
  std::string attention_norm{}, query{}, key{}, value{}, attention_out{};  // of a layer, behind its number
  std::string ffn_norm{}, gate{}, up{}, down{};                            // likewise
  bool paired_turns = false;                         // rows of query and key lie as `WeightLayout::paired_heads` says
  std::string positions{};                           // of the model, where they are learned
  std::string qkv{};                                 // of a layer, where query, key and value are one
  bool transposed = true;                            // matrices of linears lie as [outputs, inputs]
  std::string query_norm{}, key_norm{};              // of a layer, where queries and keys are normalized
  std::string attention_out_norm{}, ffn_out_norm{};  // of a layer, the second norms of a sandwich
  std::string parallel_attention_norm{}, parallel_ffn_norm{};  // of a layer with both branches side by side, each with
                                                               // a norm of its own
  bool grouped_qkv = false;                                    // rows of `qkv` lie as `WeightLayout::qkv_groups` says
  double norm_excess = 0;                                      // of the weights of norms, as in `WeightLayout::excess`
  std::string rotary_factors{};  // of the model: what the frequency of each pair is divided by, where files may say so
};

/// The names of Hugging Face's folders for Llama and its kind; `before` stands before all but the head's.
inline DecoderNames hugging_face_names(const std::string& before) {
  return {
      before + "embed_tokens", before + "norm",    "lm_head",          before + "layers.", "input_layernorm",
      "self_attn.q_proj",      "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "post_attention_layernorm",
      "mlp.gate_proj",         "mlp.up_proj",      "mlp.down_proj"};
}
/// Those of GGUF files for the same.
inline DecoderNames gguf_names() {
  return {"token_embd", "output_norm", "output",   "blk.",     "attn_norm", "attn_q",  "attn_k",
          "attn_v",     "attn_output", "ffn_norm", "ffn_gate", "ffn_up",    "ffn_down"};
}

/// A linear layer of a transformer layer.
template <class T>
struct PlacedLinear {
  const nn::Linear<T>* linear;  // of the model
  std::string name{};           // behind the layer's number; empty: the format has none
  Index paired_heads = 0;       // as in `WeightLayout`
  bool is_grouped = false;      // rows lie as `WeightLayout::qkv_groups` says, of the layer's heads
};
/// All that `layer` has, under the names of a format.
template <class T>
std::vector<PlacedLinear<T>> linears_in(const nn::TransformerLayer<T>& layer, const DecoderNames& names) {
  std::vector<PlacedLinear<T>> all;
  const auto add = [&](const std::optional<nn::Linear<T>>& linear, const std::string& name, Index heads = 0) {
    if (linear) all.push_back({&*linear, name, names.paired_turns ? heads : 0, false});
  };
  const auto& attention = layer.attention;
  add(attention.qkv, names.qkv);
  if (attention.qkv) all.back().is_grouped = names.grouped_qkv && attention.config.num_kv_heads > 1;
  add(attention.query, names.query, attention.config.num_heads);
  add(attention.key, names.key, attention.config.num_kv_heads);
  add(attention.value, names.value);
  add(attention.out, names.attention_out);
  add(layer.ffn.gate, names.gate);
  add(layer.ffn.ffn1, names.up);
  add(layer.ffn.ffn2, names.down);
  return all;
}

/// All weights of a decoder, each once, as a format calls them: what is read and what is written. A tied head is the
/// embedding. An `Error` names a part that the format has no name for.
template <class T>
std::vector<NamedWeight<Accum<T>>> named_weights(const models::Decoder<T>& model, const DecoderNames& names) {
  std::vector<NamedWeight<Accum<T>>> all;
  const auto add = [&](const Parameter<Accum<T>>& parameter, const std::string& before, const std::string& name,
                       const char* kind, const WeightLayout& layout) {
    if (!parameter) return;
    require(!name.empty(), parameter.path(), ": the format of the file has no name for it");
    all.push_back({parameter, before + name + kind, layout});
  };
  const auto rms_norm = [&](const std::optional<nn::RmsNorm<T>>& part, const std::string& before,
                            const std::string& name) {
    if (part) add(part->scale, before, name, ".weight", {.excess = names.norm_excess});
  };
  const auto norm = [&](const nn::Norm<T>& part, const std::string& before, const std::string& name) {
    std::visit(
        [&](const auto& layer) {
          add(layer.scale, before, name, ".weight", {.excess = names.norm_excess});
          if constexpr (requires { layer.bias; }) add(layer.bias, before, name, ".bias", {});
        },
        part.layer);
  };
  add(model.embedding.table, "", names.embedding, ".weight", {});
  add(model.positions, "", names.positions, ".weight", {.always_numbers = true});
  norm(model.final_norm, "", names.final_norm);
  if (model.head) add(*model.head, "", names.head, ".weight", {});
  for (std::size_t i = 0; i < model.decoder.layers.size(); ++i) {
    const nn::TransformerLayer<T>& layer = model.decoder.layers[i];
    const std::string before = names.layers + std::to_string(i) + ".";
    const bool one = layer.config.parallel_one_norm, two = layer.config.parallel && !one;
    norm(layer.attention_norm, before, two ? names.parallel_attention_norm : names.attention_norm);
    if (!one) norm(layer.ffn_norm, before, two ? names.parallel_ffn_norm : names.ffn_norm);
    if (layer.attention_out_norm) norm(*layer.attention_out_norm, before, names.attention_out_norm);
    if (layer.ffn_out_norm) norm(*layer.ffn_out_norm, before, names.ffn_out_norm);
    rms_norm(layer.attention.query_norm, before, names.query_norm);
    rms_norm(layer.attention.key_norm, before, names.key_norm);
    for (const auto& [linear, name, heads, is_grouped] : linears_in(layer, names)) {
      WeightLayout matrix{.transposed = names.transposed, .paired_heads = heads, .is_linear = true};
      if (is_grouped)
        matrix.qkv_heads = layer.attention.config.num_heads, matrix.qkv_groups = layer.attention.config.num_kv_heads;
      WeightLayout vector = matrix;
      vector.transposed = vector.is_linear = false;
      add(linear->w, before, name, ".weight", matrix);
      add(linear->b, before, name, ".bias", vector);
    }
  }
  return all;
}

/// Fills a decoder. An `Error` as of `ModelWeights::load`.
template <class T>
void load_decoder(ModelWeights<Accum<T>> weights, const models::Decoder<T>& model, const DecoderNames& names,
                  const LoadOptions& options = {}) {
  for (NamedWeight<Accum<T>>& weight : named_weights(model, names)) weights.add(std::move(weight));
  if (!names.rotary_factors.empty()) weights.ignore(names.rotary_factors + ".weight");  // the config's matter
  if (!model.head) weights.add_copy(model.embedding.table, names.head + ".weight");
  weights.load(options);
}

}}}  // namespace remat::io
