// What every optimizer promises beside its rule, tests/optim/golden_test.cpp: of AdamW more is asked in optim_test.cpp.
#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>
#include <core/expect_error.hpp>
#include <limits>
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
using remat_test::expect_error;

void set_grad(const Parameter<float>& parameter, std::uint32_t step) {
  Tensor<float> grad(parameter.shape());
  const RandomStream stream{7, step, 0};
  std::uint64_t i = 0;
  for (float& g : grad.write()) g = static_cast<float>(stream.normal(i++));
  parameter.set_grad(grad);
}

// With momentum, so that there is state.
struct Momentum : optim::Sgd {
  explicit Momentum(const ParameterRegistry& parameters, optim::SgdConfig config = {})
      : Sgd(parameters, (config.momentum = 0.9, config)) {}
};

template <class Kind>
class EachOptimizer : public testing::Test {
 protected:
  ParameterRegistry parameters{3};
  Parameter<float> matrix = (parameters / "l").parameter<float>("w", {301, 130}, init::normal(1)),
                   vector = (parameters / "l").parameter<float>("b", {4099}, init::normal(1)),
                   cube = (parameters / "l").parameter<float>("c", {3, 17, 30}, init::normal(1));

  std::vector<Tensor<float>> values() const { return {matrix.value(), vector.value(), cube.value()}; }
  void set_grads(std::uint32_t step) const {
    for (const auto& p : {matrix, vector, cube}) set_grad(p, step);
  }
};
using Kinds = testing::Types<optim::AdamW, optim::Sgd, Momentum, optim::Lion, optim::Adafactor, optim::Muon>;
TYPED_TEST_SUITE(EachOptimizer, Kinds);

// The bits of three steps on 1, 2 and 3 threads, and of updates in backward.
TYPED_TEST(EachOptimizer, GivesTheSameBitsOnAnyNumberOfThreadsAndInBackward) {
  const int threads = omp_get_max_threads();
  std::vector<std::vector<Tensor<float>>> results;
  const ParameterRegistry begin(this->parameters);
  for (const int count : {1, 2, 3, 0}) {
    const bool in_backward = count == 0;
    omp_set_num_threads(in_backward ? threads : count);
    const ParameterRegistry copy(begin);
    TypeParam optimizer(copy);
    for (std::uint32_t step = 0; step < 3; ++step) {
      for (const auto& entry : copy.entries()) set_grad(Parameter<float>(entry), step);
      if (in_backward) {
        const GradientHook hook = optimizer.in_backward(0.01, 0.5);
        for (const auto& entry : copy.entries()) hook(*entry);
      } else {
        optimizer.step(0.01, 0.5);
      }
    }
    EXPECT_EQ(optimizer.step_count(), 3);
    results.emplace_back();
    for (const auto& entry : copy.entries()) results.back().push_back(Parameter<float>(entry).value());
  }
  omp_set_num_threads(threads);
  for (std::size_t i = 1; i < results.size(); ++i)
    for (std::size_t k = 0; k < results[i].size(); ++k) EXPECT_TRUE(same_bits(results[0][k], results[i][k])) << i << k;
}

// A frozen parameter keeps its value and costs no state; one whose layers share it is stepped once.
TYPED_TEST(EachOptimizer, UpdatesEachTrainedParameterOnce) {
  const Scope other = (this->parameters / "one").shared_as("id"), same = (this->parameters / "two").shared_as("id");
  const auto shared = other.template parameter<float>("w", {40, 8}, init::normal(1));
  same.template parameter<float>("w", {40, 8}, init::normal(1));
  const auto once = this->parameters.entries().size();
  EXPECT_EQ(once, 4U);
  this->parameters.freeze("l/*");
  TypeParam optimizer(this->parameters), alone(this->parameters);
  const auto before = this->values();
  set_grad(shared, 1);
  optimizer.step(0.01);
  const auto after = this->values();
  for (std::size_t i = 0; i < before.size(); ++i) EXPECT_TRUE(same_bits(before[i], after[i]));
  const std::size_t size = 40 * 8 * sizeof(float);
  const std::size_t expected = std::is_same_v<TypeParam, optim::AdamW>       ? 2 * size
                               : std::is_same_v<TypeParam, optim::Sgd>       ? 0
                               : std::is_same_v<TypeParam, optim::Adafactor> ? (40 + 8) * sizeof(float)
                                                                             : size;
  EXPECT_EQ(optimizer.state_bytes(), expected);
  EXPECT_FALSE(shared.has_grad());
}

