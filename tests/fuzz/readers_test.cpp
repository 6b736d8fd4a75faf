// What strangers' files may hold ends in a value or an Error: every seed of the fuzzer, every beginning of it, and
// seeds with bytes changed.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <fuzz/targets.hpp>
#include <iterator>
#include <random>
#include <remat/core/pool.hpp>
#include <remat/core/process_memory.hpp>
#include <string>
#include <vector>

namespace {

namespace fs = std::filesystem;
using remat_test::FuzzTarget;

std::vector<std::string> seeds_of(const FuzzTarget& target) {
  std::vector<fs::path> paths;
  for (const auto& entry : fs::directory_iterator(std::string(REMAT_SOURCE_DIR) + "/tests/fuzz/seeds/" + target.name))
    paths.push_back(entry.path());
  std::sort(paths.begin(), paths.end());
  std::vector<std::string> seeds;
  for (const fs::path& path : paths) {
    std::ifstream file(path, std::ios::binary);
    seeds.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
  return seeds;
}
/// Did it give a value?
bool reads(const FuzzTarget& target, const std::string& bytes) {
  try {
    target.read(bytes);
    return true;
  } catch (const remat::Error& error) {
    EXPECT_NE(std::string(error.what()), "");
    return false;
  }
}

/// No file may take much more memory than it is long, whatever it says of itself.
class Readers : public testing::TestWithParam<FuzzTarget> {
 protected:
  void SetUp() override {
    for (const std::string& seed : seeds_of(GetParam())) {  // what is made once is there
      reads(GetParam(), seed);
      longest_ = std::max(longest_, seed.size());
    }
    before_ = remat::machine::process_memory().resident;
    is_measured_ = static_cast<bool>(std::ofstream("/proc/self/clear_refs") << 5 << std::flush);  // the peak is now
#if defined(REMAT_ASAN) || defined(__SANITIZE_THREAD__)
    is_measured_ = false;  // sanitizers hold memory of their own
#endif
  }
  void TearDown() override {
    const std::size_t peak = remat::machine::process_memory().peak_resident;
    if (is_measured_) {
      EXPECT_LE(peak, before_ + longest_ + (std::size_t{64} << 20));
    }
  }

 private:
  std::size_t before_ = 0, longest_ = 0;
  bool is_measured_ = false;
};

TEST_P(Readers, ReadEverySeed) {
  const auto seeds = seeds_of(GetParam());
  ASSERT_FALSE(seeds.empty());
  for (const std::string& seed : seeds) EXPECT_TRUE(reads(GetParam(), seed)) << seed.substr(0, 100);
}

TEST_P(Readers, BearEveryBeginning) {
  for (const std::string& seed : seeds_of(GetParam()))
    for (std::size_t length = 0; length < std::min<std::size_t>(seed.size(), 4096); ++length)
      reads(GetParam(), seed.substr(0, length));
}

TEST_P(Readers, BearChangedBytes) {
  const auto seeds = seeds_of(GetParam());
  std::mt19937 random(1);
  for (int i = 0; i < 10'000; ++i) {
    std::string bytes = seeds[static_cast<std::size_t>(i) % seeds.size()];
    for (int flips = 1 + i % 3; flips > 0 && !bytes.empty(); --flips)
      bytes[random() % bytes.size()] ^= static_cast<char>(1u << (random() % 8));
    reads(GetParam(), bytes);
  }
}

INSTANTIATE_TEST_SUITE_P(Of, Readers, testing::ValuesIn(remat_test::fuzz_targets),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
