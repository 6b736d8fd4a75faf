// Programs that several processes run together: which of them speaks, what each gets of its machine, and their steps.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <optional>
#include <remat/distributed.hpp>
#include <remat/io/progress.hpp>
#include <remat/remat.hpp>
#include <span>
#include <string>
#include <vector>

#include "run_ranks.hpp"
#include "text_of.hpp"

namespace programs {

/// Calls `body()`; where it throws on one of several ranks, all end, and that rank is named.
template <class Body>
int or_stop_all(const remat::distributed::Group& group, Body&& body) {
  try {
    return body();
  } catch (const std::exception& error) {
    if (group.size() == 1) throw;
    remat::distributed::stop_all(group, error.what());
  }
}

/// Gives each rank its threads, unless `asked` says how many, and all ranks the products of the first. Says "2, 1
/// thread each" of several.
inline std::string begin_ranks(const remat::distributed::Group& group, int asked) {
  if (asked > 0) omp_set_num_threads(asked);
  if (group.size() == 1) return "1";
  const auto share = remat::distributed::share_cores(group);
  if (asked > 0) omp_set_num_threads(asked);
  if (!share.warning.empty() && asked != 1) std::fprintf(stderr, "warning: %s\n", share.warning.c_str());
  remat::distributed::agree_on_products(group);
  const auto threads = group.gather(omp_get_max_threads());
  const auto [least, most] = std::minmax_element(threads.begin(), threads.end());
  const std::string each = *least == *most ? std::to_string(*least) : text_of("%d to %d", *least, *most);
  return std::to_string(group.size()) + ", " + each + (each == "1" ? " thread each" : " threads each");
}

/// Into how many parts a batch of `rows` is cut where nobody says: one on one rank; on several as many as divide it and
/// leave none without one, at least 4, so that up to 4 ranks cut it alike. Says so.
inline int micro_batches_of(int rows, const remat::distributed::Group& group) {
  if (group.size() == 1) return 1;
  int parts = std::min(rows, std::max(4, group.size()));
  while (rows % parts != 0) ++parts;
  std::printf("%d micro-batches, for %d ranks; --micro-batches %d gives the same bits on any number of them\n", parts,
              group.size(), parts);
  return parts;
}
inline void check_micro_batches(int rows, int parts, const remat::distributed::Group& group) {
  remat::require(rows % parts == 0, "--micro-batches ", parts, " does not divide --batch ", rows);
  remat::require(parts >= group.size(), "--micro-batches ", parts, " leave some of ", group.size(),
                 " ranks nothing to do");
}

/// Several sums over i = 0, ..., count - 1, of which each rank computes a run: `numbers_of(i)` gives as many numbers as
/// there are sums. Added in the order of i on all ranks.
template <class NumbersOf>
std::vector<double> summed_by_ranks(const remat::distributed::Group& group, remat::Index count, std::size_t sums,
                                    NumbersOf&& numbers_of) {
  const auto mine = remat::distributed::range_of(count, group.rank(), group.size());
  std::vector<double> own, all(sums);
  for (remat::Index i = mine.begin; i < mine.end; ++i)
    for (const double number : numbers_of(i)) own.push_back(number);
  for (const auto& theirs : group.gather(std::span<const double>(own)))
    for (std::size_t i = 0; i < theirs.size(); ++i) all[i % sums] += theirs[i];
  return all;
}

/// The median time of `step()`, which ranks take together, as the first rank has it; of some steps for practice.
template <class Step>
double median_of_ranks(const remat::distributed::Group& group, Step&& step, int count, int warm_up) {
  // Several ranks take as many steps for practice, however long they are.
  const double patience = group.size() == 1 ? 10 : 1e9;
  return group.broadcast(remat::io::median_seconds(std::forward<Step>(step), count, warm_up, patience));
}

/// What the micro-batches of this rank came to; the loss is of all ranks.
struct RankStep {
  double loss = 0;
  double flops = 0;            // that a step needs without remat, so that recomputing does not count as progress
  std::size_t peak_bytes = 0;  // of activations, their gradients and scratch
  std::size_t offloaded_bytes = 0;
  std::vector<remat::TraceSlice> trace{};
};

/// Seconds of steps, of these in communication, and of those in which nothing was computed beside it.
struct StepSeconds {
  double all = 0, communication = 0, waited = 0;
};

/// Do sums of gradients go on beside backward? Where a rank has several threads, one of which can spare the time;
/// REMAT_RANK_OVERLAP=1 or 0 in the environment says otherwise.
inline bool overlaps() {
  const char* const asked = std::getenv("REMAT_RANK_OVERLAP");
  return asked != nullptr && *asked != '\0' ? std::string(asked) == "1" : omp_get_max_threads() > 1;
}

/// The gradients of batches that ranks compute in micro-batches, and AdamW in shards: of its moments (stage 1 of ZeRO),
/// and of gradients (2), which sends a third less; on one rank AdamW itself.
class RankTraining {
 public:
  RankTraining(const remat::distributed::Group& group, const remat::ParameterRegistry& parameters,
               const remat::optim::AdamWConfig& adamw, int zero = 2)
      : group_(group),
        sum_(parameters, group, {.own_shard_only = zero == 2 && group.size() > 1, .overlap = overlaps()}),
        adamw_(sum_, adamw),
        norm_(parameters) {}

