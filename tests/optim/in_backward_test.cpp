// Updates inside backward: the bits of ordinary steps, without all gradients at once.
#include <gtest/gtest.h>

#include <algorithm>
#include <remat/ops/arithmetic.hpp>
#include <remat/ops/linear.hpp>
#include <remat/ops/reduce.hpp>
#include <remat/ops/unary.hpp>
#include <remat/optim/adamw.hpp>
#include <remat/policy/phrase_book.hpp>

#include "core/expect_error.hpp"

namespace {

using namespace remat;
using remat_test::expect_error;

constexpr int width = 96, layers = 6;

/// tanh layers, the first and the last with one matrix, in regions.
struct Net {
  ParameterRegistry parameters{5};
  std::vector<Parameter<float>> weights;
  Net() {
    for (int i = 0; i < layers; ++i)
      weights.push_back(
          i + 1 < layers
              ? (parameters / ("layer_" + std::to_string(i))).parameter<float>("w", {width, width}, init::normal(0.1))
              : weights.front());
  }
  Var<float> loss(Tape& tape, const Policy& policy) const {
    auto x = tape.input(Tensor<float>({4, width}, 0.3F));
    for (int i = 0; i < layers; i += 2)
      x = tape.checkpoint(policy, [&] {
        return tanh(linear<float>(tanh(linear<float>(x, weights[static_cast<std::size_t>(i)], {})),
                                  weights[static_cast<std::size_t>(i) + 1], {}));
      });
    return mean(square(x - 0.5F));
  }
};

std::vector<Tensor<float>> trained(bool in_backward, const Policy& policy) {
  const Net net;
  optim::AdamW adamw(net.parameters, {.weight_decay = 0.1});
  for (int step = 0; step < 5; ++step) {
    Tape tape;
    const auto loss = net.loss(tape, policy);
    if (in_backward) {
      tape.backward(loss, adamw.in_backward(1e-2));
    } else {
      tape.backward(loss);
      adamw.step(1e-2);
    }
  }
  EXPECT_EQ(adamw.step_count(), 5);
  std::vector<Tensor<float>> values;
  for (const auto& w : net.weights) values.push_back(w.value());
  return values;
}

TEST(InBackward, GivesTheBitsOfAStepUnderEveryPolicy) {
  const auto expected = trained(false, policy::everything);
  for (const Policy& policy : {policy::everything, policy::nothing, policy::dots, offload(policy::dots)}) {
    const auto values = trained(true, policy);
    for (std::size_t i = 0; i < values.size(); ++i) EXPECT_TRUE(same_bits(values[i], expected[i])) << policy << i;
  }
}

TEST(InBackward, GradientsNeverExistAllAtOnce) {
  constexpr std::size_t matrix = width * width * sizeof(float);
  const auto most_at_once = [](bool in_backward) {
    const Net net;
    optim::AdamW adamw(net.parameters);
    std::size_t most = 0;
    for (int step = 0; step < 2; ++step) {  // the first makes the state
      pool().reset_peak();
      const std::size_t before = pool().live_bytes(), state = adamw.state_bytes();
      Tape tape;
      const auto loss = net.loss(tape, policy::nothing);
      in_backward ? tape.backward(loss, adamw.in_backward(1e-2)) : tape.backward(loss);
      most = pool().peak_bytes() - before;
      if (!in_backward) adamw.step(1e-2);
      // Nor do they stay behind it, where the next step would write over them.
      if (in_backward) {
        EXPECT_LT(pool().live_bytes(), before + (adamw.state_bytes() - state) + matrix);
      }
    }
    return most;
  };
  // One matrix waits for its second use; of the others one is there at a time. (Ordinary gradients stay from step to
  // step, so only the first step would show them; here the bytes of a matrix are far above those of activations.)
  EXPECT_LT(most_at_once(true), 2 * matrix + matrix);
  const Net net;
  Tape tape;
  const std::size_t before = pool().live_bytes();
  tape.backward(net.loss(tape, policy::nothing));
  EXPECT_GE(pool().live_bytes() - before, (layers - 1) * matrix);
}

TEST(InBackward, UpdatesAParameterInPlace) {
  const Net net;
  optim::AdamW adamw(net.parameters);
  const float* const before = net.weights[1].value().data();
  {
    Tape tape;
    const auto loss = net.loss(tape, policy::nothing);
    tape.backward(loss, adamw.in_backward(1e-2));
  }
  EXPECT_EQ(net.weights[1].value().data(), before);
}

TEST(InBackward, MicroBatchesAddUpToTheLast) {
  const auto run = [](bool in_backward) {
    const Net net;
    optim::AdamW adamw(net.parameters);
    for (int micro = 0; micro < 3; ++micro) {
      Tape tape;
      const auto loss = net.loss(tape, policy::nothing);
      in_backward&& micro == 2 ? tape.backward(loss, adamw.in_backward(1e-2, 1.0 / 3)) : tape.backward(loss);
    }
    if (!in_backward) adamw.step(1e-2, 1.0 / 3);
    return net.weights[0].value();
  };
  EXPECT_TRUE(same_bits(run(true), run(false)));
}

TEST(InBackward, RefusesClippingByTheGlobalNorm) {
  const Net net;
  optim::AdamW adamw(net.parameters);
  {
    Tape tape;
    const auto loss = net.loss(tape, policy::nothing);
    tape.backward(loss, adamw.in_backward(1e-2));
  }
  expect_error({"global_norm", "layer_0/w", "in_backward"}, [&] { optim::global_norm(net.parameters); });
  expect_error({"in_backward"}, [&] { optim::clip_grad_norm(net.parameters, 1.0); });
  Tape tape;
  tape.backward(net.loss(tape, policy::nothing));  // an ordinary gradient again
  EXPECT_GT(optim::global_norm(net.parameters), 0);
  expect_error({"learning rate"}, [&] { adamw.in_backward(-1); });
}

// After zero_grad or set_grad nothing is used up any more: clipping has what it needs.
TEST(InBackward, ClearedAndNewGradientsAreNotUsedUp) {
  for (const int how : {0, 1, 2}) {
    const Net net;
    optim::AdamW adamw(net.parameters);
    {
      Tape tape;
      const auto loss = net.loss(tape, policy::nothing);
      tape.backward(loss, adamw.in_backward(1e-2));
    }
    EXPECT_THROW(optim::global_norm(net.parameters), Error);
    if (how == 0) net.parameters.zero_grad();
    for (const auto& w : net.weights) {
      if (how == 1) w.zero_grad();
      if (how == 2) w.set_grad(Tensor<float>({width, width}, 1.0F));
    }
    EXPECT_EQ(optim::global_norm(net.parameters) > 0, how == 2) << how;
  }
}

/// The identity, whose backward fails.
struct Failing : Op {
  static constexpr In<float> x{0};
  static constexpr Out<float> y{0};
  Failing() : Op("failing") {}
  Specs infer(const Operands& in) const override { return {y(in[x].shape)}; }
  Residuals residuals(const Wanted&) const override { return {}; }
  void forward(Frame& f) const override { std::copy_n(f[x].data(), f[x].size(), f[y].data()); }
  void backward(Frame&) const override { fail("failing, as the test wants"); }
};

// A step counts once a parameter has been updated: not when the hook is made, nor when backward throws before.
TEST(InBackward, CountsAStepOnceAParameterIsUpdated) {
  const Net net;
  const auto early = (net.parameters / "early").parameter<float>("w", {width}, init::ones());
  optim::AdamW adamw(net.parameters);
  const auto backward = [&](bool fails_last) {
    Tape tape;
    const auto x = tape.input(Tensor<float>({4, width}, 0.3F)) * early;
    const auto begin = record(Failing(), x)[Failing::y];
    const auto loss = mean(square(fails_last ? linear<float>(begin, net.weights[0], {})
                                             : record(Failing(), linear<float>(x, net.weights[0], {}))[Failing::y]));
    tape.backward(loss, adamw.in_backward(1e-2));
  };
  (void)adamw.in_backward(1e-2);
  expect_error({"as the test wants"}, [&] { backward(false); });
  EXPECT_EQ(adamw.step_count(), 0);
  expect_error({"as the test wants"}, [&] { backward(true); });  // after the update of the layer behind it
  EXPECT_EQ(adamw.step_count(), 1);
}

// Two micro-batches, of which the second does not reach one parameter.
TEST(InBackward, SumsSquaresForTheGlobalNorm) {
  const Net net;
  const auto alone = (net.parameters / "alone").parameter<float>("w", {3}, init::ones());
  optim::GlobalNorm norm(net.parameters);
  for (const bool is_last : {false, true}) {
    Tape tape;
    const auto loss = net.loss(tape, policy::nothing);
    if (is_last)
      tape.backward(loss, norm.in_backward());
    else
      tape.backward(loss + sum(square(tape.input(Tensor<float>({3}, 2.0F)) * alone)));
  }
  const double expected = optim::global_norm(net.parameters);
  EXPECT_EQ(norm.value(), expected);
  net.weights.front().set_grad(Tensor<float>({width, width}, 0.0F));
  EXPECT_EQ(norm.value(), expected) << "it looked at the gradients again";
  EXPECT_LT(optim::global_norm(net.parameters), expected);
}

}  // namespace
