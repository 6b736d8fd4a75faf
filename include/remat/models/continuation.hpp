// One prompt, continued token by token.
#pragma once

#include <algorithm>
#include <functional>
#include <remat/autodiff/tape.hpp>
#include <remat/models/sampling.hpp>
#include <remat/nn/config_checks.hpp>
#include <remat/nn/key_value_cache.hpp>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace models {

/// How a decoder's `generate` chooses tokens.
struct Generation {
  Index length = 500;                                   // tokens behind the prompt
  double temperature = 0.8;                             // 0: the likeliest token
  Index top_k = 0;                                      // 0: all tokens
  std::uint64_t seed = 1;                               // of the choices
  double top_p = 1, min_p = 0, repetition_penalty = 1;  // as of `Sampling`
};

namespace detail {

/// `prompt` and what `model`, a decoder, writes behind it, as its `generate` says.
template <class T, class Model>
std::vector<std::int32_t> continued(const Model& model, std::vector<std::int32_t> prompt, const Generation& options,
                                    const std::function<bool(std::int32_t)>& more) {
  const std::string& path = model.path;
  require(!prompt.empty(), path, ": generate needs a prompt of at least one token");
  nn::detail::check_not_negative(path, "generate: length", options.length);
  nn::detail::check_not_negative(path, "generate: temperature", options.temperature);
  nn::detail::check_not_negative(path, "generate: top_k", options.top_k);
  nn::detail::check_not_negative(path, "generate: min_p", options.min_p);
  nn::detail::check_positive(path, "generate: top_p", options.top_p);
  nn::detail::check_positive(path, "generate: repetition_penalty", options.repetition_penalty);
  require(options.top_p <= 1 && options.min_p <= 1, path, ": generate: top_p ", options.top_p, " and min_p ",
          options.min_p, " are parts of 1");
  for (std::size_t i = 0; i < prompt.size(); ++i)
    require(prompt[i] >= 0 && prompt[i] < model.config.vocabulary, path, ": generate: prompt[", i, "] is ", prompt[i],
            ", but the vocabulary has ", model.config.vocabulary, " tokens");
  const RandomStream random{options.seed, 0, 0};
  const Sampling how{options.temperature, options.top_k, options.top_p, options.min_p, options.repetition_penalty};
  const auto begun = static_cast<Index>(prompt.size()), whole = begun + options.length;
  const Index seen = model.config.context == 0 ? whole : std::min(whole, model.config.context);
  nn::KeyValueCache<T> cache(seen);
  for (Index i = 0; i < options.length; ++i) {
    Tape tape({.mode = Mode::evaluate});
    const auto ids = [&](std::size_t last) {
      return Tensor<std::int32_t>({1, static_cast<Index>(last)}, std::span<const std::int32_t>(prompt).last(last));
    };
    // Positions that are learned are those of a window: once it slides, every key is another.
    const bool slides = static_cast<Index>(prompt.size()) > seen;
    nn::KeyValueCache<T> window(seen);
    const Tensor<T> scores =
        (slides ? model.next_logits(tape, ids(static_cast<std::size_t>(seen)), window)
                : model.next_logits(tape, ids(prompt.size() - static_cast<std::size_t>(cache.length())), cache))
            .value();
    const std::int32_t next = sample_token(
        scores.span(), how, prompt, random.uniform(static_cast<std::uint64_t>(i)),
        path + ": generate: token " + std::to_string(i + 1) + " of " + std::to_string(options.length) + ": ");
    prompt.push_back(next);
    if (!more(next)) break;
  }
  return prompt;
}

}  // namespace detail

}}}  // namespace remat::models
