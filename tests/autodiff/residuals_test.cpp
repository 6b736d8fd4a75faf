// What an op may declare that its backward reads.
#include <gtest/gtest.h>

#include <core/expect_error.hpp>
#include <remat/autodiff/tape.hpp>
#include <remat/core/eigen.hpp>
#include <vector>

namespace {

using namespace remat;
using remat_test::expect_error;

struct Many final : Op {
  static constexpr Out<float> y{0};
  Residuals read;
  explicit Many(const Residuals& r) : Op("many"), read(r) {}
  Specs infer(const Operands& in) const override { return {y(in[0].spec.shape)}; }
  Residuals residuals(const Wanted&) const override { return Residuals(read).add(In<float>{64}, false); }
  void forward(Frame& f) const override { *f[y].data() = *f[In<float>{63}].data(); }
  void backward(Frame& f) const override {
    for (int i = 0; i < 65; ++i)
      if (f.wants(In<float>{i})) *f.grad(In<float>{i}).data() = *f[In<float>{63}].data();
  }
};
struct TooMany final : Op {
  bool result;
  explicit TooMany(bool r) : Op("too_many"), result(r) {}
  Specs infer(const Operands& in) const override { return {65, in[0].spec}; }
  Residuals residuals(const Wanted&) const override {
    return result ? Residuals{Out<float>{64}} : Residuals{In<float>{64}};
  }
  void forward(Frame&) const override {}
  void backward(Frame&) const override {}
};

// Protects backward from values that it would not get: operands and results behind the first 64 cannot be residuals.
TEST(Residuals, AreAmongTheFirst64) {
  Tape tape;
  std::vector<Var<float>> xs;
  for (int i = 0; i < 65; ++i) xs.push_back(tape.input(Tensor<float>({1}, float(i)), {.wants_gradient = true}));
  expect_error({"too_many", "operand 64", "64"}, [&] { record(TooMany(false), xs); });
  expect_error({"too_many", "result 64", "64"}, [&] { record(TooMany(true), xs); });
  expect_error({"-1"}, [] { Residuals{In<float>{-1}}; });
  const auto y = record(Many({In<float>{63}}), xs)[Many::y];  // the last that can
  tape.backward(y);
  EXPECT_EQ(tape.grad(xs[64]).item(), 63);
}

// An op of two operands and one result that makes one mistake.
enum class Mistake {
  none,
  type_of_operand,
  type_of_result,
  number_of_result,
  same_as,
  weight_not_wide,
  wide_not_weight,
  unwanted_row
};
struct Mistaken final : Op {
  static constexpr In<bfloat16> x{0};
  static constexpr Weight<bfloat16> w{1};
  static constexpr Out<bfloat16> y{0};
  Mistake mistake;
  explicit Mistaken(Mistake m) : Op("mistaken"), mistake(m) {}
  Specs infer(const Operands& in) const override {
    if (mistake == Mistake::type_of_operand) return {y(in[In<float>{0}].shape)};
    if (mistake == Mistake::type_of_result) return {Out<float>{0}(in[x].shape)};
    return {y(in[x].shape)};
  }
  Residuals residuals(const Wanted&) const override { return {}; }
  void forward(Frame& f) const override {
    *f[Out<bfloat16>{mistake == Mistake::number_of_result ? 1 : 0}].data() = *f[x].data();
  }
  void backward(Frame& f) const override {
    if (mistake == Mistake::unwanted_row) *f.grad(x).data() = *f[x].row(0);
    if (mistake == Mistake::wide_not_weight) *f.grad(In<bfloat16>{1}).data() = bfloat16(1.0f);
    *f.grad(x).data() = bfloat16(1.0f);
    *f.grad(w).data() = 1;
  }
  GradientRule gradient(int i) const override {
    if (mistake == Mistake::same_as && i == 0) return {.same_as = 1};
    return {.wide = i == 1 && mistake != Mistake::weight_not_wide};
  }
};

// Protects memory from an op's author: a wrong number, type or rule is an error that names it, at every one of the
// places where an op meets the engine.
TEST(Residuals, AnOpThatDeclaresWronglyIsRefused) {
  const auto run = [](Mistake mistake, bool backward) {
    Tape tape;
    const auto x = tape.input(Tensor<bfloat16>({1}, bfloat16(2.0f)), {.wants_gradient = true});
    const auto w = tape.input(Tensor<bfloat16>({1}, bfloat16(3.0f)), {.wants_gradient = true});
    const auto y = record(Mistaken(mistake), x, w)[Mistaken::y];
    if (backward) tape.backward(y);
  };
  run(Mistake::none, true);
  expect_error({"mistaken", "operand 0", "bfloat16", "float32"}, [&] { run(Mistake::type_of_operand, false); });
  expect_error({"result 0", "bfloat16", "float32"}, [&] { run(Mistake::type_of_result, false); });
  expect_error({"mistaken", "1 results", "number 1"}, [&] { run(Mistake::number_of_result, false); });
  expect_error({"mistaken", "operand 0", "same_as"}, [&] { run(Mistake::same_as, false); });
  expect_error({"mistaken", "operand 1", "wide"}, [&] { run(Mistake::weight_not_wide, true); });
  expect_error({"mistaken", "operand 1", "Weight"}, [&] { run(Mistake::wide_not_weight, true); });
  expect_error({"mistaken", "residuals()"}, [&] { run(Mistake::unwanted_row, true); });
  Tape tape;
  const auto x = tape.input(Tensor<bfloat16>({1}, bfloat16(2.0f)), {.wants_gradient = true});
  expect_error({"1 results", "number 1"}, [&] { record(Mistaken(Mistake::none), x)[Out<bfloat16>{1}]; });
}

// The operands behind the last that was recorded are left out, for each question that an op may ask about them.
struct Short final : Op {
  static constexpr In<float> x{0}, bias{1};
  static constexpr Out<float> y{0};
  Short() : Op("short") {}
  Specs infer(const Operands& in) const override {
    EXPECT_FALSE(in.has(bias));
    EXPECT_FALSE(in[1].present);
    EXPECT_EQ(in[bias].shape, Shape{});
    EXPECT_EQ(in.name(bias, "bias"), "bias");
    return {y(in[x].shape)};
  }
  Residuals residuals(const Wanted& wanted) const override {
    EXPECT_FALSE(wanted[bias]);
    EXPECT_FALSE(wanted[1]);
    return {bias};
  }
  void forward(Frame& f) const override {
    EXPECT_FALSE(f.has(bias));
    EXPECT_EQ(f[bias].shape(), Shape{});
    *f[y].data() = *f[x].data();
  }
  void backward(Frame& f) const override {
    EXPECT_FALSE(f.wants(bias));
    EXPECT_FALSE(f.accumulate(bias));
    *f.grad(x).data() = *f.grad(y).data();
    f.grad(bias).data();
  }
};
TEST(Residuals, OperandsBehindTheLastAreLeftOut) {
  Tape tape;
  const auto x = tape.input(Tensor<float>({1}, 2.0f), {.wants_gradient = true});
  const auto y = record(Short(), x)[Short::y];
  expect_error({"short", "left out"}, [&] { tape.backward(y); });
}

}  // namespace
