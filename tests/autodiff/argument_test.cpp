// What ops take.
#include <gtest/gtest.h>

#include <optional>
#include <remat/autodiff/tape.hpp>
#include <remat/ops/arithmetic.hpp>
#include <remat/ops/unary.hpp>
#include <remat/params/registry.hpp>

namespace {

using namespace remat;

// Protects options that are kept in a variable: an Argument holds what it was made from.
TEST(Argument, OwnsWhatItWasMadeFrom) {
  ParameterRegistry parameters;
  Tape tape;
  const auto x = tape.input(Tensor<float>({4}, 1.0F), {.wants_gradient = true});
  const Argument<float> product = x * 2.0F, constant = Tensor<float>({3}, 5.0F);
  const Argument<float> weight = (parameters / "l").parameter<float>("w", {5}, init::ones());
  const Argument<float> nothing = Parameter<float>(), number = 7;
  EXPECT_EQ(product.shape(), (Shape{4}));
  EXPECT_EQ(constant.shape(), (Shape{3}));
  EXPECT_EQ(weight.shape(), (Shape{5}));
  EXPECT_EQ(number.shape(), Shape());
  EXPECT_FALSE(nothing.has_value() || Argument<float>().has_value());
  EXPECT_TRUE(product.has_value() && constant.has_value() && weight.has_value() && number.has_value());
  EXPECT_NE(product.var(), nullptr);
  EXPECT_EQ(weight.var(), nullptr);
  const auto y = record(ops::Binary<float, functions::Add>(), x, product)[ops::Binary<float, functions::Add>::y];
  EXPECT_EQ(y.value()[0], 3);
}

// Protects the moment of a policy's question: a Var's value dies with the last handle, be it an Argument, and an op
// that was given a Var leaves no handle behind.
TEST(Argument, CountsAsOneHandle) {
  Tape tape({.mode = Mode::evaluate});
  const auto x = tape.input(Tensor<float>({4}, 1.0F));
  const auto vars = [&](const AnyVar& v) { return tape.program().slot(v.where().slot).vars; };
  std::optional<Var<float>> y = sin(x);
  const SlotId slot = y->where().slot;
  EXPECT_EQ(vars(*y), 1);
  static_cast<void>(*y + x);
  static_cast<void>(2.0F * *y);
  EXPECT_EQ(vars(*y), 1);
  {
    const Argument<float> kept = *y, copy = kept;
    EXPECT_EQ(vars(*y), 3);
    y.reset();
    EXPECT_TRUE(static_cast<bool>(tape.program().slot(slot).value));
    const Argument<float> taken = std::move(kept);
  }
  EXPECT_FALSE(static_cast<bool>(tape.program().slot(slot).value));
}

}  // namespace
