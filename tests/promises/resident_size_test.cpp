// Promise: tracked bytes are the bytes of the process. Its resident size grows by no more than the most bytes tracked
// at once + 3 % + 32 MB, whatever shapes come and go.
#include <gtest/gtest.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <ostream>
#include <string>
#include <vector>

#include "promises/small_gpt.hpp"

namespace {

using namespace remat;

/// Compares the growth of the resident size since its construction with that of the tracked bytes.
class Growth {
 public:
  Growth() { pool().reset_peak(); }
  void expect_bounded(const std::string& when) const {
    const std::size_t tracked = pool().peak_bytes() - live_;
    const std::size_t now = machine::resident_bytes(), grown = now - std::min(now, resident_);
    EXPECT_LE(grown, tracked + tracked * 3 / 100 + 32'000'000)
        << when << ": at most " << tracked / 1000 << " kB were tracked, " << pool().cached_bytes() / 1000
        << " kB lie unused in the pool";
  }

 private:
  std::size_t live_ = pool().live_bytes(), resident_ = machine::resident_bytes();
};

models::GptConfig gpt(int dims, int layers = 4) {
  return {.vocabulary = 64,
          .context = 1000,
          .num_layers = layers,
          .model_dims = dims,
          .num_heads = 4,
          .hidden_dims = 8 * dims,
          .dropout = 0.1};
}

template <class T>
struct Training {
  ParameterRegistry parameters{5};
  models::Gpt<T> model;
  optim::AdamW adamw{parameters};
  explicit Training(const models::GptConfig& config) : model(parameters / "gpt", config) {}
  void step(Index batch, Index length) {
    const auto data = remat_test::tokens(batch, length, 64);
    {
      Tape tape({.seed = 11, .step = 0});
      tape.backward(model.loss(tape, data));
    }
    adamw.step(1e-3);
  }
};

template <class T = float>
void train(const Growth& growth, int dims, const Policy& policy, Index batch, Index length) {
  models::GptConfig config = gpt(dims);
  config.remat = policy;
  Training<T> training(config);
  for (int i = 0; i < 3; ++i) {
    training.step(batch, length);
    growth.expect_bounded(policy::to_string(policy) + ", step " + std::to_string(i));
    if (testing::Test::HasFailure()) return;  // once is enough
  }
}

/// A step of each length 100, 107 ... 996, in the order `nth` says.
template <class Order>
void train_on_lengths(const Growth& growth, const Policy& policy, const Order& nth) {
  models::GptConfig config = gpt(64, 1);
  config.remat = policy;
  Training<float> training(config);
  for (Index i = 0; i < 129; ++i) {
    const Index length = 100 + 7 * nth(i);
    training.step(1, length);
    growth.expect_bounded("length " + std::to_string(length));
    if (testing::Test::HasFailure()) return;
  }
}

/// Tiny steps: after each the pool holds what it held before, and at the end the process does, too.
void train_for_long(const Policy& policy, int steps) {
  models::GptConfig config = gpt(8, 1);
  config.remat = policy;
  Training<float> training(config);
  for (int i = 0; i < 100; ++i) training.step(1, 8);
  const std::size_t live = pool().live_bytes(), resident = machine::resident_bytes();
  for (int i = 0; i < steps; ++i) {
    training.step(1, 8);
    ASSERT_EQ(pool().live_bytes(), live) << "step " << i;
  }
  EXPECT_LT(machine::resident_bytes(), resident + 1'000'000);
}

struct Scenario {
  const char* name;
  void (*run)(const Growth&);
  friend void PrintTo(const Scenario& scenario, std::ostream* out) { *out << scenario.name; }
};

const Scenario scenarios[] = {
    {"TwoThousandSteps",
     [](const Growth&) {
       train_for_long(policy::nothing, 2000);
       train_for_long(policy::offload(policy::dots), 200);
     }},
    {"Everything", [](const Growth& growth) { train(growth, 96, policy::everything, 2, 500); }},
    {"Nothing", [](const Growth& growth) { train(growth, 96, policy::nothing, 2, 700); }},
    {"Dots", [](const Growth& growth) { train(growth, 96, policy::dots, 2, 600); }},
    {"Offload", [](const Growth& growth) { train(growth, 96, policy::offload(policy::everything), 2, 600); }},
    {"Double", [](const Growth& growth) { train<double>(growth, 96, policy::save_context, 2, 500); }},
    {"OneAfterAnother",
     [](const Growth& growth) {
       train(growth, 96, policy::everything, 2, 500);
       train(growth, 88, policy::nothing, 3, 610);
       train(growth, 76, policy::dots, 3, 333);
       train<double>(growth, 100, policy::save_context, 1, 450);
       train(growth, 60, policy::everything, 2, 810);
       train(growth, 112, policy::offload(policy::everything), 2, 290);
     }},
    {"GrowingLengths",
     [](const Growth& growth) { train_on_lengths(growth, policy::everything, [](Index i) { return i; }); }},
    {"ShrinkingLengths",
     [](const Growth& growth) { train_on_lengths(growth, policy::dots, [](Index i) { return 128 - i; }); }},
    {"AnyLengths",
     [](const Growth& growth) { train_on_lengths(growth, policy::everything, [](Index i) { return 50 * i % 129; }); }},
};

constexpr const char* fresh = "REMAT_TEST_IN_FRESH_PROCESS";
constexpr int all_well = 77;  // no exit code of the test library, which is 0 when it ran nothing

/// Runs this very test alone in a process of its own, whose pool no other test has filled.
void run_in_fresh_process() {
  const testing::TestInfo& test = *testing::UnitTest::GetInstance()->current_test_info();
  std::string program = "/proc/self/exe",
              filter = std::string("--gtest_filter=") + test.test_suite_name() + "." + test.name(),
              mark = std::string(fresh) + "=1";
  char* arguments[] = {program.data(), filter.data(), nullptr};
  std::vector<char*> environment;
  for (char** each = environ; *each != nullptr; ++each) environment.push_back(*each);
  environment.push_back(mark.data());
  environment.push_back(nullptr);
  pid_t child = 0;
  ASSERT_EQ(posix_spawn(&child, program.c_str(), nullptr, nullptr, arguments, environment.data()), 0);
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == all_well) << "status " << status;
}

class ResidentSize : public testing::TestWithParam<Scenario> {};

TEST_P(ResidentSize, GrowsNoMoreThanWhatIsTracked) {
#if defined(REMAT_ASAN) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "sanitizers hold memory of their own";
#endif
  if (std::getenv(fresh) == nullptr) return run_in_fresh_process();
  Training<float>(gpt(8, 1)).step(1, 8);  // libraries, threads and compiled kernels come once
  GetParam().run(Growth());
  std::exit(HasFailure() ? 1 : all_well);
}

INSTANTIATE_TEST_SUITE_P(Of, ResidentSize, testing::ValuesIn(scenarios),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