// The first group that fits rules rate and decay: what it leaves unset is the config's own.
TYPED_TEST(EachOptimizer, FollowsItsGroups) {
  using Config = std::decay_t<decltype(std::declval<TypeParam>().config())>;
  const auto train = [](const Config& config, double rate) {
    ParameterRegistry net(3);
    const auto a = (net / "a").parameter<float>("w", {7, 9}, init::normal(1)),
               b = (net / "b").parameter<float>("w", {7, 9}, init::normal(1));
    TypeParam optimizer(net, config);
    for (std::uint32_t step = 0; step < 2; ++step) {
      set_grad(a, step), set_grad(b, step);
      optimizer.step(rate);
    }
    return std::pair(a.value(), b.value());
  };
  Config config, decayed, grouped;
  config.weight_decay = 0, decayed.weight_decay = 0.5, grouped.weight_decay = 0;
  grouped.groups = {{.parameters = "b/*", .learning_rate_scale = 0.5, .weight_decay = 0.5}, {.parameters = "*"}};
  const auto plain = train(config, 0.02), slow = train(decayed, 0.01), both = train(grouped, 0.02);
  EXPECT_TRUE(same_bits(both.first, plain.first));
  EXPECT_TRUE(same_bits(both.second, slow.second));
  EXPECT_FALSE(same_bits(both.second, plain.second));
}

// A slip in a pattern or a setting is refused by name, before a value changes.
TYPED_TEST(EachOptimizer, RefusesWhatHasNoEffectOrNoMeaning) {
  using Config = std::decay_t<decltype(std::declval<TypeParam>().config())>;
  this->set_grads(1);
  const auto before = this->values();
  Config config;
  config.groups = {{.parameters = "l/v"}};
  TypeParam misspelt(this->parameters, config);
  for (int again = 0; again < 2; ++again)
    expect_error({"group \"l/v\" fits no parameter; the nearest paths are \"l/"}, [&] { misspelt.step(0.1); });
  expect_error({"group \"l/v\""}, [&] { (void)misspelt.in_backward(0.1); });
  config.groups = {{.parameters = "l/w", .learning_rate_scale = -1}};
  expect_error({"group \"l/w\": learning_rate_scale is -1"}, [&] { TypeParam(this->parameters, config); });
  config.groups = {{.parameters = "l/w", .weight_decay = -2}};
  expect_error({"group \"l/w\": weight_decay is -2"}, [&] { TypeParam(this->parameters, config); });
  config.groups = {}, config.weight_decay = std::numeric_limits<double>::quiet_NaN();
  expect_error({"weight_decay is nan"}, [&] { TypeParam(this->parameters, config); });
  TypeParam optimizer(this->parameters);
  expect_error({"learning rate"}, [&] { optimizer.step(-1); });
  this->parameters.zero_grad();
  expect_error({"no parameter has a gradient"}, [&] { optimizer.step(0.1); });
  const auto after = this->values();
  for (std::size_t i = 0; i < before.size(); ++i) EXPECT_TRUE(same_bits(before[i], after[i]));
}

// Memory that runs out, for state or for room to work in, leaves every value as it was.
TYPED_TEST(EachOptimizer, AFailedStepChangesNothing) {
  this->set_grads(1);
  TypeParam optimizer(this->parameters);
  const auto before = this->values();  // shared: the update must make copies, which need memory
  pool().set_limit(pool().live_bytes() + 4);
  EXPECT_THROW(optimizer.step(0.1), Error);
  pool().set_limit();
  EXPECT_EQ(optimizer.step_count(), 0);
  const auto after = this->values();
  for (std::size_t i = 0; i < before.size(); ++i) EXPECT_TRUE(same_bits(before[i], after[i]));
  optimizer.step(0.1);
  EXPECT_FALSE(same_bits(this->values()[0], before[0]));
}

