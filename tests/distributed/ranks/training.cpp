// Training by several ranks has the bits of training by one: losses, gradients, weights, states.
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "trainer.hpp"

namespace {

using namespace remat;
using namespace remat::distributed;
using namespace remat_test;

/// Every combination where nobody waits for another, or where REMAT_ALL_RANKS is in the environment. Else two ranks
/// take each policy with each stage, in turns with type and dropout, and more of them half as many: on two cores they
/// wait.
template <class T>
void expect_any_number_of_ranks_to_be_one(const std::string& type, int turn) {
  const int every = world().size() == 1 || std::getenv("REMAT_ALL_RANKS") != nullptr ? 1 : world().size() == 2 ? 4 : 8;
  for (const double dropout : {0.0, 0.1}) {
    const Outcome one = train<T>(Group(), {.dropout = dropout, .policy = "everything"}, 50);
    for (const char* policy : {"nothing", "dots", "planned"})
      for (const int zero : {0, 1, 2}) {
        if (turn++ % every != 0) continue;
        const Variant variant{.dropout = dropout,
                              .policy = policy,
                              .zero = zero,
                              .sums_in_backward = zero > 0,
                              .bucket_bytes = zero == 2 ? std::size_t{24000} : std::size_t{60000},
                              .overlaps = turn / every % 2 == 1};
        expect_same(one, train<T>(world(), variant, 50), type + " " + variant.text());
      }
  }
}

// 50 steps: with dropout and without, under policies that recompute, and with moments and gradients in shards.
TEST(Ranks, TrainAsOneDoesInFloat) { expect_any_number_of_ranks_to_be_one<float>("float", 0); }
TEST(Ranks, TrainAsOneDoesInBfloat16) {
  expect_any_number_of_ranks_to_be_one<bfloat16>("bfloat16", world().size() == 2 ? 2 : 4);
}

// 1, fewer than there are ranks, up to 9.
TEST(Ranks, TrainAsOneDoesForAnyNumberOfMicroBatches) {
  for (const Index count : {1, 2, 3, 4, 6, 9}) {
    const Outcome one = train<float>(Group(), {.dropout = 0.1, .micro_batches = count, .sums_in_backward = false}, 2);
    for (const int zero : {0, 1, 2}) {
      const Variant variant{.dropout = 0.1,
                            .micro_batches = count,
                            .zero = zero,
                            .sums_in_backward = (zero + count) % 3 > 0,
                            .overlaps = (zero + count) % 2 == 0};
      expect_same(one, train<float>(world(), variant, 2), variant.text());
    }
  }
}

// Parameters are updated while backward runs; one process takes a step at its end.
TEST(Ranks, UpdateInBackwardAsOneStepDoes) {
  for (const Index count : {1, 4, 5}) {
    ParameterRegistry parameters(5);
    const models::Gpt<float> gpt(parameters / "gpt", Trainer<float>::config({.dropout = 0.1}));
    const Variant variant{
        .dropout = 0.1, .micro_batches = count, .zero = 2, .updates_in_backward = true, .overlaps = count != 4};
    Trainer<float> trainer(world(), variant);
    optim::AdamW adamw(parameters, {.weight_decay = 0.1});
    GradientSum sum(parameters);
    Outcome one, all;
    for (Index step = 0; step < 3; ++step) {
      const auto batch = tokens(count * rows, gpt.config.context, 29, 100 + static_cast<std::uint64_t>(step));
      for (Index i = sum.begin(count).begin; i < count; ++i) {
        Tape tape({.seed = 11, .step = step, .first_row = i * rows, .rows = rows});
        const Tokens part{batch.inputs.slice(i * rows, (i + 1) * rows), batch.targets.slice(i * rows, (i + 1) * rows)};
        const auto share = gpt.loss(tape, part) * (1.0 / static_cast<double>(count));
        tape.backward(share);
        sum.add(static_cast<double>(share.item()));
      }
      one.losses.push_back(sum.finish());
      adamw.step(1e-2);
      trainer.step(step, all);
    }
    for (const auto& entry : parameters.entries()) one.weights.push_back(Parameter<float>(entry).value().copy());
    for (const auto& [name, tensor] : adamw.state_dict().tensors) one.state.push_back(Tensor<float>(tensor));
    trainer.finish(all);
    expect_same(one, all, variant.text());
  }
}

TEST(Ranks, KeepAShardOfTheMoments) {
  ParameterRegistry parameters(5);
  const models::Gpt<float> gpt(parameters / "gpt", Trainer<float>::config({}));
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

// Chance in rounding is of the element, whoever has it.
TEST(Ranks, KeepMeansInBfloat16WithTheBitsOfOneProcess) {
  const optim::AdamWConfig config{.bfloat16_state = true};
  ParameterRegistry of_all(5), of_one(5);
  const models::Gpt<float> a(of_all / "gpt", Trainer<float>::config({})), b(of_one / "gpt", Trainer<float>::config({}));
  std::optional<ShardedAdamW> shard(std::in_place, world(), of_all, config);
  optim::AdamW whole(of_one, config);
  for (int step = 0; step < 4; ++step) {
    for (const auto* const parameters : {&of_all, &of_one})
      for (const auto& entry : parameters->entries())
        Parameter<float>(entry).set_grad(Parameter<float>(entry).value().copy());
    shard->step(0.01), whole.step(0.01);
    const StateDict state = shard->state_dict(), expected = whole.state_dict();
    if (world().is_first())
      for (const auto& [name, tensor] : expected.tensors) {
        EXPECT_EQ(tensor.dtype, DType::bfloat16);
        EXPECT_TRUE(same_bits(Tensor<bfloat16>(state.tensors.at(name)), Tensor<bfloat16>(tensor))) << name;
      }
    shard.emplace(world(), of_all, config);
    shard->load_state_dict(state);
  }
  for (const auto& entry : of_one.entries())
    EXPECT_TRUE(same_bits(of_all.at<float>(entry->path).value(), Parameter<float>(entry).value())) << entry->path;
}

std::string folder_of_all(const char* name) {
  const auto made = std::filesystem::temp_directory_path() / ("remat_" + std::string(name) + std::to_string(getpid()));
  return world().broadcast(made.string());
}

/// Steps [first, last) of a run that is resumed where there is something to resume, and saved at the end.
Outcome saved_run(const Group& group, const std::string& folder, const Variant& variant, Index last) {
  Trainer<float> trainer(group, variant);
  TrainingStates states(group, trainer.parameters(), {.folder = folder});
  states.add("adamw", trainer.shard());
  states.must_equal("micro-batches", std::to_string(variant.micro_batches));
  const auto resumed = states.resume();
  Outcome outcome;
  for (Index step = resumed ? resumed->step : 0; step < last; ++step) trainer.step(step, outcome);
  states.save(last);
  states.wait();
  trainer.finish(outcome);
  return outcome;
}

// Stopped at any step on R ranks and resumed on one, and the other way, and on one rank fewer.
TEST(Ranks, ResumeWhatAnotherNumberOfThemSaved) {
  const std::string by_all = folder_of_all("by_all"), by_one = folder_of_all("by_one");
  const int last = world().size() - 1;
  const Group fewer = world().sub(world().rank() == last ? 1 : 0);
  Variant variant{.dropout = 0.1, .micro_batches = 5};
  const Outcome whole = train<float>(Group(), variant, 4);
  const auto expect_end = [&](const Outcome& end, const std::string& what) {
    EXPECT_TRUE(same_tensors(end.weights, whole.weights)) << what;
    EXPECT_TRUE(end.state.empty() || same_tensors(end.state, whole.state)) << what << ": moments";
  };
  for (const Index stop : {1, 2, 3}) {
    const std::string at = ", stopped at " + std::to_string(stop), step = std::to_string(stop);
    variant.zero = stop == 2 ? 1 : 2;
    saved_run(world(), by_all + step, variant, stop);
    if (world().is_first()) saved_run(Group(), by_one + step, variant, stop);
    world().barrier();
    expect_end(saved_run(world(), by_one + step, variant, 4), "saved by one, resumed by all" + at);
    if (world().is_first()) {
      std::filesystem::copy(by_all + step, by_all, std::filesystem::copy_options::recursive);
      expect_end(saved_run(Group(), by_all, variant, 4), "saved by all, resumed by one" + at);
      std::filesystem::remove_all(by_all);
    }
    world().barrier();
    if (world().rank() != last)
      expect_end(saved_run(fewer, by_all + step, variant, 4), "saved by all, resumed by one fewer" + at);
    world().barrier();
    if (world().is_first()) std::filesystem::remove_all(by_all + step);
    if (world().is_first() && stop < 3) std::filesystem::remove_all(by_one + step);
  }
  // What rank 0 refuses, all refuse, in a sentence.
  Variant other = variant;
  other.micro_batches = 3;
  try {
    saved_run(world(), by_one + "3", other, 5);
    ADD_FAILURE() << "resumed another batch";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("micro-batches was 5 and is 3 now"), std::string::npos) << error.what();
  }
  world().barrier();
  if (world().is_first()) std::filesystem::remove_all(by_one + "3");
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
