// AdamW, clipping and schedules.
#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>
#include <core/expect_error.hpp>
#include <cstring>
#include <limits>
#include <memory>
#include <remat/core/eigen.hpp>
#include <remat/optim/adamw.hpp>
#include <remat/optim/clip.hpp>
#include <remat/optim/schedule.hpp>
#include <vector>

namespace {

using namespace remat;
using remat_test::expect_error;

template <class T>
void give_zero_grad(const Parameter<T>& parameter) {
  parameter.set_grad(Tensor<T>(parameter.shape(), static_cast<T>(0)));
}

template <class T>
void set_grad(const Parameter<T>& parameter, double amount, std::uint32_t step) {
  AnyTensor& grad = parameter.entry()->grad_buffer();
  parameter.entry()->has_grad = true;
  T* data = reinterpret_cast<T*>(grad.mutable_data());
  const RandomStream stream{7, step, 0};
  for (Index i = 0; i < parameter.size(); ++i)
    data[i] = static_cast<T>(amount * stream.normal(static_cast<std::uint64_t>(i)));
}

template <class T>
class AdamWOf : public testing::Test {};
using Types = testing::Types<float, double>;
TYPED_TEST_SUITE(AdamWOf, Types);

// Protects the update rule: several steps against the published formulas, written out in double for each element, over
// sizes with odd tails and with decay on the matrix only.
TYPED_TEST(AdamWOf, FollowsTheFormulas) {
  using T = TypeParam;
  ParameterRegistry parameters(3);
  const auto matrix = (parameters / "layer").parameter<T>("w", {37, 111}, init::normal(0.5));
  const auto bias = (parameters / "layer").parameter<T>("b", {111}, init::normal(0.5));
  const optim::AdamWConfig config{.beta1 = 0.8, .beta2 = 0.95, .epsilon = 1e-6, .weight_decay = 0.3};
  optim::AdamW adamw(parameters, config);
  struct Reference {
    Parameter<T> parameter;
    double decay;
    std::vector<double> p, m, v;
  };
  std::vector<Reference> references;
  for (const auto& [parameter, decay] : {std::pair(matrix, 0.3), std::pair(bias, 0.0)}) {
    const auto n = static_cast<std::size_t>(parameter.size());
    const auto start = parameter.value();
    references.push_back(
        {parameter, decay, {start.span().begin(), start.span().end()}, std::vector<double>(n), std::vector<double>(n)});
  }
  for (std::uint32_t step = 1; step <= 6; ++step) {
    const double rate = 0.01 / step, scale = step == 4 ? 0.25 : 1;
    for (auto& [parameter, decay, p, m, v] : references) {
      set_grad(parameter, 0.1 * step, step);
      const auto grad = parameter.grad();
      for (std::size_t i = 0; i < p.size(); ++i) {
        const double g = scale * static_cast<double>(grad[static_cast<Index>(i)]);
        p[i] *= 1 - rate * decay;
        m[i] = config.beta1 * m[i] + (1 - config.beta1) * g;
        v[i] = config.beta2 * v[i] + (1 - config.beta2) * g * g;
        const double mean = m[i] / (1 - std::pow(config.beta1, step));
        const double square = v[i] / (1 - std::pow(config.beta2, step));
        p[i] -= rate * mean / (std::sqrt(square) + config.epsilon);
      }
    }
    adamw.step(rate, scale);
  }
  const double tolerance = std::is_same_v<T, float> ? 1e-6 : 1e-14;
  for (const auto& [parameter, decay, p, m, v] : references) {
    const auto value = parameter.value();
    for (std::size_t i = 0; i < p.size(); ++i)
      ASSERT_NEAR(value[static_cast<Index>(i)], p[i], tolerance) << parameter.path() << " element " << i;
    EXPECT_FALSE(parameter.has_grad());
  }
  EXPECT_EQ(adamw.step_count(), 6);
  EXPECT_EQ(adamw.state_bytes(), 2 * sizeof(T) * (37 * 111 + 111));
}

// The rule as PyTorch computes it, operation by operation in T, for one weight that starts at 1 and does not decay.
template <class T>
struct OneWeight {
  T p = 1, m = 0, v = 0;
  void step(int step, T g, double rate, const optim::AdamWConfig& config) {
    const T one_minus_beta1 = static_cast<T>(1 - config.beta1), one_minus_beta2 = static_cast<T>(1 - config.beta2);
    m = m + one_minus_beta1 * (g - m);
    v = static_cast<T>(config.beta2) * v + one_minus_beta2 * g * g;
    const T step_size = static_cast<T>(rate / (1 - std::pow(config.beta1, step)));
    const T unbias = static_cast<T>(std::sqrt(1 - std::pow(config.beta2, step)));
    p = p - step_size * m / (std::sqrt(v) / unbias + static_cast<T>(config.epsilon));
  }
};

// Protects blow-ups and vanishing gradients: where a square overflows or is denormal, the elements that a vector
// register holds and those after them get the value that PyTorch's step has, through several steps.
TYPED_TEST(AdamWOf, IsPyTorchsForGradientsOfEverySize) {
  using T = TypeParam;
  const int threads = omp_get_max_threads();
  omp_set_num_threads(1);  // no bit depends on it, and hundreds of parallel regions take long on a busy machine
  constexpr double eps = std::numeric_limits<T>::epsilon(), quantum = std::numeric_limits<T>::denorm_min();
  for (const double epsilon : {1e-8, 0.0})
    for (const Index size : {1, 8, 9, 17, 2049})
      for (int decade = -30; decade <= 30; ++decade) {
        const optim::AdamWConfig config{.epsilon = epsilon};
        ParameterRegistry parameters;
        const auto w = (parameters / "l").parameter<T>("w", {size}, init::ones());
        optim::AdamW adamw(parameters, config);
        OneWeight<T> expected;
        for (int step = 1; step <= 3; ++step) {
          const T g = static_cast<T>((step == 2 ? -0.5 : 1) * std::pow(10, decade));
          w.set_grad(Tensor<T>({size}, g));
          adamw.step(0.01);
          expected.step(step, g, 0.01, config);
          const Tensor<T> value = w.value();
          ASSERT_TRUE(same_bits(value, Tensor<T>({size}, value[0]))) << decade << ' ' << size;
          // A mean square of few quanta may be one of them off, by the rounding of a fused multiplication.
          const double off = quantum / static_cast<double>(expected.v);
          if (epsilon == 0 && off > 0.1 && expected.v > 0) break;
          if (std::isfinite(expected.p)) {
            const double change = std::fabs(static_cast<double>(expected.p) - 1);
            const double tolerance = 2 * eps + (8 * eps + (epsilon == 0 && off < 1 ? 2 * off : 0)) * change;
            ASSERT_NEAR(value[0], expected.p, tolerance) << decade << ' ' << size << ' ' << step << ' ' << epsilon;
          } else {
            ASSERT_EQ(value[0], expected.p) << decade << ' ' << size << ' ' << step;
          }
        }
      }
  omp_set_num_threads(threads);
}

// PyTorch 2's AdamW: (1 - beta2) g is multiplied by g, so that 2e19 still learns; 1e21 has no finite square at all.
TEST(AdamW, OverflowAndZeroByHand) {
  const auto after_one_step = [](float gradient, double epsilon) {
    ParameterRegistry parameters;
    const auto w = (parameters / "l").parameter<float>("w", {9}, init::ones());
    optim::AdamW adamw(parameters, {.epsilon = epsilon});
    w.set_grad(Tensor<float>({9}, gradient));
    adamw.step(0.01);
    EXPECT_TRUE(same_bits(w.value(), Tensor<float>({9}, w.value()[0]))) << gradient;
    return w.value()[0];
  };
  EXPECT_NEAR(after_one_step(1e18F, 1e-8), 0.99F, 1e-7);
  EXPECT_NEAR(after_one_step(2e19F, 1e-8), 0.99F, 1e-7);
  EXPECT_EQ(after_one_step(1e21F, 1e-8), 1);
  EXPECT_EQ(after_one_step(1e30F, 0), 1);
  EXPECT_EQ(after_one_step(1e-30F, 1e-8), 1);
  EXPECT_EQ(after_one_step(0, 1e-8), 1);
  EXPECT_EQ(after_one_step(1e-30F, 0), -std::numeric_limits<float>::infinity());
  EXPECT_TRUE(std::isnan(after_one_step(0, 0)));  // 0 / 0, as documented
}

// Protects golden numbers: the first steps of PyTorch's AdamW on one weight of 1, gradient 0.5 then -0.25, lr 0.1.
TEST(AdamW, FirstStepsByHand) {
  ParameterRegistry parameters;
  const auto w = (parameters / "l").parameter<double>("w", {1, 1}, init::ones());
  optim::AdamW adamw(parameters);
  give_zero_grad(w);
  *reinterpret_cast<double*>(w.entry()->grad.mutable_data()) = 0.5;
  adamw.step(0.1);
  EXPECT_NEAR(w.value().item(), 1 - 0.001 - 0.1 * 0.5 / (0.5 + 1e-8), 1e-15);
  const double before = w.value().item();
  give_zero_grad(w);
  *reinterpret_cast<double*>(w.entry()->grad.mutable_data()) = -0.25;
  adamw.step(0.1);
  const double mean = (0.9 * 0.05 - 0.025) / 0.19, square = (0.999 * 0.00025 + 0.001 * 0.0625) / 0.001999;
  EXPECT_NEAR(w.value().item(), before * 0.999 - 0.1 * mean / (std::sqrt(square) + 1e-8), 1e-14);
}

// Protects frozen parameters: without a gradient there is no decay, no state, and no step in the bias correction.
TEST(AdamW, SkipsParametersWithoutGradient) {
  ParameterRegistry parameters;
  const auto used = (parameters / "used").parameter<float>("w", {4, 4}, init::ones());
  const auto frozen = (parameters / "frozen").parameter<float>("w", {4, 4}, init::ones());
  optim::AdamW adamw(parameters, {.weight_decay = 0.5});
  set_grad(used, 1, 0);
  adamw.step(0.1);
  EXPECT_TRUE(same_bits(frozen.value(), Tensor<float>({4, 4}, 1.0F)));
  EXPECT_EQ(adamw.state_bytes(), 2 * 16 * sizeof(float));
  // Its first gradient comes at the second step, and is corrected as a first one: |update| = lr with decay 0.
  const optim::AdamWConfig no_decay{.weight_decay = 0};
  optim::AdamW late(parameters, no_decay);
  set_grad(used, 1, 0);
  late.step(0.1);
  give_zero_grad(frozen);
  reinterpret_cast<float*>(frozen.entry()->grad.mutable_data())[0] = 3;
  late.step(0.1);
  EXPECT_NEAR(frozen.value()[0], 0.9F, 1e-6);
  EXPECT_EQ(frozen.value()[1], 1);
}

// Protects a recorded step: an old value that someone still reads keeps its bits.
TEST(AdamW, LeavesSharedBytesAlone) {
  ParameterRegistry parameters;
  const auto w = (parameters / "l").parameter<float>("w", {8, 8}, init::ones());
  const Tensor<float> recorded = w.value();
  set_grad(w, 1, 0);
  optim::AdamW(parameters).step(0.1);
  EXPECT_TRUE(same_bits(recorded, Tensor<float>({8, 8}, 1.0F)));
  EXPECT_FALSE(same_bits(w.value(), recorded));
}

// Protects "the same bits for any number of threads", for the update and for the norm.
TEST(AdamW, ThreadsChangeNoBit) {
  const int threads = omp_get_max_threads();
  std::vector<Tensor<float>> values;
  std::vector<double> norms;
  for (const int count : {1, 2, 3}) {
    omp_set_num_threads(count);
    ParameterRegistry parameters(1);
    const auto w = (parameters / "l").parameter<float>("w", {301, 333}, init::normal(1));
    optim::AdamW adamw(parameters);
    for (std::uint32_t step = 0; step < 3; ++step) {
      set_grad(w, 1, step);
      norms.push_back(optim::clip_grad_norm(parameters, 0.5));
      adamw.step(0.01);
    }
    values.push_back(w.value());
  }
  omp_set_num_threads(threads);
  EXPECT_TRUE(same_bits(values[0], values[1]) && same_bits(values[0], values[2]));
  for (std::size_t i = 3; i < norms.size(); ++i) EXPECT_EQ(norms[i], norms[i % 3]);
}

// Protects values from a step that cannot finish: memory for the state runs out, and nothing has changed.
TEST(AdamW, AFailedStepChangesNothing) {
  ParameterRegistry parameters;
  const auto a = (parameters / "a").parameter<float>("w", {8, 8}, init::ones());
  const auto b = (parameters / "b").parameter<float>("w", {8, 8}, init::ones());
  set_grad(a, 1, 0), set_grad(b, 1, 0);
  optim::AdamW adamw(parameters);
  pool().set_limit(pool().live_bytes() + 3 * 8 * 8 * sizeof(float));  // of four running means
  expect_error({"256 bytes asked", "the limit is"}, [&] { adamw.step(0.1); });
  pool().set_limit();
  EXPECT_EQ(adamw.step_count(), 0);
  EXPECT_TRUE(same_bits(a.value(), Tensor<float>({8, 8}, 1.0F)));
  EXPECT_TRUE(a.has_grad() && b.has_grad());
  adamw.step(0.1);
  EXPECT_NE(a.value()[0], 1);
}

// Protects against a loop that forgot its backward: it counted steps and trained nothing.
TEST(AdamW, RefusesAStepWithoutAnyGradient) {
  ParameterRegistry parameters;
  const auto w = (parameters / "l").parameter<float>("w", {4}, init::ones());
  optim::AdamW adamw(parameters);
  expect_error({"adamw", "no parameter has a gradient", "tape.backward(loss)"}, [&] { adamw.step(0.1); });
  EXPECT_EQ(adamw.step_count(), 0);
  set_grad(w, 1, 0);
  adamw.step(0.1);
  EXPECT_EQ(adamw.step_count(), 1);
  EXPECT_THROW(adamw.step(0.1), Error);  // the gradient was cleared
  EXPECT_EQ(adamw.step_count(), 1);
}

// Protects models that are made in a function and returned: the optimizer trains what the layers read, not a copy.
TEST(AdamW, FollowsAMovedRegistry) {
  auto from = std::make_unique<ParameterRegistry>(1);
  const auto w = (*from / "l").parameter<float>("w", {4}, init::ones());
  optim::AdamW adamw(*from);
  optim::GlobalNorm norm(*from);
  const ParameterRegistry to = std::move(*from);
  from = nullptr;
  set_grad(w, 1, 0);
  EXPECT_GT(norm.value(), 0);
  adamw.step(0.1);
  EXPECT_NE(w.value()[0], 1);
  EXPECT_TRUE(same_bits(to.at<float>("l/w").value(), w.value()));
}

// Protects the usual recipes (no decay of norms and embeddings, slower lower layers): a group's parameters have the
// bits that an optimizer of its settings gives them, the first group that fits counts, and all others have those of no
// group.
TEST(AdamWGroups, GiveTheBitsOfAnOptimizerOfTheirSettings) {
  const auto train = [](const optim::AdamWConfig& config, double rate) {
    ParameterRegistry parameters(3);
    std::vector<Parameter<float>> all;
    for (const char* layer : {"embedding", "norm", "out"})
      for (const Index rank : {1, 2})
        all.push_back(
            (parameters / "gpt" / layer)
                .parameter<float>(rank == 1 ? "b" : "w", rank == 1 ? Shape{19} : Shape{7, 9}, init::normal(1)));
    optim::AdamW adamw(parameters, config);
    for (std::uint32_t step = 0; step < 3; ++step) {
      for (const auto& p : all) set_grad(p, 1, step);
      adamw.step(rate);
    }
    std::vector<Tensor<float>> values;
    for (const auto& p : all) values.push_back(p.value());
    return values;
  };
  const auto grouped = train(
      {.weight_decay = 0.1,
       .groups =
           {{.parameters = "*/norm/*", .weight_decay = 0},
            {.parameters = "gpt/embedding*", .learning_rate_scale = 0.5, .beta1 = 0.5, .beta2 = 0.6, .epsilon = 1e-3},
            {.parameters = "gpt/*/b", .weight_decay = 0.1},
            {.parameters = "gpt/norm/b", .learning_rate_scale = 0}}},
      0.01);
  const auto without = train({.weight_decay = 0.1}, 0.01), undecayed = train({.weight_decay = 0}, 0.01),
             slower = train({.beta1 = 0.5, .beta2 = 0.6, .epsilon = 1e-3, .weight_decay = 0.1}, 0.005);
  for (const std::size_t i : {0U, 1U}) EXPECT_TRUE(same_bits(grouped[i], slower[i])) << i;
  for (const std::size_t i : {2U, 3U}) EXPECT_TRUE(same_bits(grouped[i], undecayed[i])) << i;
  EXPECT_FALSE(same_bits(grouped[3], without[3]));
  EXPECT_FALSE(same_bits(grouped[4], without[4])) << "a group's decay is of biases too";
  EXPECT_TRUE(same_bits(grouped[5], without[5]));
}

// Protects from a slip in a pattern or a setting, which would train on without effect.
TEST(AdamWGroups, RefuseWhatHasNoEffectOrNoMeaning) {
  ParameterRegistry parameters;
  const auto w = (parameters / "gpt" / "norm").parameter<float>("w", {4}, init::ones());
  using Config = optim::AdamWConfig;
  set_grad(w, 1, 0);
  optim::AdamW adamw(parameters, {.groups = {{.parameters = "gpt/nrom*", .weight_decay = 0}}});
  for (int again = 0; again < 2; ++again)
    expect_error({"adamw: group \"gpt/nrom*\" fits no parameter; the nearest paths are \"gpt/norm/w\""},
                 [&] { adamw.step(0.1); });
  expect_error({"group \"gpt/nrom*\""}, [&] { (void)adamw.in_backward(0.1); });
  EXPECT_EQ(w.value()[0], 1);
  const auto refuses = [&](const optim::AdamWGroup& group, const char* name) {
    expect_error({"adamw: group \"*/norm*\": ", name}, [&] { optim::AdamW(parameters, Config{.groups = {group}}); });
  };
  refuses({.parameters = "*/norm*", .learning_rate_scale = -1}, "learning_rate_scale is -1");
  refuses({.parameters = "*/norm*", .beta1 = 1}, "beta1 is 1, must be in [0, 1)");
  refuses({.parameters = "*/norm*", .beta2 = -0.5}, "beta2 is -0.5");
  refuses({.parameters = "*/norm*", .epsilon = -1}, "epsilon is -1");
  refuses({.parameters = "*/norm*", .weight_decay = std::numeric_limits<double>::infinity()}, "weight_decay is inf");
}

// Protects users from bad settings.
TEST(AdamW, RefusesBadSettings) {
  ParameterRegistry parameters;
  give_zero_grad((parameters / "l").parameter<bfloat16>("w", {2, 2}, init::ones()));
  using Config = optim::AdamWConfig;
  const double nan = std::numeric_limits<double>::quiet_NaN();
  expect_error({"beta1", "1", "[0, 1)"}, [&] { optim::AdamW(parameters, Config{.beta1 = 1}); });
  expect_error({"beta2", "-0.1"}, [&] { optim::AdamW(parameters, Config{.beta2 = -0.1}); });
  expect_error({"epsilon", "nan"}, [&] { optim::AdamW(parameters, Config{.epsilon = nan}); });
  expect_error({"weight_decay", "-1"}, [&] { optim::AdamW(parameters, Config{.weight_decay = -1}); });
  expect_error({"learning rate", "nan"}, [&] { optim::AdamW(parameters).step(nan); });
  expect_error({"adamw: gradient scale nan must be finite"}, [&] { optim::AdamW(parameters).step(0.1, nan); });
  expect_error({"l/w", "bfloat16", "float32"}, [&] { optim::AdamW(parameters).step(0.1); });
}

// Protects the norm's definition: all gradients as one vector, parameters without one left out.
TEST(Clip, NormAndScale) {
  ParameterRegistry parameters;
  const auto a = (parameters / "a").parameter<float>("w", {3}, init::zeros());
  const auto b = (parameters / "b").parameter<double>("w", {70000}, init::zeros());
  (parameters / "c").parameter<float>("w", {3}, init::zeros());
  const auto fill = [](const auto& parameter, auto value) {
    AnyTensor& grad = parameter.entry()->grad_buffer();
    parameter.entry()->has_grad = true;
    std::fill_n(reinterpret_cast<decltype(value)*>(grad.mutable_data()), parameter.size(), value);
  };
  fill(a, 2.0F), fill(b, 0.01);
  EXPECT_NEAR(optim::global_norm(parameters), std::sqrt(12 + 7.0), 1e-12);
  EXPECT_EQ(optim::clip_scale(0.5, 1), 1);
  EXPECT_EQ(optim::clip_scale(4, 1), 1 / (4 + 1e-6));
  EXPECT_NEAR(optim::clip_grad_norm(parameters, 1), std::sqrt(19), 1e-12);
  EXPECT_NEAR(optim::global_norm(parameters), 1, 1e-6);
  EXPECT_NEAR(a.grad()[0], 2 / std::sqrt(19), 1e-6);
  const auto before = b.grad().copy();
  optim::clip_grad_norm(parameters, 5);  // already below: not a bit changes
  EXPECT_TRUE(same_bits(b.grad(), before));
  EXPECT_EQ(optim::global_norm(ParameterRegistry()), 0);
  expect_error({"clip_scale", "0"}, [] { optim::clip_scale(1, 0); });
}

// Protects parameters from a norm that is none: of NaN it clipped nothing, and a negative one turned gradients around.
TEST(Clip, RefusesWhatIsNoNorm) {
  constexpr double inf = std::numeric_limits<double>::infinity(), nan = std::numeric_limits<double>::quiet_NaN();
  expect_error({"clip_scale", "nan", "global_norm"}, [] { optim::clip_scale(nan, 1); });
  expect_error({"clip_scale", "inf"}, [] { optim::clip_scale(inf, 1); });
  expect_error({"clip_scale", "-5"}, [] { optim::clip_scale(-5, 1); });
  expect_error({"clip_scale", "largest norm", "nan"}, [] { optim::clip_scale(1, nan); });
  expect_error({"clip_scale", "largest norm", "-1"}, [] { optim::clip_scale(1, -1); });
  EXPECT_EQ(optim::clip_scale(7, inf), 1);
  EXPECT_EQ(optim::clip_scale(0, 1), 1);
  ParameterRegistry parameters;
  const auto w = (parameters / "l").parameter<float>("w", {4}, init::ones());
  w.set_grad(Tensor<float>({4}, 3.0F));
  for (const double bad : {nan, -1.0, 0.0})
    expect_error({"clip_scale"}, [&] { optim::clip_grad_norm(parameters, bad); });
  EXPECT_TRUE(same_bits(w.grad(), Tensor<float>({4}, 3.0F)));
}

// Protects a run from training on after a blow-up: the first parameter to blame is named.
TEST(Clip, NamesTheGradientThatIsNotFinite) {
  ParameterRegistry parameters;
  for (const char* name : {"a", "b", "c"})
    give_zero_grad((parameters / name).parameter<float>("w", {5}, init::zeros()));
  for (const float bad : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    for (const char* path : {"c/w", "b/w"}) {
      auto& entry = *parameters.at<float>(path).entry();
      reinterpret_cast<float*>(entry.grad.mutable_data())[4] = bad;
      expect_error({path, "not finite"}, [&] { optim::global_norm(parameters); });
    }
    parameters.at<float>("b/w").zero_grad();
    give_zero_grad(parameters.at<float>("b/w"));
  }
}

// Protects comparability with nanoGPT's runs: its rule, at the points where it bends.
TEST(Schedule, WarmupCosineGoldenPoints) {
  const optim::WarmupCosine rate{.peak = 1e-3, .minimum = 1e-4, .warmup = 100, .steps = 2000};
  EXPECT_DOUBLE_EQ(rate(0), 1e-3 / 101);
  EXPECT_DOUBLE_EQ(rate(49), 1e-3 * 50 / 101);
  EXPECT_DOUBLE_EQ(rate(99), 1e-3 * 100 / 101);
  EXPECT_DOUBLE_EQ(rate(100), 1e-3);
  EXPECT_DOUBLE_EQ(rate(1050), 5.5e-4);
  EXPECT_DOUBLE_EQ(rate(575), 1e-4 + 0.5 * (1 + std::sqrt(0.5)) * 9e-4);
  EXPECT_DOUBLE_EQ(rate(2000), 1e-4);
  EXPECT_DOUBLE_EQ(rate(5000), 1e-4);
  EXPECT_DOUBLE_EQ((optim::WarmupCosine{.peak = 1, .minimum = 1, .warmup = 0, .steps = 0}(0)), 1);
}
TEST(Schedule, RefusesWhatIsNoSchedule) {
  expect_error({"200", "100"}, [] { optim::WarmupCosine{.warmup = 200, .steps = 100}(0); });
  expect_error({"peak", "minimum"}, [] { optim::WarmupCosine{.peak = 1e-4, .minimum = 1e-3}(0); });
  expect_error({"step -1"}, [] { optim::WarmupCosine{}(-1); });
  const double nan = std::numeric_limits<double>::quiet_NaN();
  expect_error({"peak", "nan"}, [&] { optim::WarmupCosine{.peak = nan}(0); });
  expect_error({"minimum", "nan"}, [&] { optim::WarmupCosine{.minimum = nan}(0); });
  expect_error({"minimum", "-1"}, [&] { optim::WarmupCosine{.minimum = -1}(0); });
  expect_error({"-5 warmup steps"}, [] { optim::WarmupCosine{.warmup = -5}(0); });
  expect_error({"-3 steps"}, [] { optim::WarmupCosine{.warmup = 0, .steps = -3}(0); });
}

// The other schedules at the points where they bend; without warmup a constant is one from the first step on.
TEST(Schedule, ConstantLinearAndStableDecayGoldenPoints) {
  EXPECT_DOUBLE_EQ(optim::WarmupConstant{.peak = 2}(0), 2);
  const optim::WarmupConstant constant{.peak = 2, .warmup = 3};
  EXPECT_DOUBLE_EQ(constant(0), 0.5);
  EXPECT_DOUBLE_EQ(constant(2), 1.5);
  EXPECT_DOUBLE_EQ(constant(3), 2);
  EXPECT_DOUBLE_EQ(constant(1000000), 2);
  const optim::WarmupLinear linear{.peak = 2, .minimum = 1, .warmup = 4, .steps = 14};
  EXPECT_DOUBLE_EQ(linear(0), 0.4);
  EXPECT_DOUBLE_EQ(linear(4), 2);
  EXPECT_DOUBLE_EQ(linear(9), 1.5);
  EXPECT_DOUBLE_EQ(linear(13), 1.1);
  EXPECT_DOUBLE_EQ(linear(14), 1);
  EXPECT_DOUBLE_EQ(linear(99), 1);
  optim::WarmupStableDecay rate{.peak = 2, .minimum = 1, .warmup = 4, .decay = 8, .steps = 20};
  EXPECT_DOUBLE_EQ(rate(3), 1.6);
  for (const Index step : {4, 10, 12}) EXPECT_DOUBLE_EQ(rate(step), 2);
  EXPECT_DOUBLE_EQ(rate(14), 1.75);
  EXPECT_DOUBLE_EQ(rate(20), 1);
  EXPECT_DOUBLE_EQ(rate(21), 1);
  rate.shape = optim::DecayShape::one_minus_sqrt;
  EXPECT_DOUBLE_EQ(rate(14), 1.5);
  rate.shape = optim::DecayShape::cosine;
  EXPECT_DOUBLE_EQ(rate(14), 1 + 0.5 * (1 + std::sqrt(0.5)));
  EXPECT_DOUBLE_EQ(rate(16), 1.5);
  rate.decay = 0;
  EXPECT_DOUBLE_EQ(rate(19), 2);
  EXPECT_DOUBLE_EQ(rate(20), 1);
}
TEST(Schedule, TheOthersRefuseWhatIsNoSchedule) {
  expect_error({"warmup_constant", "nan"},
               [] { optim::WarmupConstant{.peak = std::numeric_limits<double>::quiet_NaN()}(0); });
  expect_error({"warmup_constant", "-2 warmup"}, [] { optim::WarmupConstant{.warmup = -2}(0); });
  expect_error({"warmup_linear", "step -1"}, [] { optim::WarmupLinear{}(-1); });
  expect_error({"warmup_linear", "200", "100"}, [] { optim::WarmupLinear{.warmup = 200, .steps = 100}(0); });
  expect_error({"warmup_stable_decay: 60 steps of warmup and 50 of decay do not fit into 100"},
               [] { optim::WarmupStableDecay{.warmup = 60, .decay = 50, .steps = 100}(0); });
  expect_error({"warmup_stable_decay", "-1 of decay"}, [] { optim::WarmupStableDecay{.decay = -1}(0); });
}

}  // namespace
