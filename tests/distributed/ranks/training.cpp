// Training by several ranks has the bits of training by one: losses, gradients, weights, states.
#include <unistd.h>

#include <filesystem>
#include <functional>
#include <promises/small_gpt.hpp>
#include <remat/models.hpp>
#include <string>
#include <vector>

#include "ranks.hpp"

namespace {

using namespace remat;
using namespace remat::distributed;
using remat_test::world;

constexpr Index rows = 2;  // of a micro-batch

struct Variant {
  double dropout = 0;
  std::string policy = "nothing";  // or a planned one
  Index micro_batches = 5;         // no number of ranks but 1 divides it
  bool is_sharded = false;
};

/// What a training gave, as bytes.
struct Outcome {
  std::vector<double> losses{};
  std::vector<Tensor<float>> gradients{}, weights{}, state{};
};

/// A model, its optimizer, and steps by the ranks of `group`.
template <class T, class Optimizer>
class Trainer {
 public:
  Trainer(const Group& group, const Variant& variant, Optimizer& optimizer, const ParameterRegistry& parameters,
          models::Gpt<T>& gpt)
      : group_(group),
        variant_(variant),
        optimizer_(optimizer),
        parameters_(parameters),
        gpt_(gpt),
        sum_(parameters, group, {.window_bytes = 16 * 2048 * 3}) {}

  void step(Index step, Outcome& outcome) {
    const Index count = variant_.micro_batches;
    const auto batch =
        remat_test::tokens(count * rows, gpt_.config.context, 29, 100 + static_cast<std::uint64_t>(step));
    const Range mine = sum_.begin(count);
    // Every micro-batch counts by tokens; here all have as many, told by each rank of its own.
    const std::vector<double> own(static_cast<std::size_t>(mine.size()),
                                  static_cast<double>(rows * gpt_.config.context));
    const std::vector<double> shares = token_shares(group_, own);
    for (Index i = mine.begin; i < mine.end; ++i) {
      Tape tape({.seed = 11, .step = step, .first_row = i * rows, .rows = rows});
      const remat_test::Tokens part{batch.inputs.slice(i * rows, (i + 1) * rows),
                                    batch.targets.slice(i * rows, (i + 1) * rows)};
      const auto share = gpt_.loss(tape, part) * shares[static_cast<std::size_t>(i - mine.begin)];
      tape.backward(share);
      sum_.add(static_cast<double>(share.item()));
    }
    outcome.losses.push_back(sum_.finish());
    for (const auto& entry : parameters_.entries()) outcome.gradients.push_back(Parameter<float>(entry).grad().copy());
    const double norm = optim::global_norm(parameters_);
    optimizer_.step(1e-2, optim::clip_scale(norm, 0.5));
  }
  void finish(Outcome& outcome) {
    for (const auto& entry : parameters_.entries()) outcome.weights.push_back(Parameter<float>(entry).value().copy());
    for (const auto& [name, tensor] : optimizer_.state_dict().tensors) outcome.state.push_back(Tensor<float>(tensor));
  }

