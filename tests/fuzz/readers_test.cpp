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

class Readers : public testing::TestWithParam<FuzzTarget> {};

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