// Protects a resumed run: a state that is not of these parameters is refused by name, and changes nothing.
TYPED_TEST(EachOptimizer, RefusesAStateThatIsNotItsOwn) {
  this->set_grads(1);
  TypeParam optimizer(this->parameters);
  optimizer.step(0.01);
  const StateDict good = optimizer.state_dict();
  const auto refused = [&](auto&& change, std::initializer_list<std::string_view> parts) {
    StateDict changed = good;
    change(changed);
    expect_error(parts, [&] { optimizer.load_state_dict(changed); });
  };
  refused([](StateDict& s) { s.numbers.erase("steps"); }, {"the saved state has", "belong to"});
  refused([](StateDict& s) { s.numbers["other"] = 1; }, {"the saved state has", "of another model"});
  refused([](StateDict& s) { s.numbers["other"] = 1, s.numbers.erase("steps"); }, {"the saved state has no \"steps\""});
  for (const double number : {-1.0, 0.5, 0x1p60, std::nan(""), HUGE_VAL})  // by -1 the next step would divide by zero
    for (const auto& known : good.numbers)
      refused([&](StateDict& s) { s.numbers[known.first] = number; }, {known.first + "\" as ", "counts nothing"});
  refused([](StateDict& s) { s.tensors["other"] = Tensor<float>({2}, 1.0F).any(); }, {"of another model"});
  for (const auto& [name, tensor] : good.tensors) {
    refused([&, name = name](StateDict& s) { s.tensors.erase(name); }, {"has no \"" + name});
    refused(
        [&, name = name](StateDict& s) {
          s.tensors[name] = Tensor<float>({1, 2, 3}, 1.0F).any();
        },
        {name + "\" as float32[1, 2, 3]", "is needed"});
    refused(
        [&, name = name, shape = tensor.shape](StateDict& s) { s.tensors[name] = Tensor<double>(shape, 1.0).any(); },
        {name + "\" as float64[", "is needed"});
  }
  EXPECT_EQ(optimizer.step_count(), 1);
  const StateDict after = optimizer.state_dict();
  for (const auto& [name, tensor] : good.tensors)
    EXPECT_TRUE(same_bits(Tensor<float>(tensor), Tensor<float>(after.tensors.at(name)))) << name;
}

// A gradient that is not a number shows in the parameter, whatever signs or norms are taken of it.
TYPED_TEST(EachOptimizer, HidesNoNaN) {
  this->set_grads(1);
  Tensor<float> bad = this->vector.grad().copy();
  bad.write()[3] = std::numeric_limits<float>::quiet_NaN();
  this->vector.set_grad(bad);
  TypeParam optimizer(this->parameters);
  optimizer.step(0.1);
  EXPECT_TRUE(std::isnan(this->vector.value()[3]));
}

TEST(Sgd, RefusesBadSettings) {
  ParameterRegistry parameters;
  using Config = optim::SgdConfig;
  expect_error({"sgd: momentum is 1"}, [&] { optim::Sgd(parameters, Config{.momentum = 1}); });
  expect_error({"sgd: dampening is 2"}, [&] { optim::Sgd(parameters, Config{.dampening = 2}); });
  expect_error({"sgd: nesterov needs momentum > 0"}, [&] { optim::Sgd(parameters, Config{.nesterov = true}); });
  // A group may not take from Nesterov's step what it is made of.
  expect_error({"group \"*\"", "nesterov"}, [&] {
    optim::Sgd(parameters, Config{.momentum = 0.9, .nesterov = true, .groups = {{.parameters = "*", .momentum = 0}}});
  });
}

TEST(Lion, RefusesBadSettings) {
  ParameterRegistry parameters;
  expect_error({"lion: beta1 is 1"}, [&] { optim::Lion(parameters, optim::LionConfig{.beta1 = 1}); });
  expect_error({"lion: beta2 is -1"}, [&] { optim::Lion(parameters, optim::LionConfig{.beta2 = -1}); });
}

