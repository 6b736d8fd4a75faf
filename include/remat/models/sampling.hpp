// Which token comes next.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <remat/core/error.hpp>
#include <remat/core/shape.hpp>
#include <span>
#include <string>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace models {

/// Draws an index of `logits` by softmax(logits / temperature) over the `top_k` greatest (0: all); temperature 0 takes
/// the greatest, of equal ones the first. `uniform` in [0, 1) decides. -infinity is never drawn; an `Error` that begins
/// with `where` for NaN, for +infinity, and when nothing is left.
template <class T>
std::int32_t sample_token(std::span<const T> logits, double temperature, Index top_k, double uniform,
                          const std::string& where) {
  const auto value = [&](std::int32_t id) { return static_cast<double>(logits[static_cast<std::size_t>(id)]); };
  std::vector<std::int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  for (const std::int32_t id : order) {
    require(!std::isnan(value(id)), where, "the logits are NaN, first that of token ", id,
            "; REMAT_FIND_NAN=1 in the environment names the op that made it");
    require(!(std::isinf(value(id)) && value(id) > 0), where, "the logit of token ", id, " is infinite");
  }
  std::size_t kept = order.size();
  if (top_k > 0) kept = std::min(kept, static_cast<std::size_t>(top_k));
  if (temperature == 0) kept = 1;
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
  if (temperature == 0) return order.front();
  std::vector<double> cumulative;
  double total = 0;
  for (const std::int32_t id : order)
    cumulative.push_back(total += std::exp((value(id) - value(order.front())) / temperature));
  const auto chosen = std::upper_bound(cumulative.begin(), cumulative.end(), uniform * total) - cumulative.begin();
  return order[std::min(static_cast<std::size_t>(chosen), order.size() - 1)];
}

}}}  // namespace remat::models