  /// Adds up the gradients of a batch of `rows` rows in `parts` parts, whose tapes have `options`. `share_of(tape,
  /// begin, end)` is what those rows add to the loss of the batch: a Var, or an empty optional where they add nothing.
  /// With `instead`, of one part on one rank, each gradient goes there as soon as it is complete: to `in_backward`.
  template <class ShareOf>
  RankStep gradients(remat::Index rows, remat::Index parts, remat::TapeOptions options, ShareOf&& share_of,
                     const remat::GradientHook& instead = {}) {
    RankStep step;
    begun_ = Clock::now(), before_ = group_.transfers();
    remat::require(!instead || (parts == 1 && group_.size() == 1),
                   "updates in backward are of batches that one rank computes whole");
    // One micro-batch of one rank: nothing is added to its gradients, whose squares are summed while they are in cache.
    is_whole_ = parts == 1 && group_.size() == 1;
    const auto mine = sum_.begin(parts);
    for (remat::Index i = mine.begin; i < mine.end; ++i) {
      const remat::Index begin = i * (rows / parts), end = begin + rows / parts;
      // Each part draws the masks that its rows have in the whole batch.
      options.first_row = begin, options.rows = end - begin;
      remat::Tape tape(options);
      const std::optional<remat::Var<float>> share = share_of(tape, begin, end);
      if (share) tape.backward(*share, instead ? instead : is_whole_ ? norm_.in_backward() : sum_.in_backward());
      sum_.add(share ? static_cast<double>(share->item()) : 0);
      if (!share) continue;
      const remat::TapeStats stats = tape.stats();
      step.peak_bytes = std::max(step.peak_bytes, stats.peak_bytes);
      step.offloaded_bytes = std::max(step.offloaded_bytes, stats.offloaded_bytes);
      step.flops += stats.forward_flops + stats.backward_flops - stats.replay_flops;
      step.trace = tape.trace();
    }
    step.loss = sum_.finish();
    step.flops = group_.sum(step.flops);
    return step;
  }
  /// Of the gradients of all ranks. An `Error` where they are not finite.
  double norm() const { return is_whole_ ? norm_.value() : sum_.norm(); }
  void step(double learning_rate, double scale) {
    adamw_.step(sum_, learning_rate, scale);
    const remat::distributed::Transfers now = group_.transfers();
    last_ = {std::chrono::duration<double>(Clock::now() - begun_).count(), now.seconds - before_.seconds};
    const double beside = now.beside - before_.beside;
    last_.waited =
        std::min(last_.communication, last_.communication - beside + (beside > 0 ? sum_.waited_seconds() : 0));
    seconds_.all += last_.all, seconds_.communication += last_.communication, seconds_.waited += last_.waited;
  }
  /// Of the last step.
  const StepSeconds& seconds() const { return last_; }
  /// What all steps spent in communication, as the first of several ranks has it: a line; nothing on one.
  std::string communication() const {
    if (group_.size() == 1 || seconds_.all == 0) return {};
    return text_of("in communication: %.1f %% of the time of steps, %.0f %% of it hidden behind backward\n",
                   100 * seconds_.communication / seconds_.all,
                   100 * (1 - seconds_.waited / std::max(seconds_.communication, 1e-9)));
  }
  /// A step while gradients are made, without clipping; see `gradients`.
  remat::GradientHook in_backward(double learning_rate) { return adamw_.in_backward(learning_rate).update; }
  /// For `SavedRun::begin`.
  remat::distributed::ShardedAdamW& optimizer() { return adamw_; }
  const remat::distributed::GradientSum& sum() const { return sum_; }

 private:
  using Clock = std::chrono::steady_clock;

  remat::distributed::Group group_;
  remat::distributed::GradientSum sum_;
  remat::distributed::ShardedAdamW adamw_;
  remat::optim::GlobalNorm norm_;
  bool is_whole_ = false;
  Clock::time_point begun_{};
  remat::distributed::Transfers before_{};
  StepSeconds last_{}, seconds_{};
};

}  // namespace programs
