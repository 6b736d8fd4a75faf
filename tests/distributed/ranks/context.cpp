// Models trained under context parallel: as by one process, without a transfer in a replay, in the memory of a part.
#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <promises/small_gpt.hpp>
#include <remat/models.hpp>
#include <remat/remat.hpp>
#include <string>
#include <vector>

#include "ranks.hpp"

namespace {

using namespace remat;
using namespace remat::distributed;
using remat_test::world;

/// The ring of a group that counts what is passed.
struct Counted final : SequenceRing {
  std::shared_ptr<SequenceRing> of;
  Index passes = 0;
  explicit Counted(std::shared_ptr<SequenceRing> ring) : of(std::move(ring)) {}
  int rank() const override { return of->rank(); }
  int size() const override { return of->size(); }
  void pass(std::span<const std::byte> out, std::span<std::byte> in) override {
    ++passes;
    of->pass(out, in);
  }
};

/// Learned positions, attention by one projection; or rotary ones, grouped heads, a window, feed-forwards by chunks.
models::DecoderConfig config(bool is_rotary, double dropout, const Policy& policy) {
  models::GptConfig gpt{.vocabulary = 29, .context = 48, .num_layers = 2, .model_dims = 24, .num_heads = 4};
  gpt.num_kv_heads = 2, gpt.dropout = dropout, gpt.remat = policy;
  gpt.combined_qkv = !is_rotary;
  models::DecoderConfig c = models::decoder_config(gpt, "gpt");
  if (!is_rotary) return c;
  c.learned_positions = false;
  for (nn::TransformerLayerConfig& layer : c.layers) {
    layer.attention.rotary_base = 100;
    layer.blockwise.ffn_chunk = 5;
  }
  c.layers.front().attention.window = 9;
  return c;
}

struct Trained {
  std::vector<double> losses{};
  std::vector<Tensor<double>> gradients{}, weights{};  // gradients of the last step
};

constexpr Index micro_batches = 2, rows = 2, length = 48;

/// Steps on batches whose first sequences have few targets.
Trained train(const ContextParallel& context, const models::DecoderConfig& c, Index steps = 3) {
  ParameterRegistry parameters(5);
  const models::Decoder<double> model(parameters / "gpt", c);
  require_equal(context.group(), parameters);
  optim::AdamW adamw(parameters);
  GradientSum sum(parameters, context.group());
  Trained trained;
  for (Index step = 0; step < steps; ++step) {
    auto batch = remat_test::tokens(micro_batches * rows, length, 29, 70 + static_cast<std::uint64_t>(step));
    for (Index t = 5; t < length; ++t) batch.targets.write()[static_cast<std::size_t>(t)] = -1;
    // Each rank has a part of every micro-batch.
    std::vector<remat_test::Tokens> parts;
    std::vector<double> counts;
    for (Index i = 0; i < micro_batches; ++i) {
      parts.push_back(context.part(remat_test::Tokens{batch.inputs.copy().slice(i * rows, (i + 1) * rows),
                                                      batch.targets.copy().slice(i * rows, (i + 1) * rows)}));
      const auto& targets = parts.back().targets;
      counts.push_back(static_cast<double>(targets.size() - std::count(targets.begin(), targets.end(), -1)));
    }
    const auto shares = token_shares(context.group(), counts);
    sum.begin(micro_batches * context.group().size());
    for (Index i = 0; i < micro_batches; ++i) {
      Tape tape({.seed = 11, .step = step, .first_row = i * rows, .rows = rows, .ring = context.ring()});
      const auto share = model.loss(tape, parts[static_cast<std::size_t>(i)]) * shares[static_cast<std::size_t>(i)];
      tape.backward(share);
      sum.add(share.item());
    }
    trained.losses.push_back(sum.finish());
    trained.gradients.clear();
    for (const auto& entry : parameters.entries()) trained.gradients.push_back(Parameter<double>(entry).grad().copy());
    adamw.step(1e-2);
  }
  for (const auto& entry : parameters.entries()) trained.weights.push_back(Parameter<double>(entry).value().copy());
  return trained;
}

double distance(const std::vector<Tensor<double>>& a, const std::vector<Tensor<double>>& b) {
  double worst = a.size() == b.size() ? 0 : 1e300;
  for (std::size_t k = 0; k < a.size(); ++k)
    for (Index i = 0; i < a[k].size(); ++i)
      if (!(std::abs(a[k][i] - b[k][i]) <= worst)) worst = std::abs(a[k][i] - b[k][i]);
  return worst;
}

/// Logits of whole sequences, by a tape that keeps nothing.
Tensor<double> logits(const ContextParallel& context, const models::DecoderConfig& c) {
  ParameterRegistry parameters(5);
  const models::Decoder<double> model(parameters / "gpt", c);
  Tape tape({.ring = context.ring(), .mode = Mode::evaluate});
  return context.whole(model.logits(tape, context.part(remat_test::tokens(rows, length, 29).inputs)).value());
}

TEST(ContextParallel, EvaluatesAsOneProcess) {
  for (const bool is_rotary : {false, true}) {
    const models::DecoderConfig c = config(is_rotary, 0.2, policy::nothing);
    EXPECT_LE(distance({logits(ContextParallel(world()), c)}, {logits(ContextParallel(), c)}), 1e-12);
  }
}

TEST(ContextParallel, TrainsAsOneProcess) {
  for (const bool is_rotary : {false, true})
    for (const double dropout : {0.0, 0.2}) {
      const Trained one = train(ContextParallel(), config(is_rotary, dropout, policy::everything));
      const Trained all = train(ContextParallel(world()), config(is_rotary, dropout, policy::nothing));
      const auto what = std::string(is_rotary ? "rotary" : "learned") + (dropout > 0 ? " dropout" : "");
      for (std::size_t i = 0; i < one.losses.size(); ++i) EXPECT_NEAR(all.losses[i], one.losses[i], 1e-12) << what;
      EXPECT_LE(distance(all.gradients, one.gradients), 1e-10) << what;
      EXPECT_LE(distance(all.weights, one.weights), 1e-7) << what;  // AdamW divides by small gradients
    }
}

/// What one step did on this rank.
struct Step {
  Index passes = 0;
  TapeStats stats{};
  std::vector<Tensor<double>> gradients{};
};

Step step_of(const models::Decoder<double>& model, const ParameterRegistry& parameters, bool verify = false,
             bool is_nested = false) {
  const ContextParallel context(world());
  const auto counted = context.ring() ? std::make_shared<Counted>(context.ring()) : nullptr;
  const auto part = context.part(remat_test::tokens(rows, length, 29));
  Tape tape({.seed = 1, .step = 2, .ring = counted, .verify = verify});
  const auto loss =
      is_nested ? tape.checkpoint(policy::nothing, [&] { return model.loss(tape, part); }) : model.loss(tape, part);
  tape.backward(loss);
  Step step{counted ? counted->passes : 0, tape.stats(), {}};
  for (const auto& entry : parameters.entries()) step.gradients.push_back(Parameter<double>(entry).grad().copy());
  parameters.zero_grad();
  return step;
}

bool same(const Step& a, const Step& b) {
  for (std::size_t i = 0; i < a.gradients.size(); ++i)
    if (!same_bits(a.gradients[i], b.gradients[i])) return false;
  return !a.gradients.empty() && a.gradients.size() == b.gradients.size();
}

TEST(ContextParallel, NoReplayCommunicates) {
  ParameterRegistry parameters(5);
  models::Decoder<double> model(parameters / "gpt", config(true, 0.1, policy::everything));
  const Step kept = step_of(model, parameters);
  const Index ranks = world().size();
  // Both halves of the keys go R - 1 ranks on, and their gradients one more, home.
  EXPECT_EQ(kept.passes, ranks == 1 ? 0 : 2 * 2 * (ranks - 1 + ranks));
  const auto expect_same = [&](const Step& step, const std::string& what) {
    EXPECT_EQ(step.passes, kept.passes) << what;
    EXPECT_TRUE(same(step, kept)) << what;
    EXPECT_EQ(ranks > 1 ? step.stats.replayed_by_op.count("attention") : 0, 0U) << what;
  };
  const std::vector<Policy> policies{policy::nothing,
                                     policy::dots,
                                     offload(policy::everything),
                                     policy::ops("linear"),
                                     offload(policy::ops("attention")),
                                     policy::names({"context"})};
  for (const Policy& policy : policies) {
    model.set_remat(policy);
    const Step step = step_of(model, parameters);
    expect_same(step, policy::to_string(policy));
    EXPECT_GT(step.stats.ops_replayed + (policy == policies[2] ? 1 : 0), 0);
  }
  model.set_remat(policies[static_cast<std::size_t>(world().rank())]);
  expect_same(step_of(model, parameters), "ranks with policies of their own");
  model.set_remat(policy::nothing);
  expect_same(step_of(model, parameters, false, true), "nested");
  expect_same(step_of(model, parameters, true), "verify");
  model.enable_gradient_checkpointing();
  expect_same(step_of(model, parameters), "gradient checkpointing");
}

// Plans know the ring's scratch and that its results stay: to the byte.
TEST(ContextParallel, PlansAreExact) {
  ParameterRegistry parameters(5);
  models::Decoder<double> model(parameters / "gpt", config(false, 0.1, policy::nothing));
  const ContextParallel context(world());
  const auto part = context.part(remat_test::tokens(rows, length, 29));
  const auto made = plan([&](Tape& tape) {
    tape.set_ring(context.ring());
    return model.loss(tape, part);
  });
  const std::size_t least = made.under(policy::nothing).stats.peak_bytes;
  const std::size_t most = made.under(policy::everything).stats.peak_bytes;
  std::vector<Policy> policies{policy::nothing, policy::everything, made.within((least + most) / 2)};
  for (const Policy& policy : policies) {
    model.set_remat(policy);
    const Step step = step_of(model, parameters);
    EXPECT_EQ(step.stats.peak_bytes, made.under(policy).stats.peak_bytes) << policy::to_string(policy).substr(0, 40);
  }
}

// R times the context for as much memory a rank, but for what travels. What attention gives stays under any policy, in
// memory or on disk.
TEST(ContextParallel, HoldsTheMemoryOfAPart) {
  const ContextParallel context(world()), alone;
  const std::vector<std::pair<Policy, Policy>> policies{{policy::everything, policy::everything},
                                                        {policy::ops("attention"), policy::nothing},
                                                        {policy::nothing, offload(policy::ops("attention"))}};
  for (const auto& [of_one, of_all] : policies) {
    models::GptConfig gpt{.vocabulary = 64, .context = 512 * world().size(), .num_layers = 4, .model_dims = 64};
    gpt.num_heads = 4;
    const auto peak = [&](const ContextParallel& ranks, Index tokens, const Policy& policy) {
      ParameterRegistry parameters(5);
      models::Gpt<float> model(parameters / "gpt", gpt);
      model.set_remat(policy);
      const auto part = ranks.part(remat_test::tokens(1, tokens, 64));
      Tape tape({.ring = ranks.ring()});
      tape.backward(model.loss(tape, part));
      return static_cast<double>(tape.stats().peak_bytes);
    };
    const double one = peak(alone, 512, of_one), mine = peak(context, 512 * world().size(), of_all);
    EXPECT_LE(mine, 1.1 * one) << policy::to_string(of_all);
  }
}

TEST(ContextParallel, PartsMakeUpTheWhole) {
  const ContextParallel context(world());
  const Index ranks = world().size();
  std::vector<std::int32_t> numbers;
  for (Index i = 0; i < 3 * 8 * ranks * 2; ++i) numbers.push_back(static_cast<std::int32_t>(i));
  const Tensor<std::int32_t> whole({3, 8 * ranks, 2}, std::span<const std::int32_t>(numbers));
  const auto mine = context.part(whole);
  EXPECT_EQ(mine.shape(), (Shape{3, 8, 2}));
  const auto positions = context.positions(3, 8);
  for (Index b = 0; b < 3; ++b)
    for (Index t = 0; t < 8; ++t) EXPECT_EQ(mine(b, t, 1), whole(b, positions(b, t), 1));
  EXPECT_TRUE(same_bits(context.whole(mine), whole));
  const auto turned = whole.reshape({6, 4 * ranks, 2});
  EXPECT_TRUE(same_bits(context.whole(context.part(turned)), turned));
  EXPECT_TRUE(
      same_bits(context.whole(context.part(whole.reshape({8 * ranks, 6}), 0), 0), whole.reshape({8 * ranks, 6})));
  if (ranks == 1) return;
  EXPECT_THROW(context.part(Tensor<float>({1, 2 * ranks + 1})), Error);
  const Index tokens = world().is_first() ? 4 : 2;
  EXPECT_THROW(context.whole(Tensor<float>({1, tokens})), Error);
  Tensor<std::int32_t> targets({1, 4}, -1);
  if (!world().is_first()) targets = Tensor<std::int32_t>({1, 4}, {1, -1, 2, 3});
  EXPECT_DOUBLE_EQ(context.token_share(targets), world().is_first() ? 0.0 : 1.0 / static_cast<double>(ranks - 1));
}

// Two rings of two ranks each, as beside data parallel.
TEST(ContextParallel, IsOfASubGroup) {
  if (world().size() != 4) return;
  const ContextParallel half(world().sub(world().rank() / 2));
  const Trained one = train(ContextParallel(), config(true, 0.2, policy::everything), 1);
  const Trained pair = train(half, config(true, 0.2, policy::nothing), 1);
  EXPECT_NEAR(pair.losses.front(), one.losses.front(), 1e-12);
  EXPECT_LE(distance(pair.gradients, one.gradients), 1e-10);
}

}  // namespace