 private:
  Group group_;
  Variant variant_;
  Optimizer& optimizer_;
  const ParameterRegistry& parameters_;
  models::Gpt<T>& gpt_;
  GradientSum sum_;
};

models::GptConfig config(const Variant& variant) {
  models::GptConfig config = remat_test::small_gpt();
  config.num_layers = 2;
  config.dropout = variant.dropout;
  config.remat = variant.policy == "everything" ? policy::everything : policy::nothing;
  return config;
}
template <class T>
void apply_plan(const Variant& variant, models::Gpt<T>& gpt) {
  if (variant.policy != "planned") return;
  const auto tokens = remat_test::tokens(rows, gpt.config.context, 29);
  const auto made = plan([&](Tape& tape) { return gpt.loss(tape, tokens) * 0.5; });
  const auto peak = [&](const Policy& policy) { return made.under(policy).stats.peak_bytes; };
  gpt.set_remat(made.within((peak(policy::nothing) + peak(policy::everything)) / 2));
}

template <class T>
Outcome train(const Group& group, const Variant& variant, Index steps = 3) {
  ParameterRegistry parameters(5);
  models::Gpt<T> gpt(parameters / "gpt", config(variant));
  apply_plan(variant, gpt);
  require_equal(group, parameters);
  Outcome outcome;
  const auto run = [&](auto& optimizer) {
    Trainer<T, std::remove_reference_t<decltype(optimizer)>> trainer(group, variant, optimizer, parameters, gpt);
    for (Index step = 0; step < steps; ++step) trainer.step(step, outcome);
    trainer.finish(outcome);
  };
  if (variant.is_sharded) {
    ShardedAdamW adamw(group, parameters, {.weight_decay = 0.1});
    run(adamw);
  } else {
    optim::AdamW adamw(parameters, {.weight_decay = 0.1});
    run(adamw);
  }
  return outcome;
}

void expect_same(const Outcome& one, const Outcome& all, const std::string& what) {
  const auto same = [](const std::vector<Tensor<float>>& a, const std::vector<Tensor<float>>& b) {
    if (a.size() != b.size() || a.empty()) return false;
    for (std::size_t i = 0; i < a.size(); ++i)
      if (!same_bits(a[i], b[i])) return false;
    return true;
  };
  EXPECT_EQ(one.losses, all.losses) << what;
  EXPECT_TRUE(same(one.gradients, all.gradients)) << what << ": gradients";
  EXPECT_TRUE(same(one.weights, all.weights)) << what << ": weights";
  EXPECT_TRUE(!world().is_first() || same(one.state, all.state)) << what << ": moments";
}

template <class T>
void expect_any_number_of_ranks_to_be_one(const std::string& type) {
  for (const double dropout : {0.0, 0.1}) {
    const Outcome one = train<T>(Group(), {.dropout = dropout, .policy = "everything"});
    for (const char* policy : {"nothing", "everything", "planned"})
      for (const bool is_sharded : {false, true}) {
        const Variant variant{.dropout = dropout, .policy = policy, .is_sharded = is_sharded};
        expect_same(one, train<T>(world(), variant),
                    type + " " + policy + (dropout > 0 ? " dropout" : "") + (is_sharded ? " sharded" : ""));
      }
  }
}

TEST(Ranks, TrainAsOneDoesInFloat) { expect_any_number_of_ranks_to_be_one<float>("float"); }
TEST(Ranks, TrainAsOneDoesInBfloat16) { expect_any_number_of_ranks_to_be_one<bfloat16>("bfloat16"); }

// 1, fewer than there are ranks, up to 9.
TEST(Ranks, TrainAsOneDoesForAnyNumberOfMicroBatches) {
  for (const Index count : {1, 2, 3, 4, 6, 9}) {
    const Variant variant{.dropout = 0.1, .micro_batches = count, .is_sharded = true};
    Variant alone = variant;
    alone.is_sharded = false;
    expect_same(train<float>(Group(), alone), train<float>(world(), variant), std::to_string(count) + " micro-batches");
  }
}

TEST(Ranks, KeepAShardOfTheMoments) {
  ParameterRegistry parameters(5);
  const models::Gpt<float> gpt(parameters / "gpt", config({}));
  ShardedAdamW shard(world(), parameters);
  optim::AdamW whole(parameters);
  const auto give = [&] {
    for (const auto& entry : parameters.entries())
      Parameter<float>(entry).set_grad(Tensor<float>(entry->value.shape, 1.0F));
  };
  give(), whole.step(0), give(), shard.step(0);
  const auto all = world().gather(static_cast<double>(shard.state_bytes()));
  double sum = 0;
  for (const double bytes : all) sum += bytes;
  EXPECT_EQ(sum, static_cast<double>(whole.state_bytes()));
  const double block = 2 * 2048 * sizeof(float);
  for (const double bytes : all) EXPECT_LE(bytes, sum / world().size() + block);
}

std::string folder_of_all(const char* name) {
  const auto made = std::filesystem::temp_directory_path() / ("remat_" + std::string(name) + std::to_string(getpid()));
  return world().broadcast(made.string());
}

/// Steps [first, last) of a run that is resumed where there is something to resume, and saved at the end.
Outcome saved_run(const Group& group, const std::string& folder, const Variant& variant, Index last) {
  ParameterRegistry parameters(5);
  models::Gpt<float> gpt(parameters / "gpt", config(variant));
  ShardedAdamW adamw(group, parameters, {.weight_decay = 0.1});
  TrainingStates states(group, parameters, {.folder = folder});
  states.add("adamw", adamw);
  states.must_equal("micro-batches", std::to_string(variant.micro_batches));
  const auto resumed = states.resume();
  Outcome outcome;
  Trainer<float, ShardedAdamW> trainer(group, variant, adamw, parameters, gpt);
  for (Index step = resumed ? resumed->step : 0; step < last; ++step) trainer.step(step, outcome);
  states.save(last);
  states.wait();
  trainer.finish(outcome);
  return outcome;
}

// Stopped on R ranks and resumed on one, and the other way.
TEST(Ranks, ResumeWhatAnotherNumberOfThemSaved) {
  const Variant variant{.dropout = 0.1, .micro_batches = 5};
  const std::string by_all = folder_of_all("by_all"), by_one = folder_of_all("by_one");
  const Outcome whole = train<float>(Group(), variant, 4);
  const auto expect_end = [&](const Outcome& end, const char* what) {
    for (std::size_t i = 0; i < whole.weights.size(); ++i)
      EXPECT_TRUE(same_bits(end.weights[i], whole.weights[i])) << what << " " << i;
    for (std::size_t i = 0; i < end.state.size(); ++i)
      EXPECT_TRUE(same_bits(end.state[i], whole.state[i])) << what << ": moments " << i;
  };
  saved_run(world(), by_all, variant, 2);
  if (world().is_first()) {
    saved_run(Group(), by_one, variant, 2);
    expect_end(saved_run(Group(), by_all, variant, 4), "saved by all, resumed by one");
  }
  world().barrier();
  expect_end(saved_run(world(), by_one, variant, 4), "saved by one, resumed by all");
  // What rank 0 refuses, all refuse, in a sentence.
  Variant other = variant;
  other.micro_batches = 3;
  try {
    saved_run(world(), by_one, other, 5);
    ADD_FAILURE() << "resumed another batch";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("micro-batches was 5 and is 3 now"), std::string::npos) << error.what();
  }
  world().barrier();
  if (world().is_first()) {
    std::filesystem::remove_all(by_all);
    std::filesystem::remove_all(by_one);
  }
}

