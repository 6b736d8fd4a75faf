// Lossy policies: the forward stays exact, residuals take the bytes they should, gradients are near.
#include <gtest/gtest.h>

#include <cmath>
#include <remat/autodiff/report.hpp>
#include <remat/autodiff/tape.hpp>
#include <remat/core/eigen.hpp>
#include <remat/ops/arithmetic.hpp>
#include <remat/ops/layer_norm.hpp>
#include <remat/ops/reduce.hpp>
#include <remat/ops/unary.hpp>
#include <remat/params/registry.hpp>
#include <remat/policy/parse.hpp>

namespace {

using namespace remat;

constexpr Index size = 1280;

struct Outcome {
  double loss = 0;
  Tensor<float> grad;
  TapeStats stats;
  std::size_t reported = 0;
};

Tensor<float> values() {
  Tensor<float> tensor({size});
  for (Index i = 0; i < size; ++i) tensor.write()[i] = 0.3F + 0.001F * static_cast<float>(i);
  return tensor;
}

/// Two regions, each of three sines of the same values.
Outcome run(const Policy& policy, const TapeOptions& options = {}) {
  Tape tape(options);
  const auto x = tape.input(values(), {.wants_gradient = true});
  auto y = x;
  for (int region = 0; region < 2; ++region) y = tape.checkpoint(policy, [&] { return sin(sin(sin(y))); });
  const auto loss = sum(y * y);
  Outcome outcome;
  if (options.mode == Mode::train) outcome.loss = static_cast<double>(loss.item());
  tape.backward(loss);
  if (options.mode == Mode::train) outcome.grad = tape.grad(x);
  outcome.stats = tape.stats();
  for (const SavedResidual& saved : saved_residuals(tape)) outcome.reported += saved.bytes;
  return outcome;
}

double distance(const Tensor<float>& a, const Tensor<float>& b) {
  double worst = 0;
  for (Index i = 0; i < a.size(); ++i) worst = std::max(worst, std::abs(static_cast<double>(a[i] - b[i])));
  return worst;
}

TEST(Lossy, ForwardIsExactAndGradientsAreNear) {
  const Outcome exact = run(policy::everything);
  for (const Policy& policy : {Policy(policy::lossy::bfloat16), Policy(policy::lossy::int8)}) {
    const Outcome lossy = run(policy);
    EXPECT_EQ(lossy.loss, exact.loss) << policy;
    EXPECT_EQ(lossy.stats.ops_replayed, 0) << policy;
    // d sin(x) = cos(x) and |cos'| <= 1: 2^-8 or 1/250 of values up to 1 from each of four compressed values.
    EXPECT_LT(distance(lossy.grad, exact.grad), 4 * 0x1p-8 * 2) << policy;
    EXPECT_GT(distance(lossy.grad, exact.grad), 0) << policy;
  }
}

TEST(Lossy, ResidualsTakeHalfOrAQuarterOfTheBytes) {
  // Backward reads two sines of each region and what lies between the regions; the last is read outside: exact.
  constexpr std::size_t floats = 4 * size;
  EXPECT_EQ(run(policy::everything).stats.saved_bytes, 6 * floats);
  const Outcome halves = run(policy::lossy::bfloat16);
  EXPECT_EQ(halves.stats.saved_bytes, floats + 5 * floats / 2);
  EXPECT_EQ(halves.reported, halves.stats.saved_bytes);
  EXPECT_EQ(run(policy::lossy::int8).stats.saved_bytes, floats + 5 * (floats / 4 + floats / 64));
}

TEST(Lossy, PlansPredictIt) {
  for (const char* text : {"lossy::bfloat16(ops(sin))", "lossy::int8", "dots | lossy::int8(everything)"}) {
    const TapeStats real = run(policy::parse(text)).stats, plan = run(policy::parse(text), {.mode = Mode::plan}).stats;
    EXPECT_EQ(real.peak_bytes, plan.peak_bytes) << text;
    EXPECT_EQ(real.saved_bytes, plan.saved_bytes) << text;
  }
}

TEST(Lossy, VerifyingKeepsThemExact) {
  const Outcome exact = run(policy::everything), verified = run(policy::lossy::int8, {.verify = true});
  EXPECT_TRUE(same_bits(exact.grad, verified.grad));
}

TEST(Lossy, StatisticsStayExact) {
  ParameterRegistry parameters;
  Tape tape;
  const auto x = tape.input(values().reshape({20, 64}), {.wants_gradient = true});
  const auto y = tape.checkpoint(policy::lossy::bfloat16, [&] { return sin(layer_norm(sin(x), {}, {})); });
  tape.backward(sum(y));
  int statistics = 0;
  for (const SavedResidual& saved : saved_residuals(tape))
    if (saved.shape == Shape{20, 2}) statistics += saved.bytes == 40 * sizeof(float);
  EXPECT_EQ(statistics, 1);
}

TEST(Lossy, EveryResultButStatisticsIsCompressed) {
  Tape tape;
  const auto x = tape.input(values().reshape({20, 64}), {.wants_gradient = true});
  const auto y = tape.checkpoint(policy::lossy::bfloat16, [&] {
    const auto both = skip_layer_norm(sin(x), sin(x));
    return sin(both.sum) * sin(both.normal);
  });
  tape.backward(sum(y));
  int compressed = 0;
  for (const SavedResidual& saved : saved_residuals(tape))
    if (saved.op == "skip_layer_norm" && saved.shape == Shape{20, 64})
      compressed += saved.bytes == 20 * 64 * sizeof(bfloat16);
  EXPECT_EQ(compressed, 2);
}

TEST(Lossy, IsAWordOfTheLanguage) {
  EXPECT_EQ(policy::to_string(policy::lossy::int8(policy::dots & !policy::batched)), "lossy::int8(dots & !batched)");
  EXPECT_EQ(policy::to_string(policy::lossy::bfloat16), "lossy::bfloat16(everything)");
  for (const char* text : {"lossy::int8(dots) | names(a)", "lossy::bfloat16(everything)", "offload(lossy::int8(dots))"})
    EXPECT_EQ(policy::to_string(policy::parse(text)), text);
  EXPECT_EQ(policy::parse("lossy::int8"), Policy(policy::lossy::int8));
  const SlotInfo dot{.op = "linear", .dot = true};
  EXPECT_EQ((policy::lossy::int8(policy::dots) | policy::nothing)(dot), Verdict::int8);
  EXPECT_EQ((policy::lossy::int8(policy::dots) | policy::dots)(dot), Verdict::save);
  EXPECT_EQ((policy::lossy::bfloat16(policy::dots) & policy::everything)(dot), Verdict::bfloat16);
  EXPECT_EQ((offload(policy::dots) | policy::lossy::int8(policy::dots))(dot), Verdict::int8);
}

}  // namespace
