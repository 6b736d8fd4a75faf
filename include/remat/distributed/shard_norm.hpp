// The norm of gradients of which each rank has its own shard.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <remat/core/cascade_sum.hpp>
#include <remat/distributed/shards.hpp>
#include <remat/optim/clip.hpp>
#include <span>
#include <utility>
#include <vector>

namespace remat { inline namespace REMAT_ABI { namespace distributed { namespace detail {

/// Calls `visit(e, begin, end, is_cut)` for all runs, as `optim::global_norm` cuts them, of parameters that have a
/// gradient; one is cut where its elements belong to several ranks.
template <class Visit>
void for_norm_runs(const Shards& shards, const std::vector<AnyTensor>& own, Visit&& visit) {
  for (std::size_t e = 0; e < own.size(); ++e) {
    if (!own[e].storage) continue;
    const Index size = shards.entries()[e]->value.size();
    for (Index begin = 0; begin < size; begin += optim::detail::squares_run) {
      const Index end = std::min(begin + optim::detail::squares_run, size);
      bool is_whole = false;
      for (int r = 0; r < shards.ranks(); ++r) {
        const auto [first, last] = shards.range(r, e);
        is_whole = is_whole || (first <= begin && end <= last);
      }
      visit(e, begin, end, !is_whole);
    }
  }
}

inline double squares(DType dtype, const std::byte* data, Index count) {
  return dtype == DType::float32 ? optim::detail::squared_norm(reinterpret_cast<const float*>(data), count)
                                 : optim::detail::squared_norm(reinterpret_cast<const double*>(data), count);
}

/// The bits of `optim::global_norm` of the whole gradients, where `own` is a rank's shard of each parameter's: whole
/// runs are squared by their owners, and of the few that lie on several ranks each rank gets all elements. Collective.
template <class = void>
double norm_of_shards(const Group& group, const Shards& shards, const std::vector<AnyTensor>& own) {
  const auto part_of = [&](int rank, std::size_t e, Index begin, Index end) {
    const auto [first, last] = shards.range(rank, e);
    return std::pair(std::max(first, begin), std::max(std::max(first, begin), std::min(last, end)));
  };
  std::vector<std::byte> cut;
  std::vector<double> whole;
  for_norm_runs(shards, own, [&](std::size_t e, Index begin, Index end, bool is_cut) {
    const auto [first, last] = part_of(group.rank(), e, begin, end);
    if (first == last) return;
    const std::size_t each = size_of(own[e].dtype);
    const std::byte* const data =
        own[e].data() + static_cast<std::size_t>(first - shards.range(group.rank(), e).first) * each;
    if (is_cut)
      cut.insert(cut.end(), data, data + static_cast<std::size_t>(last - first) * each);
    else
      whole.push_back(squares(own[e].dtype, data, last - first));
  });
  const auto all_cut = group.gather(std::span<const std::byte>(cut));
  const auto all_whole = group.gather(std::span<const double>(whole));

  std::vector<std::size_t> next_cut(all_cut.size()), next_whole(all_cut.size());
  std::vector<std::vector<double>> partial(own.size());
  for_norm_runs(shards, own, [&](std::size_t e, Index begin, Index end, bool is_cut) {
    const std::size_t each = size_of(own[e].dtype);
    TransferBuffer room;
    std::byte* to = is_cut ? room.of(static_cast<std::size_t>(end - begin) * each).data() : nullptr;
    const std::byte* const run = to;
    for (int r = 0; r < shards.ranks(); ++r) {
      const auto [first, last] = part_of(r, e, begin, end);
      if (first == last) continue;
      const auto rank = static_cast<std::size_t>(r);
      if (!is_cut) {
        partial[e].push_back(all_whole[rank][next_whole[rank]++]);
        continue;
      }
      const std::size_t bytes = static_cast<std::size_t>(last - first) * each;
      to = std::copy_n(all_cut[rank].data() + next_cut[rank], bytes, to);
      next_cut[rank] += bytes;
    }
    if (is_cut) partial[e].push_back(squares(own[e].dtype, run, end - begin));
  });
  double sum = 0;
  for (std::size_t e = 0; e < own.size(); ++e) {
    if (!own[e].storage) continue;
    CascadeSum<double> squares_of;
    for (const double& part : partial[e]) squares_of.add(&part);
    sum += *squares_of.total();
    require(std::isfinite(sum), "global_norm: the gradient of ", shards.entries()[e]->path,
            " is not finite, or too large to square; lower the learning rate or look at the loss of this step");
  }
  return std::sqrt(sum);
}

}}}}  // namespace remat::distributed::detail
