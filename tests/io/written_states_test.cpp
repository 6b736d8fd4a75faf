// States that earlier versions wrote are read: tests/golden/states has one for each format of the manifest, written by
// the version that had it.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <remat/io/training_state.hpp>
#include <remat/optim/adamw.hpp>
#include <remat/optim/weight_average.hpp>
#include <remat/params/registry.hpp>
#include <string>
#include <vector>

namespace {

using namespace remat;
namespace fs = std::filesystem;

/// Numbers that every machine computes alike.
Tensor<float> quarters(const Shape& shape, Index first) {
  Tensor<float> made(shape);
  for (Index i = 0; i < made.size(); ++i) made.write()[i] = static_cast<float>(first + i) / 4;
  return made;
}
StateDict quarters_of(StateDict state) {
  Index first = 100;
  for (auto& [name, tensor] : state.tensors) tensor = quarters(tensor.shape, first += 50).any();
  for (auto& [name, number] : state.numbers) number = 3;
  return state;
}

/// Parameters, one of them frozen and one with a gradient that is still summed, and what else a state holds.
struct SavedRun {
  ParameterRegistry parameters{1};
  Parameter<float> w = (parameters / "model").parameter<float>("w", {3, 4}, init::zeros());
  Parameter<float> b = (parameters / "model").parameter<float>("b", {5}, init::zeros());
  Parameter<float> fixed = (parameters / "model").parameter<float>("fixed", {2}, init::ones());
  optim::AdamW adamw{parameters};
  optim::WeightAverage average{parameters};

  SavedRun() { parameters.freeze("model/fixed"); }
  /// As it was when states were saved.
  void fill() {
    for (const auto& each : {w, b}) each.set_grad(quarters(each.shape(), 1));
    adamw.step(0.1);
    average.update();
    adamw.load_state_dict(quarters_of(adamw.state_dict()));
    average.load_state_dict(quarters_of(average.state_dict()));
    w.set_value(quarters({3, 4}, -5)), b.set_value(quarters({5}, 40));
    b.set_grad(quarters({5}, 7));
  }
  void add_to(io::TrainingStates& states) {
    states.add("adamw", adamw);
    states.add("average", average);
    states.must_equal("data", "a.txt");
    states.may_differ("products", "own");
  }
};

void expect_equal(const StateDict& found, const StateDict& expected) {
  EXPECT_EQ(found.numbers, expected.numbers);
  ASSERT_EQ(found.tensors.size(), expected.tensors.size());
  for (const auto& [name, tensor] : expected.tensors) {
    ASSERT_EQ(found.tensors.count(name), 1U) << name;
    EXPECT_TRUE(same_bits(Tensor<float>(found.tensors.at(name)), Tensor<float>(tensor))) << name;
  }
}

class WrittenStates : public testing::Test {
 protected:
  ~WrittenStates() override { fs::remove_all(folder); }
  const std::string golden = std::string(REMAT_SOURCE_DIR) + "/tests/golden/states";
  const std::string folder =
      (fs::temp_directory_path() / ("remat_written_states_" + std::to_string(::getpid()))).string();
};

TEST_F(WrittenStates, OfEveryFormatAreRead) {
  SavedRun expected;
  expected.fill();
  {
    io::TrainingStates states(expected.parameters, {.folder = folder, .in_background = false});
    expected.add_to(states);
    states.save(12, 1.5);
  }
  // Of the newest format there is one, too: whoever makes another format adds what this wrote before.
  const auto manifest = nlohmann::json::parse(std::ifstream(folder + "/step-12/manifest.json"));
  const int newest = manifest.at("format").get<int>();
  EXPECT_EQ(newest, 2);
  for (int format = 1; format <= newest; ++format) {
    SCOPED_TRACE(format);
    fs::remove_all(folder);
    fs::copy(golden + "/format_" + std::to_string(format), folder, fs::copy_options::recursive);
    const auto of_file = nlohmann::json::parse(std::ifstream(folder + "/step-12/manifest.json"));
    EXPECT_EQ(of_file.at("format").get<int>(), format);
    SavedRun run;
    io::TrainingStates states(run.parameters, {.folder = folder, .in_background = false});
    run.add_to(states);
    const auto resumed = states.resume();
    ASSERT_TRUE(resumed.has_value());
    EXPECT_EQ(resumed->step, 12);
    EXPECT_EQ(resumed->notes, std::vector<std::string>{});
    EXPECT_TRUE(same_bits(run.w.value(), quarters({3, 4}, -5)));
    EXPECT_TRUE(same_bits(run.b.value(), quarters({5}, 40)));
    EXPECT_FALSE(run.w.has_grad());
    EXPECT_TRUE(run.b.has_grad() && same_bits(run.b.grad(), quarters({5}, 7)));
    expect_equal(run.adamw.state_dict(), expected.adamw.state_dict());
    expect_equal(run.average.state_dict(), expected.average.state_dict());
  }
}

}  // namespace
