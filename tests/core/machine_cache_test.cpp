// What is measured once for a machine: the same for all processes, and never wrong because of a file.
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <remat/core/machine_cache.hpp>
#include <string>
#include <thread>
#include <vector>

namespace {

using namespace remat;

class MachineCache : public testing::Test {
 protected:
  void SetUp() override { std::filesystem::remove_all(folder_); }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  /// A number that differs from measurement to measurement.
  int measured(const std::filesystem::path& folder, bool may_keep = true) {
    return detail::kept_or_measured(
        folder, "numbers-1; this machine",
        [](const std::string& text) {
          return text.find_first_not_of("0123456789") == std::string::npos && !text.empty()
                     ? std::optional<int>(std::stoi(text))
                     : std::nullopt;
        },
        [&] {
          std::this_thread::sleep_for(std::chrono::milliseconds(20));
          return ++measurements_;
        },
        [](int number) { return std::to_string(number); }, may_keep);
  }
  std::filesystem::path only_file() const { return std::filesystem::directory_iterator(folder_)->path(); }

  std::filesystem::path folder_ = testing::TempDir() + "remat_machine_cache_" + std::to_string(getpid());
  std::atomic<int> measurements_{0};
};

TEST_F(MachineCache, ThoseThatStartAtOnceGoByOneMeasurement) {
  std::vector<int> numbers(6);
  std::vector<std::thread> threads;
  for (int& number : numbers) threads.emplace_back([&] { number = measured(folder_); });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(numbers, std::vector<int>(6, 1));
  EXPECT_EQ(measurements_, 1);
}

TEST_F(MachineCache, ADamagedFileOrAnotherMachinesIsMeasuredAnew) {
  measured(folder_);
  std::string machine;
  std::getline(std::ifstream(only_file()), machine);
  int expected = 1;
  for (const std::string& text : {std::string(), machine, machine + "\n", machine + "\n1x\n",
                                  std::string("another\n7\n"), machine + "\n" + std::string(5000, '1') + "\n"}) {
    std::ofstream(only_file()) << text;
    EXPECT_EQ(measured(folder_), ++expected) << text;
    EXPECT_EQ(measured(folder_), expected) << text;
  }
}

// A cache that lives elsewhere: the link stays, its file is replaced, and nothing half-written is left.
TEST_F(MachineCache, AFileBehindALinkIsReplacedThere) {
  measured(folder_);
  const std::filesystem::path link = only_file(), away = folder_ / "away";
  std::filesystem::create_directories(away);
  std::filesystem::create_symlink(away / "there", link.string() + ".new");
  std::filesystem::rename(link.string() + ".new", link);
  EXPECT_EQ(measured(folder_), 2);
  EXPECT_TRUE(std::filesystem::is_symlink(link));
  EXPECT_TRUE(std::filesystem::is_regular_file(away / "there"));
  EXPECT_EQ(measured(folder_), 2);
  EXPECT_EQ(std::distance(std::filesystem::recursive_directory_iterator(folder_), {}), 3);
}

TEST_F(MachineCache, WhatMayNotBeKeptIsMeasuredEachTime) {
  EXPECT_EQ(measured(folder_, false), 1);
  EXPECT_EQ(measured(folder_, false), 2);
  EXPECT_EQ(measured({}), 3);
  EXPECT_EQ(measured("/proc/remat"), 4);
  EXPECT_EQ(measured(folder_), 5);
  EXPECT_EQ(measured(folder_, false), 5);
}

}  // namespace
