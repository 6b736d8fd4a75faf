// A source's likeliest continuation, token by token, by any model with an encoder beside a decoder.
#pragma once

#include <algorithm>
#include <remat/models/encoder_decoder_config.hpp>
#include <remat/models/sampling.hpp>
#include <remat/nn/key_value_cache.hpp>
#include <string>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace models { namespace detail {

/// See `EncoderDecoder::translate`.
template <class T, class Model>
std::vector<std::vector<std::int32_t>> translated(const Model& model, const SourceBatch& batch, Index length,
                                                  std::int32_t begin, std::int32_t end) {
  nn::detail::check_not_negative(model.path, "translate: length", length);
  std::vector<std::vector<std::int32_t>> texts(static_cast<std::size_t>(batch.source.shape().front()));
  const auto rows = static_cast<Index>(texts.size());
  if (length == 0 || rows == 0) return texts;
  Tensor<T> memory;
  {
    Tape tape({.mode = Mode::evaluate});
    memory = model.encode(tape, batch.source, batch.source_lengths).value();
  }
  nn::KeyValueCache<T> cache(length);
  std::vector<std::int32_t> last(texts.size(), begin);
  std::vector<bool> has_ended(texts.size());
  for (Index i = 0; i < length && std::find(has_ended.begin(), has_ended.end(), false) != has_ended.end(); ++i) {
    Tape tape({.mode = Mode::evaluate});
    const Tensor<std::int32_t> ids({rows, 1}, std::span<const std::int32_t>(last));
    const Tensor<T> scores = model.next_logits(tape, ids, tape.input(memory), cache, batch.source_lengths).value();
    const auto vocabulary = static_cast<std::size_t>(model.config.vocabulary);
    for (std::size_t row = 0; row < texts.size(); ++row) {
      const auto of_row = scores.span().subspan(row * vocabulary, vocabulary);
      last[row] = sample_token(of_row, Sampling{.temperature = 0}, {}, 0, model.path + ": translate: ");
      if (!has_ended[row]) texts[row].push_back(last[row]);
      has_ended[row] = has_ended[row] || last[row] == end;
    }
  }
  return texts;
}

}}}}  // namespace remat::models::detail
