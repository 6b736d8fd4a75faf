// Decoding whole batches: prompts of unlike lengths, and long ones in chunks. Beam search.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <remat/models/decoder.hpp>
#include <span>
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

/// When a beam search ends before its last token, once `beams` continuations have ended: where the best that runs on
/// would be no better than the worst of them if it ended now (transformers' `early_stopping` = False); at once (True);
/// or where it can be no better however many tokens follow ("never").
enum class EarlyStopping { heuristic, at_once, never };

/// How `beam_search` chooses.
struct BeamSearchOptions {
  Index length = 500;         // tokens behind the prompt at most
  Index beams = 4;            // continuations that run side by side, and as many that are given
  double length_penalty = 1;  // the score is divided by this power of the number of tokens, so that above 0 longer
                              // texts gain; 0: not
  EarlyStopping early_stopping = EarlyStopping::heuristic;  // of the search
  std::vector<std::int32_t> stop_tokens{};                  // a continuation ends with the first of them
};

/// A continuation that a beam search found.
struct Beam {
  std::vector<std::int32_t> tokens;  // behind the prompt, with the stop token if it ended so
  double score = 0;                  // sum of the logarithms of their probabilities, by `length_penalty`
};

namespace detail {

/// A continuation one token longer: that of `row` of the beams before.
struct BeamStep {
  double sum;  // of the logarithms of probabilities
  std::size_t row;
  std::int32_t token;
};

/// The likeliest `count` of all steps from beams with these sums and logits [rows, V], the likeliest first. -infinity
/// is no step.
template <class T>
std::vector<BeamStep> likeliest_steps(const std::vector<double>& sums, std::span<const T> logits, std::size_t count,
                                      const std::string& where) {
  const std::size_t vocabulary = logits.size() / sums.size();
  std::vector<BeamStep> steps;
  for (std::size_t row = 0; row < sums.size(); ++row) {
    const std::span<const T> of_row = logits.subspan(row * vocabulary, vocabulary);
    check_logits(of_row, where);
    double top = -std::numeric_limits<double>::infinity(), exponentials = 0;
    for (const T& logit : of_row) top = std::max(top, static_cast<double>(logit));
    for (const T& logit : of_row) exponentials += std::exp(static_cast<double>(logit) - top);
    const double log_sum = top + std::log(exponentials);
    for (std::size_t id = 0; id < vocabulary; ++id)
      if (const double sum = sums[row] + (static_cast<double>(of_row[id]) - log_sum); std::isfinite(sum))
        steps.push_back({sum, row, static_cast<std::int32_t>(id)});
  }
  require(!steps.empty(), where, "all logits are -infinity, so no token is left");
  const auto middle = steps.begin() + static_cast<std::ptrdiff_t>(std::min(count, steps.size()));
  std::partial_sort(steps.begin(), middle, steps.end(), [](const BeamStep& a, const BeamStep& b) {
    return a.sum != b.sum ? a.sum > b.sum : std::pair(a.row, a.token) < std::pair(b.row, b.token);
  });
  steps.erase(middle, steps.end());
  return steps;
}

}  // namespace detail

/// The continuations of `prompt` (not empty) with the best scores that a beam search finds, the best first: `beams` of
/// them, or fewer where there are not so many. As transformers' `num_beams` finds them, step by step. The prompt is
/// seen `prefill_chunk` tokens at a time (0: all). An `Error` as of `generate`.
template <class T>
std::vector<Beam> beam_search(const Decoder<T>& model, const std::vector<std::int32_t>& prompt,
                              const BeamSearchOptions& options, Index prefill_chunk = 0) {
  const std::string where = model.path + ": beam_search: ";
  model.generate(prompt, {.length = 0});  // which checks the prompt
  nn::detail::check_not_negative(model.path, "beam_search: length", options.length);
  require(options.beams > 0, where, "beams must be > 0, got ", options.beams);
  require(std::isfinite(options.length_penalty), where, "length_penalty must be finite, got ", options.length_penalty);
  for (const std::int32_t token : options.stop_tokens)
    require(token >= 0 && token < model.config.vocabulary, where, "stop token ", token, " is not in [0, ",
            model.config.vocabulary, ")");
  const Index begun = static_cast<Index>(prompt.size()), whole = begun + options.length;
  require(model.config.context == 0 || whole <= model.config.context, where, "a prompt of ", begun, " tokens and ",
          options.length, " more do not fit into the context of ", model.config.context, "; give a smaller length");
  if (options.length == 0) return std::vector<Beam>(1);

  const auto beams = static_cast<std::size_t>(options.beams);
  const auto score = [&](double sum, Index count) {
    return sum / std::pow(static_cast<double>(count), options.length_penalty);
  };
  std::vector<Beam> running(1), ended;  // of those that run, scores are sums
  nn::KeyValueCache<T> cache(whole);
  Tensor<T> logits = prefill(model, {{1, begun}, std::span<const std::int32_t>(prompt)}, cache, prefill_chunk);
  for (Index count = 1;; ++count) {
    std::vector<double> sums;
    for (const Beam& beam : running) sums.push_back(beam.score);
    // So many that, whatever ends, as many beams as before can run on.
    const std::size_t kept = beams * std::max<std::size_t>(2, 1 + options.stop_tokens.size());
    const auto steps = detail::likeliest_steps(
        sums, logits.span(), kept,
        where + "token " + std::to_string(count) + " of " + std::to_string(options.length) + ": ");
    const bool is_last = count == options.length;
    std::vector<Beam> next;
    std::vector<Index> rows;
    for (std::size_t i = 0; i < steps.size(); ++i) {
      const auto& [sum, row, token] = steps[i];
      const auto& stops = options.stop_tokens;
      const bool ends = is_last || std::find(stops.begin(), stops.end(), token) != stops.end();
      if (ends ? i >= beams : next.size() == beams) continue;
      Beam longer{running[row].tokens, ends ? score(sum, count) : sum};
      longer.tokens.push_back(token);
      (ends ? ended : next).push_back(std::move(longer));
      if (!ends) rows.push_back(static_cast<Index>(row));
    }
    std::stable_sort(ended.begin(), ended.end(), [](const Beam& a, const Beam& b) { return a.score > b.score; });
    if (ended.size() > beams) ended.resize(beams);
    if (next.empty()) return ended;
    if (ended.size() == beams) {
      const bool is_longest = options.early_stopping == EarlyStopping::never && options.length_penalty > 0;
      const double best = score(next.front().score, is_longest ? options.length : count);
      if (options.early_stopping == EarlyStopping::at_once || best <= ended.back().score) return ended;
    }
    running = std::move(next);
    cache.reorder(rows);
    std::vector<std::int32_t> last;
    for (const Beam& beam : running) last.push_back(beam.tokens.back());
    Tape tape({.mode = Mode::evaluate});
    logits = model.next_logits(tape, {{static_cast<Index>(last.size()), 1}, std::span<const std::int32_t>(last)}, cache)
                 .value();
  }
}

}}}  // namespace remat::models
