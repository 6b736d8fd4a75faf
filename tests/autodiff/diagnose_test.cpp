// What a tape finds out on request: ops that are not pure, and where a NaN comes from.
#include <gtest/gtest.h>

#include <cstdlib>
#include <limits>
#include <remat/autodiff/tape.hpp>
#include <remat/ops/arithmetic.hpp>
#include <remat/ops/dropout.hpp>
#include <remat/ops/reduce.hpp>
#include <remat/ops/unary.hpp>

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
  explicit Impure(int n) : Op("impure"), changes_at(n) {}
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
  EXPECT_NO_THROW(step(2, false));
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

TEST(FindNan, ByEnvironment) {
  setenv("REMAT_FIND_NAN", "1", 1);
  Tape tape;
  unsetenv("REMAT_FIND_NAN");
  const auto x = input(tape, -1);
  expect_error({"nan", "log"}, [&] { log(x); });
}

}  // namespace
