// Means kept in bfloat16: half the memory, right on average, and the same bits whoever computes them.
#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>
#include <remat/ops/arithmetic.hpp>
#include <remat/ops/reduce.hpp>
#include <remat/optim/adafactor.hpp>
#include <remat/optim/adamw.hpp>
#include <remat/optim/lion.hpp>
#include <remat/optim/muon.hpp>
#include <remat/optim/sgd.hpp>
#include <utility>
#include <vector>

#include "core/expect_error.hpp"

namespace {

using namespace remat;
using remat_test::expect_error;

constexpr Index rows = 64, columns = 96;

/// One matrix and one bias, the gradients of which are their distance from 0.5, times numbers near 1 that change.
template <class T = float>
struct Net {
  ParameterRegistry parameters{5};
  Parameter<T> w = (parameters / "net").parameter<T>("w", {rows, columns}, init::normal(1));
  Parameter<T> b = (parameters / "net").parameter<T>("b", {columns}, init::zeros());
  Var<T> loss(Tape& tape, int step) const {
    const auto factor = tape.input(Tensor<T>({1}, T(1) + T(0.1) * static_cast<T>(step % 5)));
    const auto half = [&](const Parameter<T>& p) {
      return sum(square(p - tape.input(Tensor<T>({1}, T(0.5)))) * factor) * 0.5;
    };
    return half(w) + half(b);
  }
  template <class Optimizer>
  void steps(Optimizer& optimizer, int count, bool in_backward = false, double rate = 1e-3) const {
    for (int i = 0; i < count; ++i) {
      Tape tape;
      const auto l = loss(tape, static_cast<int>(optimizer.step_count()));
      if (in_backward) tape.backward(l, optimizer.in_backward(rate));
      if (!in_backward) tape.backward(l), optimizer.step(rate);
    }
  }
};

// Rounded to the nearest, a mean of squares would stop growing at a third of what it tends to.
TEST(BFloat16State, SmallChangesAreNotLost) {
  Net net;
  optim::AdamW rounded(net.parameters, {.bfloat16_state = true});
  Net exact;
  optim::AdamW whole(exact.parameters);
  net.steps(rounded, 2000, false, 0), exact.steps(whole, 2000, false, 0);  // gradients stay, and so do values
  const auto mean_of = [](const StateDict& state, const char* name) {
    const AnyTensor& tensor = state.tensors.at(name);
    double sum = 0;
    for (Index i = 0; i < tensor.size(); ++i)
      sum += tensor.dtype == DType::float32
                 ? static_cast<double>(reinterpret_cast<const float*>(tensor.data())[i])
                 : static_cast<double>(static_cast<float>(reinterpret_cast<const bfloat16*>(tensor.data())[i]));
    return sum / static_cast<double>(tensor.size());
  };
  const StateDict a = rounded.state_dict(), b = whole.state_dict();
  EXPECT_EQ(a.tensors.at("net/w/square").dtype, DType::bfloat16);
  for (const char* name : {"net/w/square", "net/w/mean"})
    EXPECT_NEAR(mean_of(a, name) / mean_of(b, name), 1, 0.01) << name;
  EXPECT_EQ(rounded.state_bytes() * 2, whole.state_bytes());
}

template <class Optimizer, class Config>
void expect_same_training(const Config& config, double near) {
  Config exact_config = config;
  exact_config.bfloat16_state = false;
  if constexpr (requires { config.adamw; }) exact_config.adamw.bfloat16_state = false;
  const auto trained = [&](const Config& c, bool in_backward, int threads) {
    const int before = omp_get_max_threads();
    omp_set_num_threads(threads);
    const Net net;
    Optimizer optimizer(net.parameters, c);
    net.steps(optimizer, 40, in_backward);
    omp_set_num_threads(before);
    return std::pair{net.w.value(), net.b.value()};
  };
  const auto values = trained(config, false, 1), exact = trained(exact_config, false, 1);
  EXPECT_FALSE(same_bits(values.first, exact.first));
  double difference = 0, size = 0;
  for (Index i = 0; i < values.first.size(); ++i) {
    difference += std::pow(static_cast<double>(values.first[i] - exact.first[i]), 2);
    size += std::pow(static_cast<double>(exact.first[i]) - 0.5, 2);
  }
  EXPECT_LT(std::sqrt(difference / size), near);
  for (const auto& again : {trained(config, false, 2), trained(config, true, 2)}) {
    EXPECT_TRUE(same_bits(values.first, again.first));
    EXPECT_TRUE(same_bits(values.second, again.second));
  }

  // Stopped and resumed.
  const Net net;
  Optimizer first(net.parameters, config);
  net.steps(first, 25);
  Optimizer second(net.parameters, config);
  second.load_state_dict(first.state_dict());
  net.steps(second, 15);
  EXPECT_TRUE(same_bits(values.first, net.w.value()));

  Optimizer other(net.parameters, exact_config);
  expect_error({"bfloat16", "float32"}, [&] { other.load_state_dict(first.state_dict()); });
  Net<double> of_doubles;
  Optimizer refuses(of_doubles.parameters, config);
  expect_error({"bfloat16_state is of float32 parameters", "float64"}, [&] { of_doubles.steps(refuses, 1); });
}

TEST(BFloat16State, AdamW) { expect_same_training<optim::AdamW>(optim::AdamWConfig{.bfloat16_state = true}, 1e-3); }
TEST(BFloat16State, Lion) { expect_same_training<optim::Lion>(optim::LionConfig{.bfloat16_state = true}, 1e-3); }
TEST(BFloat16State, Sgd) {
  expect_same_training<optim::Sgd>(optim::SgdConfig{.momentum = 0.9, .bfloat16_state = true}, 2e-3);
}
TEST(BFloat16State, Muon) {
  expect_same_training<optim::Muon>(optim::MuonConfig{.bfloat16_state = true, .adamw = {.bfloat16_state = true}}, 1e-3);
}

TEST(BFloat16State, WithoutStateIsRefused) {
  const Net net;
  expect_error({"sgd: bfloat16_state is of momentum"},
               [&] { optim::Sgd(net.parameters, optim::SgdConfig{.bfloat16_state = true}); });
}

TEST(BFloat16State, RoundsUpAsOftenAsItShouldAndKeepsWhatIsNoNumber) {
  const optim::detail::Chance chance("net/w", 3);
  const float value = 1 + 1.0F / 512;  // a quarter of the way to the next bfloat16
  Index up = 0;
  constexpr Index count = 100000;
  for (Index i = 0; i < count; ++i) up += optim::detail::rounded_by_chance(value, chance.of(i)) == 0x3f81;
  EXPECT_NEAR(static_cast<double>(up) / count, 0.25, 0.01);
  EXPECT_EQ(optim::detail::rounded_by_chance(1, 0xffffffff), 0x3f80);
  EXPECT_EQ(optim::detail::rounded_by_chance(INFINITY, 0xffffffff), 0x7f80);
  EXPECT_EQ(optim::detail::rounded_by_chance(-INFINITY, 0xffffffff), 0xff80);
  EXPECT_GT(optim::detail::rounded_by_chance(NAN, 0) & 0x7fff, 0x7f80);
}

}  // namespace
