// What a family of published decoders is: the names of its tensors, and what its config says in each format.
#pragma once

#include <cmath>
#include <initializer_list>
#include <ios>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <remat/io/decoder_weights.hpp>
#include <remat/io/gguf_save.hpp>
#include <remat/text/json_place.hpp>
#include <sstream>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace io {

/// The settings of the architecture that a GGUF file is of: "llama.block_count" is "block_count" here.
class GgufSettings {
 public:
  /// Of a header that stays where it is; errors begin with `path`.
  GgufSettings(const GgufHeader& header, std::string path)
      : header_(header),
        path_(std::move(path)),
        architecture_(value<std::string>("general.architecture")),
        before_(architecture_ + ".") {}

  /// "llama".
  const std::string& architecture() const { return architecture_; }
  /// Is there such a setting?
  bool has(std::string_view name) const { return find(key(name)) != nullptr; }
  /// Is there one that is an array?
  bool is_array(std::string_view name) const {
    const GgufValue* const found = find(key(name));
    return found != nullptr && found->type() == GgufType::array;
  }
  ///@{
  /// The setting as a `T`, see `GgufValue::as`, or `otherwise` where there is none.
  template <class T>
  T get(std::string_view name) const {
    return value<T>(key(name));
  }
  template <class T>
  T get(std::string_view name, T otherwise) const {
    return has(name) ? get<T>(name) : otherwise;
  }
  ///@}
  /// `get`, in [0, end).
  Index index(std::string_view name, Index end) const {
    const auto found = get<Index>(name);
    if (found < 0 || found >= end) refuse(name, "is ", found, ", not in [0, ", end, ")");
    return found;
  }
  /// An `Error` about a setting.
  template <class... Parts>
  [[noreturn]] void refuse(std::string_view name, const Parts&... parts) const {
    fail(path_, ": ", key(name), ' ', parts...);
  }
  /// An `Error` where one of these is set: it would change results.
  void refuse_any(std::initializer_list<const char*> names) const {
    for (const char* name : names)
      if (has(name)) refuse(name, "is set, which changes results and is not supported");
  }

 private:
  std::string key(std::string_view name) const { return before_ + std::string(name); }
  const GgufValue* find(std::string_view key) const {
    const GgufEntry* const found = detail::find_by(header_.metadata, header_.by_key, &GgufEntry::key, key);
    return found ? &found->value : nullptr;
  }
  template <class T>
  T value(const std::string& key) const {
    const GgufValue* const found = find(key);
    if (found == nullptr) {
      std::vector<std::string> names;
      for (const GgufEntry& entry : header_.metadata) names.emplace_back(entry.key.substr(0, 100));
      fail(path_, ": has no metadata ", remat::detail::quoted(key),
           remat::detail::nearest_names(key, std::move(names)));
    }
    try {
      return found->as<T>();
    } catch (const Error& error) {
      fail(path_, ": metadata ", remat::detail::quoted(key), ' ', error.what());
    }
  }

  const GgufHeader& header_;
  std::string path_, architecture_, before_;
};

/// One family. Configs that are read have zeros as initial values, for weights are to be read; of a GGUF file, all but
/// `vocabulary`, `tied_head` and `parallel_one_norm`, which its tensors tell.
struct DecoderFamily {
  using Config = models::DecoderConfig;  // what both kinds of file are read to

  std::string_view architecture{};            // of GGUF files
  std::string_view model_type{};              // of folders
  std::string_view class_name{};              // of transformers: "LlamaForCausalLM"
  DecoderNames gguf_names{}, folder_names{};  // the latter without `prefix`
  std::string_view prefix{};                  // before all names but the head's, where a folder is of a whole model
  std::vector<std::string_view> buffers{};    // of a layer in a folder: tensors that say nothing about the model
  bool has_multipliers = false;               // GGUF files say those of embeddings, branches, scores and logits
  Config (*of_folder)(const text::detail::JsonPlace&) = nullptr;  // from config.json
  Config (*of_gguf)(const GgufSettings&) = nullptr;               // from the metadata
  /// What a config says, of at least one layer: the fields of config.json, and settings by `GgufSettings`'s names. What
  /// the family cannot say is left out: see `require_same`.
  nlohmann::ordered_json (*to_folder)(const Config&) = nullptr;
  /// The same for the metadata.
  std::map<std::string, GgufContent> (*to_gguf)(const Config&) = nullptr;
};

