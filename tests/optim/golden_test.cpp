// Every optimizer against PyTorch in float64: tests/golden/optimizers.json, written by make_optimizers.py beside it.
#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <remat/core/eigen.hpp>
#include <remat/optim/adafactor.hpp>
#include <remat/optim/adamw.hpp>
#include <remat/optim/lion.hpp>
#include <remat/optim/muon.hpp>
#include <remat/optim/sgd.hpp>
#include <string>
#include <vector>

namespace {

using namespace remat;

const nlohmann::json& golden() {
  static const auto json = nlohmann::json::parse(std::ifstream(REMAT_SOURCE_DIR "/tests/golden/optimizers.json"));
  return json;
}

template <class T>
Tensor<T> filled(int seed, const Shape& shape, double divisor = 1) {
  Tensor<T> tensor(shape);
  const auto values = tensor.write();
  for (std::size_t i = 0; i < values.size(); ++i)
    values[i] = static_cast<T>(static_cast<double>((static_cast<int>(i) * 7919 + seed * 104729) % 2003 - 1001) / 1001 /
                               divisor);
  return tensor;
}

template <class T>
struct Shapes {
  ParameterRegistry parameters;
  std::vector<Parameter<T>> all;
  Shapes() {
    const std::vector<std::pair<const char*, Shape>> shapes{
        {"tall", {9, 4}}, {"wide", {3, 11}}, {"square", {5, 5}}, {"vector", {7}}, {"cube", {2, 3, 5}}};
    for (const auto& [name, shape] : shapes) {
      all.push_back((parameters / "net").parameter<T>(name, shape, init::zeros()));
      all.back().set_value(filled<T>(static_cast<int>(all.size()) - 1, shape));
    }
  }
  template <class Optimizer>
  void step(Optimizer& optimizer, int step) {
    for (std::size_t i = 0; i < all.size(); ++i)
      all[i].set_grad(filled<T>(10 * step + static_cast<int>(i), all[i].shape(), step));
    optimizer.step(0.05 / step);
  }
};

/// The largest difference of values of about 1, of those whose path fits.
template <class T, class Optimizer, class Config>
double difference(const std::string& name, const Config& config, bool of_matrices = true, bool of_others = true) {
  Shapes<T> net;
  Optimizer optimizer(net.parameters, config);
  double most = 0;
  for (int step = 1; step <= 6; ++step) {
    net.step(optimizer, step);
    if (step != 1 && step != 6) continue;
    for (const auto& parameter : net.all) {
      if (parameter.shape().rank() == 2 ? !of_matrices : !of_others) continue;
      const auto values = parameter.value();
      const auto expected =
          golden().at(name).at(std::to_string(step)).at(parameter.path().substr(4)).template get<std::vector<double>>();
      for (Index i = 0; i < values.size(); ++i) {
        const double off = std::fabs(static_cast<double>(values[i]) - expected.at(static_cast<std::size_t>(i)));
        most = std::isnan(off) ? HUGE_VAL : std::max(most, off);
      }
    }
  }
  return most;
}

template <class T>
class OptimizerOf : public testing::Test {
 protected:
  static constexpr double tolerance = std::is_same_v<T, float> ? 1e-6 : 1e-9;
};
using Types = testing::Types<float, double>;
TYPED_TEST_SUITE(OptimizerOf, Types);

TYPED_TEST(OptimizerOf, AdamWIsPyTorchs) {
  const optim::AdamWConfig config{
      .beta1 = 0.8, .beta2 = 0.95, .epsilon = 1e-6, .groups = {{.parameters = "*", .weight_decay = 0.3}}};
  EXPECT_LE((difference<TypeParam, optim::AdamW>("adamw", config)), this->tolerance);
}

TYPED_TEST(OptimizerOf, SgdIsPyTorchs) {
  EXPECT_LE((difference<TypeParam, optim::Sgd>("sgd", optim::SgdConfig{})), this->tolerance);
  EXPECT_LE((difference<TypeParam, optim::Sgd>("sgd_momentum", optim::SgdConfig{.momentum = 0.9, .dampening = 0.25})),
            this->tolerance);
  const optim::SgdConfig nesterov{
      .momentum = 0.8, .nesterov = true, .groups = {{.parameters = "*", .weight_decay = 0.3}}};
  EXPECT_LE((difference<TypeParam, optim::Sgd>("sgd_nesterov", nesterov)), this->tolerance);
}

TYPED_TEST(OptimizerOf, LionIsItsAuthors) {
  EXPECT_LE((difference<TypeParam, optim::Lion>(
                "lion", optim::LionConfig{.groups = {{.parameters = "*", .weight_decay = 0.3}}})),
            this->tolerance);
}

// The default epsilon1 is that of the type, so those of float and double differ by less than a float shows.
TYPED_TEST(OptimizerOf, AdafactorIsPyTorchs) {
  EXPECT_LE((difference<TypeParam, optim::Adafactor>("adafactor", optim::AdafactorConfig{})), this->tolerance);
  const optim::AdafactorConfig config{.beta2_decay = -0.7,
                                      .epsilon1 = 1e-4,
                                      .epsilon2 = 0.7,
                                      .clip = 1.5,
                                      .groups = {{.parameters = "*", .weight_decay = 0.3}}};
  EXPECT_LE((difference<TypeParam, optim::Adafactor>("adafactor_decay", config)), this->tolerance);
}

// Six steps of at most 0.1 along elements that a bfloat16 rounds to 1 part in 256.
TYPED_TEST(OptimizerOf, MuonIsPyTorchs) {
  const optim::MuonConfig standard{.adamw = {.groups = {{.parameters = "*", .weight_decay = 0.3}}}},
      plain{.momentum = 0.8,
            .nesterov = false,
            .weight_decay = 0,
            .newton_schulz_steps = 3,
            .rate = optim::MuonRate::match_rms_adamw,
            .adamw = {.groups = {{.parameters = "*", .weight_decay = 0.3}}}};
  for (const auto& [name, config] : {std::pair("muon", standard), std::pair("muon_plain", plain)}) {
    const double matrices = difference<TypeParam, optim::Muon>(name, config, true, false);
    EXPECT_LE(matrices, 1e-3);
    EXPECT_LE((difference<TypeParam, optim::Muon>(name, config, false, true)), this->tolerance);
  }
}

}  // namespace
