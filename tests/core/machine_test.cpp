#include <gtest/gtest.h>
#include <omp.h>

#include <chrono>
#include <iostream>
#include <memory>
#include <remat/core/machine.hpp>
#include <string>

namespace {

namespace machine = remat::machine;

TEST(Machine, DescribesItself) {
  EXPECT_FALSE(machine::isa().empty());
  EXPECT_FALSE(machine::compiled_isa().empty());
  EXPECT_NE(machine::affinity().find("CPU"), std::string::npos);
  EXPECT_EQ(machine::threads(), omp_get_max_threads());
  std::cout << "CPU " << machine::isa() << ", compiled for " << machine::compiled_isa() << ", " << machine::affinity()
            << '\n';
}

TEST(Machine, ResidentBytesGrowWithTouchedMemory) {
  const std::size_t before = machine::resident_bytes();
  constexpr std::size_t size = std::size_t{64} << 20;
  const auto memory = std::make_unique<char[]>(size);
  volatile char* const touched = memory.get();  // volatile: else the allocation may be optimized away
  for (std::size_t i = 0; i < size; i += 4096) touched[i] = 1;
  EXPECT_GT(machine::resident_bytes(), before + size / 4 * 3);
}

TEST(Machine, PeakIsMeasuredQuickly) {
  const auto start = std::chrono::steady_clock::now();
  const double one = machine::peak_fma_gflops(1);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  EXPECT_GT(one, 0.1);  // unoptimized builds spill every register
  EXPECT_LT(one, 2000);
  EXPECT_LT(seconds, 1.0);  // 0.05 on a quiet machine
  std::cout << one << " GFLOP/s on one thread, " << machine::peak_fma_gflops(machine::threads()) << " on "
            << machine::threads() << ", in " << seconds << " s\n";
}

}  // namespace
