// Ops that are not pure functions: state is updated once whatever is replayed; what cannot run again is refused.
#include <gtest/gtest.h>

#include <remat/autodiff/tape.hpp>
#include <remat/ops/arithmetic.hpp>
#include <remat/ops/reduce.hpp>
#include <remat/ops/unary.hpp>
#include <remat/policy/phrase_book.hpp>

#include "core/expect_error.hpp"

namespace {

using namespace remat;
using remat_test::expect_error;

struct Seen {
  int forwards = 0, updates = 0;
  double sum = 0;
};

/// y = x; counts its runs, and sums what it has seen as a running statistic.
struct Running final : Op {
  static constexpr In<double> x{0};
  static constexpr Out<double> y{0};
  Seen* seen;
  bool can_replay, is_always_saved;
  Running(Seen* s, bool r, bool a = false) : Op("running"), seen(s), can_replay(r), is_always_saved(a) {}
  Specs infer(const Operands& in) const override { return {y(in[x].shape)}; }
  Residuals residuals(const Wanted&) const override { return {}; }
  void forward(Frame& f) const override {
    ++seen->forwards;
    for (Index i = 0; i < f[x].size(); ++i) f[y].data()[i] = f[x].data()[i];
  }
  void update_state(Frame& f) const override {
    ++seen->updates;
    seen->sum += f[y].data()[0];
  }
  void backward(Frame& f) const override {
    for (Index i = 0; i < f[x].size(); ++i) f.grad(x).data()[i] = f.grad(y).data()[i];
  }
  bool replayable() const override { return can_replay; }
  bool always_saved() const override { return is_always_saved; }
};

Seen run(const Policy& policy, bool can_replay, Mode mode = Mode::train, bool verify = false) {
  Seen seen;
  Tape tape({.mode = mode, .verify = verify});
  const auto x = tape.input(Tensor<double>({3}, 0.5), {.wants_gradient = true});
  const auto y = tape.checkpoint(policy, [&] {
    const auto here = tape.layer("net/norm");
    return sin(record(Running(&seen, can_replay), x)[Running::y]);
  });
  if (mode != Mode::evaluate) tape.backward(sum(y));
  return seen;
}

TEST(State, IsUpdatedOnceWhateverIsReplayed) {
  for (const Policy& policy : {policy::everything, policy::nothing, policy::ops("running")}) {
    const Seen seen = run(policy, true);
    EXPECT_EQ(seen.updates, 1) << policy;
    EXPECT_EQ(seen.sum, 0.5) << policy;
    EXPECT_EQ(seen.forwards, policy == policy::nothing ? 2 : 1) << policy;
  }
  EXPECT_EQ(run(policy::nothing, true, Mode::train, true).updates, 1);
}

TEST(State, StaysAsItIsWhenEvaluatingAndPlanning) {
  EXPECT_EQ(run(policy::nothing, true, Mode::evaluate).updates, 0);
  EXPECT_EQ(run(policy::nothing, true, Mode::plan).updates, 0);
}

TEST(Unreplayable, IsRefusedByNameWhenItsRegionCloses) {
  expect_error({"running", "net/norm", "cannot be replayed", "nothing | ops(running)"},
               [] { run(policy::nothing, false); });
  expect_error({"cannot be replayed"}, [] { run(policy::lossy::bfloat16, false); });
  expect_error({"cannot be replayed"}, [] { run(policy::nothing, false, Mode::plan); });
}

TEST(Unreplayable, RunsOnceWhereItsResultsAreSaved) {
  for (const Policy& policy : {policy::everything, policy::ops("running"), offload(policy::ops("running")),
                               policy::any_name | policy::ops("running")})
    EXPECT_EQ(run(policy, false).forwards, 1) << policy;
  EXPECT_EQ(run(policy::everything, false, Mode::train, true).forwards, 1);  // verify does not run it twice
}

TEST(Unreplayable, IsNeverReplayedByATapeUsedAfterTheRefusal) {
  Seen seen;
  Tape tape;
  const auto x = tape.input(Tensor<double>({3}, 0.5), {.wants_gradient = true});
  Var<double> y;
  const auto region = [&] {
    tape.checkpoint(policy::nothing, [&] { return y = sin(record(Running(&seen, false), x)[Running::y]); });
  };
  expect_error({"cannot be replayed"}, [&] { region(); });
  expect_error({"did not return it"}, [&] { sum(y); });
  EXPECT_NO_THROW(tape.backward(sum(sin(x))));  // what does not use the region goes on
  EXPECT_EQ(seen.forwards, 1);
}

/// sin(running(sin(x))) in a region, within one under `around`; the bytes that were held and written away.
struct Sent {
  Seen seen;
  TapeStats stats;
  Tensor<double> gradient;
};
Sent send(const Policy& policy, const Policy& around, bool verify = false) {
  Sent sent;
  Tape tape({.verify = verify});
  const auto x = tape.input(Tensor<double>({64}, 0.5), {.wants_gradient = true});
  const auto y = tape.checkpoint(around, [&] {
    return tape.checkpoint(policy, [&] { return sin(record(Running(&sent.seen, false, true), sin(x))[Running::y]); });
  });
  tape.backward(sum(y));
  sent.stats = tape.stats();
  sent.gradient = tape.grad(x).copy();
  return sent;
}

// Results of an op that communicates: no policy has them recomputed, nor rounded, and all else is recomputed as ever.
TEST(AlwaysSaved, RunsOnceUnderEveryPolicyInEveryRegion) {
  const Tensor<double> expected = send(policy::everything, policy::everything).gradient;
  for (const Policy& policy : {policy::nothing, policy::everything, policy::ops("sin"), Policy(policy::lossy::int8)})
    for (const Policy& around : {policy::nothing, policy::everything, policy::ops("sin")}) {
      const Sent sent = send(policy, around);
      EXPECT_EQ(sent.seen.forwards, 1) << policy << ' ' << around;
      EXPECT_EQ(sent.stats.replayed_by_op.count("running"), 0U) << policy << ' ' << around;
      EXPECT_TRUE(same_bits(sent.gradient, expected)) << policy << ' ' << around;
    }
  const Sent bare = send(policy::nothing, policy::nothing);
  EXPECT_EQ(bare.stats.saved_bytes, 512U);  // its result alone, of 64 doubles
  EXPECT_EQ(bare.stats.replayed_by_op.count("sin"), 0U);
  EXPECT_EQ(send(policy::nothing, policy::nothing, true).seen.forwards, 1);
}

TEST(AlwaysSaved, WaitsOnDiskWhereAPolicySaysSo) {
  const Sent sent = send(policy::nothing, offload(policy::ops("running")));
  EXPECT_EQ(sent.seen.forwards, 1);
  EXPECT_EQ(sent.stats.offloaded_bytes, 512U);
}

TEST(Region, TheFirstErrorIsTheOneThatIsSeen) {
  Seen seen;
  Tape tape;
  const auto x = tape.input(Tensor<double>({3}, 0.5), {.wants_gradient = true});
  const auto region = [&] {
    tape.checkpoint(policy::nothing, [&]() -> Var<double> {
      record(Running(&seen, false), x);
      fail("the user's own");
    });
  };
  expect_error({"the user's own"}, [&] { region(); });
}

}  // namespace
