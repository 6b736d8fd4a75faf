// The progress of a training loop.
#include <gtest/gtest.h>

#include <remat/io/progress.hpp>
#include <string>

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

}  // namespace
