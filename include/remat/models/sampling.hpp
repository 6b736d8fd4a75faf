// Which token comes next.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <remat/core/error.hpp>
#include <remat/core/shape.hpp>
#include <span>
#include <string>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace models {

/// How a token is chosen among all, one setting after the other as in transformers.
struct Sampling {
  double temperature = 0.8;  // of softmax(logits / temperature); 0: the greatest, of equal ones the first
  Index top_k = 0;           // only among so many of the greatest; 0: all
  double top_p = 1;          // only among the fewest whose probabilities reach this sum (Holtzman et al. 2020); 1: all
  double min_p = 0;          // only those at least this part as likely as the likeliest (Nguyen et al. 2024); 0: all
  double repetition_penalty = 1;  // logits of tokens that were there are divided by it, negative ones multiplied
                                  // (Keskar et al. 2019); 1: not
};

namespace detail {

/// Logits that can be drawn from: an `Error` that begins with `where` for NaN and +infinity.
template <class T>
void check_logits(std::span<const T> logits, const std::string& where) {
  for (std::size_t id = 0; id < logits.size(); ++id) {
    const auto value = static_cast<double>(logits[id]);
    require(!std::isnan(value), where, "the logits are NaN, first that of token ", id,
            "; REMAT_FIND_NAN=1 in the environment names the op that made it");
    require(!(std::isinf(value) && value > 0), where, "the logit of token ", id, " is infinite");
  }
}

}  // namespace detail

/// Draws an index of `logits` as `how` says; `seen` are the tokens that were there, each below their number. `uniform`
/// in [0, 1) decides. -infinity is never drawn; an `Error` that begins with `where` for NaN, for +infinity, and when
/// nothing is left.
template <class T>
std::int32_t sample_token(std::span<const T> logits, const Sampling& how, std::span<const std::int32_t> seen,
                          double uniform, const std::string& where) {
  detail::check_logits(logits, where);
  std::vector<double> values;
  values.reserve(logits.size());
  for (const T& logit : logits) values.push_back(static_cast<double>(logit));
  if (how.repetition_penalty != 1) {
    std::vector<bool> is_done(values.size());
    for (const std::int32_t id : seen) {
      const auto i = static_cast<std::size_t>(id);
      if (is_done[i]) continue;
      is_done[i] = true;
      values[i] = values[i] > 0 ? values[i] / how.repetition_penalty : values[i] * how.repetition_penalty;
    }
  }
  const auto value = [&](std::int32_t id) { return values[static_cast<std::size_t>(id)]; };
  std::vector<std::int32_t> order(values.size());
  std::iota(order.begin(), order.end(), 0);
  std::size_t kept = order.size();
  if (how.top_k > 0) kept = std::min(kept, static_cast<std::size_t>(how.top_k));
  if (how.temperature == 0) kept = std::min<std::size_t>(kept, 1);
  const auto before = [&](std::int32_t a, std::int32_t b) {
    return value(a) != value(b) ? value(a) > value(b) : a < b;
  };
  if (kept < order.size())
    std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(kept), order.end(), before);
  else
    std::sort(order.begin(), order.end(), before);
  order.resize(kept);
  require(!order.empty() && std::isfinite(value(order.front())), where,
          "all logits are -infinity, so no token is left");
  if (how.temperature == 0) return order.front();
  std::vector<double> cumulative;
  double total = 0;
  for (const std::int32_t id : order)
    cumulative.push_back(total += std::exp((value(id) - value(order.front())) / how.temperature));
  if (how.top_p < 1) {  // with the one that reaches the sum
    const auto reached = std::lower_bound(cumulative.begin(), cumulative.end(), how.top_p * total);
    kept = std::min(static_cast<std::size_t>(reached - cumulative.begin()) + 1, kept);
  }
  while (kept > 1 && std::exp((value(order[kept - 1]) - value(order.front())) / how.temperature) < how.min_p) --kept;
  total = cumulative[kept - 1];
  const auto end = cumulative.begin() + static_cast<std::ptrdiff_t>(kept);
  const auto chosen = std::upper_bound(cumulative.begin(), end, uniform * total) - cumulative.begin();
  return order[std::min(static_cast<std::size_t>(chosen), kept - 1)];
}

/// The same with these two settings alone.
template <class T>
std::int32_t sample_token(std::span<const T> logits, double temperature, Index top_k, double uniform,
                          const std::string& where) {
  return sample_token(logits, Sampling{.temperature = temperature, .top_k = top_k}, {}, uniform, where);
}

}}}  // namespace remat::models
