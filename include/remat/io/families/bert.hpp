// BERT: the fields of config.json, and the names of an encoder's and of each head's tensors.
#pragma once

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <optional>
#include <remat/io/decoder_weights.hpp>
#include <remat/io/families/gpt2.hpp>
#include <remat/models/encoder_classifiers.hpp>
#include <remat/models/encoder_heads.hpp>
#include <remat/models/encoder_language_model.hpp>
#include <string>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace io { namespace families {

/// @cond inside
/// What config.json says: the encoder, and of a head the number of classes and the dropout before it.
struct BertSettings {
  models::EncoderConfig encoder{};
  Index classes = 2;
  std::optional<double> head_dropout{};
};

/// Fields that do not matter for results are known by name; any other that is not null is refused.
inline BertSettings bert_of_folder(const text::detail::JsonPlace& json) {
  constexpr std::int64_t most = std::int64_t{1} << 31;
  json.allow_only({"model_type", "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
                   "intermediate_size", "hidden_act", "hidden_dropout_prob", "attention_probs_dropout_prob",
                   "max_position_embeddings", "type_vocab_size", "layer_norm_eps", "classifier_dropout", "id2label",
                   "initializer_range", "position_embedding_type", "is_decoder", "add_cross_attention",
                   "tie_word_embeddings", "chunk_size_feed_forward",
                   // no matter of results
                   "architectures", "bos_token_id", "eos_token_id", "pad_token_id", "torch_dtype", "dtype",
                   "transformers_version", "use_cache", "_name_or_path", "label2id", "num_labels", "_num_labels",
                   "problem_type", "finetuning_task", "gradient_checkpointing", "directionality", "pooler_fc_size",
                   "pooler_num_attention_heads", "pooler_num_fc_layers", "pooler_size_per_head", "pooler_type",
                   "output_past", "return_dict", "_attn_implementation", "output_hidden_states", "output_attentions"});
  if (!json.flag("tie_word_embeddings", true)) json["tie_word_embeddings"].refuse("is not supported; only true is");
  if (json.text("position_embedding_type", "absolute") != "absolute")
    json["position_embedding_type"].refuse("is not supported; only \"absolute\" is");
  const auto number = [&](const char* name, double otherwise) {
    return json.has(name) ? json[name].number() : otherwise;
  };
  const std::string name = json.text("hidden_act", "gelu");
  const auto* const found = std::find_if(std::begin(gpt2_activations), std::end(gpt2_activations),
                                         [&](const auto& each) { return each.first == name; });
  if (found == std::end(gpt2_activations)) json["hidden_act"].refuse("is \"", name, "\", which is not supported");
  BertSettings settings;
  models::EncoderConfig& c = settings.encoder;
  c.vocabulary = json["vocab_size"].index(most), c.context = json["max_position_embeddings"].index(most);
  c.token_types = json.has("type_vocab_size") ? json["type_vocab_size"].index(most) : 2;
  c.num_layers = json["num_hidden_layers"].index(10'000), c.model_dims = json["hidden_size"].index(most);
  c.num_heads = json["num_attention_heads"].index(most), c.hidden_dims = json["intermediate_size"].index(most);
  c.activation = found->second;
  c.norm_epsilon = number("layer_norm_eps", 1e-12);
  c.dropout = number("hidden_dropout_prob", 0.1), c.attention_dropout = number("attention_probs_dropout_prob", 0.1);
  c.init_deviation = number("initializer_range", 0.02);
  c.is_decoder = json.flag("is_decoder", false), c.cross_attention = json.flag("add_cross_attention", false);
  if (json.has("chunk_size_feed_forward")) c.blockwise.ffn_chunk = json["chunk_size_feed_forward"].index(most);
  if (json.has("id2label")) {
    settings.classes = 0;
    json["id2label"].each_member([&](const auto&, const auto&) { ++settings.classes; });
  }
  if (json.has("classifier_dropout")) settings.head_dropout = json["classifier_dropout"].number();
  return settings;
}

inline nlohmann::ordered_json bert_to_folder(const models::EncoderConfig& c) {
  std::string_view activation;
  for (const auto& [name, kind] : gpt2_activations)
    if (kind == c.activation && (activation.empty() || name == "gelu")) activation = name;
  nlohmann::ordered_json json{{"vocab_size", c.vocabulary},
                              {"max_position_embeddings", c.context},
                              {"type_vocab_size", c.token_types},
                              {"num_hidden_layers", c.num_layers},
                              {"hidden_size", c.model_dims},
                              {"num_attention_heads", c.num_heads},
                              {"intermediate_size", c.hidden_dims == 0 ? 4 * c.model_dims : c.hidden_dims},
                              {"hidden_act", activation},
                              {"layer_norm_eps", c.norm_epsilon},
                              {"hidden_dropout_prob", c.dropout},
                              {"attention_probs_dropout_prob", c.attention_dropout},
                              {"initializer_range", c.init_deviation},
                              {"tie_word_embeddings", true}};
  if (c.is_decoder) json["is_decoder"] = true;
  if (c.cross_attention) json["add_cross_attention"] = true;
  if (c.blockwise.ffn_chunk > 0) json["chunk_size_feed_forward"] = c.blockwise.ffn_chunk;
  return json;
}

/// Tensors as they are named, in parts that a file has as a whole or not at all.
template <class T>
struct BertWeights {
  std::vector<NamedWeight<Accum<T>>> encoder{}, pooler{}, head{}, cross_attention{};
  std::vector<NamedWeight<Accum<T>>> copies{};  // of weights that files may hold twice
  const char* class_name = "BertModel";         // of transformers
  Index classes = 0;                            // of the head; 0: it has no say in them
  std::optional<double> head_dropout{};         // of a head that has one

  static void add(std::vector<NamedWeight<Accum<T>>>& to, const nn::Linear<T>& linear, const std::string& name) {
    to.push_back({linear.w, name + ".weight", {.transposed = true, .is_linear = true}});
    to.push_back({linear.b, name + ".bias", {}});
  }
  static void add(std::vector<NamedWeight<Accum<T>>>& to, const nn::LayerNorm<T>& norm, const std::string& name) {
    to.push_back({norm.scale, name + ".weight", {}});
    to.push_back({norm.bias, name + ".bias", {}});
  }
  void add_masked(const models::MaskedTokens<T>& masked, const models::Encoder<T>& of) {
    head.push_back({masked.bias, "cls.predictions.bias", {}});
    add(head, masked.transform, "cls.predictions.transform.dense");
    add(head, masked.norm, "cls.predictions.transform.LayerNorm");
    copies = {{of.embedding.table, "cls.predictions.decoder.weight", {}},
              {masked.bias, "cls.predictions.decoder.bias", {}}};
  }
  void add_classifier(const char* name, const nn::Linear<T>& linear, Index count, std::optional<double> dropout) {
    add(head, linear, "classifier");
    class_name = name, classes = count, head_dropout = dropout;
  }

  explicit BertWeights(const models::Encoder<T>& model) {
    const std::string before = "bert.embeddings.";
    encoder.push_back({model.embedding.table, before + "word_embeddings.weight", {}});
    encoder.push_back({model.positions, before + "position_embeddings.weight", {.always_numbers = true}});
    encoder.push_back({model.type_embedding.table, before + "token_type_embeddings.weight", {}});
    add(encoder, model.embedding_norm, before + "LayerNorm");
    for (std::size_t i = 0; i < model.encoder.layers.size(); ++i) {
      const nn::TransformerLayer<T>& layer = model.encoder.layers[i];
      const std::string of = "bert.encoder.layer." + std::to_string(i) + ".";
      const auto attention = [&](auto& to, const nn::MultiHeadAttention<T>& a, const nn::Norm<T>& norm,
                                 const std::string& name) {
        add(to, *a.query, name + ".self.query");
        add(to, *a.key, name + ".self.key");
        add(to, *a.value, name + ".self.value");
        add(to, *a.out, name + ".output.dense");
        add(to, std::get<nn::LayerNorm<T>>(norm.layer), name + ".output.LayerNorm");
      };
      attention(encoder, layer.attention, layer.attention_norm, of + "attention");
      if (layer.cross_attention)
        attention(cross_attention, *layer.cross_attention, *layer.cross_attention_norm, of + "crossattention");
      add(encoder, *layer.ffn.ffn1, of + "intermediate.dense");
      add(encoder, *layer.ffn.ffn2, of + "output.dense");
      add(encoder, std::get<nn::LayerNorm<T>>(layer.ffn_norm.layer), of + "output.LayerNorm");
    }
    if (model.pooler) add(pooler, *model.pooler, "bert.pooler.dense");
  }
  explicit BertWeights(const models::MaskedLanguageModel<T>& model) : BertWeights(model.encoder) {
    class_name = "BertForMaskedLM";
    add_masked(model.head, model.encoder);
  }
  explicit BertWeights(const models::CausalLanguageModel<T>& model) : BertWeights(model.encoder) {
    class_name = "BertLMHeadModel";
    add_masked(model.head, model.encoder);
  }
  explicit BertWeights(const models::NextSentence<T>& model) : BertWeights(model.encoder) {
    class_name = "BertForNextSentencePrediction";
    add(head, model.head, "cls.seq_relationship");
  }
  explicit BertWeights(const models::PreTraining<T>& model) : BertWeights(model.encoder) {
    class_name = "BertForPreTraining";
    add_masked(model.head, model.encoder);
    add(head, model.next_sentence, "cls.seq_relationship");
  }
  explicit BertWeights(const models::SequenceClassification<T>& model) : BertWeights(model.encoder) {
    add_classifier("BertForSequenceClassification", model.head, model.head.b.size(), model.dropout);
  }
  explicit BertWeights(const models::TokenClassification<T>& model) : BertWeights(model.encoder) {
    add_classifier("BertForTokenClassification", model.head, model.head.b.size(), model.dropout);
  }
  explicit BertWeights(const models::MultipleChoice<T>& model) : BertWeights(model.encoder) {
    add_classifier("BertForMultipleChoice", model.head, 0, model.dropout);
  }
  explicit BertWeights(const models::QuestionAnswering<T>& model) : BertWeights(model.encoder) {
    class_name = "BertForQuestionAnswering";
    add(head, model.head, "qa_outputs");
    classes = 2;
  }
};

/// @endcond

}}}}  // namespace remat::io::families