namespace detail {

/// `names` with `before` before all but the head's.
inline DecoderNames with_prefix(DecoderNames names, const std::string& before) {
  for (std::string* name : {&names.embedding, &names.positions, &names.final_norm, &names.layers})
    if (!name->empty()) name->insert(0, before);
  return names;
}

/// As errors print it.
template <class V>
std::string printed(const V& value) {
  std::ostringstream text;
  const auto named = [&](std::initializer_list<const char*> names) { text << names.begin()[static_cast<int>(value)]; };
  if constexpr (std::is_same_v<V, nn::NormKind>)
    named({"layer_norm", "rms_norm"});
  else if constexpr (std::is_same_v<V, nn::NormPlacement>)
    named({"pre", "post", "sandwich", "branch_output"});
  else if constexpr (std::is_same_v<V, nn::NormScale>)
    named({"weight", "one_plus_weight"});
  else if constexpr (std::is_same_v<V, nn::QueryKeyNorm>)
    named({"none", "each_head", "whole_projection"});
  else if constexpr (std::is_same_v<V, RotaryScaling>)
    named({"none", "linear", "llama3", "yarn", "longrope", "proportional"});
  else if constexpr (std::is_same_v<V, AlibiForm>)
    named({"distance", "bfloat16_key_position"});
  else
    text << std::boolalpha << value;
  return text.str();
}

/// An `Error` that begins with `path` for the first setting that changes results and that `said`, read from what is to
/// be written, has otherwise than the model's `config`; `as` is what that would be: "a GGUF file of qwen2". Both have
/// layers that are completed. Settings of training (dropout, initial values, memory) are not compared.
inline void require_same(const models::DecoderConfig& config, const models::DecoderConfig& said,
                         const std::string& path, const std::string& as) {
  std::string before;
  const auto same = [&](const char* name, const auto& is, const auto& would) {
    bool equal = is == would;
    if constexpr (std::is_floating_point_v<std::remove_cvref_t<decltype(is)>>)
      equal = std::abs(is - would) <= 1e-6 * std::abs(is);  // files round some to floats
    require(equal, path, ": ", before, name, " is ", printed(is), ", which ", as, " cannot say: it would be read as ",
            printed(would));
  };
  const auto same_norm = [&](const char* epsilon, const auto& a, const auto& b, const char* bias) {
    const auto value = [](const auto& c) {
      return c.norm_epsilon.value_or(c.norm == nn::NormKind::layer_norm ? 1e-5 : 1e-6);
    };
    same("norm", a.norm, b.norm);
    if (a.norm == nn::NormKind::layer_norm) same(bias, a.norm_bias, b.norm_bias);
    same("norm_scale", a.norm_scale, b.norm_scale);
    same(epsilon, value(a), value(b));
  };
  same("vocabulary", config.vocabulary, said.vocabulary);
  same("model_dims", config.model_dims, said.model_dims);
  same("context", config.context, said.context);
  same("learned_positions", config.learned_positions, said.learned_positions);
  same("tied_head", config.tied_head, said.tied_head);
  same("embedding_multiplier", config.embedding_multiplier, said.embedding_multiplier);
  same("logit_multiplier", config.logit_multiplier, said.logit_multiplier);
  same("logit_soft_cap", config.logit_soft_cap, said.logit_soft_cap);
  same_norm("norm_epsilon", config, said, "norm_bias");
  same("layers.size()", config.layers.size(), said.layers.size());
  for (std::size_t i = 0; i < config.layers.size(); ++i) {
    const nn::TransformerLayerConfig &a = config.layers[i], &b = said.layers[i];
    before = "layers[" + std::to_string(i) + "].";
    same_norm("norm_epsilon", a, b, "norm_bias");
    same("hidden_dims", a.ffn.hidden_dims, b.ffn.hidden_dims);
    same("norm_placement", a.norm_placement, b.norm_placement);
    same("parallel", a.parallel, b.parallel);
    same("parallel_one_norm", a.parallel_one_norm, b.parallel_one_norm);
    same("cross_attention", a.cross_attention.has_value(), b.cross_attention.has_value());
    same("routed", a.routed.has_value(), b.routed.has_value());
    same("attention_norm", a.attention_norm, b.attention_norm);
    same("residual_multiplier", a.residual_multiplier, b.residual_multiplier);
    before += "attention.";
    const nn::AttentionConfig &p = a.attention, &q = b.attention;
    same("num_heads", p.num_heads, q.num_heads);
    same("num_kv_heads", p.num_kv_heads, q.num_kv_heads);
    same("head_dims", p.head_dims, q.head_dims);
    same("causal", p.causal, q.causal);
    same("combined_qkv", p.combined_qkv, q.combined_qkv);
    same("bias", p.bias, q.bias);
    same("out_bias", p.out_bias.value_or(p.bias), q.out_bias.value_or(q.bias));
    same("value_head_dims", p.value_head_dims, q.value_head_dims);
    same("sinks", p.sinks, q.sinks);
    same("output_gate", p.output_gate, q.output_gate);
    same("window", p.window, q.window);
    same("window_right", p.window_right, q.window_right);
    same("soft_cap", p.soft_cap, q.soft_cap);
    const auto scale = [](const nn::AttentionConfig& c) {
      return c.scale.value_or(1 / std::sqrt(static_cast<double>(c.head_dims)));
    };
    same("scale", scale(p), scale(q));
    same("rotary_base", p.rotary_base, q.rotary_base);
    const auto turned = [](const nn::AttentionConfig& c) { return c.rotary_dims == 0 ? c.head_dims : c.rotary_dims; };
    if (p.rotary_base != 0) same("rotary_dims", turned(p), turned(q));
    same("rotary_interleaved", p.rotary_interleaved, q.rotary_interleaved);
    const RotaryScalingOptions &s = p.rotary_scaling, &r = q.rotary_scaling;
    same("rotary_scaling.kind", s.kind, r.kind);
    if (s.kind != RotaryScaling::none) same("rotary_scaling.factor", s.factor, r.factor);
    if (s.kind == RotaryScaling::llama3) {
      same("rotary_scaling.low_frequency_factor", s.low_frequency_factor, r.low_frequency_factor);
      same("rotary_scaling.high_frequency_factor", s.high_frequency_factor, r.high_frequency_factor);
      same("rotary_scaling.original_context", s.original_context, r.original_context);
    }
    if (s.kind == RotaryScaling::yarn) {
      same("rotary_scaling.original_context", s.original_context, r.original_context);
      same("rotary_scaling.beta_fast", s.beta_fast, r.beta_fast);
      same("rotary_scaling.beta_slow", s.beta_slow, r.beta_slow);
      same("rotary_scaling.truncate", s.truncate, r.truncate);
    }
    same("rotary_scaling.attention_factor", ops::rotary_amplitude(s), ops::rotary_amplitude(r));
    same("relative_buckets", p.relative_buckets, q.relative_buckets);
    same("alibi", p.alibi, q.alibi);
    same("alibi_form", p.alibi_form, q.alibi_form);
    same("query_key_norm", p.query_key_norm, q.query_key_norm);
    if (p.query_key_norm != nn::QueryKeyNorm::none) {
      const auto is = [](const nn::AttentionConfig& c) {
        return c.query_key_norm_scale.value_or(nn::NormScale::weight);
      };
      same("query_key_norm_scale", is(p), is(q));
      same("query_key_norm_epsilon", p.query_key_norm_epsilon.value_or(1e-6), q.query_key_norm_epsilon.value_or(1e-6));
    }
    before = "layers[" + std::to_string(i) + "].ffn.";
    same("activation", a.ffn.activation, b.ffn.activation);
    same("gated", a.ffn.gated, b.ffn.gated);
    same("bias", a.ffn.bias, b.ffn.bias);
  }
}

}  // namespace detail

}}}  // namespace remat::io
