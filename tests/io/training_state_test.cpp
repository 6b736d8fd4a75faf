// A run that goes on from a saved state is the run that was never stopped, bit for bit; what is damaged, cut short or
// of another run is never taken for a state.
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <core/expect_error.hpp>
#include <csignal>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <remat/io/stop_signal.hpp>
#include <remat/io/training_state.hpp>
#include <remat/nn/linear.hpp>
#include <remat/ops/arithmetic.hpp>
#include <remat/ops/dropout.hpp>
#include <remat/ops/reduce.hpp>
#include <remat/ops/unary.hpp>
#include <remat/optim/adamw.hpp>
#include <remat/optim/weight_average.hpp>
#include <string>
#include <vector>

namespace {

using namespace remat;
using remat_test::error_of;
using remat_test::expect_error;
namespace fs = std::filesystem;

/// Two linears, the second shared by two users, with dropout between.
struct Model {
  ParameterRegistry parameters;
  nn::Linear<float> first, second;
  optim::AdamW adamw{parameters, {.weight_decay = 0.1}};
  optim::WeightAverage average{parameters, {.decay = 0.9}};

  explicit Model(std::uint64_t seed)
      : parameters(seed),
        first(parameters / "first", {.input_dims = 5, .output_dims = 7}),
        second(parameters / "second", {.input_dims = 7, .output_dims = 5}) {}

  void add_gradients(Index step) const {
    Tape tape({.seed = 4, .step = static_cast<std::int64_t>(step)});
    std::vector<float> values(15);
    for (std::size_t i = 0; i < values.size(); ++i)
      values[i] = static_cast<float>((i * 7 + std::size_t(step) * 3) % 11) - 5;
    const auto x = tape.input(Tensor<float>({3, 5}, values));
    tape.backward(mean(square(second(dropout(first(second(dropout(first(x), 0.3))), 0.3)))));
  }
  void update() {
    adamw.step(0.01);
    average.update();
  }
  std::vector<Tensor<float>> values() const {
    std::vector<Tensor<float>> all;
    for (const auto& entry : parameters.entries()) all.emplace_back(entry->value);
    for (const auto& [name, tensor] : average.state_dict().tensors) all.emplace_back(tensor);
    return all;
  }
};

bool same(const Model& a, const Model& b) {
  const auto x = a.values(), y = b.values();
  return x.size() == y.size() && std::equal(x.begin(), x.end(), y.begin(),
                                            [](const auto& one, const auto& other) { return same_bits(one, other); });
}

class TrainingState : public testing::Test {
 protected:
  void TearDown() override { fs::remove_all(folder_); }
  io::TrainingStatesConfig config() const { return {.folder = folder_, .in_background = false}; }
  io::TrainingStates states_of(Model& model, io::TrainingStatesConfig config) const {
    return io::TrainingStates(model.parameters, std::move(config));
  }
  static void add(io::TrainingStates& states, Model& model) {
    states.add("adamw", model.adamw);
    states.add("average", model.average);
  }
  std::string of(Index step, const std::string& file) const {
    return folder_ + "/step-" + std::to_string(step) + "/" + file;
  }
  /// A model trained for 3 steps whose states are all kept.
  void save_three() {
    Model model(1);
    io::TrainingStates states(model.parameters, {.folder = folder_, .keep = 9, .in_background = false});
    add(states, model);
    for (Index step = 0; step < 3; ++step) {
      model.add_gradients(step);
      model.update();
      states.save(step + 1);
    }
  }
  std::optional<io::Resumed> resume(Model& model) const {
    io::TrainingStates states(model.parameters, config());
    add(states, model);
    return states.resume();
  }