// Shared by an id, used by both layers: one gradient, summed once.
TEST(Ranks, SumSharedParametersOnce) {
  const auto gradient = [](const Group& group) {
    ParameterRegistry parameters(5);
    std::vector<nn::TransformerLayerConfig> layers(2, {.model_dims = 8, .hidden_dims = 16, .num_heads = 2});
    for (auto& layer : layers) layer.attention.shared_weight_id = "one";
    const nn::StackedTransformer<float> stack(parameters / "stack", {.layers = layers});
    GradientSum sum(parameters, group);
    const Range mine = sum.begin(3);
    for (Index i = mine.begin; i < mine.end; ++i) {
      Tape tape({.seed = 1, .step = 0, .first_row = i, .rows = 1});
      const auto x = tape.input(Tensor<float>({1, 4, 8}, static_cast<float>(i + 1)));
      tape.backward(mean(square(stack(x))));
      sum.add();
    }
    sum.finish();
    std::vector<Tensor<float>> grads;
    for (const auto& entry : parameters.entries()) grads.push_back(Parameter<float>(entry).grad().copy());
    return grads;
  };
  const auto one = gradient(Group()), all = gradient(world());
  ASSERT_EQ(one.size(), all.size());
  for (std::size_t i = 0; i < one.size(); ++i) EXPECT_TRUE(same_bits(one[i], all[i])) << i;
}

}  // namespace
