// What an op may declare that its backward reads.
#include <gtest/gtest.h>

#include <core/expect_error.hpp>
#include <remat/autodiff/tape.hpp>
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

}  // namespace
