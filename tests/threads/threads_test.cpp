// What several threads of a program may do at one time, and that the rest is refused by name. Run under ThreadSanitizer
// by
// `./run test --preset tsan`.
#include <gtest/gtest.h>

#include <atomic>
#include <barrier>
#include <deque>
#include <mutex>
#include <optional>
#include <remat/autodiff/tape.hpp>
#include <remat/core/eigen.hpp>
#include <remat/nn/transformer_layer.hpp>
#include <remat/ops/arithmetic.hpp>
#include <remat/ops/reduce.hpp>
#include <remat/ops/unary.hpp>
#include <remat/optim/adamw.hpp>
#include <remat/params/registry.hpp>
#include <remat/policy/phrase_book.hpp>
#include <thread>
#include <vector>

#include "core/expect_error.hpp"

namespace {

using namespace remat;
using remat_test::expect_error;

void on_another_thread(const std::function<void()>& work) { std::thread(work).join(); }

// The account of a tape was changed by whoever dropped a value last, without a lock.
TEST(Threads, ValuesMayBeReadAndDroppedOnOtherThreads) {
  std::mutex mutex;
  std::deque<Tensor<float>> queue;
  bool is_done = false;
  double seen = 0;
  std::thread logger([&] {
    for (;;) {
      std::optional<Tensor<float>> mine;
      {
        const std::lock_guard lock(mutex);
        if (!queue.empty()) {
          mine = std::move(queue.front());
          queue.pop_front();
        } else if (is_done) {
          return;
        }
      }
      if (mine) seen += (*mine)[0];
    }
  });
  {
    Tape tape;
    Var<float> x = tape.input(Tensor<float>({16}, 0.5F), {.wants_gradient = true});
    for (int i = 0; i < 3000; ++i) {
      x = sin(x);
      Tensor<float> value = x.value();
      const std::lock_guard lock(mutex);
      queue.push_back(std::move(value));
    }
    tape.backward(sum(x));
    EXPECT_GT(tape.stats().at_peak.size(), 0U);
    {
      const std::lock_guard lock(mutex);
      is_done = true;
    }
    logger.join();
    EXPECT_EQ(tape.program().account->live_bytes, 64U + 64U);  // the loss, and the gradient of x
  }
  EXPECT_GT(seen, 0);
}

class OneRegistry : public ::testing::Test {
 protected:
  Var<float> loss(Tape& tape) const { return sum(square(tape.parameter(w))); }

