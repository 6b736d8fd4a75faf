// What a tape finds out on request: ops that are not pure, and where a NaN comes from.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <remat/autodiff/tape.hpp>
#include <remat/ops/arithmetic.hpp>
#include <remat/ops/dropout.hpp>
#include <remat/ops/reduce.hpp>
#include <remat/ops/unary.hpp>
#include <string>
#include <thread>
#include <vector>

#include "core/expect_error.hpp"

namespace {

using namespace remat;
using remat_test::expect_error;

/// Gives another result from its `changes_at`-th run on: what a hidden generator does.
struct Impure final : Op {
  static constexpr In<double> x{0};
  static constexpr Out<double> y{0};
  int changes_at;
  std::shared_ptr<int> runs = std::make_shared<int>(0);
  explicit Impure(int n, const char* name = "impure") : Op(name), changes_at(n) {}
  Specs infer(const Operands& in) const override { return {y(in[x].shape)}; }
  Residuals residuals(const Wanted&) const override { return {y}; }
  void forward(Frame& f) const override {
    const double shift = ++*runs >= changes_at ? 1 : 0;
    for (Index i = 0; i < f[x].size(); ++i) f[y].data()[i] = f[x].data()[i] + shift;
  }
  void backward(Frame& f) const override {
    for (Index i = 0; i < f[x].size(); ++i) f.grad(x).data()[i] = f.grad(y).data()[i];
  }
};

Var<double> input(Tape& tape, double value = 0.5) {
  return tape.input(Tensor<double>({3}, value), {.wants_gradient = true});
}

TEST(Verify, NamesAnOpThatIsNotPure) {
  const auto step = [](int changes_at, bool verify) {
    Tape tape({.verify = verify});
    const auto x = input(tape);
    const auto y = tape.checkpoint(policy::nothing, [&] {
      const auto here = tape.layer("net/layer_1");
      return sin(record(Impure(changes_at), x)[Impure::y]);
    });
    tape.backward(sum(y));
  };
  expect_error({"verify", "impure", "net/layer_1"}, [&] { step(2, true); });  // found when recorded
  expect_error({"verify", "impure", "net/layer_1"}, [&] { step(3, true); });  // found when replayed
  EXPECT_NO_THROW(step(100, true));
}

/// An impure op in a region under `policy`; returns whether its result was printed when recorded.
bool impure_step(const char* name, int changes_at, const Policy& policy = policy::nothing) {
  Tape tape;
  const auto x = input(tape);
  SlotId slot = -1;
  const auto y = tape.checkpoint(policy, [&] {
    const auto here = tape.layer("net/layer_1");
    const auto h = record(Impure(changes_at, name), x)[Impure::y];
    slot = h.where().slot;
    return sin(h);
  });
  const auto watched = tape.program().watched;
  tape.backward(sum(y));
  return std::any_of(watched.begin(), watched.end(), [&](const auto& each) { return each.first == slot; });
}

// Without asking for it: the first replay of each op in a process is compared.
TEST(FirstReplay, OfAnOpThatIsNotPureIsRefused) {
  expect_error({"replay: impure_by_default in net/layer_1", "other bits", "replayable"},
               [] { impure_step("impure_by_default", 2); });
  expect_error({"impure_by_default"}, [] { impure_step("impure_by_default", 2); });  // in the next step, too
  EXPECT_NO_THROW(impure_step("impure_and_kept", 2, policy::everything));
  EXPECT_NO_THROW(impure_step("impure_and_kept", 2, policy::ops("impure_and_kept")));
}

TEST(FirstReplay, CostsNothingLater) {
  EXPECT_TRUE(impure_step("pure", 100));
  EXPECT_EQ(detail::left_to_watch(Impure(1, "pure").name())->load(), 0);
  EXPECT_FALSE(impure_step("pure", 100));
  // What is never replayed is not printed for ever.
  for (int i = 0; i < 8; ++i) EXPECT_TRUE(impure_step("never_replayed", 100, policy::ops("never_replayed")));
  EXPECT_FALSE(impure_step("never_replayed", 100, policy::ops("never_replayed")));
}

// Values that a lossy policy keeps come back with other bits, and so do replays that read them.
TEST(FirstReplay, BehindLossyValuesMayDiffer) {
  Tape tape;
  Tensor<double> values({100});
  for (Index i = 0; i < 100; ++i) values.write()[i] = 0.01 * static_cast<double>(i);
  const auto x = tape.input(values, {.wants_gradient = true});
  const auto y = tape.checkpoint(policy::lossy::int8(policy::ops("lossy_source")), [&] {
    return sin(record(Impure(100, "behind_lossy"), record(Impure(100, "lossy_source"), x * x)[Impure::y])[Impure::y]);
  });
  EXPECT_NO_THROW(tape.backward(sum(y)));
  EXPECT_GT(detail::left_to_watch(Impure(1, "behind_lossy").name())->load(), 0);
}

TEST(FirstReplay, IsCheckedOnManyThreads) {
  std::atomic<int> refused{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&] {
      for (int step = 0; step < 20; ++step) impure_step("pure_on_threads", 100);
      try {
        impure_step("impure_on_threads", 2);
      } catch (const Error&) {
        ++refused;
      }
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(refused, 4);
  EXPECT_EQ(detail::left_to_watch(Impure(1, "pure_on_threads").name())->load(), 0);
}

TEST(Verify, DropoutIsPureAndChangesNoBit) {
  const auto gradient = [](bool verify) {
    Tape tape({.seed = 3, .step = 0, .verify = verify});
    const auto x = input(tape);
    tape.backward(sum(tape.checkpoint(policy::nothing, [&] { return sin(dropout(sin(x), 0.5)); })));
    return tape.grad(x);
  };
  EXPECT_TRUE(same_bits(gradient(true), gradient(false)));
}

TEST(FindNan, NamesTheFirstOpInForward) {
  Tape tape({.find_nan = true});
  const auto x = input(tape, -1);
  const auto here = tape.layer("net/layer_2");
  expect_error({"log", "net/layer_2", "forward"}, [&] { sin(log(x)); });
  // Infinities are no error: a masked score is one.
  EXPECT_NO_THROW(log(x + 1.0));
}

TEST(FindNan, NamesTheFirstOpInBackward) {
  Tape tape({.find_nan = true});
  const auto x = input(tape, 0);
  const auto here = tape.layer("net/layer_2");
  const auto loss = sum(sqrt(x) * 0.0);  // 0 times the infinite slope at 0
  expect_error({"sqrt", "net/layer_2", "backward"}, [&] { tape.backward(loss); });
}

/// Gives its operand, but NaN as value or as gradient where it is told to.
struct Faulty final : Op {
  static constexpr In<double> x{0};
  static constexpr Out<double> y{0};
  Faulty(const char* name, bool in_value, bool in_gradient) : Op(name), value(in_value), slope(in_gradient) {}
  Specs infer(const Operands& in) const override { return {y(in[x].shape)}; }
  Residuals residuals(const Wanted&) const override { return {}; }
  void forward(Frame& f) const override { pass(f[x], f[y].data(), value); }
  void backward(Frame& f) const override { pass(f.grad(y), f.grad(x).data(), slope); }
  template <class From>
  static void pass(const From& from, double* to, bool is_nan) {
    std::copy_n(from.data(), from.size(), to);
    if (is_nan) to[from.size() - 1] = std::nan("");
  }
  bool value, slope;
};

// At whichever of 50 places NaN begins, the op and the layer there are named: in forward, and in backward behind a
// replay.
TEST(FindNan, NamesAnyOfFiftyOps) {
  for (const bool in_forward : {true, false})
    for (int at = 0; at < 50; ++at) {
      Tape tape({.find_nan = true});
      const auto x = tape.input(Tensor<double>({3}, 0.5), {.wants_gradient = true});
      const auto work = [&] {
        auto y = x;
        for (int layer = 0; layer < 50; ++layer) {
          const auto here = tape.layer("net/layer_" + std::to_string(layer));
          y = tape.checkpoint(policy::nothing, [&] {
            const bool is_faulty = layer == at;
            return sin(
                record(Faulty(is_faulty ? "faulty" : "sound", is_faulty && in_forward, is_faulty), y)[Faulty::y]);
          });
        }
        tape.backward(sum(y));
      };
      expect_error({"nan: faulty in net/layer_" + std::to_string(at) + " ", in_forward ? "in forward" : "in backward"},
                   work);
    }
}

TEST(FindNan, ByEnvironment) {
  setenv("REMAT_FIND_NAN", "1", 1);
  Tape tape;
  unsetenv("REMAT_FIND_NAN");
  const auto x = input(tape, -1);
  expect_error({"nan", "log"}, [&] { log(x); });
}

}  // namespace
