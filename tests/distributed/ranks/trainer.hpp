// A small model that several ranks train, in every way in which its bits must be those of one rank.
#pragma once

#include <optional>
#include <promises/small_gpt.hpp>
#include <remat/models.hpp>
#include <string>
#include <type_traits>
#include <vector>

#include "ranks.hpp"

namespace remat_test {

using remat::Index, remat::Tensor, remat::ParameterRegistry;
using remat::distributed::Group, remat::distributed::GradientSum, remat::distributed::GradientSumOptions;
using remat::distributed::Range, remat::distributed::ShardedAdamW;

inline constexpr Index rows = 2;  // of a micro-batch

struct Variant {
  double dropout = 0;
  std::string policy = "nothing";  // "everything", "dots", or a "planned" one
  Index micro_batches = 5;         // no number of ranks but 1 divides it
  int zero = 0;                    // stage of ZeRO: moments in shards (1), gradients too (2)
  bool sums_in_backward = true;
  bool updates_in_backward = false;  // stage 2, and nothing is clipped
  bool notes_gradients = true;       // of stages 0 and 1
  std::size_t bucket_bytes = 24000;  // about six buckets
  bool overlaps = false;             // by a thread beside backward

  std::string text() const {
    return policy + ", dropout " + std::to_string(dropout) + ", " + std::to_string(micro_batches) +
           " micro-batches, ZeRO " + std::to_string(zero) + (sums_in_backward ? ", in backward" : "") +
           (updates_in_backward ? " with its updates" : "") + (overlaps ? ", overlapping" : "");
  }
};

/// What a training gave, as bytes.
struct Outcome {
  std::vector<double> losses{}, norms{};
  std::vector<Tensor<float>> gradients{}, weights{}, state{};
};

/// A model and the ranks that train it.
template <class T>
class Trainer {
 public:
  Trainer(const Group& group, const Variant& variant)
      : group_(group), variant_(variant), parameters_(5), gpt_(parameters_ / "gpt", config(variant)) {
    apply_plan();
    require_equal(group, parameters_);
    // Several windows and buckets, small as the model is.
    sum_.emplace(parameters_, group,
                 GradientSumOptions{.window_bytes = 16 * 2048 * 2,
                                    .bucket_bytes = variant.bucket_bytes,
                                    .own_shard_only = variant.zero == 2,
                                    .overlap = variant.overlaps});
    if (variant.zero == 0) whole_.emplace(parameters_, adamw);
    if (variant.zero > 0) shard_.emplace(*sum_, adamw);
  }

  void step(Index step, Outcome& outcome) {
    const Index count = variant_.micro_batches;
    const auto batch = tokens(count * rows, gpt_.config.context, 29, 100 + static_cast<std::uint64_t>(step));
    const Range mine =
        variant_.updates_in_backward ? sum_->begin(count, shard_->in_backward(rate)) : sum_->begin(count);
    for (Index i = mine.begin; i < mine.end; ++i) {
      remat::Tape tape({.seed = 11, .step = step, .first_row = i * rows, .rows = rows});
      const Tokens part{batch.inputs.slice(i * rows, (i + 1) * rows), batch.targets.slice(i * rows, (i + 1) * rows)};
      const auto share = gpt_.loss(tape, part) * (1.0 / static_cast<double>(count));
      tape.backward(share, variant_.sums_in_backward ? sum_->in_backward() : remat::GradientHook());
      sum_->add(static_cast<double>(share.item()));
    }
    outcome.losses.push_back(sum_->finish());
    EXPECT_LE(sum_->waited_bytes(), sum_->waiting_bytes(count));
    if (variant_.updates_in_backward) return;
    if (variant_.zero < 2 && variant_.notes_gradients)
      for (const auto& entry : parameters_.entries())
        outcome.gradients.push_back(remat::Parameter<float>(entry).grad().copy());
    outcome.norms.push_back(sum_->norm());
    const double scale = remat::optim::clip_scale(outcome.norms.back(), 0.5);
    if (whole_) whole_->step(rate, scale);
    if (shard_) shard_->step(*sum_, rate, scale);
  }
  void finish(Outcome& outcome) {
    for (const auto& entry : parameters_.entries())
      outcome.weights.push_back(remat::Parameter<float>(entry).value().copy());
    for (const auto& [name, tensor] : (whole_ ? whole_->state_dict() : shard_->state_dict()).tensors)
      outcome.state.push_back(Tensor<float>(tensor));
  }

  const ParameterRegistry& parameters() const { return parameters_; }
  ShardedAdamW& shard() { return *shard_; }
  GradientSum& sum() { return *sum_; }

  static remat::models::GptConfig config(const Variant& variant) {
    remat::models::GptConfig config = small_gpt();
    config.num_layers = 2;
    config.hidden_dims = 130;  // 4680 elements: three blocks of a shard
    config.context = 9;
    config.dropout = variant.dropout;
    if (variant.policy == "nothing") config.remat = remat::policy::nothing;
    if (variant.policy == "dots") config.remat = remat::policy::dots;
    if (variant.policy == "planned") config.remat = remat::policy::nothing;
    return config;
  }

 private:
  /// Planned by the first rank, for all.
  void apply_plan() {
    if (variant_.policy != "planned") return;
    const auto part = tokens(rows, gpt_.config.context, 29);
    const auto step = [&](remat::Tape& tape) { return gpt_.loss(tape, part) * 0.5; };
    gpt_.set_remat(agree_on_policy(group_, [&] {
      const auto made = remat::plan(step);
      const auto peak = [&](const remat::Policy& policy) { return made.under(policy).stats.peak_bytes; };
      return made.within((peak(remat::policy::nothing) + peak(remat::policy::everything)) / 2);
    }));
  }

  static constexpr double rate = 1e-2;
  static inline const remat::optim::AdamWConfig adamw{.weight_decay = 0.1};
  Group group_;
  Variant variant_;
  ParameterRegistry parameters_;
  remat::models::Gpt<T> gpt_;
  std::optional<GradientSum> sum_{};
  std::optional<remat::optim::AdamW> whole_{};
  std::optional<ShardedAdamW> shard_{};
};

template <class T>
Outcome train(const Group& group, const Variant& variant, Index steps = 3) {
  Trainer<T> trainer(group, variant);
  Outcome outcome;
  for (Index step = 0; step < steps; ++step) trainer.step(step, outcome);
  trainer.finish(outcome);
  return outcome;
}

inline bool same_tensors(const std::vector<Tensor<float>>& a, const std::vector<Tensor<float>>& b) {
  if (a.size() != b.size()) return false;
  for (std::size_t i = 0; i < a.size(); ++i)
    if (!same_bits(a[i], b[i])) return false;
  return true;
}
inline void expect_same(const Outcome& one, const Outcome& all, const std::string& what) {
  EXPECT_FALSE(one.losses.empty() || one.weights.empty() || one.state.empty()) << what;
  EXPECT_EQ(one.losses, all.losses) << what;
  EXPECT_TRUE(all.norms.empty() || one.norms == all.norms) << what << ": norms";
  EXPECT_TRUE(all.gradients.empty() || same_tensors(one.gradients, all.gradients)) << what << ": gradients";
  EXPECT_TRUE(same_tensors(one.weights, all.weights)) << what << ": weights";
  EXPECT_TRUE(!world().is_first() || same_tensors(one.state, all.state)) << what << ": moments";
}

}  // namespace remat_test
