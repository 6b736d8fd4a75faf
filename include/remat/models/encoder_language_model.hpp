// BERT as a decoder: each token is told from those before it, and from a memory where it looks at one.
#pragma once

#include <algorithm>
#include <remat/models/encoder_heads.hpp>

namespace remat { inline namespace REMAT_ABI { namespace models {

/// BERT for the next token (BertLMHeadModel): of a config with is_decoder, and with `options.memory`, what an encoder
/// made, where the config has cross_attention.
template <class T>
struct CausalLanguageModel : EncoderModel<T> {
  MaskedTokens<T> head;  // at `head`

  /// Makes its parameters in `where`. An `Error` unless the config is a decoder's.
  CausalLanguageModel(const Scope& where, const EncoderConfig& c) : CausalLanguageModel(LayerScope(where), c, 0) {}
  /// Of what follows each token: [B, T, V].
  Var<T> logits(Tape& tape, const EncoderInput& input, const EncoderOptions<T>& options = {}) const {
    return head.logits(this->encoder, this->encoder(tape, input, options));
  }
  /// Of labels [B, T] that are the tokens themselves, -1 where one does not count: each is told from those before it,
  /// so that the first one counts for nothing, as in transformers.
  Var<Accum<T>> loss(Tape& tape, const EncoderInput& input, const Tensor<std::int32_t>& labels,
                     const EncoderOptions<T>& options = {}) const {
    const Shape& shape = labels.shape();
    require(shape == input.ids.shape() && shape.rank() == 2, this->encoder.path, ": labels have shape ", shape,
            ", ids ", input.ids.shape(), "; each token is its own label");
    Tensor<std::int32_t> next(shape, -1);
    const auto to = next.write();
    for (Index i = 0; i < shape.size(); ++i)
      if ((i + 1) % shape[1] != 0) to[static_cast<std::size_t>(i)] = labels[i + 1];
    return head.loss(this->encoder, this->encoder(tape, input, options), next);
  }

 private:
  CausalLanguageModel(const LayerScope& scope, const EncoderConfig& c, int)
      : EncoderModel<T>(scope, checked(c, scope.use_path()), false), head(scope / "head", c) {}
  static const EncoderConfig& checked(const EncoderConfig& c, const std::string& path) {
    require(c.is_decoder, path, ": tells each token from those before it; set is_decoder = true");
    return c;
  }
};

}}}  // namespace remat::models
