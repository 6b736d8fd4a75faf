// Held-out questions, which the model answers before and after.
#pragma once

#include <algorithm>
#include <cstdint>
#include <iostream>
#include <remat/data.hpp>
#include <remat/text.hpp>
#include <string>
#include <vector>

#include "finetune/step.hpp"

namespace finetune {

struct Question {
  std::vector<std::int32_t> prompt;  // up to where the answer begins
  std::string asked, answer;         // as text; the data's answer
};

/// The first `most` of the samples `which`.
inline std::vector<Question> questions_of(const remat::text::Tokenizer& tokenizer,
                                          const remat::data::TokenSamples& samples,
                                          const std::vector<remat::Index>& which, int most) {
  std::vector<Question> questions;
  for (const remat::Index i : which) {
    if (static_cast<int>(questions.size()) == most) break;
    const remat::data::TokenSample sample = samples[i];
    const auto begin = static_cast<std::size_t>(std::find(sample.is_target.begin(), sample.is_target.end(), 1) -
                                                sample.is_target.begin());
    const auto text = [&](auto ids) { return tokenizer.decode(ids, {.skip_special_tokens = true}); };
    const auto prompt = sample.tokens.first(begin);
    questions.push_back({{prompt.begin(), prompt.end()}, text(prompt), text(sample.tokens.subspan(begin))});
  }
  return questions;
}

/// The model's answer, of the likeliest tokens.
inline std::string answer_of(const Model& model, const remat::text::Tokenizer& tokenizer, const Question& question,
                             int length) {
  std::vector<std::int32_t> answer;
  const auto end = tokenizer.special_ids().eos;
  model.generate(question.prompt, length, [&](std::int32_t token) {
    if (token != end) answer.push_back(token);
    return token != end;
  });
  return tokenizer.decode(answer, {.skip_special_tokens = true});
}

}  // namespace finetune