  // Saved a hundred times: in memory, where there is such a folder.
  const std::string folder_ = (fs::is_directory("/dev/shm") ? "/dev/shm" : fs::temp_directory_path().string()) +
                              "/remat_training_state_" + std::to_string(::getpid());
};

// Steps of two micro-batches each, saved behind every one: half of the states hold gradients that are still summed.
TEST_F(TrainingState, GoesOnWithTheSameBitsFromEverySavePoint) {
  constexpr Index points = 20;
  const auto micro_batch = [](Model& model, Index number) {
    model.add_gradients(number);
    if (number % 2 == 1) model.update();
  };
  Model whole(1);
  for (Index number = 0; number <= points; ++number) micro_batch(whole, number);
  for (const bool in_background : {false, true})
    for (Index stop = 1; stop <= points; ++stop) {
      fs::remove_all(folder_);
      Model before(1);
      {
        io::TrainingStates states(before.parameters, {.folder = folder_, .in_background = in_background});
        add(states, before);
        for (Index number = 0; number < stop; ++number) {
          micro_batch(before, number);
          if (number + 2 >= stop) states.save(number + 1);
        }
        micro_batch(before, stop);  // after it was saved: no matter of the state
      }
      Model after(2);  // begins as another
      const auto resumed = resume(after);
      ASSERT_TRUE(resumed.has_value());
      EXPECT_EQ(resumed->step, stop);
      EXPECT_TRUE(resumed->notes.empty());
      for (Index number = stop; number <= points; ++number) micro_batch(after, number);
      EXPECT_TRUE(same(after, whole)) << "stopped at " << stop;
    }
}

TEST_F(TrainingState, HoldsGradientsThatAreStillAccumulated) {
  Model whole(1), before(1), after(2);
  for (Model* model : {&whole, &before}) model->add_gradients(0);
  io::TrainingStates states(before.parameters, config());
  add(states, before);
  states.save(0);
  resume(after);
  for (Model* model : {&whole, &after}) {
    model->add_gradients(1);
    model->update();
  }
  EXPECT_TRUE(same(after, whole));
}

TEST_F(TrainingState, PassesOverWhatIsNotWhole) {
  const auto cut = [](const std::string& path) { fs::resize_file(path, fs::file_size(path) - 1); };
  const auto flip = [](const std::string& path) {
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(-3, std::ios::end);
    const char byte = static_cast<char>(file.get() ^ 1);
    file.seekp(-3, std::ios::end);
    file.put(byte);
  };
  struct Damage {
    std::string file, says;
    std::function<void(const std::string&)> how;
  };
  const std::vector<Damage> damages = {
      {"manifest.json", "has no manifest.json", [](const auto& path) { fs::remove(path); }},
      {"manifest.json", "parse error", cut},
      {"manifest.json", "limit", [](const auto& path) { fs::resize_file(path, 2 << 20); }},
      {"model.safetensors", "were written", cut},
      {"model.safetensors", "not those that were written", flip},
      {"rest.safetensors", "not those that were written", flip},
      {"rest.safetensors", "cannot be opened", [](const auto& path) { fs::remove(path); }}};
  for (const Damage& damage : damages) {
    fs::remove_all(folder_);
    save_three();
    damage.how(of(3, damage.file));
    if (damage.file == "manifest.json" && damage.says == "parse error")  // its last byte is a line's end
      fs::resize_file(of(3, damage.file), fs::file_size(of(3, damage.file)) / 2);
    Model model(2);
    const auto resumed = resume(model);
    ASSERT_TRUE(resumed.has_value()) << damage.says;
    EXPECT_EQ(resumed->step, 2);
    ASSERT_EQ(resumed->notes.size(), 1U);
    EXPECT_NE(resumed->notes[0].find(damage.says), std::string::npos) << resumed->notes[0];
  }
  for (const Index step : {1, 2, 3}) cut(of(step, "model.safetensors"));
  Model model(2);
  expect_error({"no complete state", "were written"}, [&] { resume(model); });
  // A run that ended in its first save has nothing to resume, and begins anew.
  for (const Index step : {1, 2, 3}) fs::remove(of(step, "manifest.json"));
  EXPECT_FALSE(resume(model).has_value());
}

TEST_F(TrainingState, IsOfThisRunOrAnError) {
  Model model(1);
  io::TrainingStates states(model.parameters, config());
  add(states, model);
  states.must_equal("data", "a.txt");
  states.may_differ("processor", "one");
  states.save(1);
  const auto resumed_as = [&](const std::string& data, const std::string& processor) {
    io::TrainingStates other(model.parameters, config());
    add(other, model);
    other.must_equal("data", data);
    other.may_differ("processor", processor);
    return other.resume();
  };
  EXPECT_TRUE(resumed_as("a.txt", "one")->notes.empty());
  const auto notes = resumed_as("a.txt", "other")->notes;
  ASSERT_EQ(notes.size(), 1U);
  EXPECT_NE(notes[0].find("processor was one and is other now"), std::string::npos);
  expect_error({"step-1", "data was a.txt and is b.txt now"}, [&] { resumed_as("b.txt", "one"); });
  expect_error({"data was a.txt and is not told now"}, [&] { resume(model); });

  // Of a run that had more: a part that is not there now, and a model with a layer that this one lacks.
  {
    io::TrainingStates without(model.parameters, config());
    without.add("adamw", model.adamw);
    without.must_equal("data", "a.txt");
    expect_error({"this run has no part \"average\""}, [&] { without.resume(); });
    ParameterRegistry fewer(1);
    const nn::Linear<float> first(fewer / "first", {.input_dims = 5, .output_dims = 7});
    io::TrainingStates of_fewer(fewer, config());
    of_fewer.must_equal("data", "a.txt");
    expect_error({"holds \"second/", "which is not trained here"}, [&] { of_fewer.resume(); });
  }

  // Of a model with other parameters: nothing has changed behind the error.
  ParameterRegistry parameters(1);
  const nn::Linear<float> wider(parameters / "first", {.input_dims = 5, .output_dims = 8});
  const Tensor<float> before = wider.w.value();
  io::TrainingStates of_another(parameters, config());
  of_another.must_equal("data", "a.txt");
  of_another.may_differ("processor", "one");
  expect_error({"first/"}, [&] { of_another.resume(); });
  EXPECT_TRUE(same_bits(before, wider.w.value()));
}

TEST_F(TrainingState, ComparesWhatIsFrozen) {
  Model model(1);
  model.parameters.freeze("first/*");
  {
    io::TrainingStates states(model.parameters, config());
    states.save(1);
    EXPECT_EQ(io::SafetensorsFile(of(1, "model.safetensors")).tensors().count("first/w"), 0U);
    EXPECT_TRUE(states.resume().has_value());
  }
  Model other(2);
  other.parameters.freeze("first/*");
  io::TrainingStates states(other.parameters, config());
  expect_error({"frozen parameters are not those"}, [&] { states.resume(); });
}

TEST_F(TrainingState, KeepsTheNewestAndTheBest) {
  Model model(1);
  io::TrainingStates states(model.parameters, config());
  const double losses[] = {3, 1, 2, 2.5, 2.4};
  for (Index step = 1; step <= 5; ++step) states.save(step, losses[step - 1]);
  std::vector<std::string> left;
  for (const auto& each : fs::directory_iterator(folder_)) left.push_back(each.path().filename().string());
  std::sort(left.begin(), left.end());
  EXPECT_EQ(left, (std::vector<std::string>{"step-2", "step-4", "step-5"}));
  // What a killed save leaves is no state, hinders none, and goes with the next.
  fs::create_directories(folder_ + "/step-6");
  std::ofstream(folder_ + "/step-6/model.safetensors.tmp.1.0") << "half";
  states.save(7);
  EXPECT_FALSE(fs::exists(folder_ + "/step-6"));
  EXPECT_TRUE(fs::exists(folder_ + "/step-2"));
}

TEST_F(TrainingState, SaysWhenTheDiskIsFullAndKeepsWhatWas) {
  save_three();
  Model model(1);
  io::TrainingStates states(model.parameters, {.folder = folder_});
  add(states, model);
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit least{300, before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &least), 0);
  states.save(4);
  const std::string text = error_of([&] { states.wait(); });
  ::setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  for (const char* part : {"cannot be written", "step 4 needs", "bytes in", "those before it are whole"})
    EXPECT_NE(text.find(part), std::string::npos) << text;
  EXPECT_EQ(resume(model)->step, 3);
  states.save(5);  // goes on
  states.wait();
  EXPECT_EQ(resume(model)->step, 5);
}

