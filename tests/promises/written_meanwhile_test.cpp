// Promise: what a recorded op reads never changes under it. Whatever is written between forward and backward, to
// whatever the step was given or has given, the gradients are those of the step as it was recorded; a replay reads the
// same, too.
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <optional>
#include <ostream>
#include <remat/core/eigen.hpp>
#include <remat/core/xtensor.hpp>
#include <remat/remat.hpp>
#include <string>
#include <utility>
#include <vector>

namespace {

using namespace remat;

Tensor<float> numbers(const Shape& shape, std::uint32_t site) {
  Tensor<float> made(shape);
  for (Index i = 0; i < made.size(); ++i)
    made.write()[i] = static_cast<float>(RandomStream{31, 0, site}.normal(static_cast<std::uint64_t>(i)));
  return made.copy();  // of which nobody holds a span
}

/// A step that reads tensors of every kind that a user can hold, and all that one can write to while it is recorded.
struct World {
  static constexpr Index rows = 6, dims = 4;
  ParameterRegistry parameters{9};
  Parameter<float> table = (parameters / "p").parameter<float>("table", {5, dims}, init::normal(1));
  Parameter<float> w = (parameters / "p").parameter<float>("w", {dims, dims}, init::normal(1));
  Parameter<float> bias = (parameters / "p").parameter<float>("bias", {dims}, init::normal(1));
  Tensor<float> x = numbers({rows, dims}, 1), factor = numbers({rows, dims}, 2), weights{{rows}, 0.5F};
  Tensor<float> written{{rows, dims}, 0.25F};
  float* const span = written.write().data();  // which the user keeps
  Tensor<std::int32_t> ids{{rows}, 2}, targets{{rows}, 1};
  Tensor<float> view = x.slice(0, 3), reshaped = x.reshape({dims, rows}), copy = x;
  optim::WeightAverage average{parameters};

  std::optional<Tape> tape{};
  Var<float> input{}, middle{}, loss{};

