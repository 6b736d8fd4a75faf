// The progress of a training loop.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <remat/io/progress.hpp>
#include <string>
#include <thread>

namespace {

using remat::io::StepTimes;

// Protects a program from being slow in silence: when equal steps take very different times, one line says so and what
// helps; it is not said of steady steps or of single slow ones, and never twice.
TEST(StepTimes, AdviseOnceWhenStepsVary) {
  StepTimes steady, once, slowed;
  for (int i = 0; i < 100; ++i) {
    EXPECT_EQ(steady.advice(0.010 + 0.0002 * i), "");
    EXPECT_EQ(once.advice(i % 20 == 0 ? 1.0 : 0.010), "");
  }
  std::string advice;
  int given = 0;
  for (int i = 0; i < 100; ++i) {
    const std::string text = slowed.advice(i >= 40 && i % 4 == 0 ? 0.155 : 0.0105);
    given += !text.empty();
    if (!text.empty()) advice = text;
  }
  EXPECT_EQ(given, 1);
  for (const char* part : {"10.5 to 155.0 ms", "OMP_WAIT_POLICY=passive", "fewer threads"})
    EXPECT_NE(advice.find(part), std::string::npos) << advice;
}

// Protects the first minutes of a user: of steps that are slow, or far slower than one thought, fewer are taken, and a
// single one that was held up does not decide it.
TEST(StepsWithin, FollowTheTimeOfAStep) {
  using remat::io::steps_within;
  EXPECT_EQ(steps_within(90, 0.03, 16, 1200), 1200);
  EXPECT_EQ(steps_within(90, 0.45, 16, 1200), 200);
  EXPECT_EQ(steps_within(90, 60, 16, 1200), 16);
  EXPECT_EQ(steps_within(90, 0, 16, 1200), 1200);
  const auto sleep = [](int ms) { std::this_thread::sleep_for(std::chrono::milliseconds(ms)); };
  int calls = 0;
  EXPECT_LT(remat::io::median_seconds([&] { sleep(calls++ < 4 ? 100 : 0); }), 0.09);  // two to warm up, two of five
  EXPECT_EQ(calls, 7);
  calls = 0;
  EXPECT_GE(remat::io::median_seconds([&] { ++calls, sleep(5); }, 5, 2, 0.001), 0.005);
  EXPECT_EQ(calls, 1);  // patience is over
}

TEST(ReadableSeconds, AreMinutesAndHours) {
  using remat::io::readable_seconds;
  EXPECT_EQ(readable_seconds(59.4), "59s");
  EXPECT_EQ(readable_seconds(185), "3m05s");
  EXPECT_EQ(readable_seconds(3 * 3600 + 7 * 60 + 59), "3h07m");
}

// Protects logs: where the output is no terminal, fast steps print the first line and the last, not hundreds.
TEST(ProgressLine, PrintsByTimeWithoutATerminal) {
  const auto lines = [](auto... how) {
    testing::internal::CaptureStdout();
    {
      remat::io::ProgressLine progress(100, how...);
      for (int step = 0; step < 100; ++step) progress.show(step, "step");
    }
    const std::string text = testing::internal::GetCapturedStdout();
    return std::count(text.begin(), text.end(), '\n');
  };
  EXPECT_EQ(lines(std::chrono::hours(1)), 2);
  EXPECT_EQ(lines(std::chrono::milliseconds(0)), 100);
  EXPECT_EQ(lines(remat::Index{50}), 3);
}

}  // namespace
