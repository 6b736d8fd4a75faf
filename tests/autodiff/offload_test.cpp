// Offloaded values leave memory, come back with the same bits, and leave nothing on disk.
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <filesystem>
#include <remat/autodiff/report.hpp>
#include <remat/autodiff/tape.hpp>
#include <remat/ops/arithmetic.hpp>
#include <remat/ops/reduce.hpp>
#include <remat/ops/unary.hpp>

#include "core/expect_error.hpp"

namespace {

using namespace remat;
using remat_test::expect_error;

struct Outcome {
  Tensor<double> grad;
  TapeStats stats;
};

/// Two regions of `length` sines on 1000 values, under `policy`.
Outcome run(const Policy& policy, const std::string& directory, Mode mode = Mode::train) {
  Tape tape({.mode = mode, .offload_directory = directory});
  const auto x = tape.input(Tensor<double>({1000}, 0.4), {.wants_gradient = true});
  auto y = x;
  for (int region = 0; region < 2; ++region)
    y = tape.checkpoint(policy, [&] {
      auto h = y;
      for (int i = 0; i < 10; ++i) h = sin(h);
      return h;
    });
  tape.backward(sum(y * y));
  return {mode == Mode::plan ? Tensor<double>() : tape.grad(x), tape.stats()};
}

class Offload : public testing::Test {
 protected:
  void SetUp() override { std::filesystem::create_directories(folder_); }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::string folder_ = testing::TempDir() + "remat_offload_" + std::to_string(getpid());
};

TEST_F(Offload, BitsAreEqualAndMemoryIsNotHeld) {
  const Outcome kept = run(policy::everything, folder_), gone = run(offload(policy::everything), folder_);
  EXPECT_TRUE(same_bits(kept.grad, gone.grad));
  EXPECT_EQ(gone.stats.ops_replayed, 0);
  // sin reads its operand: 9 inner values a region go to disk, and what lies between the regions, since the second
  // region alone reads it; the last result is read outside regions and stays.
  EXPECT_EQ(gone.stats.offloaded_bytes, 19 * 8000U);
  EXPECT_EQ(gone.stats.saved_bytes, 8000U);
  EXPECT_LT(gone.stats.peak_bytes, kept.stats.peak_bytes * 7 / 10);
  EXPECT_TRUE(std::filesystem::is_empty(folder_));
}

TEST_F(Offload, PlanCountsTheSame) {
  const TapeStats plan = run(offload(policy::ops("sin")), "/nonexistent", Mode::plan).stats;  // plans touch no disk
  const TapeStats real = run(offload(policy::ops("sin")), folder_).stats;
  EXPECT_EQ(plan.peak_bytes, real.peak_bytes);
  EXPECT_EQ(plan.offloaded_bytes, real.offloaded_bytes);
  EXPECT_EQ(plan.saved_bytes, real.saved_bytes);
}

// Some saved, some offloaded, some recomputed, and nested regions, where an inner offload means save.
TEST_F(Offload, MixesWithSavingAndRecomputing) {
  const auto mixed = [](const SlotInfo& slot) {
    return slot.index % 3 == 0 ? Verdict::offload : slot.index % 3 == 1 ? Verdict::save : Verdict::recompute;
  };
  EXPECT_TRUE(same_bits(run(mixed, folder_).grad, run(policy::everything, folder_).grad));
  const auto nested = [&](const Policy& outer, const Policy& inner) {
    Tape tape({.offload_directory = folder_});
    const auto x = tape.input(Tensor<double>({1000}, 0.4), {.wants_gradient = true});
    const auto y =
        tape.checkpoint(outer, [&] { return sin(tape.checkpoint(inner, [&] { return sin(sin(sin(x))); })); });
    tape.backward(sum(y));
    return tape.grad(x);
  };
  const auto plain = nested(policy::everything, policy::everything);
  for (const Policy& outer : {policy::nothing, offload(policy::everything), policy::everything})
    for (const Policy& inner : {policy::nothing, offload(policy::everything)})
      EXPECT_TRUE(same_bits(nested(outer, inner), plain)) << outer << " / " << inner;
}

// A Var in scope keeps its value readable until backward begins; then it goes to disk like the others.
TEST_F(Offload, AVarInScopeStaysReadable) {
  Tape tape({.offload_directory = folder_});
  const auto x = tape.input(Tensor<double>({1000}, 0.4), {.wants_gradient = true});
  const auto [y, z] = tape.checkpoint(offload(policy::everything), [&] { return std::pair(tanh(x), tanh(tanh(x))); });
  EXPECT_EQ(y.value().size(), 1000);
  tape.backward(sum(y + z));
  EXPECT_GT(tape.stats().offloaded_bytes, 0U);
}

TEST_F(Offload, RefusesAFolderThatIsNot) {
  expect_error({"/nonexistent", "offload_directory"}, [&] { run(offload(policy::everything), "/nonexistent"); });
}

TEST(OffloadFile, CannotBeReadBehindItsEnd) {
  OffloadFile file("", "a setting");
  std::byte bytes[8]{};
  file.write(bytes, 4, file.reserve(4));
  file.read(bytes, 4, 0);
  expect_error({"offload: a value could not be read", "the file is too short"}, [&] { file.read(bytes, 8, 0); });
}

// A full disk is told before any value is lost: the error comes out of the step, nothing leaks.
TEST_F(Offload, AFullDiskIsAnError) {
  const std::size_t live = pool().live_bytes();
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small{20000, before.rlim_max};
  setrlimit(RLIMIT_FSIZE, &small);
  expect_error({folder_, "has no room for 8000"}, [&] { run(offload(policy::everything), folder_); });
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, old_handler);
  EXPECT_EQ(pool().live_bytes(), live);
  EXPECT_TRUE(std::filesystem::is_empty(folder_));
}

}  // namespace