  World() {
    for (const auto& entry : parameters.entries()) Parameter<float>(entry).set_grad(numbers(entry->value.shape, 3));
    average.update();
  }
  void record(const Policy& policy) {
    tape.emplace(TapeOptions{.seed = 4, .step = 1});
    input = tape->input(x, {.wants_gradient = true});
    const auto logits = tape->checkpoint(policy, [&] {
      const auto rows_of_table = embedding(tape->input(ids), table);
      const auto h = sin(linear<float>(dropout(square(input) * factor, 0.2), w, bias));
      return (h * rows_of_table + tape->input(written) * h) * Tensor<float>(written.reshape({rows, dims}));
    });
    middle = tape->checkpoint(policy, [&] { return tanh(linear<float>(logits, w)); });
    loss = cross_entropy(middle, targets, {.z_loss = 0.1}, weights);
  }
  /// The loss and all gradients of one backward, whatever was there before.
  std::vector<Tensor<float>> finish() {
    parameters.zero_grad();
    tape->backward(loss);
    std::vector<Tensor<float>> all{loss.value().copy(), tape->grad(input).copy()};
    for (const Parameter<float>& each : {table, w, bias}) all.push_back(each.grad().copy());
    return all;
  }
};

/// Something that a user may write between forward and backward.
struct Attempt {
  const char* name;
  std::function<void(World&)> write;
  friend void PrintTo(const Attempt& attempt, std::ostream* out) { *out << attempt.name; }
};

template <class Optimizer>
Attempt step_of(const char* name) {
  return {name, [](World& world) { Optimizer(world.parameters).step(0.5); }};
}
template <class T>
void fill(Tensor<T>& tensor, T value) {
  for (T& each : tensor.write()) each = value;
}
/// A step on the same parameters by another tape.
void train_meanwhile(World& world) {
  Tape other({.seed = 5, .step = 2});
  other.backward(sum(square(linear<float>(other.input(world.x), world.w, world.bias))));
  optim::AdamW(world.parameters).step(0.5);
}

/// To what the next step reads, too.
const std::vector<Attempt> to_what_steps_read{
    {"Input", [](World& world) { fill(world.x, 9.0F); }},
    {"InputAsXtensor", [](World& world) { write_as_xtensor(world.x).fill(9.0F); }},
    {"InputAsEigen", [](World& world) { write_as_eigen(world.x).setConstant(9.0F); }},
    {"SpanTakenBefore", [](World& world) { std::fill_n(world.span, World::rows * World::dims, 9.0F); }},
    {"Operand", [](World& world) { fill(world.factor, 9.0F); }},
    {"Ids", [](World& world) { fill(world.ids, 4); }},
    {"Targets", [](World& world) { fill(world.targets, 3); }},
    {"Weights", [](World& world) { fill(world.weights, 0.0F); }},
    {"SetValue",
     [](World& world) {
       world.w.set_value(Tensor<float>({World::dims, World::dims}, 9.0F));
     }},
    step_of<optim::AdamW>("StepOfAdamW"),
    step_of<optim::Sgd>("StepOfSgd"),
    step_of<optim::Lion>("StepOfLion"),
    step_of<optim::Adafactor>("StepOfAdafactor"),
    step_of<optim::Muon>("StepOfMuon"),
    {"StepOfAnotherTape", [](World& world) { train_meanwhile(world); }},
    {"UpdateOfTheAverage",
     [](World& world) {
       train_meanwhile(world);
       world.average.update();
     }},
    {"SwapOfTheAverage",
     [](World& world) {
       train_meanwhile(world);
       world.average.update();
       world.average.swap();
     }},
    {"CopyOfValues",
     [](World& world) {
       const World other;
       for (const Parameter<float>& each : {other.table, other.w, other.bias})
         each.set_value(Tensor<float>(each.shape(), 9.0F));
       copy_values(other.parameters, world.parameters);
     }},
};
/// To copies and views, and to what the step has given.
const std::vector<Attempt> to_what_is_the_users{
    {"CopyOfTheInput", [](World& world) { fill(world.copy, 9.0F); }},
    {"SliceOfTheInput", [](World& world) { fill(world.view, 9.0F); }},
    {"ReshapeOfTheInput", [](World& world) { fill(world.reshaped, 9.0F); }},
    {"SliceTakenAfterwards",
     [](World& world) {
       Tensor<float> part = world.x.slice(1, 2);
       world.x = {};
       fill(part, 9.0F);
     }},
    {"InputThatWasMoved",
     [](World& world) {
       Tensor<float> moved = std::move(world.x);
       fill(moved, 9.0F);
     }},
    {"ValueOfAVar",
     [](World& world) {
       Tensor<float> value = world.middle.value();
       fill(value, 9.0F);
     }},
    {"ValueOfAnInput",
     [](World& world) {
       Tensor<float> value = world.input.value();
       fill(value, 9.0F);
     }},
    {"ValueOfTheLoss",
     [](World& world) {
       Tensor<float> value = world.loss.value();
       fill(value, 9.0F);
     }},
    {"ValueOfAParameter",
     [](World& world) {
       Tensor<float> value = world.w.value();
       fill(value, 9.0F);
     }},
    {"SetGradient",
     [](World& world) {
       Tensor<float> gradient({World::dims}, 9.0F);
       world.bias.set_grad(gradient);
       fill(gradient, 8.0F);
     }},
};

class WrittenMeanwhile : public testing::TestWithParam<Attempt> {};

TEST_P(WrittenMeanwhile, ChangesNoBitOfTheStep) {
  for (const Policy& policy : {Policy(policy::everything), Policy(policy::nothing), policy::offload(policy::dots)}) {
    World undisturbed, world;
    undisturbed.record(policy);
    const auto expected = undisturbed.finish();
    world.record(policy);
    GetParam().write(world);
    const auto found = world.finish();
    for (std::size_t i = 0; i < expected.size(); ++i)
      EXPECT_TRUE(same_bits(found[i], expected[i])) << policy << ", " << i;
  }
}

// The test above would pass were they dead: written before a step, these are seen by it.
class WrittenBefore : public testing::TestWithParam<Attempt> {};

TEST_P(WrittenBefore, IsSeenByTheStep) {
  World undisturbed, world;
  undisturbed.record(policy::everything);
  GetParam().write(world);
  world.record(policy::everything);
  EXPECT_FALSE(same_bits(world.finish()[0], undisturbed.finish()[0]));
}

// What backward has given is the user's: writing to it changes neither the tape's nor the registry's.
TEST(WrittenAfterwards, GradientsAreTheUsersCopies) {
  World world;
  world.record(policy::nothing);
  const auto expected = world.finish();
  Tensor<float> of_input = world.tape->grad(world.input), of_w = world.w.grad();
  fill(of_input, 9.0F), fill(of_w, 9.0F);
  EXPECT_TRUE(same_bits(world.tape->grad(world.input), expected[1]));
  EXPECT_TRUE(same_bits(world.w.grad(), expected[3]));
}

const auto name_of = [](const auto& each) { return std::string(each.param.name); };
INSTANTIATE_TEST_SUITE_P(ToWhatStepsRead, WrittenMeanwhile, testing::ValuesIn(to_what_steps_read), name_of);
INSTANTIATE_TEST_SUITE_P(ToWhatIsTheUsers, WrittenMeanwhile, testing::ValuesIn(to_what_is_the_users), name_of);
INSTANTIATE_TEST_SUITE_P(ToWhatStepsRead, WrittenBefore, testing::ValuesIn(to_what_steps_read), name_of);

}  // namespace
