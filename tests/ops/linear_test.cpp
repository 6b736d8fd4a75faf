#include <gtest/gtest.h>

#include <ops/try_op.hpp>
#include <remat/ops/linear.hpp>

namespace {

using namespace remat;
using remat_test::error_of, remat_test::parameter_of, remat_test::random_tensor, remat_test::weigh;
using remat_test::weight_of;

template <class T>
class LinearTest : public testing::Test {};
using Types = testing::Types<float, double>;
TYPED_TEST_SUITE(LinearTest, Types);

TYPED_TEST(LinearTest, IsTheSumOverFeatures) {
  using T = TypeParam;
  const auto x = random_tensor<T>({2, 3, 5}, 1), w = random_tensor<T>({5, 4}, 2), b = random_tensor<T>({4}, 3);
  Tensor<T> w_transposed({4, 5});
  for (Index d = 0; d < 5; ++d)
    for (Index j = 0; j < 4; ++j) w_transposed.write()[j * 5 + d] = w[d * 4 + j];

  Tape tape;
  const auto in = tape.input(x);
  const auto y = linear(in, w, b).value();
  const auto plain = linear(in, w).value();
  const auto tied = linear(in, w_transposed, b, {.transposed = true}).value();
  ASSERT_EQ(y.shape(), (Shape{2, 3, 4}));
  for (Index i = 0; i < 6; ++i) {
    for (Index j = 0; j < 4; ++j) {
      double sum = 0;
      for (Index d = 0; d < 5; ++d) sum += double{x[i * 5 + d]} * double{w[d * 4 + j]};
      EXPECT_NEAR(plain[i * 4 + j], sum, 1e-5);
      EXPECT_NEAR(y[i * 4 + j], sum + double{b[j]}, 1e-5);
      EXPECT_NEAR(tied[i * 4 + j], sum + double{b[j]}, 1e-5);
    }
  }
}

TYPED_TEST(LinearTest, AddsToTheGradientsThatAreThere) {
  using T = TypeParam;
  ParameterRegistry registry;
  const auto w = parameter_of(registry, "w", random_tensor<T>({5, 4}, 2));
  const auto b = parameter_of(registry, "b", random_tensor<T>({4}, 3));
  const auto x = random_tensor<T>({6, 5}, 1);
  // Two uses on each of two tapes: 4 times the gradient of one.
  for (int step = 0; step < 2; ++step) {
    Tape tape;
    const auto in = tape.input(x);
    const auto loss = weigh(linear(in, w, b)), again = weigh(linear(in, w, b));
    const auto both = linear(loss.reshape({1, 1}), Tensor<T>({1, 1}, T{1}));
    const auto sum = linear(again.reshape({1, 1}), Tensor<T>({1, 1}, T{1}), both.reshape({1}));
    tape.backward(sum);
  }
  const auto dw = w.grad(), db = b.grad();
  for (Index j = 0; j < 4; ++j) {
    double column = 0;
    for (Index i = 0; i < 6; ++i) column += double{weight_of<T>(i * 4 + j)};
    EXPECT_NEAR(db[j], 4 * column, 1e-5);
    for (Index d = 0; d < 5; ++d) {
      double sum = 0;
      for (Index i = 0; i < 6; ++i) sum += double{x[i * 5 + d]} * double{weight_of<T>(i * 4 + j)};
      EXPECT_NEAR(dw[d * 4 + j], 4 * sum, 1e-4);
    }
  }
}

TEST(Linear, CountsFlopsAndKeepsWhatItsWantedGradientsRead) {
  const auto stats_of = [](bool wants_x, bool wants_w) {
    Tape tape;
    const auto x = tape.input(random_tensor<float>({6, 8}, 1), {.wants_gradient = true});
    const auto w = tape.input(random_tensor<float>({8, 4}, 2), {.wants_gradient = wants_w});
    const auto h = linear(x, Tensor<float>({8, 8}, 1.0F));
    tape.backward(weigh(linear(wants_x ? h : tape.input(h.value()), w)));
    return tape.stats();
  };
  constexpr double first = 2 * 6 * 8 * 8, second = 2 * 6 * 8 * 4;
  EXPECT_EQ(stats_of(true, true).forward_flops, first + second);
  EXPECT_EQ(stats_of(true, true).backward_flops, first + 2 * second);
  EXPECT_EQ(stats_of(true, false).backward_flops, first + second);
  EXPECT_EQ(stats_of(false, true).backward_flops, second);
  EXPECT_EQ(stats_of(true, true).saved_bytes, 6 * 8 * sizeof(float));  // h, for dw
  EXPECT_EQ(stats_of(true, false).saved_bytes, 0U);
}

TEST(Linear, RefusesWhatDoesNotFit) {
  ParameterRegistry registry;
  const auto scope = registry / "decoder" / "layer_3" / "ffn" / "ffn1";
  const auto w = scope.parameter<float>("w", {768, 4}, init::zeros());
  const auto b = scope.parameter<float>("b", {5}, init::zeros());
  Tape tape;
  const auto x = tape.input(Tensor<float>({2, 512}, 0.0F)), ok = tape.input(Tensor<float>({2, 768}, 0.0F));
  EXPECT_EQ(error_of([&] { linear(x, w); }), "linear: x has 512 features, decoder/layer_3/ffn/ffn1/w expects 768");
  EXPECT_EQ(error_of([&] { linear(ok, w, b); }),
            "linear: decoder/layer_3/ffn/ffn1/b has shape [5], decoder/layer_3/ffn/ffn1/w makes 4 features");
  EXPECT_EQ(error_of([&] { linear(ok, w, {}, {.transposed = true}); }),
            "linear: x has 768 features, decoder/layer_3/ffn/ffn1/w expects 4");
  EXPECT_EQ(error_of([&] { linear(x, Tensor<float>({512}, 0.0F)); }), "linear: w has shape [512], a matrix is needed");
  const auto here = tape.layer("decoder/layer_3/ffn/ffn1");
  EXPECT_EQ(error_of([&] {
              linear(x.slice(0, 1).reshape({512, 1}), w);
            }),
            "linear: x has 1 features, decoder/layer_3/ffn/ffn1/w expects 768 (in decoder/layer_3/ffn/ffn1)");
}

}  // namespace
