// A trace that Perfetto can open: every op of the step once for each run, in its phase, with the bytes alive.
#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <remat/autodiff/tape.hpp>
#include <remat/io/trace.hpp>
#include <remat/ops/reduce.hpp>
#include <remat/ops/unary.hpp>

namespace {

using namespace remat;

TEST(Trace, TellsForwardReplayAndBackwardApart) {
  Tape tape({.trace = true});
  const auto x = tape.input(Tensor<double>({100}, 0.5), {.wants_gradient = true});
  const auto y = tape.checkpoint(policy::nothing, [&] {
    const auto here = tape.layer("net/layer_0");
    return sin(sin(x));
  });
  tape.backward(sum(y));
  const std::string path = testing::TempDir() + "remat_trace.json";
  io::save_trace(tape.trace(), path);
  std::ifstream file(path);
  const auto json = nlohmann::json::parse(file);
  std::map<std::string, int> slices;
  double last = -1;
  int counters = 0;
  for (const auto& event : json.at("traceEvents")) {
    if (event.at("ph") == "C") {
      ++counters;
      EXPECT_GE(event.at("args").at("bytes").get<double>(), 800);
    }
    if (event.at("ph") != "X") continue;
    ++slices[event.at("cat").get<std::string>() + " " + event.at("name").get<std::string>()];
    EXPECT_GE(event.at("ts").get<double>(), last);
    EXPECT_GE(event.at("dur").get<double>(), 0);
    last = event.at("ts").get<double>();
    if (event.at("name") == "sin") {
      EXPECT_EQ(event.at("args").at("layer"), "net/layer_0");
    }
  }
  EXPECT_EQ(slices,
            (std::map<std::string, int>{
                {"forward sin", 2}, {"forward sum", 1}, {"replay sin", 1}, {"backward sum", 1}, {"backward sin", 2}}));
  EXPECT_EQ(counters, 7);
  std::remove(path.c_str());
}

TEST(Trace, IsEmptyUnlessAskedFor) {
  Tape tape;
  sum(sin(tape.input(Tensor<double>({2}, 0.5))));
  EXPECT_TRUE(tape.trace().empty());
}

}  // namespace
