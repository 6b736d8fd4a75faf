// What BERT is trained for: tokens that were masked, and whether a text follows another.
#pragma once

#include <remat/models/encoder.hpp>
#include <remat/ops/activation.hpp>
#include <remat/ops/arithmetic.hpp>
#include <remat/ops/cross_entropy.hpp>
#include <remat/ops/linear_cross_entropy.hpp>
#include <string>
#include <utility>

namespace remat { inline namespace REMAT_ABI { namespace models {

/// An encoder at `encoder`, below the head beside it. All losses are means in nats; labels of -1 do not count.
template <class T>
struct EncoderModel {
  Encoder<T> encoder;  // with a pooler where the head reads one vector of a sequence

  /// See `Encoder::enable_gradient_checkpointing`.
  void enable_gradient_checkpointing(const GradientCheckpointing& how = {}) {
    encoder.enable_gradient_checkpointing(how);
  }
  /// See `Encoder::activation_checkpointing_enable`.
  void activation_checkpointing_enable(Index every_n_layers = 1, bool is_offloaded = false) {
    encoder.activation_checkpointing_enable(every_n_layers, is_offloaded);
  }
  /// See `Encoder::disable_gradient_checkpointing`.
  void disable_gradient_checkpointing() { encoder.disable_gradient_checkpointing(); }

 protected:
  /// @cond inside
  EncoderModel(const Scope& where, EncoderConfig config, bool pooler)
      : encoder(where / "encoder", (config.pooler = pooler, config)) {}
  nn::Linear<T> linear_to(const Scope& where, Index outputs) const {
    return {where, {.input_dims = encoder.config.model_dims, .output_dims = outputs, .init = normal()}};
  }
  Initializer normal() const { return init::normal(encoder.config.init_deviation); }
  /// @endcond
};

/// Tokens guessed from what stands around them: a linear, an activation, a norm, and the transposed embedding.
template <class T>
struct MaskedTokens {
  nn::Linear<T> transform;   // [D, D]
  Activation activation;     // behind it
  nn::LayerNorm<T> norm;     // [D]
  Parameter<Accum<T>> bias;  // [V]

  /// Makes its parameters in `where`, beside an encoder's.
  MaskedTokens(const Scope& where, const EncoderConfig& c) : MaskedTokens(LayerScope(where), c, 0) {}
  /// hidden [B, T, D] -> [B, T, V]
  Var<T> logits(const Encoder<T>& encoder, const Var<T>& hidden) const {
    return linear<T>(before(hidden), encoder.embedding.table, bias, {.transposed = true});
  }
  /// Of labels [B, T] in [0, V), or -1 where nothing was masked; logits never exist whole.
  Var<Accum<T>> loss(const Encoder<T>& encoder, const Var<T>& hidden, const Tensor<std::int32_t>& labels) const {
    return linear_cross_entropy<T>(before(hidden), encoder.embedding.table, bias, hidden.tape().input(labels),
                                   {.transposed = true});
  }

 private:
  MaskedTokens(const LayerScope& scope, const EncoderConfig& c, int)
      : transform(scope / "transform",
                  {.input_dims = c.model_dims, .output_dims = c.model_dims, .init = init::normal(c.init_deviation)}),
        activation(c.activation),
        norm(scope / "norm", {.model_dims = c.model_dims, .epsilon = c.norm_epsilon}),
        bias(scope.parameter<Accum<T>>("bias", {c.vocabulary}, init::zeros())) {}
  Var<T> before(const Var<T>& hidden) const { return norm(activate(transform(hidden), activation)); }
};

/// BERT for masked tokens (BertForMaskedLM).
template <class T>
struct MaskedLanguageModel : EncoderModel<T> {
  MaskedTokens<T> head;  // at `head`

  /// Makes its parameters in `where`.
  MaskedLanguageModel(const Scope& where, const EncoderConfig& c) : MaskedLanguageModel(LayerScope(where), c, 0) {}
  /// [B, T, V]
  Var<T> logits(Tape& tape, const EncoderInput& input, const EncoderOptions<T>& options = {}) const {
    return head.logits(this->encoder, this->encoder(tape, input, options));
  }
  /// Of labels [B, T]: the tokens that were masked, -1 elsewhere.
  Var<Accum<T>> loss(Tape& tape, const EncoderInput& input, const Tensor<std::int32_t>& labels,
                     const EncoderOptions<T>& options = {}) const {
    return head.loss(this->encoder, this->encoder(tape, input, options), labels);
  }

 private:
  MaskedLanguageModel(const LayerScope& scope, const EncoderConfig& c, int)
      : EncoderModel<T>(scope, c, false), head(scope / "head", c) {}
};

/// Does the second text follow the first? (BertForNextSentencePrediction.) Class 0: it does, 1: it does not.
template <class T>
struct NextSentence : EncoderModel<T> {
  nn::Linear<T> head;  // [D, 2], at `head`

  /// Makes its parameters in `where`.
  NextSentence(const Scope& where, const EncoderConfig& c) : NextSentence(LayerScope(where), c, 0) {}
  /// [B, 2]
  Var<T> logits(Tape& tape, const EncoderInput& input, const EncoderOptions<T>& options = {}) const {
    return head(this->encoder.pooled(this->encoder(tape, input, options)));
  }
  /// Of labels [B].
  Var<Accum<T>> loss(Tape& tape, const EncoderInput& input, const Tensor<std::int32_t>& labels,
                     const EncoderOptions<T>& options = {}) const {
    return cross_entropy(logits(tape, input, options), tape.input(labels));
  }

 private:
  NextSentence(const LayerScope& scope, const EncoderConfig& c, int)
      : EncoderModel<T>(scope, c, true), head(this->linear_to(scope / "head", 2)) {}
};

/// Both at once, as BERT was trained (BertForPreTraining).
template <class T>
struct PreTraining : EncoderModel<T> {
  MaskedTokens<T> head;         // at `head`
  nn::Linear<T> next_sentence;  // [D, 2], at `next_sentence`

  /// Makes its parameters in `where`.
  PreTraining(const Scope& where, const EncoderConfig& c) : PreTraining(LayerScope(where), c, 0) {}
  /// Of the tokens [B, T, V], and of the second text [B, 2].
  std::pair<Var<T>, Var<T>> logits(Tape& tape, const EncoderInput& input, const EncoderOptions<T>& options = {}) const {
    const Var<T> hidden = this->encoder(tape, input, options);
    return {head.logits(this->encoder, hidden), next_sentence(this->encoder.pooled(hidden))};
  }
  /// The sum of both losses: labels [B, T] of masked tokens, -1 elsewhere, and [B] of the second text.
  Var<Accum<T>> loss(Tape& tape, const EncoderInput& input, const Tensor<std::int32_t>& labels,
                     const Tensor<std::int32_t>& next, const EncoderOptions<T>& options = {}) const {
    const Var<T> hidden = this->encoder(tape, input, options);
    return head.loss(this->encoder, hidden, labels) +
           cross_entropy(next_sentence(this->encoder.pooled(hidden)), tape.input(next));
  }

 private:
  PreTraining(const LayerScope& scope, const EncoderConfig& c, int)
      : EncoderModel<T>(scope, c, true),
        head(scope / "head", c),
        next_sentence(this->linear_to(scope / "next_sentence", 2)) {}
};

}}}  // namespace remat::models
