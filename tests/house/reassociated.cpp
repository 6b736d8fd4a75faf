// Compiled by clang with flags that let it join additions and that no macro tells of: results stay right.
#include <cmath>
#include <cstdio>
#include <kernels/attention_reference.hpp>
#include <limits>
#include <remat/kernels/softmax_loss.hpp>
#include <remat/ops/softmax.hpp>

namespace {

int failures = 0;

void check(bool condition, const char* what, double at) {
  if (condition) return;
  std::printf("%s: wrong at %g\n", what, at);
  ++failures;
}

void functions() {
  for (double x = -80; x < 80; x += 0.037) {
    const auto number = static_cast<float>(x);
    const auto near = [&](float value, double expected, const char* what) {
      check(std::abs(static_cast<double>(value) - expected) <= 4e-7 * std::abs(expected), what, x);
    };
    near(remat::kernels::fast_exp(number), std::exp(static_cast<double>(number)), "exp");
    near(remat::kernels::fast_tanh(number), std::tanh(static_cast<double>(number)), "tanh");
    near(remat::kernels::fast_erf(number), std::erf(static_cast<double>(number)), "erf");
  }
}

void softmax_of_large_numbers() {
  constexpr double exact[] = {-2.4076059644443806, -1.4076059644443804, -0.4076059644443804};
  for (const float shift : {0.0F, 30.0F, 1e6F}) {
    remat::Tape tape;
    const auto x = tape.input(remat::Tensor<float>({1, 3}, {shift, shift + 1, shift + 2}));
    const remat::Tensor<float> p = softmax(x).value(), log_p = log_softmax(x).value();
    float gradient[3];
    remat::kernels::LogSumExp<float> sum{0};
    const remat::kernels::SoftmaxLoss<float> rows;
    const float* row = x.value().data();
    const float loss = rows.value(row, 3, 0, sum);
    rows.gradient(row, 3, 0, sum, 1.0F, static_cast<float*>(gradient));
    check(std::abs(static_cast<double>(loss) + exact[0]) < 1e-6, "cross-entropy", static_cast<double>(shift));
    for (int i = 0; i < 3; ++i) {
      const double of_p = std::exp(exact[i]), of_loss = of_p - (i == 0 ? 1 : 0);
      check(std::abs(static_cast<double>(p[i]) - of_p) < 1e-6, "softmax", static_cast<double>(shift));
      check(std::abs(static_cast<double>(log_p[i]) - exact[i]) < 1e-6, "log_softmax", static_cast<double>(shift));
      check(std::abs(static_cast<double>(gradient[i]) - of_loss) < 1e-6, "its gradient", static_cast<double>(shift));
    }
  }
}

void attention() {
  using namespace remat_test;
  for (const double mask : {0.0, -1e9}) {  // of whole rows, of queries that are 0
    const AttentionCase c{.query_length = 70, .key_length = 70, .head_dims = 16, .bias = {0, 0, 1, 0}};
    AttentionCall<float> a(c);
    AttentionCall<double> expected(c);
    if (mask < 0)
      for (Index i = 0; i < a.k_at; ++i) a.input[count(i)] = 0, expected.input[count(i)] = 0;
    for (Index t = 0; t < 70; ++t) {
      expected.bias[count(t)] = mask;
      a.bias[count(t)] = static_cast<float>(mask);
    }
    a.run(), naive(expected);
    check(distance_of_calls(a, expected, 1) < 1e-5, "attention under a bias", mask);
  }
  // What is not finite is still seen as such, and so it is hidden from who must not see it.
  AttentionCall<float> a({.batch = 1, .query_length = 70, .key_length = 70, .heads = 1, .kv_heads = 1});
  a.input.back() = std::numeric_limits<float>::quiet_NaN();
  a.run();
  for (Index i = 0; i < 69 * 5; ++i) check(a.out[count(i)] * 0 == 0, "attention beside NaN", static_cast<double>(i));
}

}  // namespace

int main() {
  functions();
  softmax_of_large_numbers();
  attention();
  return failures == 0 ? 0 : 1;
}
