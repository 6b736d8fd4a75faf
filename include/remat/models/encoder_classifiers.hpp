// What BERT is fine-tuned for: classes of texts and of tokens, choices, answers in a text.
#pragma once

#include <optional>
#include <remat/models/encoder_heads.hpp>
#include <remat/ops/binary_cross_entropy.hpp>
#include <remat/ops/dropout.hpp>
#include <remat/ops/mean_squared_error.hpp>
#include <utility>

namespace remat { inline namespace REMAT_ABI { namespace models {

/// A linear behind a dropout, of the pooled first token or of each token.
template <class T, bool of_each_token>
struct ClassifierModel : EncoderModel<T> {
  nn::Linear<T> head;  // [D, C], at `head`
  double dropout;      // before it

  /// Makes its parameters in `where`; `dropout` is the config's when left out.
  ClassifierModel(const Scope& where, const EncoderConfig& c, Index classes, std::optional<double> rate = {})
      : ClassifierModel(LayerScope(where), c, classes, rate.value_or(c.dropout), 0) {}
  /// [B, C], or [B, T, C] of each token.
  Var<T> logits(Tape& tape, const EncoderInput& input, const EncoderOptions<T>& options = {}) const {
    const Var<T> hidden = this->encoder(tape, input, options);
    return head(remat::dropout(of_each_token ? hidden : this->encoder.pooled(hidden), dropout));
  }
  /// Of one class each: labels [B], or [B, T] of each token, in [0, C).
  Var<Accum<T>> loss(Tape& tape, const EncoderInput& input, const Tensor<std::int32_t>& labels,
                     const EncoderOptions<T>& options = {}) const {
    return cross_entropy(logits(tape, input, options), tape.input(labels));
  }

 private:
  ClassifierModel(const LayerScope& scope, const EncoderConfig& c, Index classes, double rate, int)
      : EncoderModel<T>(scope, c, !of_each_token), head(this->linear_to(scope / "head", classes)), dropout(rate) {
    nn::detail::check_rate(scope.use_path(), "dropout", dropout);
  }
};

/// A class of each token (BertForTokenClassification).
template <class T>
struct TokenClassification : ClassifierModel<T, true> {
  using ClassifierModel<T, true>::ClassifierModel;
};

/// A class, several, or numbers for a sequence (BertForSequenceClassification).
template <class T>
struct SequenceClassification : ClassifierModel<T, false> {
  using ClassifierModel<T, false>::ClassifierModel;
  /// Of classes that do not exclude each other: targets [B, C] in [0, 1].
  Var<Accum<T>> multi_label_loss(Tape& tape, const EncoderInput& input, const Tensor<T>& targets,
                                 const EncoderOptions<T>& options = {}) const {
    return binary_cross_entropy(this->logits(tape, input, options), tape.input(targets));
  }
  /// Mean square of what numbers [B, C] are missed by.
  Var<Accum<T>> regression_loss(Tape& tape, const EncoderInput& input, const Tensor<T>& numbers,
                                const EncoderOptions<T>& options = {}) const {
    return mean_squared_error(this->logits(tape, input, options), tape.input(numbers));
  }
};

/// Which of C texts is right (BertForMultipleChoice): all inputs are [B, C, T], lengths [B, C].
template <class T>
struct MultipleChoice : EncoderModel<T> {
  nn::Linear<T> head;  // [D, 1], at `head`
  double dropout;      // before it

  /// Makes its parameters in `where`; `rate` of dropout is the config's when left out.
  MultipleChoice(const Scope& where, const EncoderConfig& c, std::optional<double> rate = {})
      : MultipleChoice(LayerScope(where), c, rate.value_or(c.dropout), 0) {}
  /// [B, C]
  Var<T> logits(Tape& tape, const EncoderInput& input, const EncoderOptions<T>& options = {}) const {
    const Shape& shape = input.ids.shape();
    require(shape.rank() == 3, this->encoder.path, ": ids of choices have shape ", shape, ", [B, C, T] is needed");
    const auto rows = [](const Tensor<std::int32_t>& x) {
      return x.size() == 0 || x.shape().rank() < 3 ? x : x.reshape({x.shape()[0] * x.shape()[1], x.shape()[2]});
    };
    const Tensor<std::int32_t> lengths = input.lengths.size() == 0 ? input.lengths : input.lengths.reshape({-1});
    const auto regrouped = tape.regrouped();  // rows of the batch are choices here
    const Var<T> pooled = this->encoder.pooled(
        this->encoder(tape, {rows(input.ids), rows(input.token_types), lengths, rows(input.mask)}, options));
    return head(remat::dropout(pooled, dropout)).reshape({shape[0], shape[1]});
  }
  /// Of labels [B] in [0, C).
  Var<Accum<T>> loss(Tape& tape, const EncoderInput& input, const Tensor<std::int32_t>& labels,
                     const EncoderOptions<T>& options = {}) const {
    return cross_entropy(logits(tape, input, options), tape.input(labels));
  }

 private:
  MultipleChoice(const LayerScope& scope, const EncoderConfig& c, double rate, int)
      : EncoderModel<T>(scope, c, true), head(this->linear_to(scope / "head", 1)), dropout(rate) {
    nn::detail::check_rate(scope.use_path(), "dropout", dropout);
  }
};

/// Where in the text an answer begins and ends (BertForQuestionAnswering).
template <class T>
struct QuestionAnswering : EncoderModel<T> {
  nn::Linear<T> head;  // [D, 2], at `head`

  /// Makes its parameters in `where`.
  QuestionAnswering(const Scope& where, const EncoderConfig& c) : QuestionAnswering(LayerScope(where), c, 0) {}
  /// Of beginnings and of ends, [B, T] each.
  std::pair<Var<T>, Var<T>> logits(Tape& tape, const EncoderInput& input, const EncoderOptions<T>& options = {}) const {
    const Var<T> both = head(this->encoder(tape, input, options));
    const Index batch = both.shape()[0], length = both.shape()[1];
    return {slice(both, 2, 0, 1).reshape({batch, length}), slice(both, 2, 1, 2).reshape({batch, length})};
  }
  /// The mean of both losses: places of first and last tokens [B], -1 where there is none.
  Var<Accum<T>> loss(Tape& tape, const EncoderInput& input, const Tensor<std::int32_t>& begins,
                     const Tensor<std::int32_t>& ends, const EncoderOptions<T>& options = {}) const {
    const auto [first, last] = logits(tape, input, options);
    return (cross_entropy(first, tape.input(begins)) + cross_entropy(last, tape.input(ends))) * 0.5;
  }

 private:
  QuestionAnswering(const LayerScope& scope, const EncoderConfig& c, int)
      : EncoderModel<T>(scope, c, false), head(this->linear_to(scope / "head", 2)) {}
};

}}}  // namespace remat::models
