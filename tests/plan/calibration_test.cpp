// The file of rates in the user's cache folder.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <remat/plan/calibration.hpp>

namespace {

using namespace remat;
namespace fs = std::filesystem;

// Protects a cache that lives elsewhere: rates go through a link, which stays; a folder that cannot be written is no
// error, and nothing half-written is left anywhere.
TEST(Calibration, RatesAreWrittenAsOtherFilesAre) {
  const fs::path folder = testing::TempDir() + "rates_" + std::to_string(::getpid()), link = folder / "rates";
  fs::create_directories(folder / "away");
  fs::create_symlink("away/there", link);
  CostModel written, read;
  written.flops_per_second = 3e10, written.bytes_per_second = 2e9, written.batched_factor = 1.5;
  detail::write_rates(link, "this machine", written);
  EXPECT_TRUE(fs::is_symlink(link));
  ASSERT_TRUE(detail::read_rates(folder / "away" / "there", "this machine", read));
  EXPECT_EQ(read.flops_per_second, 3e10);
  EXPECT_EQ(read.bytes_per_second, 2e9);
  EXPECT_EQ(read.batched_factor, 1.5);
  EXPECT_FALSE(detail::read_rates(link, "another machine", read));
  detail::write_rates(folder / "away", "this machine", written);  // a folder has that name
  EXPECT_EQ(std::distance(fs::recursive_directory_iterator(folder), {}), 3);
  fs::remove_all(folder);
}

// Protects plans from rates of another kind: products cannot be faster than registers, attention is much like them.
TEST(Calibration, MeasuresWhatTheMachineCanDo) {
  const CostModel model = CostModel::measured();
  EXPECT_GT(model.flops_per_second, 1e8);
  EXPECT_LT(model.flops_per_second, 3e9 * machine::peak_fma_gflops(machine::threads()));  // the machine is shared
  EXPECT_GT(model.bytes_per_second, 1e7);
  EXPECT_GT(model.batched_factor, 0.1);
  EXPECT_LT(model.batched_factor, 20);
}

}  // namespace