TEST(Adafactor, RefusesBadSettings) {
  ParameterRegistry parameters;
  using Config = optim::AdafactorConfig;
  expect_error({"beta2_decay is 0.5"}, [&] { optim::Adafactor(parameters, Config{.beta2_decay = 0.5}); });
  expect_error({"epsilon1 is -1"}, [&] { optim::Adafactor(parameters, Config{.epsilon1 = -1}); });
  expect_error({"clip is 0.5"}, [&] { optim::Adafactor(parameters, Config{.clip = 0.5}); });
}

// Hidden matrices alone are Muon's: embeddings, heads and vectors get AdamW's bits and state.
TEST(Muon, LeavesTheRestToAdamW) {
  const auto run = [](auto&& make) {
    ParameterRegistry parameters(5);
    std::vector<Parameter<float>> all;
    for (const char* layer : {"embedding", "positions", "head", "layer"})
      all.push_back((parameters / "gpt" / layer).parameter<float>("w", {8, 6}, init::normal(1)));
    all.push_back((parameters / "gpt" / "layer").parameter<float>("b", {6}, init::normal(1)));
    auto optimizer = make(parameters);
    for (std::uint32_t step = 0; step < 2; ++step) {
      for (const auto& p : all) set_grad(p, step);
      optimizer.step(0.01);
    }
    std::vector<Tensor<float>> values;
    for (const auto& p : all) values.push_back(p.value());
    return std::pair(values, optimizer.state_bytes());
  };
  const auto [muon, muon_bytes] = run([](const auto& parameters) { return optim::Muon(parameters); });
  const auto [adamw, adamw_bytes] = run([](const auto& parameters) { return optim::AdamW(parameters); });
  for (const std::size_t i : {0U, 1U, 2U, 4U}) EXPECT_TRUE(same_bits(muon[i], adamw[i])) << i;
  EXPECT_FALSE(same_bits(muon[3], adamw[3]));
  EXPECT_EQ(adamw_bytes - muon_bytes, 8 * 6 * sizeof(float));
  // The update of a matrix is one of nearly orthonormal columns, whatever the gradient's scale.
  ParameterRegistry parameters;
  const auto w = (parameters / "l").parameter<float>("w", {16, 4}, init::zeros());
  Tensor<float> grad({16, 4});
  std::uint64_t i = 0;
  for (float& g : grad.write()) g = 1e-3F * static_cast<float>(RandomStream{1, 1, 0}.normal(i++));
  w.set_grad(grad);
  optim::Muon(parameters).step(1);
  const auto value = w.value();
  const auto columns = as_eigen(value);
  for (int a = 0; a < 4; ++a)
    for (int b = 0; b < 4; ++b) EXPECT_NEAR(columns.col(a).dot(columns.col(b)), a == b ? 1 : 0, 0.5);
}

TEST(Muon, RefusesGroupsOfParametersThatAreNotItsOwn) {
  ParameterRegistry parameters;
  const auto w = (parameters / "l").parameter<float>("w", {4, 4}, init::ones()),
             b = (parameters / "l").parameter<float>("b", {4}, init::ones());
  set_grad(w, 1), set_grad(b, 1);
  using Config = optim::MuonConfig;
  expect_error({"muon: group \"l/b\" fits no"},
               [&] { optim::Muon(parameters, Config{.groups = {{.parameters = "l/b"}}}).step(0.1); });
  expect_error({"muon: adamw: group \"l/w\" fits no"},
               [&] { optim::Muon(parameters, Config{.adamw = {.groups = {{.parameters = "l/w"}}}}).step(0.1); });
  expect_error({"muon: adamw: beta1 is 1"}, [&] { optim::Muon(parameters, Config{.adamw = {.beta1 = 1}}); });
  expect_error({"newton_schulz_steps is 100"}, [&] { optim::Muon(parameters, Config{.newton_schulz_steps = 100}); });
  expect_error({"momentum is 1"}, [&] { optim::Muon(parameters, Config{.momentum = 1}); });
}

}  // namespace
