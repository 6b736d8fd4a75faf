// Averages of weights.
#include <gtest/gtest.h>
#include <omp.h>

#include <core/expect_error.hpp>
#include <remat/core/eigen.hpp>
#include <remat/optim/weight_average.hpp>
#include <vector>

namespace {

using namespace remat;
using remat_test::expect_error;

// The rule of PyTorch's AveragedModel: the first update copies, each later one moves by 1 - decay of what is left.
TEST(WeightAverage, FollowsTheFormula) {
  ParameterRegistry parameters;
  const auto a = (parameters / "l").parameter<double>("w", {3}, init::ones());
  const auto b = (parameters / "l").parameter<float>("b", {4099}, init::ones());
  optim::WeightAverage average(parameters, {.decay = 0.9});
  double expected = 0;
  for (int step = 0; step < 5; ++step) {
    const double value = 1.0 + step * step;
    a.set_value(Tensor<double>({3}, value));
    b.set_value(Tensor<float>({4099}, static_cast<float>(value)));
    average.update();
    expected = step == 0 ? value : expected + (1 - 0.9) * (value - expected);
  }
  EXPECT_EQ(average.update_count(), 5);
  EXPECT_EQ(average.bytes(), 3 * sizeof(double) + 4099 * sizeof(float));
  EXPECT_EQ(a.value()[0], 17) << "the parameters are left alone";
  average.swap();
  EXPECT_TRUE(average.is_swapped_in());
  EXPECT_DOUBLE_EQ(a.value()[2], expected);
  EXPECT_NEAR(b.value()[4098], expected, 1e-5);
  expect_error({"weight_average", "swapped in"}, [&] { average.update(); });
  average.swap();
  EXPECT_EQ(a.value()[0], 17);
  average.update();
}

// Frozen parameters cost nothing and keep their value through a swap; one that is unfrozen begins where it is.
TEST(WeightAverage, LeavesFrozenParametersAlone) {
  ParameterRegistry parameters;
  const auto a = (parameters / "a").parameter<float>("w", {8}, init::ones());
  const auto b = (parameters / "b").parameter<float>("w", {8}, init::ones());
  parameters.freeze("b/*");
  optim::WeightAverage average(parameters, {.decay = 0.5});
  average.update();
  EXPECT_EQ(average.bytes(), 8 * sizeof(float));
  parameters.unfreeze("b/*");
  b.set_value(Tensor<float>({8}, 3.0F));
  a.set_value(Tensor<float>({8}, 3.0F));
  average.update();
  average.swap();
  EXPECT_EQ(a.value()[0], 2);
  EXPECT_EQ(b.value()[0], 3);
}

// A value that someone still reads keeps its bits, and so does an average that was swapped in and read.
TEST(WeightAverage, ChangesNothingThatIsStillRead) {
  ParameterRegistry parameters;
  const auto w = (parameters / "l").parameter<float>("w", {8}, init::ones());
  optim::WeightAverage average(parameters, {.decay = 0.5});
  average.update();
  average.swap();
  const Tensor<float> read = w.value();
  average.swap();
  w.set_value(Tensor<float>({8}, 5.0F));
  average.update();
  EXPECT_TRUE(same_bits(read, Tensor<float>({8}, 1.0F)));
  average.swap();
  EXPECT_EQ(w.value()[0], 3);
}

TEST(WeightAverage, ThreadsChangeNoBit) {
  const int threads = omp_get_max_threads();
  std::vector<Tensor<float>> results;
  for (const int count : {1, 2, 3}) {
    omp_set_num_threads(count);
    ParameterRegistry parameters(1);
    const auto w = (parameters / "l").parameter<float>("w", {101, 333}, init::normal(1));
    optim::WeightAverage average(parameters, {.decay = 0.7});
    average.update();
    w.set_value(ParameterRegistry(parameters).at<float>("l/w").value());
    Tensor<float> next = w.value().copy();
    for (float& x : next.write()) x = 1 - x;
    w.set_value(next);
    average.update();
    average.swap();
    results.push_back(w.value());
  }
  omp_set_num_threads(threads);
  EXPECT_TRUE(same_bits(results[0], results[1]) && same_bits(results[0], results[2]));
}

TEST(WeightAverage, RefusesWhatIsNoDecay) {
  ParameterRegistry parameters;
  using Config = optim::WeightAverageConfig;
  expect_error({"weight_average: decay is 1"}, [&] { optim::WeightAverage(parameters, Config{.decay = 1}); });
  expect_error({"weight_average: decay is -1"}, [&] { optim::WeightAverage(parameters, Config{.decay = -1}); });
  // Of nothing there is nothing to swap.
  optim::WeightAverage average(parameters);
  average.update(), average.swap(), average.swap();
  EXPECT_EQ(average.bytes(), 0U);
}

TEST(WeightAverage, RefusesStatesOfOthersAndWhileItIsSwappedIn) {
  ParameterRegistry parameters;
  (parameters / "l").parameter<float>("w", {2}, init::ones());
  optim::WeightAverage average(parameters);
  average.update();
  const StateDict right = average.state_dict();
  const auto refuses = [&](const char* what, auto&& change) {
    StateDict state = right;
    change(state);
    expect_error({"weight_average: ", what}, [&] { average.load_state_dict(state); });
  };
  refuses("the saved average of l/w is float32[1], the parameter float32[2]",
          [](StateDict& state) { state.tensors["l/w"] = Tensor<float>({1}, 1.0F).any(); });
  refuses("the saved average of l/w is float64[2]",
          [](StateDict& state) { state.tensors["l/w"] = Tensor<double>({2}, 1.0).any(); });
  refuses("2 averages, of which 1 are of parameters here",
          [](StateDict& state) { state.tensors["l/v"] = Tensor<float>({2}, 1.0F).any(); });
  refuses("it is of another model", [](StateDict& state) { state.numbers.clear(); });
  for (const double number : {-1.0, 0.5, 1e300, std::nan("")})
    refuses("the saved state has \"updates\" as ", [&](StateDict& state) { state.numbers["updates"] = number; });
  EXPECT_EQ(average.update_count(), 1);
  average.swap();
  expect_error({"weight_average: state_dict was called while"}, [&] { average.state_dict(); });
  expect_error({"weight_average: load_state_dict was called while"}, [&] { average.load_state_dict(right); });
}

}  // namespace