  ParameterRegistry parameters{1};
  Parameter<float> w = (parameters / "layer").parameter<float>("w", {4}, init::ones());
  optim::AdamW adamw{parameters};
};

// Gradients were lost where two threads added theirs at one time.
TEST_F(OneRegistry, IsTrainedByOneThreadAtATime) {
  Tape tape;
  const Var<float> mine = loss(tape);
  on_another_thread([&] {
    Tape other;
    expect_error({"layer/w", "another thread is training it"}, [&] { loss(other); });
    expect_error({"another thread is training it"}, [&] { w.set_grad(Tensor<float>({4}, 1.F)); });
    expect_error({"another thread is training it"}, [&] { w.grad(); });
    expect_error({"another thread is training it"}, [&] { parameters.zero_grad(); });
    expect_error({"another thread is training it"}, [&] { w.set_value(Tensor<float>({4}, 1.F)); });
    Tape evaluating({.mode = Mode::evaluate});
    EXPECT_EQ(loss(evaluating).item(), 4);
    EXPECT_EQ(w.value().shape(), Shape{4});
  });
  tape.backward(mine);
  on_another_thread([&] {  // the first tape lives, but is done with the parameters
    Tape other;
    other.backward(loss(other));
    adamw.step(0.1);
  });
  EXPECT_EQ(adamw.step_count(), 1);
  const Tensor<float> value = w.value();
  EXPECT_LT(value[0], 1);
}
TEST_F(OneRegistry, IsNotChangedWhileOthersRead) {
  Tape tape;
  tape.backward(loss(tape));
  std::barrier ready(2), done(2);
  std::thread reader([&] {
    Tape evaluating({.mode = Mode::evaluate});
    EXPECT_EQ(loss(evaluating).item(), 4);
    ready.arrive_and_wait();
    done.arrive_and_wait();
  });
  ready.arrive_and_wait();
  expect_error({"layer/w", "a tape of another thread reads it"}, [&] { adamw.step(0.1); });
  expect_error({"a tape of another thread reads it"}, [&] { w.set_value(Tensor<float>({4}, 3.F)); });
  done.arrive_and_wait();
  reader.join();
  EXPECT_EQ(adamw.step_count(), 0);
  adamw.step(0.1);
  EXPECT_EQ(adamw.step_count(), 1);
}
TEST_F(OneRegistry, LosesNoGradientThatItTook) {
  std::atomic<int> taken = 0;
  const auto train = [&] {
    for (int i = 0; i < 200; ++i) try {
        Tape tape;
        tape.backward(sum(tape.parameter(w)));
        ++taken;
      } catch (const Error&) {
      }
  };
  std::thread other(train);
  train();
  other.join();
  EXPECT_GT(taken, 0);
  const Tensor<float> grad = w.grad();
  EXPECT_EQ(grad[0], static_cast<float>(taken));
}

nn::TransformerLayerConfig layer_config() {
  nn::TransformerLayerConfig config{.model_dims = 32, .hidden_dims = 64, .num_heads = 4, .dropout = 0.1};
  config.attention.dropout = 0.1;
  return config;
}
/// Two steps of a layer of its own registry: what its parameters are then.
template <class T>
std::vector<Tensor<float>> trained() {
  ParameterRegistry parameters(3);
  const nn::TransformerLayer<T> layer(parameters / "layer", layer_config());
  optim::AdamW adamw(parameters);
  Tensor<float> x({4, 33, 32});
  for (Index i = 0; i < x.size(); ++i) x.write()[i] = std::sin(static_cast<float>(i));
  for (Index step = 0; step < 2; ++step) {
    Tape tape({.seed = 5, .step = step});
    const Var<float> in = tape.input(x);
    tape.backward(mean(square(tape.checkpoint(policy::save_dot_only, [&] { return layer(in); }))));
    adamw.step(1e-2);
  }
  std::vector<Tensor<float>> values;
  for (const auto& entry : parameters.entries()) values.emplace_back(entry->value);
  return values;
}
template <class T>
void expect_equal_training() {
  const auto alone = trained<T>();
  std::vector<Tensor<float>> other;
  std::thread thread([&] { other = trained<T>(); });
  const auto mine = trained<T>();
  thread.join();
  ASSERT_EQ(mine.size(), alone.size());
  for (std::size_t i = 0; i < alone.size(); ++i) {
    EXPECT_TRUE(same_bits(mine[i], alone[i]));
    EXPECT_TRUE(same_bits(other[i], alone[i]));
  }
}
TEST(Threads, TrainRegistriesOfTheirOwnSideBySide) { expect_equal_training<float>(); }

// One cast of the masters serves all tapes.
TEST(Threads, EvaluateOneModelSideBySide) {
  ParameterRegistry parameters(3);
  const nn::TransformerLayer<bfloat16> layer(parameters / "layer", layer_config());
  const auto evaluated = [&] {
    Tape tape({.mode = Mode::evaluate});
    return layer(tape.input(Tensor<float>({2, 16, 32}, 0.25F))).value();
  };
  std::vector<Tensor<float>> results(3);
  std::vector<std::thread> threads;
  for (Tensor<float>& result : results) threads.emplace_back([&] { result = evaluated(); });
  for (std::thread& thread : threads) thread.join();
  for (const Tensor<float>& result : results) EXPECT_TRUE(same_bits(result, results.front()));
}

}  // namespace
