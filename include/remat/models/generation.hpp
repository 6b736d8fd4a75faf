// Decoding whole batches: prompts of unlike lengths, and long ones in chunks.
#pragma once

#include <algorithm>
#include <functional>
#include <limits>
#include <remat/models/decoder.hpp>
#include <string>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace models {

/// The logits [B, V] of what follows each row of ids [B, T], of which row b has `lengths[b]` > 0 tokens (empty: all T),
/// seen `chunk` tokens at a time (0: all at once), so that no more than the activations of a chunk exist. The cache is
/// extended by what was seen.
template <class T>
Tensor<T> prefill(const Decoder<T>& model, const Tensor<std::int32_t>& ids, nn::KeyValueCache<T>& cache,
                  Index chunk = 0, const std::vector<Index>& lengths = {}) {
  nn::detail::check_not_negative(model.path, "prefill: chunk", chunk);
  require(ids.shape().rank() == 2 && ids.size() > 0, model.path, ": prefill was given ids of shape ", ids.shape(),
          ", [batch, length] of at least one token is needed");
  const Index rows = ids.shape()[0], length = ids.shape()[1], vocabulary = model.config.vocabulary;
  require(lengths.empty() || static_cast<Index>(lengths.size()) == rows, model.path, ": prefill was given ",
          lengths.size(), " lengths and ids of shape ", ids.shape());
  for (std::size_t b = 0; b < lengths.size(); ++b)
    require(lengths[b] > 0 && lengths[b] <= length, model.path, ": prefill: row ", b, " has ", lengths[b], " of ",
            length, " tokens; 1 or more are needed");
  const Index step = chunk == 0 ? length : chunk;
  Tensor<T> last({rows, vocabulary});
  for (Index begin = 0; begin < length; begin += step) {
    const Index count = std::min(step, length - begin);
    std::vector<std::int32_t> some;
    for (Index b = 0; b < rows; ++b)
      for (Index t = 0; t < count; ++t) some.push_back(ids[b * length + begin + t]);
    std::vector<Index> counts;
    for (const Index n : lengths) counts.push_back(std::clamp<Index>(n - begin, 0, count));
    Tape tape({.mode = Mode::evaluate});
    const Tensor<T> logits =
        model.next_logits(tape, {{rows, count}, std::span<const std::int32_t>(some)}, cache, counts).value();
    const std::span<T> to = last.write();
    for (Index b = 0; b < rows; ++b)
      if (counts.empty() || counts[static_cast<std::size_t>(b)] > 0)
        std::copy_n(logits.data() + b * vocabulary, vocabulary, to.data() + b * vocabulary);
  }
  return last;
}

/// Each of `prompts` (none empty) followed by `length` sampled tokens, all of them at once: row by row the tokens that
/// `model.generate` chooses for that prompt alone, but for rounding, where they are the likeliest ones; else row i
/// draws from a stream of its own. `more(row, token)` is told each token as it is chosen: false ends that row. Prompts
/// are seen `prefill_chunk` tokens at a time (0: all). An `Error` as of `generate`, and where the longest does not fit
/// into the context.
template <class T>
std::vector<std::vector<std::int32_t>> generate(
    const Decoder<T>& model, std::vector<std::vector<std::int32_t>> prompts,
    const typename Decoder<T>::Generation& options, Index prefill_chunk = 0,
    const std::function<bool(std::size_t, std::int32_t)>& more = [](std::size_t, std::int32_t) { return true; }) {
  if (prompts.empty()) return prompts;
  const Sampling how{options.temperature, options.top_k, options.top_p, options.min_p, options.repetition_penalty};
  Index longest = 0;
  std::vector<Index> lengths;
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    typename Decoder<T>::Generation none = options;
    none.length = 0;
    prompts[i] = model.generate(std::move(prompts[i]), none);  // which checks options and ids
    lengths.push_back(static_cast<Index>(prompts[i].size()));
    longest = std::max(longest, lengths.back());
  }
  nn::detail::check_not_negative(model.path, "generate: length", options.length);
  const Index whole = longest + options.length;
  require(model.config.context == 0 || whole <= model.config.context, model.path, ": generate: a prompt of ", longest,
          " tokens and ", options.length, " more do not fit into the context of ", model.config.context,
          "; give prompts one by one, or a smaller length");
  if (options.length == 0) return prompts;

  const auto rows = static_cast<Index>(prompts.size());
  Tensor<std::int32_t> ids({rows, longest}, 0);
  const std::span<std::int32_t> to = ids.write();
  for (std::size_t i = 0; i < prompts.size(); ++i)
    std::copy(prompts[i].begin(), prompts[i].end(), to.begin() + static_cast<std::ptrdiff_t>(i) * longest);
  nn::KeyValueCache<T> cache(whole);
  Tensor<T> logits = prefill(model, ids, cache, prefill_chunk, lengths);
  // Rows that have ended leave the batch.
  std::vector<std::size_t> alive(prompts.size());
  for (std::size_t i = 0; i < alive.size(); ++i) alive[i] = i;
  for (Index step = 0;; ++step) {
    std::vector<Index> stay;
    std::vector<std::int32_t> next;
    for (std::size_t row = 0; row < alive.size(); ++row) {
      std::vector<std::int32_t>& text = prompts[alive[row]];
      const RandomStream random{options.seed, 0, static_cast<std::uint32_t>(alive[row])};
      const std::int32_t token =
          sample_token(logits.span().subspan(row * static_cast<std::size_t>(model.config.vocabulary),
                                             static_cast<std::size_t>(model.config.vocabulary)),
                       how, text, random.uniform(static_cast<std::uint64_t>(step)),
                       model.path + ": generate: token " + std::to_string(step + 1) + " of prompt " +
                           std::to_string(alive[row]) + ": ");
      text.push_back(token);
      if (more(alive[row], token)) stay.push_back(static_cast<Index>(row)), next.push_back(token);
    }
    if (stay.empty() || step + 1 == options.length) return prompts;
    if (stay.size() < alive.size()) {
      cache.reorder(stay);
      for (std::size_t i = 0; i < stay.size(); ++i) alive[i] = alive[static_cast<std::size_t>(stay[i])];
      alive.resize(stay.size());
    }
    Tape tape({.mode = Mode::evaluate});
    logits = model.next_logits(tape, {{static_cast<Index>(next.size()), 1}, std::span<const std::int32_t>(next)}, cache)
                 .value();
  }
}

}}}  // namespace remat::models
