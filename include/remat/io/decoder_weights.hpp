// The weights of a decoder under the names of a file format.
#pragma once

#include <remat/io/model_weights.hpp>
#include <remat/models/decoder.hpp>
#include <string>

namespace remat { inline namespace REMAT_ABI { namespace io {

/// What a format calls the tensors of a decoder, without ".weight" and ".bias".
struct DecoderNames {
  std::string embedding{}, final_norm{}, head{};  // of the model
  std::string layers{};                           // before the number of a layer: "model.layers."
  std::string attention_norm{}, query{}, key{}, value{}, attention_out{};  // of a layer, behind its number
  std::string ffn_norm{}, gate{}, up{}, down{};                            // likewise
  bool paired_turns = false;  // rows of query and key lie as `WeightLayout::paired_heads` says
};

/// The names of Hugging Face's folders; `before` stands before all but the head's.
inline DecoderNames hugging_face_names(const std::string& before) {
  return {
      before + "embed_tokens", before + "norm",    "lm_head",          before + "layers.", "input_layernorm",
      "self_attn.q_proj",      "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "post_attention_layernorm",
      "mlp.gate_proj",         "mlp.up_proj",      "mlp.down_proj"};
}
/// Those of GGUF files.
inline DecoderNames gguf_names() {
  return {"token_embd", "output_norm", "output",   "blk.",     "attn_norm", "attn_q",  "attn_k",
          "attn_v",     "attn_output", "ffn_norm", "ffn_gate", "ffn_up",    "ffn_down"};
}

/// Fills a decoder with projections of their own for query, key and value and with gated feed-forwards. An `Error` as
/// of `ModelWeights::load`.
template <class T>
void load_decoder(ModelWeights<Accum<T>> weights, const models::Decoder<T>& model, const DecoderNames& names,
                  const LoadOptions& options = {}) {
  const auto norm = [&](const nn::Norm<T>& part, const std::string& name) {
    weights.add(std::visit([](const auto& layer) { return layer.scale; }, part.layer), name + ".weight");
  };
  weights.add(model.embedding.table, names.embedding + ".weight");
  norm(model.final_norm, names.final_norm);
  model.head ? weights.add(*model.head, names.head + ".weight")
             : weights.add_copy(model.embedding.table, names.head + ".weight");
  for (std::size_t i = 0; i < model.decoder.layers.size(); ++i) {
    const nn::TransformerLayer<T>& layer = model.decoder.layers[i];
    const std::string before = names.layers + std::to_string(i) + ".";
    const auto linear = [&](const nn::Linear<T>& part, const std::string& name, Index paired_heads = 0) {
      weights.add(part.w, before + name + ".weight", {.transposed = true, .paired_heads = paired_heads});
      if (part.b) weights.add(part.b, before + name + ".bias", {.paired_heads = paired_heads});
    };
    const auto& attention = layer.attention;
    const auto paired = [&](Index heads) { return names.paired_turns ? heads : 0; };
    norm(layer.attention_norm, before + names.attention_norm);
    linear(*attention.query, names.query, paired(attention.config.num_heads));
    linear(*attention.key, names.key, paired(attention.config.num_kv_heads));
    linear(*attention.value, names.value);
    linear(*attention.out, names.attention_out);
    norm(layer.ffn_norm, before + names.ffn_norm);
    linear(*layer.ffn.gate, names.gate);
    linear(*layer.ffn.ffn1, names.up);
    linear(*layer.ffn.ffn2, names.down);
  }
  weights.load(options);
}

namespace detail {

/// A decoder of Llama's kind, for weights that are to be read, so that initial values are zeros: `count` layers like
/// `layer`, to which gated feed-forwards and RMS norms are given.
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

}  // namespace detail

}}}  // namespace remat::io