TEST_F(TrainingState, RefusesSettingsThatCannotHold) {
  Model model(1);
  expect_error({"a folder is needed"}, [&] { io::TrainingStates(model.parameters, {}); });
  expect_error({"keep is 0"}, [&] { io::TrainingStates(model.parameters, {.folder = folder_, .keep = 0}); });
  io::TrainingStates states(model.parameters, config());
  states.add("adamw", model.adamw);
  for (const char* name : {"adamw", "gradients", "a/b", ""})
    expect_error({"cannot be the name of a part"}, [&] { states.add(name, model.adamw); });
  for (const Index step : {Index{-1}, Index{100'000'000'000'000}})  // which nobody would find again
    expect_error({"training states: step " + std::to_string(step)}, [&] { states.save(step); });
  EXPECT_FALSE(states.resume().has_value());
}

// As a program finds them that no background job and no nohup began.
void default_signals() {
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) ::signal(signal, SIG_DFL);
}

TEST(StopSignal, TellsOfTheFirst) {
  default_signals();
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    const io::StopSignal stop;
    EXPECT_FALSE(stop.received());
    ::raise(signal);
    EXPECT_TRUE(stop.received());
    ::raise(SIGHUP);  // a terminal that is closed sends two
  }
}

TEST(StopSignal, LeavesWhatIsIgnored) {
  default_signals();
  ::signal(SIGHUP, SIG_IGN);
  ::signal(SIGINT, SIG_IGN);
  {
    const io::StopSignal stop;
    ::raise(SIGHUP);
    ::raise(SIGINT);
    EXPECT_FALSE(stop.received());
    ::raise(SIGTERM);
    EXPECT_TRUE(stop.received());
    ::raise(SIGINT);  // still
  }
  EXPECT_EQ(::signal(SIGHUP, SIG_DFL), SIG_IGN);
  EXPECT_EQ(::signal(SIGINT, SIG_DFL), SIG_IGN);
  EXPECT_EQ(::signal(SIGTERM, SIG_DFL), SIG_DFL);
}

TEST(StopSignalDeathTest, EndsAtTheSecond) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_EXIT(
      {
        default_signals();
        const io::StopSignal stop;
        ::raise(SIGTERM);
        ::raise(SIGINT);
      },
      testing::KilledBySignal(SIGINT), "");
}

}  // namespace
